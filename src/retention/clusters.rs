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

#[cfg(test)]
mod tests {
    use crate::catalog::{
        Backup, BackupId, BackupInfo, BackupStatus, CatalogListing, Keep, KeepTarget, WalObject,
    };
    use crate::retention::clusters::ByTime;
    use crate::retention::select::Doomed;
    use crate::store::ObjectKey;
    use crate::wal::WalFileName;
    use jiff::tz::TimeZone;
    use jiff::{SignedDuration, Timestamp};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn days_ago(days: i64) -> Timestamp {
        NOW - SignedDuration::from_hours(24 * days)
    }

    fn backup(days: i64, status: BackupStatus, kept: bool) -> Backup {
        Backup {
            id: BackupId::at(days_ago(days)),
            info: BackupInfo {
                status: Some(status),
                begin_time: Some(days_ago(days).to_zoned(TimeZone::UTC)),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: kept.then(|| Keep::new(KeepTarget::Standalone)),
        }
    }

    fn file(name: &str, days: i64) -> WalObject {
        let name = WalFileName::parse(name).expect(name);
        let key = ObjectKey::parse(&format!("p/main/wals/{name}")).expect("key");
        WalObject { name, compression: None, key, bytes: 0, modified: days_ago(days) }
    }

    proptest! {
        /// A file may go exactly when it was archived, by any clock, before each backup that is
        /// left began; names and timelines say nothing.
        #[test]
        fn of_several_clusters_wal_goes_by_time_alone(
            backups in proptest::collection::btree_map(
                0i64..60, (any::<bool>(), any::<bool>(), any::<bool>()), 1..6),
            archived in 0i64..70,
            name in 0u32..40,
        ) {
            let taken: Vec<(i64, bool)> =
                backups.iter().rev().map(|(days, (_, _, goes))| (*days, *goes)).collect();
            let listed = backups.iter().rev().map(|(days, (done, kept, _))| {
                let status = if *done { BackupStatus::Done } else { BackupStatus::Failed };
                backup(*days, status, *kept)
            });
            let listing =
                CatalogListing { backups: listed.collect(), ..CatalogListing::default() };
            let goes = |index: &usize| taken[*index].1;
            let doomed: Vec<Doomed<'_>> = (0..taken.len())
                .filter(goes)
                .map(|index| Doomed::Backup(&listing.backups[index]))
                .collect();
            let needs = |backup: &&Backup| backup.is_done() || backup.keep.is_some();
            let left = (0..taken.len()).filter(|index| !goes(index));
            let left: Vec<&Backup> = left.map(|index| &listing.backups[index]).filter(needs).collect();
            let oldest = match left.iter().map(|backup| backup.began()).min() {
                Some(oldest) => oldest,
                None => doomed.iter().filter_map(Doomed::readable).map(Backup::began).max()
                    .unwrap_or(Timestamp::MIN),
            };
            let expected = !doomed.is_empty()
                && oldest > Timestamp::MIN
                && days_ago(archived) < oldest - SignedDuration::from_hours(48);
            let by_time = ByTime::new(&listing, &doomed, NOW);
            let file = file(&format!("{:08X}{:08X}{name:08X}", name % 3 + 1, 0), archived);
            prop_assert_eq!(by_time.obsolete_since(&file).is_some(), expected);
        }
    }

    #[test]
    fn history_files_stay_and_a_running_backup_holds_everything() {
        let mut listing = CatalogListing {
            backups: vec![
                backup(9, BackupStatus::Done, false),
                backup(2, BackupStatus::Done, false),
            ],
            ..CatalogListing::default()
        };
        let goes = |listing: &CatalogListing, name: &str| {
            let doomed = [Doomed::Backup(&listing.backups[0])];
            ByTime::new(listing, &doomed, NOW).obsolete_since(&file(name, 8))
        };
        assert_eq!(goes(&listing, "000000010000000000000004"), Some(1));
        assert_eq!(goes(&listing, "00000002.history"), None);
        listing.backups.push(backup(0, BackupStatus::Started, false));
        assert_eq!(goes(&listing, "000000010000000000000004"), None);
    }
}
