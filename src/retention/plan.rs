//! What exactly goes, decided before anything is deleted; `--dry-run` prints this very plan.
//!
//! WAL is attributed to the deletion that makes it obsolete, oldest backup first, so that each
//! backup goes completely before the next is touched.
//!
//! Memory: the WAL archive is streamed; what is held is the key of each WAL file that goes, with
//! 40 bytes beside it: 8 MB for 1 TB of WAL in segments of 16 MiB and keys of 80 bytes.

use crate::catalog::{BackupId, BackupRecord, Leftover, TarballName};
use crate::flow::Limits;
use crate::retention::select::Doomed;
use crate::retention::{RetentionError, Selection, SnapshotDeletion};
use crate::store::{Debris, ListEntry, ObjectKey};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Everything that goes, in order.
#[derive(Debug, Default)]
pub struct DeletePlan {
    /// Oldest first.
    pub backups: Vec<BackupDeletion>,
    /// Folders that are no backup any more.
    pub leftovers: Vec<FolderDeletion>,
    /// Backups that are whole but for their entry, which is written again.
    pub repairs: Vec<Repair>,
    /// How locks are looked for again, just before each backup goes.
    pub locks: Option<LockRecheck>,
    /// Backups of whose WAL only a part is held, because their keeps are standalone: should that
    /// change meanwhile, no WAL goes.
    pub standalone: Vec<BackupId>,
    /// Temporary objects of runs that were killed.
    pub debris: Vec<Debris>,
    /// The id that was asked for and is not there.
    pub absent: Option<BackupId>,
    /// What should go and cannot; the rest of the plan is sound without it.
    pub hindrances: Vec<RetentionError>,
}

/// A backup that is whole and in nobody's list.
#[derive(Debug)]
pub enum Repair {
    /// Its record tells everything.
    Unlisted(Box<BackupRecord>),
    /// A deletion took its entry away, and a keep was set meanwhile.
    Begun(BackupId),
}

impl Repair {
    pub fn id(&self) -> &BackupId {
        match self {
            Self::Unlisted(record) => &record.id,
            Self::Begun(id) => id,
        }
    }
}

/// What asking for locks takes.
#[derive(Debug)]
pub struct LockRecheck {
    pub limits: Limits,
    pub now: Timestamp,
}

/// One backup and the WAL that only it needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupDeletion {
    pub folder: FolderDeletion,
    /// Sorted by key.
    pub wals: Vec<ObjectKey>,
}

/// The objects of one folder below `base/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderDeletion {
    pub id: BackupId,
    /// Volume snapshots that belong to it: they go first.
    pub snapshots: SnapshotDeletion,
    /// Tarballs in their order, then everything else.
    pub objects: Vec<ObjectKey>,
    /// What makes it a backup. Of one that is listed, `backup.info` goes first of all, and what
    /// else tells of it last: as long as any of that is there the deletion can be repeated.
    pub entry: Vec<ObjectKey>,
}

impl FolderDeletion {
    /// Whether somebody's list has it.
    pub fn is_listed(&self) -> bool {
        self.entry.iter().any(|key| key.file_name() == BACKUP_INFO)
    }

    /// What goes last.
    pub fn last(&self) -> impl Iterator<Item = &ObjectKey> {
        self.entry.iter().filter(|key| key.file_name() != BACKUP_INFO)
    }
}

impl DeletePlan {
    /// The first thing that should go and cannot.
    pub fn into_result(self) -> Result<(), RetentionError> {
        self.hindrances.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Joins the selected backups, their snapshots and the obsolete WAL, by step, into a plan.
pub fn assemble(
    selection: Selection<'_>,
    leftovers: Vec<(Leftover, SnapshotDeletion)>,
    snapshots: BTreeMap<BackupId, SnapshotDeletion>,
    obsolete: BTreeMap<usize, Vec<ObjectKey>>,
) -> DeletePlan {
    let (mut wals, mut snapshots) = (obsolete, snapshots);
    let mut backup = |(index, doomed): (usize, &Doomed<'_>)| {
        let mut wals = wals.remove(&(index + 1)).unwrap_or_default();
        wals.sort();
        let snapshots = snapshots.remove(doomed.id()).unwrap_or_default();
        BackupDeletion { folder: folder_deletion(doomed.id(), doomed.objects(), snapshots), wals }
    };
    let leftover = |(left, snapshots): (Leftover, SnapshotDeletion)| {
        folder_deletion(&left.id, &left.objects, snapshots)
    };
    DeletePlan {
        backups: selection.doomed.iter().enumerate().map(&mut backup).collect(),
        leftovers: leftovers.into_iter().map(leftover).collect(),
        absent: selection.absent,
        hindrances: selection.hindrances,
        ..DeletePlan::default()
    }
}

const BACKUP_INFO: &str = "backup.info";

/// The objects of a folder in the order in which they go.
fn folder_deletion(
    id: &BackupId,
    objects: &[ListEntry],
    snapshots: SnapshotDeletion,
) -> FolderDeletion {
    const ENTRY: [&str; 4] = ["started.json", "backup.json", "deletion.json", BACKUP_INFO];
    let entry_rank = |key: &ObjectKey| {
        let in_folder = key.as_str().rsplit('/').nth(1) == Some(id.as_str());
        ENTRY.iter().position(|name| in_folder && *name == key.file_name())
    };
    let keys = objects.iter().map(|object| object.key.clone());
    let (mut entry, mut objects): (Vec<ObjectKey>, Vec<ObjectKey>) =
        keys.partition(|key| entry_rank(key).is_some());
    entry.sort_by_key(entry_rank);
    let tarball = |key: &ObjectKey| {
        let name = TarballName::parse(key.file_name());
        (name.is_none(), name.map(|name| (name.target, name.number)), key.clone())
    };
    objects.sort_by_cached_key(tarball);
    FolderDeletion { id: id.clone(), snapshots, objects, entry }
}

#[cfg(test)]
mod tests {
    use crate::store::ObjectKey;

    #[test]
    fn a_planned_wal_file_takes_its_key_and_no_more_than_40_bytes() {
        assert!(size_of::<ObjectKey>() <= 40);
    }
}
