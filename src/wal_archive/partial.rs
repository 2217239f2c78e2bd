//! Partial segments of one name with different content.
//!
//! Two servers that are promoted from one timeline archive its last segment twice, each as far as
//! it had got. PostgreSQL tries again for ever, so a refusal blocks all archiving; and nothing
//! needs the file but a recovery that wants the very end of the old timeline.
//!
//! | The stored one | What happens |
//! | --- | --- |
//! | holds all of ours | success, nothing is written |
//! | is the beginning of ours | ours takes its place: nothing is lost |
//! | tells another story | it stays, ours goes beside it under a name that no tool lists; warned |
//!
//! A segment ends with its last page whose header names its own position (later pages are those
//! of a file that was used before), and with the last byte of it that is not zero.

use crate::store::{PutMode, PutOutcome};
use crate::wal::{Lsn, WalPageHeader};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::{Comparison, fill, plain};
use crate::wal_archive::copies::WalCopy;
use crate::wal_archive::push::{Push, PushOutcome};
use crate::wal_archive::stored::Stored;
use crate::wal_archive::transfer::{Feed, read_object};
use std::io::{self, Read};
use tracing::{info, warn};

/// Digits of the digest in the name of what goes beside.
const DIGEST_DIGITS: usize = 8;

/// Which of two partial segments holds the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    StoredHoldsOurs,
    OursHoldsStored,
    Neither,
}

impl Push<'_> {
    /// Archives a partial segment although `others` hold other content; never loses any of it.
    pub async fn settle_partial(
        &self,
        stored: Stored,
        others: Vec<(WalCopy, Comparison)>,
    ) -> Result<PushOutcome, WalArchiveError> {
        let mut replaceable = true;
        for (copy, comparison) in &others {
            match self.coverage(copy, comparison).await? {
                Coverage::StoredHoldsOurs => {
                    info!(wal = %self.source.name(), "the archive holds all of it and more");
                    return Ok(PushOutcome::AlreadyArchived);
                }
                Coverage::OursHoldsStored => {}
                Coverage::Neither => replaceable = false,
            }
        }
        if replaceable {
            let copies: Vec<WalCopy> = others.into_iter().map(|(copy, _)| copy).collect();
            return self.replace(&stored, &copies).await;
        }
        self.put_beside(&stored).await
    }

    async fn put_beside(&self, stored: &Stored) -> Result<PushOutcome, WalArchiveError> {
        let digest = stored.digest.to_string();
        let (own, store) = (self.own(), self.catalog.store());
        let tag = digest.get(..DIGEST_DIGITS).unwrap_or(&digest);
        let key = self.catalog.layout().other_partial(self.source.name(), tag, own.compression);
        warn!(
            wal = %self.source.name(), object = %store.url_of(&key),
            "another server has archived another end of this timeline; this one goes beside it"
        );
        // Named by its content: what is there already is this very file.
        match self.put(&key, stored, PutMode::Create).await? {
            PutOutcome::Written => Ok(PushOutcome::Archived),
            PutOutcome::AlreadyThere => Ok(PushOutcome::AlreadyArchived),
        }
    }

    async fn coverage(
        &self,
        copy: &WalCopy,
        comparison: &Comparison,
    ) -> Result<Coverage, WalArchiveError> {
        let Some(header) = self.source.header().copied() else { return Ok(Coverage::Neither) };
        if let Comparison::Unreadable { .. } = comparison {
            return Ok(Coverage::Neither);
        }
        let (compression, source) = (copy.compression, self.source.clone());
        let work = move |feed: Feed| {
            let mut stored = plain(compression, feed)?;
            let coverage = coverage(&mut stored, &mut source.reader(), &header);
            // What cannot be read to its end holds nothing for sure.
            Ok(coverage.unwrap_or(Coverage::Neither))
        };
        let read = read_object(self.catalog.store(), &copy.key, self.cancel, work).await?;
        // Vanished meanwhile: then nothing is lost by taking its place.
        read.transpose().map(|coverage| coverage.unwrap_or(Coverage::OursHoldsStored))
    }
}

/// Goes through both files page by page, up to the first difference and one page more.
fn coverage(
    stored: &mut dyn Read,
    ours: &mut dyn Read,
    header: &WalPageHeader,
) -> io::Result<Coverage> {
    let (mut stored, mut ours) = (Pages::new(stored, header), Pages::new(ours, header));
    loop {
        let (theirs_here, ours_here) = (stored.next()?, ours.next()?);
        match (theirs_here, ours_here) {
            (_, false) => return Ok(Coverage::StoredHoldsOurs),
            (false, true) => return Ok(Coverage::OursHoldsStored),
            (true, true) if stored.page == ours.page => {}
            (true, true) => break,
        }
    }
    let ours_begins = ours.page.starts_with(written(&stored.page));
    let stored_begins = stored.page.starts_with(written(&ours.page));
    let (stored_goes_on, ours_goes_on) = (stored.next()?, ours.next()?);
    Ok(if stored_begins && !ours_goes_on {
        Coverage::StoredHoldsOurs
    } else if ours_begins && !stored_goes_on {
        Coverage::OursHoldsStored
    } else {
        Coverage::Neither
    })
}

/// A page without the zeros at its end.
fn written(page: &[u8]) -> &[u8] {
    let end = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &page[..end]
}

/// The pages of a segment that belong to it.
struct Pages<'a> {
    content: &'a mut dyn Read,
    magic: u16,
    address: Lsn,
    page: Vec<u8>,
}

impl<'a> Pages<'a> {
    fn new(content: &'a mut dyn Read, header: &WalPageHeader) -> Self {
        let page = vec![0; usize::try_from(header.page_bytes).unwrap_or_default()];
        Self { content, magic: header.magic, address: header.address, page }
    }

    /// Reads the next page; false where the segment ends.
    fn next(&mut self) -> io::Result<bool> {
        let read = fill(self.content, &mut self.page)?;
        let address = u64::from_ne_bytes(self.page[8..16].try_into().expect("eight bytes"));
        let magic = u16::from_ne_bytes([self.page[0], self.page[1]]);
        let belongs =
            read == self.page.len() && magic == self.magic && Lsn::new(address) == self.address;
        let bytes = u64::try_from(self.page.len()).expect("a small number");
        self.address = Lsn::new(self.address.bytes().saturating_add(bytes));
        Ok(belongs)
    }
}
