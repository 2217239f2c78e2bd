//! Carrying out a plan, backup by backup.
//!
//! ```text
//! volume snapshots             crash behind it: the backup is listed and broken; run again
//! tarballs and side objects   crash behind it: the same
//! the WAL only it needed      crash behind it: the same
//! backup.json, backup.info    the entry goes last: as long as it is there, the next run finds
//!                             the same work again
//! ```
//!
//! What cannot be deleted does not stop the backups behind it, but from then on no WAL goes:
//! the plan took the backup for gone.

use crate::catalog::{BackupId, Catalog};
use crate::flow::Cancel;
use crate::retention::{BackupDeletion, DeletePlan, FolderDeletion, RetentionError, snapshots};
use crate::snapshot::Clouds;
use crate::store::ObjectKey;

/// Keys handed to the store at a time: between two of these the command can be stopped.
const KEYS_AT_ONCE: usize = 4000;

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteSummary {
    pub backups: Vec<BackupId>,
    /// Objects of backups and leftovers.
    pub objects: usize,
    pub wals: usize,
    pub snapshots: usize,
}

/// Deletes everything in the plan. Fails behind all that can be done, with the first thing that
/// could not.
pub async fn apply(
    catalog: &Catalog,
    clouds: &dyn Clouds,
    plan: DeletePlan,
    cancel: &Cancel,
) -> Result<DeleteSummary, RetentionError> {
    let summary = DeleteSummary::default();
    let mut run = Run { catalog, clouds, cancel, summary, wal_stays: false };
    let mut failures = Vec::new();
    for backup in &plan.backups {
        match run.delete_backup(backup).await {
            Err(stop @ RetentionError::Cancelled(_)) => return Err(stop),
            Err(failure) => {
                run.wal_stays = true;
                failures.push(failure);
            }
            Ok(()) => {
                run.summary.backups.push(backup.folder.id.clone());
                tracing::info!(
                    backup_id = %backup.folder.id,
                    objects = backup.folder.objects.len() + backup.folder.entry.len(),
                    wals = backup.wals.len(),
                    "deleted"
                );
            }
        }
    }
    for leftover in &plan.leftovers {
        match run.delete_folder(leftover).await {
            Err(stop @ RetentionError::Cancelled(_)) => return Err(stop),
            Err(failure) => failures.push(failure),
            Ok(()) => tracing::info!(backup_id = %leftover.id, "swept what was left of a backup"),
        }
    }
    let mut errors = failures.into_iter().chain(plan.hindrances);
    let Some(first) = errors.next() else { return Ok(run.summary) };
    for other in errors {
        tracing::error!("{other}");
    }
    Err(first)
}

struct Run<'a> {
    catalog: &'a Catalog,
    clouds: &'a dyn Clouds,
    cancel: &'a Cancel,
    summary: DeleteSummary,
    /// A backup that should be gone is not.
    wal_stays: bool,
}

impl Run<'_> {
    async fn delete_backup(&mut self, backup: &BackupDeletion) -> Result<(), RetentionError> {
        let folder = &backup.folder;
        self.delete_snapshots(folder).await?;
        self.summary.objects += self.delete(&folder.id, &folder.objects).await?;
        if !self.wal_stays {
            self.summary.wals += self.delete(&folder.id, &backup.wals).await?;
        }
        self.delete_entry(folder).await
    }

    async fn delete_folder(&mut self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        self.delete_snapshots(folder).await?;
        self.summary.objects += self.delete(&folder.id, &folder.objects).await?;
        self.delete_entry(folder).await
    }

    async fn delete_snapshots(&mut self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        if folder.snapshots.is_empty() {
            return Ok(());
        }
        self.cancel.check()?;
        let deleted = snapshots::delete(self.clouds, &folder.id, &folder.snapshots).await?;
        self.summary.snapshots += deleted;
        Ok(())
    }

    /// One by one: their order is what a crash leaves behind.
    async fn delete_entry(&mut self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        for key in &folder.entry {
            self.summary.objects += self.delete(&folder.id, std::slice::from_ref(key)).await?;
        }
        Ok(())
    }

    async fn delete(&self, id: &BackupId, keys: &[ObjectKey]) -> Result<usize, RetentionError> {
        let mut failed = Vec::new();
        for some in keys.chunks(KEYS_AT_ONCE) {
            self.cancel.check()?;
            let answers = self.catalog.store().delete(some.to_vec()).await;
            failed.extend(answers.into_iter().filter_map(|(_, answer)| answer.err()));
        }
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(keys.len()),
            Some(first) => Err(RetentionError::NotDeleted { id: id.clone(), count, first }),
        }
    }
}
