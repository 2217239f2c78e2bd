//! Taking a base backup: from a running PostgreSQL to tarballs in the store.
//!
//! ```text
//! files → tar (jobs tarballs at once) → blocks → worker pool → parts → store
//! ```
//!
//! Memory: a formula of jobs, workers and part size (`budget`), whatever the size of the
//! database. No temporary files. Crash points: until `backup.json` and `backup.info` are
//! written, which is last, the only trace of a run is `started.json` and objects that no
//! reader looks at without a record.

mod budget;
mod copy;
mod error;
mod hooked;
mod last;
mod local_wal;
mod manifest;
mod mounted;
mod plan;
mod prepare;
mod produce;
mod publish;
mod record;
mod ship;
mod snapshot;
mod source;
mod stored_segment;
mod survey;
mod tally;
mod wal;

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod wal_tests;

pub use error::BackupError;
pub(crate) use error::disk_error;
pub use hooked::{LocalBackup, upload_local};
pub use prepare::{BackupOptions, PageChecksums, WalConfirmation};
pub use snapshot::{SnapshotBackupOptions, SnapshotBackupSummary, backup_snapshots};
pub use wal::WalPatience;

use crate::backup::copy::{Carried, Destination, copy, write_tarball};
use crate::backup::last::{label_file, read_control_file, read_external, write_last};
use crate::backup::local_wal::LocalWal;
use crate::backup::manifest::{MANIFEST_NAME, ManifestUpload};
use crate::backup::plan::BackupPlan;
use crate::backup::prepare::{
    areas, check_archive, check_name, external_files, freight, look_over, page_checks, preflight,
};
use crate::backup::produce::{Production, SurveyedArea};
use crate::backup::publish::{publish, publish_in_time, publish_record, remove_in_time};
use crate::backup::record::{Begun, Took, add_begin, add_end, facts_before};
use crate::backup::ship::Freight;
use crate::backup::tally::{Noticings, Tally};
use crate::backup::wal::{NeededWal, wait_for_archiver};
use crate::catalog::{BackupId, BackupInfo, BackupMethod, BackupRecord, Catalog, StartedRecord};
use crate::disk::Accounts;
use crate::flow::{Cancel, Limits};
use crate::monitor::{Monitor, Phase};
use crate::pgdata::{ControlFile, WalRange};
use crate::postgres::{ArchiveWait, ServerFacts, Session, StartedBackup, StoppedBackup};
use crate::store::WrittenObject;
use crate::wal::WalSegment;
use std::sync::Arc;
use std::time::Instant;

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    pub id: BackupId,
    pub tarballs: usize,
    pub files: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Pages whose checksum does not match, and the number of files they are in.
    pub damaged_blocks: u64,
    pub damaged_files: u64,
}

/// One run, from the claimed id on.
struct Run<'a> {
    id: BackupId,
    catalog: &'a Catalog,
    facts: ServerFacts,
    control: ControlFile,
    options: &'a BackupOptions,
    limits: &'a Limits,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    tally: Arc<Tally>,
    begun: Instant,
    info: BackupInfo,
}

/// Takes one base backup through PostgreSQL's low-level API.
///
/// The session stays open from start to stop: PostgreSQL ends backup mode by itself when the
/// session is lost, so no failure leaves a server in backup mode. A run that fails or is
/// cancelled is recorded as FAILED and takes its tarballs with it.
pub async fn backup(
    session: Session,
    catalog: &Catalog,
    options: &BackupOptions,
    limits: &Limits,
    monitor: Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<BackupSummary, BackupError> {
    let begun = Instant::now();
    session.check_privileges(cancel).await.map_err(BackupError::Postgres)?;
    let facts = session.facts(cancel).await.map_err(BackupError::Postgres)?;
    let control = preflight(&facts, options)?;
    // Before the first byte: the archive may be another cluster's, the name may be taken.
    let until = catalog.until(cancel);
    check_archive(&until, &facts).await?;
    check_name(&until, options, limits).await?;
    let claim = StartedRecord {
        tool: record::TOOL.into(),
        name: options.name.clone(),
        method: BackupMethod::Files,
        started: options.now,
        host: options.host.clone(),
        process: std::process::id(),
        snapshots: None,
    };
    let id = until.claim(&claim).await.map_err(BackupError::Catalog)?;
    tracing::info!(backup_id = %id, "backup begins");
    let info = facts_before(&facts, options);
    let (monitor, cancel, tally) = (monitor, cancel.child(), Arc::new(Tally::default()));
    let mut run =
        Run { id, catalog, facts, control, options, limits, monitor, cancel, tally, begun, info };
    match run.take(session).await {
        Ok(summary) => {
            run.monitor.phase(Phase::Done);
            Ok(summary)
        }
        Err(error) => {
            run.fail(&error).await;
            Err(error)
        }
    }
}

impl Run<'_> {
    /// The story between the claimed id and the published record.
    async fn take(&mut self, session: Session) -> Result<BackupSummary, BackupError> {
        self.monitor.phase(Phase::StartingBackup);
        let label = format!("Barman backup cloud {}", self.id);
        let started = session
            .start_backup(&label, self.options.checkpoint, &self.cancel)
            .await
            .map_err(BackupError::Postgres)?;
        let start = Begun {
            lsn: started.begin,
            timeline: started.timeline,
            time: started.begin_time.clone(),
        };
        add_begin(&mut self.info, &start);

        // Looked over only now: what appears later is brought by WAL replay.
        let accounts = Accounts::of_this_machine();
        let freight = freight(self.catalog, self.options, self.limits, &self.monitor, &self.cancel);
        let destination =
            Destination { layout: self.catalog.layout().clone(), id: self.id.clone() };
        let version = prepare::manifest_version(&self.facts);
        let key = self.catalog.layout().backup_object(&self.id, MANIFEST_NAME);
        let manifest = ManifestUpload::begin(&freight, key, version)?;
        let (plan, production) = self.plan(&start, &manifest, accounts).await?;

        self.monitor.phase(Phase::CopyingFiles);
        let copying = Instant::now();
        let production = Arc::new(production);
        let copied = self.copy_and_stop(started, &plan, &production, &freight, &destination).await;
        let (carried, stopped) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                manifest.abandon().await;
                return Err(error);
            }
        };
        let took_copy = copying.elapsed();
        add_end(&mut self.info, &stopped);
        let range = WalRange { timeline: start.timeline, begin: start.lsn, end: stopped.end };
        let manifest = manifest.finish(vec![range]).await?;

        self.monitor.phase(Phase::WaitingForWal);
        self.confirm_wal(&start, &stopped).await?;
        // Everything is stored and confirmed: only the record makes it a backup.
        let took = Took { copy: took_copy, total: self.begun.elapsed() };
        self.publish(&carried, &manifest, took).await
    }

    /// Waits until recovery from this backup has its WAL, and looks once more when all of it has
    /// been there: waiting may have taken a day.
    async fn confirm_wal(&self, start: &Begun, stopped: &StoppedBackup) -> Result<(), BackupError> {
        let facts = &self.facts;
        match self.options.wal {
            WalConfirmation::WaitUpTo(patience) => {
                let failure = stopped.archiver_failure.clone();
                let (begin, end) = (start.lsn, stopped.end);
                let catalog = self.catalog.until(&self.cancel);
                let needed = NeededWal::of(&catalog, facts, start.timeline, begin, end, failure);
                needed.confirm(patience, &self.cancel).await?;
                needed.look_again().await
            }
            WalConfirmation::Leave if facts.archives() => {
                let size = facts.wal_segment_size;
                let last = WalSegment::before(start.timeline, stopped.end, size).name(size);
                wait_for_archiver(&LocalWal::of(facts), &last, &self.cancel).await
            }
            WalConfirmation::Leave => Ok(()),
        }
    }

    /// Looks the cluster over, cuts it into tarballs and gathers what their writers share.
    async fn plan(
        &self,
        start: &Begun,
        manifest: &ManifestUpload,
        accounts: Accounts,
    ) -> Result<(BackupPlan, Production), BackupError> {
        let areas = areas(&self.facts, &self.control);
        let monitor = self.monitor.as_ref();
        let (plan, surveyed) =
            look_over(areas, self.options, self.limits, monitor, &self.tally, &self.cancel).await?;
        let production = Production {
            areas: surveyed.into_iter().map(SurveyedArea::from).collect(),
            accounts,
            page_checks: page_checks(&self.control, self.options, Some(start.lsn)),
            manifest: manifest.manifest.clone(),
            tally: Arc::clone(&self.tally),
            cancel: self.cancel.child(),
            monitor: Arc::clone(&self.monitor),
        };
        Ok((plan, production))
    }

    /// Copies everything, ends backup mode, and writes the tarball of what comes last.
    async fn copy_and_stop(
        &self,
        started: StartedBackup,
        plan: &BackupPlan,
        production: &Arc<Production>,
        freight: &Freight,
        destination: &Destination,
    ) -> Result<(Vec<Carried>, StoppedBackup), BackupError> {
        let freight = &freight.until(&production.cancel);
        let copying = copy(plan, Arc::clone(production), freight, destination, self.limits.jobs);
        // A backup whose session is lost cannot be ended: stop hours early.
        let watch = started.watch();
        let mut copying = std::pin::pin!(copying);
        let mut carried = tokio::select! {
            carried = &mut copying => carried?,
            lost = watch.lost() => {
                production.cancel.cancel();
                let _ = copying.await;
                return Err(BackupError::Postgres(lost));
            }
        };
        self.cancel.check().map_err(|_| BackupError::Cancelled)?;

        let pgdata = self.facts.data_directory.clone();
        let mut files = external_files(&self.facts)
            .iter()
            .map(|path| read_external(path, &production.accounts))
            .collect::<Result<Vec<_>, _>>()?;
        // Not older than any page that was read, and before the stop, as PostgreSQL does.
        files.insert(0, read_control_file(&pgdata, &production.accounts)?);
        self.monitor.phase(Phase::StoppingBackup);
        let restore_point = format!("barman_{}", self.id);
        let stopped = started.stop(&restore_point, ArchiveWait::Caller, &self.cancel).await;
        let stopped = stopped.map_err(BackupError::Postgres)?;
        prepare::check_timeline(self.info.timeline, stopped.timeline)?;
        let modified = u64::try_from(stopped.end_time.timestamp().as_second()).unwrap_or(0);
        files.push(label_file(stopped.label.as_str(), &pgdata, &production.accounts, modified)?);
        let manifest = Arc::clone(&production.manifest);
        let write = move |sink| write_last(&files, &manifest, sink);
        carried.push(write_tarball(plan.last, freight, destination, None, write).await?);
        Ok((carried, stopped))
    }

    async fn publish(
        &self,
        carried: &[Carried],
        manifest: &WrittenObject,
        took: Took,
    ) -> Result<BackupSummary, BackupError> {
        let noticed = self.tally.noticed();
        let (id, info) = (self.id.clone(), self.info.clone());
        let mut record =
            record::done(id, info, self.options, carried, noticed.clone(), self.limits, took);
        publish_in_time(publish(self.catalog, &mut record, manifest, None), &self.cancel).await?;
        Ok(summary_of(&record, &noticed))
    }

    /// Takes finished tarballs away and records the failure, as far as the store answers.
    async fn fail(&self, error: &BackupError) {
        remove_in_time(self.catalog, &self.id, &self.cancel).await;
        let reason = prepare::failure_reason(error);
        let (id, info) = (self.id.clone(), self.info.clone());
        let record = record::failed(id, info, self.options, reason, self.tally.noticed());
        let published = publish_record(self.catalog, &record, None);
        if let Err(error) = publish_in_time(published, &self.cancel).await {
            tracing::warn!(backup_id = %self.id, %error, "could not record the failed backup");
        }
    }
}

fn summary_of(record: &BackupRecord, noticed: &Noticings) -> BackupSummary {
    let statistics = record.statistics.as_ref();
    BackupSummary {
        id: record.id.clone(),
        tarballs: record.tarballs.len(),
        files: statistics.map_or(0, |statistics| statistics.files),
        raw_bytes: statistics.map_or(0, |statistics| statistics.raw_bytes),
        stored_bytes: statistics.map_or(0, |statistics| statistics.stored_bytes),
        damaged_blocks: noticed.damaged_blocks,
        damaged_files: noticed.damaged_files,
    }
}
