//! Brings the files of a base backup back into an empty directory.
//!
//! ```text
//! select → plan → preflight → prepare → apply → finish
//!                 (nothing written)     (jobs tarballs at once)
//! ```
//!
//! Everything that can be known is checked before the first byte is written. What a crash, a
//! kill or a failure leaves is never startable, because the control file gets its name last;
//! the same restore run again goes on behind the last finished tarball. Every tarball of ours is
//! compared with its recorded size and SHA-256 while it streams; nothing is staged.
//!
//! What we wrote has an index: the blocks of one tarball are decoded on all cores, each compared
//! with its own checksum. Large files are written past the page cache, by threads of their own.
//!
//! Memory: `memory_max_bytes` for what is in flight from the store, and per job a decoder, the
//! blocks that wait for the extractor and 6 MiB on their way to the disk, whatever the size of
//! the backup.
//!
//! What recovery needs (`restore_command`, `recovery.signal`, a target) is the operator's, as
//! with Barman.

mod apply;
mod blocks;
mod download;
mod error;
mod extract;
mod finish;
#[cfg(test)]
mod index_tests;
mod journal;
mod options;
mod plan;
mod preflight;
#[cfg(test)]
mod restore_tests;
mod select;
mod snapshot;
mod stage;
mod writes;

pub use error::RestoreError;
pub use options::{
    RestoreCounts, RestoreOptions, RestoreSummary, TablespaceMapping, TablespaceMappingError,
    Unfinished,
};
pub use plan::{PlannedObject, PlannedTablespace, RestorePlan};
pub use select::{RecoveryTarget, RestoreSelection, TargetPoint, TargetTimeline};
pub use snapshot::{RecoveryVolumes, SnapshotRecovery};

use crate::catalog::{Backup, Catalog};
use crate::disk::{self, Accounts, ExtractRoot};
use crate::flow::{Cancel, Limits};
use crate::monitor::{Metric, Monitor, Phase};
use crate::pgdata::manifest_is_whole;
use crate::restore::apply::Application;
use crate::restore::extract::Targets;
use crate::restore::journal::Journal;
use crate::restore::preflight::TargetState;
use crate::store::Store;
use bytes::Bytes;
use futures::stream::TryStreamExt;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// Restores the selected backup into `target`, or recovers it from snapshots if it is made of
/// them.
#[expect(clippy::too_many_arguments, reason = "inputs, then options, as every verb has them")]
pub async fn restore_or_recover(
    catalog: &Catalog,
    selection: &RestoreSelection,
    target: &Path,
    options: &RestoreOptions,
    recovery: &SnapshotRecovery,
    limits: &Limits,
    monitor: &Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<RestoreSummary, RestoreError> {
    let backup = select::select(catalog, selection, options, limits).await?;
    if snapshot::recorded_snapshots(&backup).is_some() {
        let monitor = monitor.as_ref();
        return snapshot::recover(catalog, &backup, target, options, recovery, monitor, cancel)
            .await;
    }
    if recovery.instance.is_some() {
        tracing::warn!("option --snapshot-recovery-instance has no effect: the backup holds files");
    }
    restore_backup(catalog, &backup, target, options, limits, monitor, cancel).await
}

/// Restores the selected backup, which must hold files, into `target`.
pub async fn restore(
    catalog: &Catalog,
    selection: &RestoreSelection,
    target: &Path,
    options: &RestoreOptions,
    limits: &Limits,
    monitor: &Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<RestoreSummary, RestoreError> {
    let backup = select::select(catalog, selection, options, limits).await?;
    restore_backup(catalog, &backup, target, options, limits, monitor, cancel).await
}

async fn restore_backup(
    catalog: &Catalog,
    backup: &Backup,
    target: &Path,
    options: &RestoreOptions,
    limits: &Limits,
    monitor: &Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<RestoreSummary, RestoreError> {
    let store = catalog.store();
    let url_of = |key: &_| store.url_of(key);
    let mut plan = plan::plan(backup, &options.tablespaces, &url_of)?;
    // Links must not change their meaning with the working directory, nor the journal its.
    let target = preflight::real_path(target).map_err(RestoreError::disk(target))?;
    for tablespace in &mut plan.tablespaces {
        let place = preflight::real_path(&tablespace.location);
        tablespace.location = place.map_err(RestoreError::disk(&tablespace.location))?;
    }
    for warning in &plan.warnings {
        tracing::warn!(backup_id = %plan.id, "{warning}");
    }
    let folder = format!("{}/", catalog.layout().backup(&backup.id));
    let journal = Journal::new(&folder, &plan);
    // Looked at under the lock: two restores into one directory would mix their files.
    let held = lock(&target)?;
    let journal = match preflight::preflight(&plan, &target, &journal)? {
        TargetState::Fresh => journal,
        TargetState::Resumable(found) => found,
        TargetState::Complete => return complete(&plan, &target),
    };
    cancel.check()?;

    // From here on the target is ours: the journal says so before anything else is written.
    let targets = Arc::new(prepare(&plan, &target, held, &journal)?);
    announce(&plan, &journal, &**monitor);
    let resumed = plan.tarballs.iter().filter(|tarball| journal.has_finished(tarball)).count();
    let plan = Arc::new(plan);
    let application = Application {
        store: store.clone(),
        plan: Arc::clone(&plan),
        targets: Arc::clone(&targets),
        journal: journal.clone(),
        monitor: Arc::clone(monitor),
        cancel: cancel.clone(),
    };
    let counts = application.run(limits).await?;

    // The control file gets its name when all else is on disk, so nothing less ever starts.
    monitor.phase(Phase::Syncing);
    let manifest = manifest(store, &plan).await?;
    cancel.check()?;
    let (finishing, unfinished) = (Arc::clone(&plan), options.unfinished);
    stage::on_thread("restore-finish", move || {
        finish::finish(&finishing, &targets, journal, manifest.as_deref(), unfinished)
    })
    .await??;
    monitor.phase(Phase::Done);
    Ok(RestoreSummary {
        counts,
        tarballs_resumed: u64::try_from(resumed).unwrap_or(u64::MAX),
        ..summary(&plan, &target)
    })
}

/// Opens and locks the data directory; `None` when it does not exist.
fn lock(target: &Path) -> Result<Option<ExtractRoot>, RestoreError> {
    let root = match ExtractRoot::open(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(RestoreError::NotADirectory { path: target.into() });
        }
        opened => opened.map_err(RestoreError::disk(target))?,
    };
    match root.lock().map_err(RestoreError::disk(target))? {
        true => Ok(Some(root)),
        false => Err(RestoreError::Busy { path: target.into() }),
    }
}

/// Creates the directories and the journal.
fn prepare(
    plan: &RestorePlan,
    target: &Path,
    held: Option<ExtractRoot>,
    journal: &Journal,
) -> Result<Targets, RestoreError> {
    let open = |path: &Path| -> Result<ExtractRoot, RestoreError> {
        if !path.is_dir() {
            create_directory(path).map_err(RestoreError::disk(path))?;
        }
        ExtractRoot::open(path).map_err(RestoreError::disk(path))
    };
    let data = match held {
        Some(data) => data,
        None => {
            create_directory(target).map_err(RestoreError::disk(target))?;
            // Whoever has the lock of a directory that was not there a moment ago was faster.
            lock(target)?.ok_or_else(|| RestoreError::Busy { path: target.into() })?
        }
    };
    journal.write(&data)?;
    let tablespaces = plan
        .tablespaces
        .iter()
        .map(|tablespace| Ok((tablespace.oid, open(&tablespace.location)?)))
        .collect::<Result<_, RestoreError>>()?;
    let accounts = disk::is_root().then(Accounts::of_this_machine);
    let contested = journal.contested.clone().into();
    Ok(Targets { data, tablespaces, accounts, contested })
}

/// Private, whatever the umask; parents that are missing as everybody else would make them.
/// Fails when the directory is there.
fn create_directory(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

fn announce(plan: &RestorePlan, journal: &Journal, monitor: &dyn Monitor) {
    let open = plan.tarballs.iter().filter(|tarball| !journal.has_finished(tarball));
    let (mut tarballs, mut bytes) = (0, 0);
    for tarball in open {
        tarballs += 1;
        bytes += tarball.stored_bytes;
    }
    monitor.expect(Metric::Tarballs, tarballs);
    monitor.expect(Metric::StoredBytes, bytes);
}

/// PostgreSQL's manifest, in the pieces it came in. Some hundred bytes per file of the cluster.
async fn manifest(store: &Store, plan: &RestorePlan) -> Result<Option<Vec<Bytes>>, RestoreError> {
    let Some(manifest) = &plan.manifest else { return Ok(None) };
    let opened = store.get_stream(&manifest.key, None).await.map_err(RestoreError::Store)?;
    let Some((_, stream)) = opened else {
        return Err(RestoreError::MissingObject { object: store.url_of(&manifest.key) });
    };
    let pieces: Vec<Bytes> = stream.try_collect().await.map_err(RestoreError::Store)?;
    if !manifest_is_whole(pieces.iter().map(AsRef::as_ref)) {
        let reason = "its last line is not the checksum of the others".to_string();
        return Err(RestoreError::Corrupt { object: store.url_of(&manifest.key), reason });
    }
    Ok(Some(pieces))
}

/// An earlier run did everything but remove its journal.
fn complete(plan: &RestorePlan, target: &Path) -> Result<RestoreSummary, RestoreError> {
    let data = ExtractRoot::open(target).map_err(RestoreError::disk(target))?;
    Journal::remove(&data)?;
    let resumed = u64::try_from(plan.tarballs.len()).unwrap_or(u64::MAX);
    Ok(RestoreSummary { tarballs_resumed: resumed, ..summary(plan, target) })
}

fn summary(plan: &RestorePlan, target: &Path) -> RestoreSummary {
    let place =
        |tablespace: &PlannedTablespace| (tablespace.name.clone(), tablespace.location.clone());
    RestoreSummary {
        backup_id: plan.id.clone(),
        target: target.into(),
        tablespaces: plan.tablespaces.iter().map(place).collect(),
        counts: RestoreCounts::default(),
        tarballs_resumed: 0,
    }
}
