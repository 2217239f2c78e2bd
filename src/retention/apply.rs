//! Carrying out a plan, backup by backup.
//!
//! ```text
//! backup.info       the entry goes first, marked   crash after it: in nobody's list; the mark
//!                                                  makes every later delete finish it
//! volume snapshots, tarballs and side objects, the WAL only it needed
//! started.json, backup.json, the mark              crash after some of them: the same
//! ```
//!
//! Keeps are looked for again just before an entry goes, and once more after it: who sets one
//! meanwhile either finds the entry gone, or is seen here and gets the entry back.
//!
//! What cannot be deleted does not stop the backups after it, but from then on no WAL goes:
//! the plan took the backup for gone.

use crate::catalog::{BackupId, Catalog, CatalogError, Keep, KeepTarget, Unlisted};
use crate::flow::Cancel;
use crate::retention::locks::locked;
use crate::retention::plan::{LockRecheck, Repair};
use crate::retention::{BackupDeletion, DeletePlan, FolderDeletion, RetentionError, snapshots};
use crate::snapshot::Clouds;
use crate::store::{ObjectKey, StoreOperation};

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
    /// Temporary files and unfinished uploads.
    pub debris: usize,
}

/// Deletes everything in the plan. Fails after all that can be done, with the first thing that
/// could not.
pub async fn apply(
    catalog: &Catalog,
    clouds: &dyn Clouds,
    plan: DeletePlan,
    cancel: &Cancel,
) -> Result<DeleteSummary, RetentionError> {
    let summary = DeleteSummary::default();
    let (locks, standalone) = (plan.locks.as_ref(), plan.standalone.as_slice());
    let mut run = Run { catalog, clouds, cancel, locks, standalone, summary, wal_stays: false };
    let mut failures = Vec::new();
    for repair in &plan.repairs {
        failures.extend(unless_cancelled(run.repair(repair).await)?);
    }
    for backup in &plan.backups {
        let failure = unless_cancelled(run.delete_backup(backup).await)?;
        run.wal_stays |= failure.is_some();
        failures.extend(failure);
    }
    for leftover in &plan.leftovers {
        failures.extend(unless_cancelled(run.sweep(leftover).await)?);
    }
    failures.extend(unless_cancelled(run.remove_debris(&plan).await)?);
    let mut errors = failures.into_iter().chain(plan.hindrances);
    let Some(first) = errors.next() else { return Ok(run.summary) };
    for other in errors {
        tracing::error!("{other}");
    }
    Err(first)
}

/// What failed, to be told at the end; a cancelled run ends at once.
fn unless_cancelled(
    result: Result<(), RetentionError>,
) -> Result<Option<RetentionError>, RetentionError> {
    match result {
        Err(stop @ RetentionError::Cancelled(_)) => Err(stop),
        result => Ok(result.err()),
    }
}

struct Run<'a> {
    catalog: &'a Catalog,
    clouds: &'a dyn Clouds,
    cancel: &'a Cancel,
    locks: Option<&'a LockRecheck>,
    /// Backups whose keeps were standalone.
    standalone: &'a [BackupId],
    summary: DeleteSummary,
    /// A backup that should be gone is not, or a keep holds more than the plan knew.
    wal_stays: bool,
}

impl Run<'_> {
    async fn repair(&self, repair: &Repair) -> Result<(), RetentionError> {
        self.cancel.check()?;
        match repair {
            Repair::Unlisted(record) => self.catalog.list_intact(record).await?,
            Repair::Begun(id) => self.catalog.list_begun(id).await?,
        }
        let id = repair.id();
        tracing::warn!(backup_id = %id, "wrote the missing backup.info of a backup that is whole");
        Ok(())
    }

    async fn delete_backup(&mut self, backup: &BackupDeletion) -> Result<(), RetentionError> {
        let folder = &backup.folder;
        self.cancel.check()?;
        self.check_unprotected(folder).await?;
        let unlisted = match folder.is_listed() {
            true => self.unlist(folder).await?,
            false => None,
        };
        self.delete_snapshots(folder, unlisted.as_ref()).await?;
        self.summary.objects += self.delete(&folder.id, &folder.objects).await?;
        if self.may_take_wal(backup).await? {
            self.summary.wals += self.delete(&folder.id, &backup.wals).await?;
        }
        self.delete_last(folder).await?;
        self.summary.backups.push(folder.id.clone());
        tracing::info!(
            backup_id = %folder.id,
            objects = folder.objects.len() + folder.entry.len(),
            wals = backup.wals.len(),
            "deleted"
        );
        Ok(())
    }

    async fn sweep(&mut self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        self.cancel.check()?;
        self.check_unprotected(folder).await?;
        self.delete_snapshots(folder, None).await?;
        self.summary.objects += self.delete(&folder.id, &folder.objects).await?;
        self.delete_last(folder).await?;
        tracing::info!(backup_id = %folder.id, "swept what was left of a backup");
        Ok(())
    }

    /// Looks again for what the plan did not find: a keep, and locks where they are asked for.
    async fn check_unprotected(&self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        let id = &folder.id;
        if let Some(keep) = self.catalog.keep_before_deletion(id).await? {
            return Err(kept(id, &keep));
        }
        let Some(LockRecheck { limits, now }) = self.locks else { return Ok(()) };
        let keys = folder.objects.iter().chain(&folder.entry).cloned().collect();
        match locked(self.catalog, id, keys, limits, *now).await? {
            None => Ok(()),
            Some(locked) => Err(locked),
        }
    }

    /// Takes the entry away, and gives it back to whoever has set a keep just before.
    async fn unlist(
        &mut self,
        folder: &FolderDeletion,
    ) -> Result<Option<Unlisted>, RetentionError> {
        let id = &folder.id;
        let not_deleted = |error| match error {
            CatalogError::Store(first) if first.operation == StoreOperation::Delete => {
                RetentionError::NotDeleted { id: id.clone(), count: 1, first }
            }
            other => other.into(),
        };
        let unlisted = self.catalog.unlist(id).await.map_err(not_deleted)?;
        let Some(unlisted) = unlisted else { return Ok(None) };
        let protected = match self.catalog.keep_before_deletion(id).await {
            Ok(None) => {
                self.summary.objects += 1;
                return Ok(Some(unlisted));
            }
            Ok(Some(keep)) => kept(id, &keep),
            Err(error) => error.into(),
        };
        self.catalog.list_again(&unlisted).await?;
        Err(protected)
    }

    /// As long as none of them is gone, the backup is whole and gets its entry back.
    async fn delete_snapshots(
        &mut self,
        folder: &FolderDeletion,
        unlisted: Option<&Unlisted>,
    ) -> Result<(), RetentionError> {
        if folder.snapshots.is_empty() {
            return Ok(());
        }
        self.cancel.check()?;
        let mut deleted = 0;
        let (id, snapshots) = (&folder.id, &folder.snapshots);
        let answer = snapshots::delete(self.clouds, id, snapshots, &mut deleted).await;
        self.summary.snapshots += deleted;
        if let (Err(_), 0, Some(unlisted)) = (&answer, deleted, unlisted) {
            self.catalog.list_again(unlisted).await?;
        }
        answer
    }

    /// Whether all that the plan took for gone is gone, and what it took for standalone is.
    async fn may_take_wal(&mut self, backup: &BackupDeletion) -> Result<bool, RetentionError> {
        if backup.wals.is_empty() || self.wal_stays {
            return Ok(!self.wal_stays);
        }
        for id in self.standalone {
            let keep = self.catalog.keep(id).await?;
            if keep.is_some_and(|keep| keep.target() != KeepTarget::Standalone) {
                tracing::warn!(backup_id = %id, "it is kept with all its WAL now: no WAL is deleted");
                self.wal_stays = true;
            }
        }
        Ok(!self.wal_stays)
    }

    /// One by one: their order is what a crash leaves behind.
    async fn delete_last(&mut self, folder: &FolderDeletion) -> Result<(), RetentionError> {
        for key in folder.last() {
            self.summary.objects += self.delete(&folder.id, std::slice::from_ref(key)).await?;
        }
        if folder.is_listed() {
            self.catalog.remove_mark(&folder.id).await;
        }
        Ok(())
    }

    async fn remove_debris(&mut self, plan: &DeletePlan) -> Result<(), RetentionError> {
        for debris in &plan.debris {
            self.cancel.check()?;
            self.catalog.store().remove_debris(debris).await.map_err(CatalogError::from)?;
            self.summary.debris += 1;
            tracing::info!(%debris, "removed what a killed run had left");
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

fn kept(id: &BackupId, keep: &Keep) -> RetentionError {
    RetentionError::Kept { id: id.clone(), keep: keep.as_str().into() }
}
