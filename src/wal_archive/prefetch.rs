//! The companion of recovery: fetches into the spool what recovery will ask for next.
//!
//! ```text
//! note: position ─→ window of segments behind it ─→ route ─→ store → decompress → spool
//! ```
//!
//! It follows recovery as long as that moves, and rests while recovery has enough: replaying a
//! segment may take longer than fetching eight. When recovery does not go on, because it ended, was
//! stopped or went elsewhere, the companion empties the spool and ends; with an empty spool it ends
//! soon, and at once at the end of the archive. One process at a time fills a spool; what it holds
//! is at most the window and the segment in front of it. Nothing here can fail a request: what is
//! missing, late or damaged is fetched by the call that needs it.
//! Crash points: a companion that is killed leaves entries and temporary files, which the next
//! one, or the next call that wants none, removes; entries appear whole or not at all.

use crate::catalog::Catalog;
use crate::disk::{DiskError, Spool, SpoolLock};
use crate::flow::{Cancel, Limits};
use crate::wal::{WalFileName, WalSegment};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::fetch::{PartialSegments, SpoolOptions};
use crate::wal_archive::locate::locate;
use crate::wal_archive::notes::{self, Position};
use crate::wal_archive::receive::{Destination, ObjectToFetch, receive};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// How often the position of recovery is read while something is to be done.
const TICK: Duration = Duration::from_millis(10);
/// And how often while nothing is.
const REST_TICK: Duration = Duration::from_millis(100);
/// A companion with nothing to do rests when recovery has stood still for so long.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// The lock is looked at by others, for an instant each.
const LOCK_TRIES: u32 = 10;

/// Fetches ahead of the position noted in the spool until recovery stands still for the deadline
/// of `limits`, the archive ends, or `cancel` is cancelled; leaves nothing in the spool that
/// nobody has taken by then. Returns at once when another process does so.
pub async fn look_ahead(
    catalog: &Catalog,
    spool: &SpoolOptions,
    segments: NonZeroU64,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<(), WalArchiveError> {
    let spool = Spool::new(&spool.directory, &spool.scope);
    let companion = Companion::claim(catalog, &spool, segments, limits, cancel).await;
    let Some(mut companion) = companion.map_err(WalArchiveError::Spool)? else { return Ok(()) };
    loop {
        companion.fill().await;
        if !companion.rest().await {
            return companion.end().map_err(WalArchiveError::Spool);
        }
    }
}

/// The same up to the first rest, after which the spool is full: a companion that is killed then.
#[cfg(test)]
pub async fn fill(
    catalog: &Catalog,
    spool: &SpoolOptions,
    segments: NonZeroU64,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<(), WalArchiveError> {
    let spool = Spool::new(&spool.directory, &spool.scope);
    let companion = Companion::claim(catalog, &spool, segments, limits, cancel).await;
    if let Some(mut companion) = companion.map_err(WalArchiveError::Spool)? {
        companion.fill().await;
    }
    Ok(())
}

/// Whoever holds the right to fill a spool, and where recovery is.
struct Companion<'a> {
    catalog: &'a Catalog,
    spool: &'a Spool,
    limits: &'a Limits,
    cancel: &'a Cancel,
    lock: SpoolLock,
    window: Window,
    /// When recovery went on last.
    moved: Instant,
}

impl<'a> Companion<'a> {
    /// `None` while another process fills the spool, or when no recovery was ever there.
    async fn claim(
        catalog: &'a Catalog,
        spool: &'a Spool,
        segments: NonZeroU64,
        limits: &'a Limits,
        cancel: &'a Cancel,
    ) -> Result<Option<Self>, DiskError> {
        let lock = claim(spool).await?;
        let (Some(lock), Some(position)) = (lock, notes::position(spool)) else { return Ok(None) };
        spool.remove_arriving(&lock)?;
        spool.evict(usize::MAX)?;
        let window = Window::new(position, segments.get());
        let _ = spool.retain(&lock, |name| window.spans(name));
        let moved = Instant::now();
        Ok(Some(Self { catalog, spool, limits, cancel, lock, window, moved }))
    }

    /// Fetches until all is there that may be, or nothing was asked for a while.
    async fn fill(&mut self) {
        // Cancelled at every end, so that what is under way removes its temporary file.
        let under_way = self.cancel.child();
        let fetcher = Fetcher { catalog: self.catalog, spool: self.spool, cancel: &under_way };
        let mut arriving = FuturesUnordered::new();
        while self.follow() {
            while arriving.len() < self.limits.jobs.get()
                && let Some(number) = self.window.next()
            {
                self.window.begin(number);
                let (from, fetcher) = (self.window.position, &fetcher);
                arriving.push(async move { (number, fetcher.bring(from, number).await) });
            }
            let idle = self.moved.elapsed() > IDLE_MAX;
            let done = arriving.is_empty() && (self.window.is_complete() || idle);
            if done || self.is_over() {
                break;
            }
            tokio::select! {
                Some((number, there)) = arriving.next(), if !arriving.is_empty() => {
                    if !there {
                        self.window.end(number);
                    }
                }
                () = tokio::time::sleep(TICK) => {}
                () = self.cancel.cancelled() => {}
            }
        }
        under_way.cancel();
        while arriving.next().await.is_some() {}
    }

    /// Waits while recovery has what it needs; whether it went on.
    async fn rest(&mut self) -> bool {
        while !self.is_over() && !self.spool.names().is_empty() {
            match notes::position(self.spool) {
                Some(position) if position == self.window.position => {}
                Some(_) => return true,
                None => return false,
            }
            tokio::select! {
                () = tokio::time::sleep(REST_TICK) => {}
                () = self.cancel.cancelled() => {}
            }
        }
        false
    }

    /// What is still in the spool was fetched for a recovery that has not come for it.
    fn end(self) -> Result<(), DiskError> {
        self.spool.remove_arriving(&self.lock)?;
        self.spool.retain(&self.lock, |_| false)
    }

    /// Looks where recovery is; `false` when nobody tells any more.
    fn follow(&mut self) -> bool {
        let Some(position) = notes::position(self.spool) else { return false };
        if self.window.move_to(position) {
            self.moved = Instant::now();
            let _ = self.spool.retain(&self.lock, |name| self.window.spans(name));
        }
        true
    }

    fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || self.moved.elapsed() > self.limits.retry.deadline
    }
}

/// Looking whether the lock is taken takes it for an instant: so try more than once.
async fn claim(spool: &Spool) -> Result<Option<SpoolLock>, DiskError> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = spool.lock()? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(None)
}

struct Fetcher<'a> {
    catalog: &'a Catalog,
    spool: &'a Spool,
    cancel: &'a Cancel,
}

impl Fetcher<'_> {
    /// Whether the segment is in the spool now, under one of the names that recovery will try.
    async fn bring(&self, from: Position, number: u64) -> bool {
        let route = notes::route(self.spool, from.size);
        for segment in route.candidates(from.segment, number) {
            let name = WalFileName::of_segment(segment, from.size);
            if self.spool.holds(name.as_str()) {
                return true;
            }
            match self.fetch(&name).await {
                Ok(true) => return true,
                Ok(false) => debug!(wal = %name, "not there yet"),
                Err(WalArchiveError::Cancelled(_)) => return false,
                Err(error) => {
                    warn!(wal = %name, %error, "could not fetch ahead");
                    return false;
                }
            }
        }
        false
    }

    async fn fetch(&self, name: &WalFileName) -> Result<bool, WalArchiveError> {
        let suffix = notes::suffix(self.spool);
        let compression = suffix.flatten();
        let key = self.catalog.layout().wal(name, compression);
        if self.receive(ObjectToFetch { key, compression, name: name.clone() }).await? {
            return Ok(true);
        }
        // Archived with another suffix than the one before?
        let listed = locate(self.catalog, name, PartialSegments::Refuse, suffix).await?;
        match listed.into_iter().next() {
            Some(object) => self.receive(object.into()).await,
            None => Ok(false),
        }
    }

    async fn receive(&self, object: ObjectToFetch) -> Result<bool, WalArchiveError> {
        let writer = self.spool.put(object.name.as_str()).map_err(WalArchiveError::Spool)?;
        let destination = Destination::Spool(writer);
        let received =
            receive(self.catalog.store(), &object, destination, None, self.cancel).await?;
        if let Some(bytes) = received {
            debug!(wal = %object.name, bytes, "fetched ahead");
        }
        Ok(received.is_some())
    }
}

/// The segments behind the position of recovery, and which of them were begun. Pure.
#[derive(Debug)]
struct Window {
    position: Position,
    segments: u64,
    begun: BTreeSet<u64>,
    /// The first segment that the archive does not hold.
    end: Option<u64>,
}

impl Window {
    fn new(position: Position, segments: u64) -> Self {
        Self { position, segments, begun: BTreeSet::new(), end: None }
    }

    /// Follows recovery; a step back is another recovery, for which everything counts anew.
    fn move_to(&mut self, position: Position) -> bool {
        if position == self.position {
            return false;
        }
        let here = self.position.segment.number;
        if position.segment.number < here || position.size != self.position.size {
            *self = Self::new(position, self.segments);
            return true;
        }
        self.position = position;
        self.begun = self.begun.split_off(&(position.segment.number + 1));
        self.end = self.end.filter(|end| *end > position.segment.number);
        true
    }

    /// The nearest segment that nobody has begun.
    fn next(&self) -> Option<u64> {
        let first = self.position.segment.number + 1;
        let end = self.end.unwrap_or(u64::MAX).min(first + self.segments);
        (first..end).find(|number| !self.begun.contains(number))
    }

    /// One segment is begun once: what recovery has taken meanwhile is not wanted again.
    fn begin(&mut self, number: u64) {
        self.begun.insert(number);
    }

    fn end(&mut self, number: u64) {
        self.end = Some(self.end.map_or(number, |end| end.min(number)));
    }

    /// Whether everything up to the end of the archive was begun.
    fn is_complete(&self) -> bool {
        self.end.is_some() && self.next().is_none()
    }

    /// Whether a name belongs to the window or to the position in front of it.
    fn spans(&self, name: &str) -> bool {
        let first = self.position.segment.number;
        WalSegment::from_name(name, self.position.size)
            .is_some_and(|segment| (first..=first + self.segments).contains(&segment.number))
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{SegmentSize, TimelineId, WalSegment};
    use crate::wal_archive::notes::Position;
    use crate::wal_archive::prefetch::Window;

    fn position(number: u64) -> Position {
        let timeline = TimelineId::new(1).expect("1");
        Position { segment: WalSegment { timeline, number }, size: SegmentSize::DEFAULT }
    }

    fn begun(window: &mut Window) -> Vec<u64> {
        let mut begun = Vec::new();
        while let Some(number) = window.next() {
            window.begin(number);
            begun.push(number);
        }
        begun
    }

    #[test]
    fn a_window_moves_with_recovery_and_begins_each_segment_once() {
        let mut window = Window::new(position(10), 3);
        assert_eq!(begun(&mut window), [11, 12, 13]);
        assert!(!window.move_to(position(10)));
        assert!(window.move_to(position(12)));
        assert_eq!(begun(&mut window), [14, 15]);
        // Recovery was faster than the store.
        assert!(window.move_to(position(20)));
        assert_eq!(begun(&mut window), [21, 22, 23]);
    }

    #[test]
    fn a_step_back_is_another_recovery() {
        let mut window = Window::new(position(10), 2);
        begun(&mut window);
        window.end(11);
        assert!(window.move_to(position(9)));
        assert_eq!(begun(&mut window), [10, 11]);
    }

    #[test]
    fn nothing_is_begun_behind_the_end_of_the_archive() {
        let mut window = Window::new(position(10), 4);
        assert!(!window.is_complete());
        window.end(13);
        assert_eq!(begun(&mut window), [11, 12]);
        assert!(window.is_complete());
        // Until recovery itself has gone there.
        window.move_to(position(13));
        assert_eq!(begun(&mut window), [14, 15, 16, 17]);
    }

    #[test]
    fn what_lies_outside_of_the_window_is_not_kept() {
        let window = Window::new(position(10), 2);
        let spans = |number| window.spans(&position(number).name().to_string());
        assert_eq!([9, 10, 11, 12, 13].map(spans), [false, true, true, true, false]);
        assert!(!window.spans("suffix"));
    }
}
