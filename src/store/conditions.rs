//! Whether a store honours `If-None-Match`: found out once, remembered beside the objects.
//!
//! ```text
//! <folder>/conditional_writes/probe          created twice: is the second create refused?
//! <folder>/conditional_writes/<host>.json    what was found at this endpoint
//! ```
//!
//! Some dialects pass over the condition, some answer 501; neither is believed to be like the
//! vendors' own services, which are known. The note is one for each host name, because a copied
//! bucket brings the note of the store it was copied from. Crash points: before the note is
//! written the next command probes again; the probe stays, so that on a bucket where nothing can
//! be deleted there is one and not one for each try.

use crate::flow::random_token;
use crate::store::bucket::Bucket;
use crate::store::{ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreError};
use bytes::Bytes;
use std::sync::{Mutex, PoisonError};

/// What a store does with a write that must not replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionalWrites {
    Honoured,
    /// Accepted and carried out as if there were no condition.
    Ignored,
    /// Answered with "not implemented".
    Refused,
}

/// What is known of a store so far.
#[derive(Debug)]
pub(crate) struct Known(Mutex<Option<ConditionalWrites>>);

impl ConditionalWrites {
    /// Whether a create can be left to the store.
    pub fn work(self) -> bool {
        self == Self::Honoured
    }

    fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }

    fn of_note(content: &[u8]) -> Option<Self> {
        let note: serde_json::Value = serde_json::from_slice(content).ok()?;
        let word = note.get("conditional_writes")?.as_str()?;
        [Self::Honoured, Self::Ignored, Self::Refused].into_iter().find(|one| one.word() == word)
    }

    fn note(self) -> Bytes {
        format!("{{\"format\":1,\"conditional_writes\":\"{}\"}}\n", self.word()).into()
    }
}

impl Known {
    /// For stores whose answer is documented: the vendors' own, memory, a folder.
    pub(crate) fn honoured() -> Self {
        Self(Mutex::new(Some(ConditionalWrites::Honoured)))
    }

    pub(crate) fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    fn get(&self) -> Option<ConditionalWrites> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What is known so far; `None` before [`learn_conditional_writes`](Self::learn_conditional_writes).
    pub fn conditional_writes(&self) -> Option<ConditionalWrites> {
        self.inner.conditional_writes.get()
    }

    pub(crate) fn know_conditional_writes(&self, found: ConditionalWrites) {
        let slot = &self.inner.conditional_writes.0;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// Reads what was found out about this store, or finds it out and writes that down below
    /// `folder`. Costs nothing where it is known, one GET where it is written down.
    pub async fn learn_conditional_writes(
        &self,
        folder: &str,
    ) -> Result<ConditionalWrites, StoreError> {
        if let Some(known) = self.conditional_writes() {
            return Ok(known);
        }
        let note = key_in(folder, &format!("{}.json", self.host()));
        let noted = self.get(&note).await?;
        if let Some(noted) = noted.and_then(|content| ConditionalWrites::of_note(&content)) {
            self.know_conditional_writes(noted);
            return Ok(noted);
        }
        let found = self.probe(&key_in(folder, "probe")).await?;
        self.know_conditional_writes(found);
        if !found.work() {
            tracing::warn!(
                store = self.root_url(),
                conditional_writes = found.word(),
                "the store cannot refuse to overwrite; looking before each write and after it"
            );
        }
        self.put(&note, found.note(), PutMode::Overwrite, &PutOptions::default()).await?;
        Ok(found)
    }

    /// Creates the probe twice, with different content. Nobody deletes it, so that the second
    /// create meets an object whoever made it.
    async fn probe(&self, probe: &ObjectKey) -> Result<ConditionalWrites, StoreError> {
        for _ in 0..2 {
            let (content, options) = (Bytes::from(random_token()), PutOptions::default());
            let outcome = self.put(probe, content, PutMode::Create, &options).await?;
            if let Some(found) = self.conditional_writes() {
                return Ok(found);
            }
            if outcome == PutOutcome::AlreadyThere {
                return Ok(ConditionalWrites::Honoured);
            }
        }
        Ok(ConditionalWrites::Ignored)
    }

    /// The endpoint's host and port as a part of a name.
    fn host(&self) -> String {
        let Bucket::S3(bucket) = &self.inner.bucket else { return "store".into() };
        let host = bucket.url.host_str().unwrap_or_default();
        let port = bucket.url.port().map(|port| format!("_{port}")).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        format!("{host}{port}").replace(|c| !fits(c), "_")
    }
}

fn key_in(folder: &str, name: &str) -> ObjectKey {
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    ObjectKey::parse_with_empty_segments(&format!("{folder}conditional_writes/{name}"))
        .expect("a folder and a checked name make a key")
}
