//! Brings the files of a base backup back into an empty directory.
//!
//! ```text
//! select → plan → preflight → prepare → apply → finish
//!                 (nothing written)     (jobs tarballs at once)
//! ```
//!
//! Everything that can be known is checked before the first byte is written. What a crash, a
//! kill or a failure leaves is never startable, because the control file gets its name last;
//! the same restore run again goes on after the last finished tarball, once it has found that
//! tarball's files as they were written. Every tarball of ours is compared with its recorded size
//! and SHA-256 while it streams; nothing is staged. A hostile backup can write nothing outside of
//! the data directory and of places of tablespaces that are empty and the cluster's.
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
#[cfg(test)]
mod damage_tests;
mod download;
mod error;
mod extract;
mod finish;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod index_tests;
mod journal;
mod manifest;
mod options;
mod plan;
mod preflight;
mod receipts;
#[cfg(test)]
mod restore_tests;
mod resume;
#[cfg(test)]
mod resume_tests;
mod roots;
mod select;
mod snapshot;
mod source;
mod stage;
mod writes;

pub use error::RestoreError;
pub use options::{
    RestoreCounts, RestoreOptions, RestoreSummary, TablespaceMapping, TablespaceMappingError,
    Unfinished,
};
pub use plan::{PlaceFrom, PlannedObject, PlannedTablespace, RestorePlan};
pub use select::{RecoveryTarget, RestoreSelection, TargetPoint, TargetTimeline};
pub use snapshot::{RecoveryVolumes, SnapshotRecovery};

use crate::catalog::{Backup, Catalog};
use crate::disk::{self, Accounts, ExtractRoot, Site};
use crate::flow::{Cancel, Limits};
use crate::monitor::{Metric, Monitor, Phase};
use crate::restore::apply::Application;
use crate::restore::extract::Targets;
use crate::restore::finish::Finish;
use crate::restore::journal::Journal;
use crate::restore::preflight::TargetState;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
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
    let (plan, target) = planned(catalog, backup, target, options)?;
    source::compare_records(catalog, backup, options.unfinished).await?;
    // Looked at under the lock: two restores into one directory would mix their files.
    let held = lock(&target)?;
    let source = source::source(catalog, backup, &plan);
    let journal = Journal::new(source, &plan, disk::user_id(), roots::owner_of(&target)?);
    let journal = match preflight::preflight(&plan, &target, held.as_ref(), &journal)? {
        TargetState::Fresh => journal,
        TargetState::Resumable(found) => found,
        TargetState::Complete(_) => return complete(&plan, &target, held.as_ref()),
    };
    cancel.check()?;

    // From here on the target is ours: the journal says so before anything else is written.
    let (plan, targets) = prepare(plan, &target, held, &journal)?;
    let has_manifest = manifest::fetch(store, &plan, &targets.data, options.unfinished).await?;
    let journal = resume::check_finished(&plan, &targets, journal, limits, cancel).await?;
    announce(&plan, &journal, &**monitor);
    let resumed = plan.tarballs.iter().filter(|tarball| journal.has_finished(tarball)).count();
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
    cancel.check()?;
    let (finishing, unfinished) = (Arc::clone(&plan), options.unfinished);
    let finish = Finish { plan: finishing, targets, journal, has_manifest, unfinished };
    stage::on_thread("restore-finish", move || finish::finish(finish)).await??;
    monitor.phase(Phase::Done);
    Ok(RestoreSummary {
        counts,
        tarballs_resumed: u64::try_from(resumed).unwrap_or(u64::MAX),
        ..summary(&plan, &target)
    })
}

/// What goes where, with every place as it really is: links must not change their meaning with
/// the working directory, nor the journal its.
fn planned(
    catalog: &Catalog,
    backup: &Backup,
    target: &Path,
    options: &RestoreOptions,
) -> Result<(RestorePlan, PathBuf), RestoreError> {
    let url_of = |key: &_| catalog.store().url_of(key);
    let mut plan = plan::plan(backup, &options.tablespaces, &url_of)?;
    if manifest::is_expected(backup) && plan.manifest.is_none() {
        match options.unfinished {
            Unfinished::Refuse => {
                let (id, file) = (backup.id.clone(), manifest::MANIFEST);
                return Err(RestoreError::Incomplete { id, file });
            }
            Unfinished::Restore => plan.warnings.push("the backup has no manifest".into()),
        }
    }
    let target = preflight::real_path(target).map_err(RestoreError::disk(target))?;
    for tablespace in &mut plan.tablespaces {
        let place = preflight::real_path(&tablespace.location);
        tablespace.location = place.map_err(RestoreError::disk(&tablespace.location))?;
    }
    for warning in &plan.warnings {
        tracing::warn!(backup_id = %plan.id, "{warning}");
    }
    Ok((plan, target))
}

/// Opens and locks the data directory; `None` when it does not exist.
fn lock(target: &Path) -> Result<Option<ExtractRoot>, RestoreError> {
    let site = match Site::find(target) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(RestoreError::NotADirectory { path: target.into() });
        }
        found => found.map_err(RestoreError::disk(target))?,
    };
    if !site.is_there() {
        return Ok(None);
    }
    let root = site.open().map_err(RestoreError::disk(target))?;
    match root.lock().map_err(RestoreError::disk(target))? {
        true => Ok(Some(root)),
        false => Err(RestoreError::Busy { path: target.into() }),
    }
}

/// Creates the directories and the journal.
fn prepare(
    plan: RestorePlan,
    target: &Path,
    held: Option<ExtractRoot>,
    journal: &Journal,
) -> Result<(Arc<RestorePlan>, Arc<Targets>), RestoreError> {
    let data = match held {
        Some(data) => data,
        None => {
            let made = Site::find(target).and_then(Site::open);
            made.map_err(RestoreError::disk(target))?;
            // Whoever has the lock of a directory that was not there a moment ago was faster.
            lock(target)?.ok_or_else(|| RestoreError::Busy { path: target.into() })?
        }
    };
    journal.write(&data)?;
    finish::take_back(&data)?;
    let tablespaces = roots::open_tablespaces(&plan, &data, journal)?;
    let accounts = disk::is_root().then(Accounts::of_this_machine);
    let contested = journal.contested.clone().into();
    let targets = Targets { data, tablespaces, accounts, contested };
    Ok((Arc::new(plan), Arc::new(targets)))
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

/// An earlier run did everything but remove its traces.
fn complete(
    plan: &RestorePlan,
    target: &Path,
    data: Option<&ExtractRoot>,
) -> Result<RestoreSummary, RestoreError> {
    let data = data.ok_or_else(|| RestoreError::Busy { path: target.into() })?;
    finish::remove_traces_of_complete(plan, data)?;
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
