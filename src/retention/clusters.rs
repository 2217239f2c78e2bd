//! Which WAL is obsolete in an archive that holds that of several clusters. Pure.
//!
//! After a cluster was replaced under its name (`pg_upgrade`, a restore as a new cluster) timelines
//! and positions start again: the same name may stand for either, and no history file tells whose
//! it is. What can be told is time. A backup needs no file that was archived before it began,
//! whichever cluster wrote it.

use crate::catalog::{Backup, CatalogListing, WalObject};
use crate::retention::needs::{is_recoverable, is_running};
use crate::retention::select::Doomed;
use crate::wal::WalFileKind;
use jiff::{SignedDuration, Timestamp};

/// The clocks of database hosts and of the store disagree by less than this.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_hours(48);

/// What is needed after each deletion; step 0 is before the first.
pub struct ByTime {
    /// Files that were archived earlier are not needed.
    needed_since: Vec<Timestamp>,
}

impl ByTime {
    /// Follows the deletion of `doomed`, in their order.
    pub fn new(listing: &CatalogListing, doomed: &[Doomed<'_>], now: Timestamp) -> Self {
        let steps = 0..=doomed.len();
        Self { needed_since: steps.map(|step| needed_since(listing, doomed, step, now)).collect() }
    }

    /// The step that makes the file obsolete; `None` when it stays.
    pub fn obsolete_since(&self, file: &WalObject) -> Option<usize> {
        if file.name.kind() == WalFileKind::History {
            return None;
        }
        let not_needed = |since: &Timestamp| {
            since.checked_sub(CLOCK_SKEW_MAX).is_ok_and(|since| file.modified < since)
        };
        if !self.needed_since.last().is_some_and(not_needed) {
            return None;
        }
        self.needed_since.iter().skip(1).position(not_needed).map(|index| index + 1)
    }
}

/// When the oldest backup began of those that are left after so many deletions. Without any, when
/// the last one did that went.
fn needed_since(
    listing: &CatalogListing,
    doomed: &[Doomed<'_>],
    step: usize,
    now: Timestamp,
) -> Timestamp {
    let (gone, left) = doomed.split_at(step);
    let is_gone = |backup: &&Backup| !doomed.iter().any(|doomed| doomed.id() == &backup.id);
    let stays = listing.backups.iter().chain(&listing.unlisted).filter(is_gone);
    if listing.unreadable.iter().any(|unreadable| !gone.iter().any(|d| *d.id() == unreadable.id)) {
        return Timestamp::MIN;
    }
    let needs = |backup: &&Backup| {
        is_recoverable(backup) || backup.kept().is_some() || is_running(backup, now)
    };
    let not_gone = left.iter().filter_map(Doomed::readable);
    let began = |backup: &Backup| match is_running(backup, now) {
        // Its clock does not tell where it begins.
        true => Timestamp::MIN,
        false => backup.began(),
    };
    let oldest = stays.chain(not_gone).filter(needs).map(began).min();
    let last_gone = || gone.iter().filter_map(Doomed::readable).map(Backup::began).max();
    oldest.or_else(last_gone).unwrap_or(Timestamp::MIN)
}
