//! One name, one content: what the archive holds under a name decides what is written there.
//!
//! ```text
//! LIST ─┬─ free ──→ PUT that refuses to overwrite ─→ LIST again: alone under this name?
//!       ├─ same content, whatever the suffix ─→ success, nothing written
//!       └─ other content ─→ refused │ replaced (--allow-overwrite) │ see `partial`
//! ```
//!
//! The second LIST is for two writers with different suffixes: each PUT succeeds, but at least one
//! of the two sees the other's object and fails. Nothing is taken back, for somebody may have
//! found it there already.
//! Crash points of a replacement: copies under other suffixes get the new content first, each in
//! its own compression, then the own key, then the copies go. Whoever reads meanwhile finds the
//! old content or the new one, never none; the next try goes on where the last one ended.

use crate::catalog::WalObject;
use crate::codec::{Compression, CompressionLevel};
use crate::flow::Cancelled;
use crate::store::{ObjectKey, PutMode, PutOutcome, StoreErrorKind};
use crate::wal::WalFileKind;
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::{Comparison, compare};
use crate::wal_archive::push::{OtherContent, Push, PushOutcome};
use crate::wal_archive::stored::Stored;
use tracing::{info, warn};

/// An object that vanishes between a refusal and our look is worth one more try.
const TRIES_MAX: u32 = 2;

/// An object that holds a file, under one of its suffixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalCopy {
    pub key: ObjectKey,
    pub compression: Option<Compression>,
}

/// What the copies of a name say about the file at hand.
enum Verdict {
    Free,
    Same,
    /// With those that hold something else.
    Other(Vec<(WalCopy, Comparison)>),
}

impl Push<'_> {
    /// Makes the archive hold the file, and nothing else under its name.
    pub async fn settle(
        &self,
        stored: Stored,
        mut copies: Vec<WalCopy>,
    ) -> Result<PushOutcome, WalArchiveError> {
        for _ in 0..TRIES_MAX {
            match self.verdict(&copies, &stored).await? {
                Verdict::Same => return Ok(PushOutcome::AlreadyArchived),
                Verdict::Other(others) => return self.settle_other(stored, others).await,
                Verdict::Free => {}
            }
            if self.put(&self.own().key, &stored, PutMode::Create).await? == PutOutcome::Written {
                return self.settle_race(stored).await;
            }
            // Also after a lost answer: it may be our own write that is in the way.
            copies = vec![self.own()];
        }
        let detail = "An object of this name appears and vanishes again.".to_string();
        Err(self.other_content(&self.own().key, detail))
    }

    /// All objects of this name, in any compression. One LIST; nothing for who may only write.
    pub async fn copies(&self) -> Result<Vec<WalCopy>, WalArchiveError> {
        let name = self.source.name();
        let plain = self.catalog.layout().wal(name, None);
        match self.catalog.store().list_starting_with(plain.as_str()).await {
            Ok(listed) => {
                let objects = listed.into_iter().filter_map(WalObject::parse);
                let copies = objects.filter(|object| object.name == *name);
                Ok(copies.map(WalCopy::from).collect())
            }
            Err(error) => self.unless_denied(error.into(), "other suffixes").map(|()| Vec::new()),
        }
    }

    /// After the write: did somebody write the same name under another suffix meanwhile?
    async fn settle_race(&self, stored: Stored) -> Result<PushOutcome, WalArchiveError> {
        let mut copies = tokio::select! {
            copies = self.copies() => copies?,
            () = self.cancel.cancelled() => return Err(Cancelled.into()),
        };
        copies.retain(|copy| copy.key != self.own().key);
        match self.verdict(&copies, &stored).await? {
            Verdict::Free | Verdict::Same => Ok(PushOutcome::Archived),
            Verdict::Other(others) => self.settle_other(stored, others).await,
        }
    }

    async fn verdict(
        &self,
        copies: &[WalCopy],
        stored: &Stored,
    ) -> Result<Verdict, WalArchiveError> {
        let store = self.catalog.store();
        let (mut others, mut same) = (Vec::new(), false);
        for copy in copies {
            match compare(store, copy, &self.source, &stored.digest, self.cancel).await? {
                None => {}
                Some(Comparison::Same) => same = true,
                Some(other) => others.push((copy.clone(), other)),
            }
        }
        Ok(match (others.is_empty(), same) {
            (false, _) => Verdict::Other(others),
            (true, true) => Verdict::Same,
            (true, false) => Verdict::Free,
        })
    }

    async fn settle_other(
        &self,
        stored: Stored,
        others: Vec<(WalCopy, Comparison)>,
    ) -> Result<PushOutcome, WalArchiveError> {
        let Some((first, comparison)) = others.first() else {
            return Ok(PushOutcome::AlreadyArchived);
        };
        let detail = self.difference(comparison);
        if self.options.other_content == OtherContent::Overwrite {
            let object = self.catalog.store().url_of(&first.key);
            warn!(object, detail, "other content is stored under this name; overwriting");
            let copies: Vec<WalCopy> = others.into_iter().map(|(copy, _)| copy).collect();
            return self.replace(&stored, &copies).await;
        }
        if self.source.name().kind() == WalFileKind::Partial {
            return self.settle_partial(stored, others).await;
        }
        Err(self.other_content(&first.key, detail))
    }

    /// Puts the file in the place of all `copies`; the order is told above.
    pub async fn replace(
        &self,
        stored: &Stored,
        copies: &[WalCopy],
    ) -> Result<PushOutcome, WalArchiveError> {
        let own = self.own();
        let foreign: Vec<&WalCopy> = copies.iter().filter(|copy| copy.key != own.key).collect();
        for copy in &foreign {
            let level = CompressionLevel::default();
            let form = copy.compression.map(|compression| (compression, level));
            let in_its_form = self.stored_form_as(form).await?;
            self.put(&copy.key, &in_its_form, PutMode::Overwrite).await?;
        }
        self.put(&own.key, stored, PutMode::Overwrite).await?;
        let keys = foreign.iter().map(|copy| copy.key.clone()).collect();
        for (key, deleted) in self.catalog.store().delete(keys).await {
            match deleted {
                Ok(()) => info!(object = %key, "removed the copy under another suffix"),
                // It holds the same content by now.
                Err(error) if error.kind == StoreErrorKind::Denied => {
                    warn!(object = %key, %error, "the copy under another suffix stays");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(PushOutcome::Overwritten)
    }

    pub async fn put(
        &self,
        key: &ObjectKey,
        stored: &Stored,
        mode: PutMode,
    ) -> Result<PutOutcome, WalArchiveError> {
        let (options, bytes) = (self.put_options(&stored.digest), stored.bytes.clone());
        let put = async {
            match mode {
                PutMode::Create => {
                    let subject = self.source.name().as_str();
                    self.catalog.put_new(key, bytes, &options, subject).await
                }
                PutMode::Overwrite => {
                    Ok(self.catalog.store().put(key, bytes, mode, &options).await?)
                }
            }
        };
        tokio::select! {
            outcome = put => Ok(outcome?),
            () = self.cancel.cancelled() => Err(Cancelled.into()),
        }
    }

    /// Where the file goes.
    pub fn own(&self) -> WalCopy {
        let compression = self.options.compression.map(|(compression, _)| compression);
        let key = self.catalog.layout().wal(self.source.name(), compression);
        WalCopy { key, compression }
    }
}

impl From<WalObject> for WalCopy {
    fn from(object: WalObject) -> Self {
        Self { key: object.key, compression: object.compression }
    }
}
