//! The WAL that a backup needs: which segments, and waiting until the archive holds them as this
//! server wrote them.
//!
//! ```text
//! look: one LIST per log (4 GiB of WAL) ─┬─ missing, or waiting for our archiver → look again
//!                                        └─ there → is it ours? → confirmed
//! last look, just before the record is written: still there, every one
//! ```
//!
//! A name in the archive proves nothing: a server that was reverted to an older state, or a clone
//! of it, finds its own names there with other content. So what PostgreSQL marks as waiting for the
//! archiver is not archived, and what is still in `pg_wal` is compared.

use crate::backup::BackupError;
use crate::backup::local_wal::{Archiver, LocalSegment, LocalWal, Mark, WaitingSegments};
use crate::backup::stored_segment::{Expected, Finding, examine, is_plausible};
use crate::catalog::{Catalog, WalObject};
use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::postgres::{ArchiverFailure, ServerFacts};
use crate::store::ObjectKey;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The first and the longest pause between two looks at the archive. The archiver was woken
/// when the backup stopped, so one segment's archiving is what is waited for.
const PAUSE_MIN: Duration = Duration::from_millis(30);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After this long the operator is told what is waited for, and again after each longer time.
const TELL_FIRST: Duration = Duration::from_secs(3);
const TELL_EVERY: Duration = Duration::from_secs(30);

/// How long another content is looked at before it is believed: an archiver that may overwrite
/// is about to do so.
const DOUBT_MAX: Duration = Duration::from_secs(10);

/// Segments at either end of the backup that are compared; of a longer one those between them are
/// confirmed by name, size and mark.
const COMPARED_MAX: usize = 128;

/// Segments read at once.
const READS_AT_ONCE: usize = 4;

/// How long a backup waits for its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPatience {
    /// Until the archiver has brought what is complete.
    pub archived: Duration,
    /// Until the primary of a standby has completed its current segment, unless its
    /// `archive_timeout` says that this takes longer.
    pub completed: Duration,
}

/// The segments that recovery from a backup must replay at least, in order. A backup that
/// stops on a segment boundary does not need the segment that begins there.
pub fn needed(timeline: TimelineId, begin: Lsn, end: Lsn, size: SegmentSize) -> Vec<WalSegment> {
    let first = WalSegment::containing(timeline, begin, size).number;
    let last = WalSegment::before(timeline, end, size).number;
    (first..=last).map(|number| WalSegment { timeline, number }).collect()
}

/// The WAL of one backup, in the archive and in `pg_wal`.
pub struct NeededWal<'a> {
    pub catalog: &'a Catalog,
    pub local: LocalWal,
    /// In order, none left out.
    pub segments: Vec<WalSegment>,
    pub size: SegmentSize,
    pub system_identifier: SystemIdentifier,
    /// On a standby the primary completes the segments.
    pub in_recovery: bool,
    pub archive_timeout: Duration,
    /// What PostgreSQL said of its archiver when the backup ended.
    pub archiver_failure: Option<ArchiverFailure>,
    /// Objects that were found to be others', so that none is read at every look.
    pub others: Mutex<BTreeMap<ObjectKey, (Timestamp, u64, String)>>,
}

/// Why a segment is not in the archive yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delay {
    /// It waits for this server's archiver.
    Archiver { waiting: Option<WaitingSegments>, failure: Option<ArchiverFailure> },
    /// The primary has not completed it, as far as this standby has received it.
    IdlePrimary,
    /// Somebody else's archiver should have brought it.
    Elsewhere,
}

/// What one look told of a segment.
enum State {
    Confirmed,
    Pending,
    Other(OtherContent),
}

/// An object under a segment's name that is not what this server wrote.
#[derive(Clone, Debug)]
struct OtherContent {
    segment: WalSegment,
    object: ObjectKey,
    difference: String,
    /// The archiver is done with the segment: nothing will change any more.
    is_final: bool,
}

impl<'a> NeededWal<'a> {
    /// Of a backup from `begin` to `end` that this server made.
    pub fn of(
        catalog: &'a Catalog,
        facts: &ServerFacts,
        timeline: TimelineId,
        begin: Lsn,
        end: Lsn,
        archiver_failure: Option<ArchiverFailure>,
    ) -> Self {
        Self {
            catalog,
            local: LocalWal::of(facts),
            segments: needed(timeline, begin, end, facts.wal_segment_size),
            size: facts.wal_segment_size,
            system_identifier: facts.system_identifier,
            in_recovery: facts.in_recovery,
            archive_timeout: facts.archive_timeout,
            archiver_failure,
            others: Mutex::default(),
        }
    }

    /// Waits until the archive holds every segment as this server wrote it; reports the first
    /// one that is missing at the deadline, and another content as soon as it is sure.
    pub async fn confirm(&self, patience: WalPatience, cancel: &Cancel) -> Result<(), BackupError> {
        let begun = Instant::now();
        let (mut pause, mut tell_after) = (PAUSE_MIN, TELL_FIRST);
        let mut doubted: Option<Instant> = None;
        let mut pending = self.segments.clone();
        loop {
            let is_late = begun.elapsed() >= TELL_FIRST.min(patience.archived);
            let states = self.look(&pending, is_late, cancel).await?;
            let other = states.iter().find_map(|(_, state)| match state {
                State::Other(other) => Some(other),
                State::Confirmed | State::Pending => None,
            });
            match other {
                None => doubted = None,
                Some(other) => {
                    let since = *doubted.get_or_insert_with(Instant::now);
                    if other.is_final || since.elapsed() >= DOUBT_MAX.min(patience.archived) {
                        return Err(self.not_ours(other));
                    }
                }
            }
            let confirmed: BTreeSet<WalSegment> = states
                .iter()
                .filter(|(_, state)| matches!(state, State::Confirmed))
                .map(|(segment, _)| *segment)
                .collect();
            pending.retain(|segment| !confirmed.contains(segment));
            let Some(first) = pending.first() else { return Ok(()) };
            let delay = self.delay(&pending);
            let waited = self.limit(&delay, patience);
            let left = waited.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let (first, count) = (first.name(self.size), pending.len());
                let delay = Box::new(delay);
                return Err(BackupError::WalMissing { first, count, waited, delay });
            }
            if begun.elapsed() >= tell_after {
                tell_after = begun.elapsed() + TELL_EVERY;
                tell(&first.name(self.size), pending.len(), &delay);
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(left)) => pause = (pause * 2).min(PAUSE_MAX),
                () = cancel.cancelled() => return Err(BackupError::Cancelled),
            }
        }
    }

    /// The last look before the record is written: what was confirmed long ago may have been
    /// deleted since, by a retention run with another clock or by a rule of the bucket.
    pub async fn look_again(&self) -> Result<(), BackupError> {
        let found = self.find(&self.segments).await?;
        let gone: Vec<&WalSegment> = self
            .segments
            .iter()
            .filter(|segment| {
                let objects = found.get(*segment).map(Vec::as_slice).unwrap_or_default();
                !objects.iter().any(|object| is_plausible(object, self.size))
            })
            .collect();
        match gone.first() {
            None => Ok(()),
            Some(first) => {
                Err(BackupError::WalGone { first: first.name(self.size), count: gone.len() })
            }
        }
    }

    async fn find(
        &self,
        segments: &[WalSegment],
    ) -> Result<BTreeMap<WalSegment, Vec<WalObject>>, BackupError> {
        self.catalog.stored_segments(segments, self.size).await.map_err(BackupError::Catalog)
    }

    /// Looks at `pending` once. After some time also at the first segment that waits for the
    /// archiver: an older one that the archive refuses holds back all others.
    async fn look(
        &self,
        pending: &[WalSegment],
        is_late: bool,
        cancel: &Cancel,
    ) -> Result<Vec<(WalSegment, State)>, BackupError> {
        let mut looked = pending.to_vec();
        if is_late
            && self.local.archiver == Archiver::ThisServer
            && let Some(waiting) = self.local.waiting()
            && let Some(first) = WalSegment::from_name(&waiting.first, self.size)
            && !looked.contains(&first)
        {
            looked.push(first);
        }
        let mut found = self.find(&looked).await?;
        let judged = looked.into_iter().map(|segment| {
            let objects = found.remove(&segment).unwrap_or_default();
            async move { Ok((segment, self.judge(segment, objects, cancel).await?)) }
        });
        stream::iter(judged).buffered(READS_AT_ONCE).try_collect().await
    }

    /// What the objects under a segment's name are worth.
    async fn judge(
        &self,
        segment: WalSegment,
        objects: Vec<WalObject>,
        cancel: &Cancel,
    ) -> Result<State, BackupError> {
        if objects.is_empty() {
            return Ok(State::Pending);
        }
        let name = segment.name(self.size);
        let is_archived_here = self.local.archiver == Archiver::ThisServer;
        // Looked at before the object is: the archiver may be done in between.
        let waits = is_archived_here && !self.local.is_archived(&name);
        for object in &objects {
            let local = match self.is_near_an_end(segment) || waits {
                true => self.local.open_complete(&name),
                false => None,
            };
            if local.is_none() && waits {
                return Ok(State::Pending);
            }
            // Without a file to compare, the header of the first and the last tells enough.
            if local.is_none() && !self.is_an_end(segment) && is_plausible(object, self.size) {
                continue;
            }
            match self.examined(segment, object, local, cancel).await? {
                Finding::Ours => {}
                Finding::Gone => return Ok(State::Pending),
                Finding::Other(difference) => {
                    let is_final = is_archived_here && !waits;
                    let object = object.key.clone();
                    return Ok(State::Other(OtherContent {
                        segment,
                        object,
                        difference,
                        is_final,
                    }));
                }
            }
        }
        Ok(State::Confirmed)
    }

    /// As [`examine`], but what was found to be another's is not read again until it changes.
    async fn examined(
        &self,
        segment: WalSegment,
        object: &WalObject,
        local: Option<LocalSegment>,
        cancel: &Cancel,
    ) -> Result<Finding, BackupError> {
        let known = self.others.lock().ok().and_then(|known| known.get(&object.key).cloned());
        if let Some((modified, bytes, difference)) = known
            && (modified, bytes) == (object.modified, object.bytes)
        {
            return Ok(Finding::Other(difference));
        }
        let expected =
            Expected { segment, size: self.size, system_identifier: self.system_identifier };
        let finding = examine(self.catalog.store(), object, expected, local, cancel).await?;
        if let (Finding::Other(difference), Ok(mut known)) = (&finding, self.others.lock()) {
            known.insert(object.key.clone(), (object.modified, object.bytes, difference.clone()));
        }
        Ok(finding)
    }

    fn is_an_end(&self, segment: WalSegment) -> bool {
        self.segments.first() == Some(&segment) || self.segments.last() == Some(&segment)
    }

    fn is_near_an_end(&self, segment: WalSegment) -> bool {
        let at = self.segments.binary_search(&segment).unwrap_or(0);
        at < COMPARED_MAX || at + COMPARED_MAX >= self.segments.len()
    }

    fn delay(&self, pending: &[WalSegment]) -> Delay {
        let last = self.segments.last().map(|segment| segment.name(self.size)).unwrap_or_default();
        let only_the_last = pending.len() == 1 && pending.last() == self.segments.last();
        if self.in_recovery && only_the_last && self.local.mark(&last) == Mark::None {
            return Delay::IdlePrimary;
        }
        if self.local.archiver == Archiver::Another {
            return Delay::Elsewhere;
        }
        Delay::Archiver { waiting: self.local.waiting(), failure: self.archiver_failure.clone() }
    }

    pub fn limit(&self, delay: &Delay, patience: WalPatience) -> Duration {
        match delay {
            Delay::Archiver { .. } | Delay::Elsewhere => patience.archived,
            Delay::IdlePrimary => {
                let switched = self.archive_timeout + patience.completed / 2;
                patience.completed.max(switched).min(patience.archived)
            }
        }
    }

    fn not_ours(&self, other: &OtherContent) -> BackupError {
        BackupError::WalNotOurs {
            segment: other.segment.name(self.size),
            object: self.catalog.store().url_of(&other.object),
            difference: other.difference.clone(),
        }
    }
}

fn tell(segment: &str, missing: usize, delay: &Delay) {
    match delay {
        Delay::IdlePrimary => tracing::warn!(
            segment,
            "waiting for the primary to complete the last WAL segment of the backup; to hasten it, run there: SELECT pg_switch_wal();"
        ),
        Delay::Archiver { failure: Some(failure), .. } => tracing::warn!(
            segment,
            missing,
            %failure,
            "waiting for this server's archiver, which has failed"
        ),
        Delay::Archiver { .. } | Delay::Elsewhere => {
            tracing::warn!(segment, missing, "waiting for WAL that is not in the archive yet");
        }
    }
}

/// Waits until the server's own archiver has passed on `last`, the last segment of the backup,
/// wherever it takes it: without a limit, as `pg_backup_stop` does, which looks once a second.
pub async fn wait_for_archiver(
    local: &LocalWal,
    last: &str,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let mut tell_at = Instant::now() + TELL_FIRST;
    let mut pause = PAUSE_MIN;
    while !local.is_archived(last) {
        if Instant::now() > tell_at {
            tell_at += TELL_EVERY;
            tracing::warn!(segment = last, "waiting for the server's archiver");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
        }
    }
    Ok(())
}
