//! The snapshots that go with a backup, or that a broken run has left.
//!
//! Which they are is decided with the rest of the plan. They go after the backup's entry, and
//! before any other object: the next run finds in the mark of the begun deletion which they are,
//! and that they are absent.

use crate::catalog::{Backup, BackupId, Catalog, StartedRecord};
use crate::retention::RetentionError;
use crate::retention::select::{Doomed, Selection};
use crate::snapshot::{
    Clouds, Deletion, PendingSnapshots, ProviderRecord, SnapshotCloud, SnapshotError,
    SnapshotPlace, SnapshotRecord, SnapshotsInfo,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Snapshots that are to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotDeletion {
    /// Those that the backup records.
    pub recorded: Option<SnapshotsInfo>,
    /// Those that a run was about to create when it was last heard of.
    pub pending: Option<PendingSnapshots>,
}

impl SnapshotDeletion {
    pub fn is_empty(&self) -> bool {
        self.recorded.is_none() && self.pending.is_none()
    }
}

/// The snapshots of each selected backup. Backups whose record cannot be understood are taken
/// out of the selection.
pub async fn of_selection(
    catalog: &Catalog,
    selection: &mut Selection<'_>,
) -> Result<BTreeMap<BackupId, SnapshotDeletion>, RetentionError> {
    let mut deletions = BTreeMap::new();
    let mut understood = Vec::new();
    for doomed in std::mem::take(&mut selection.doomed) {
        match of_doomed(catalog, &doomed).await? {
            Ok(deletion) => {
                deletions.insert(doomed.id().clone(), deletion);
                understood.push(doomed);
            }
            Err(reason) => {
                let id = doomed.id().clone();
                selection.hindrances.push(RetentionError::SnapshotRecord { id, reason });
            }
        }
    }
    selection.doomed = understood;
    Ok(deletions)
}

async fn of_doomed(
    catalog: &Catalog,
    doomed: &Doomed<'_>,
) -> Result<Result<SnapshotDeletion, String>, RetentionError> {
    let Some(backup) = doomed.readable() else {
        return Ok(of_claim(claim(catalog, doomed.id()).await?.as_ref()));
    };
    if let Some(recorded) = &backup.info.snapshots_info {
        let recorded = SnapshotsInfo::parse(recorded).map_err(|error| error.to_string());
        return Ok(
            recorded.map(|recorded| SnapshotDeletion { recorded: Some(recorded), pending: None })
        );
    }
    // A run that failed or was killed may have left what it claimed, and nothing else tells.
    let pending = match (&backup.started, is_broken_run(backup)) {
        (Some(started), _) => of_claim(Some(started)),
        (None, true) => of_claim(claim(catalog, &backup.id).await?.as_ref()),
        (None, false) => Ok(SnapshotDeletion::default()),
    };
    Ok(pending)
}

fn is_broken_run(backup: &Backup) -> bool {
    !backup.is_done() && backup.objects.iter().any(|entry| entry.key.file_name() == CLAIM)
}

/// What a folder that is no backup any more may have left in the cloud.
pub async fn of_leftover(
    catalog: &Catalog,
    id: &BackupId,
) -> Result<Result<SnapshotDeletion, String>, RetentionError> {
    Ok(of_claim(claim(catalog, id).await?.as_ref()))
}

async fn claim(catalog: &Catalog, id: &BackupId) -> Result<Option<StartedRecord>, RetentionError> {
    Ok(catalog.claim_of(id).await?)
}

fn of_claim(started: Option<&StartedRecord>) -> Result<SnapshotDeletion, String> {
    let snapshots = started.and_then(|started| started.snapshots.as_ref());
    let pending = snapshots.map(PendingSnapshots::parse).transpose();
    let pending = pending.map_err(|error| error.to_string())?;
    Ok(SnapshotDeletion { recorded: None, pending })
}

/// Deletes the snapshots of one backup, and counts in `deleted`, also when it fails.
///
/// Those that were locked go first: while one of them holds, the others stay too.
pub async fn delete(
    clouds: &dyn Clouds,
    id: &BackupId,
    deletion: &SnapshotDeletion,
    deleted: &mut usize,
) -> Result<(), RetentionError> {
    let failed = |error| RetentionError::Snapshot { id: id.clone(), source: error };
    if let Some(info) = &deletion.recorded {
        let cloud = open(clouds, &info.provider).map_err(failed)?;
        let mut snapshots: Vec<&SnapshotRecord> =
            info.snapshots.iter().map(|(snapshot, _)| snapshot).collect();
        snapshots.sort_by_key(|snapshot| !is_locked(snapshot));
        for snapshot in snapshots {
            match cloud.delete(snapshot).await.map_err(failed)? {
                Deletion::Deleted => *deleted += 1,
                Deletion::Absent => {
                    tracing::warn!(
                        backup_id = %id,
                        snapshot = snapshot.identifier(),
                        "the snapshot does not exist any more"
                    );
                }
            }
        }
    }
    if let Some(pending) = &deletion.pending {
        let cloud = open(clouds, &pending.provider).map_err(failed)?;
        for snapshot in find(cloud.as_ref(), id, pending).await.map_err(failed)? {
            if cloud.delete(&snapshot).await.map_err(failed)? == Deletion::Deleted {
                *deleted += 1;
                tracing::info!(
                    backup_id = %id,
                    snapshot = snapshot.identifier(),
                    "deleted a snapshot that a broken run had left"
                );
            }
        }
    }
    Ok(())
}

async fn find(
    cloud: &dyn SnapshotCloud,
    id: &BackupId,
    pending: &PendingSnapshots,
) -> Result<Vec<SnapshotRecord>, SnapshotError> {
    let marker = pending.marker(id.as_str());
    cloud.find(&pending.expected(id.as_str()), &marker).await
}

fn open(
    clouds: &dyn Clouds,
    provider: &ProviderRecord,
) -> Result<Arc<dyn SnapshotCloud>, SnapshotError> {
    clouds.open(&SnapshotPlace::of_record(provider)?)
}

fn is_locked(snapshot: &SnapshotRecord) -> bool {
    match snapshot {
        SnapshotRecord::Aws(aws) => aws.lock_mode.is_some(),
        SnapshotRecord::Azure(_) | SnapshotRecord::Google(_) => false,
    }
}

const CLAIM: &str = "started.json";
