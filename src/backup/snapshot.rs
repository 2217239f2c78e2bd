//! A backup made of snapshots of the volumes that hold the cluster.
//!
//! ```text
//! look up instance, disks, mounts      nothing is touched yet
//! started.json                         names what is about to be created; crash behind it: the
//!                                      next delete finds and deletes those snapshots
//! backup mode ─ create all snapshots   the cloud fixes their point in time
//! backup mode ends                     the database is free; the cloud copies for minutes or hours
//! snapshots complete, WAL archived, snapshots locked
//! backup_label, backup.json, backup.info
//! ```
//!
//! A run that fails or is cancelled deletes its snapshots and is recorded as FAILED. Locks come
//! last of all, because a locked snapshot could not be deleted by a run that fails.

use crate::backup::mounted::{MountedDisk, check_coverage, mounted_disks};
use crate::backup::prepare::{check_archive, check_name, check_timeline, preflight};
use crate::backup::publish::{publish_in_time, publish_record, remove_in_time};
use crate::backup::record::{self, Begun, add_begin, add_end, facts_before};
use crate::backup::wal::NeededWal;
use crate::backup::{BackupError, BackupOptions, WalConfirmation, prepare};
use crate::catalog::{BackupId, BackupInfo, BackupMethod, Catalog, StartedRecord};
use crate::disk::Machine;
use crate::flow::{Cancel, Limits};
use crate::monitor::{Metric, Monitor, Phase};
use crate::postgres::{ServerFacts, Session, StartedBackup, StoppedBackup};
use crate::snapshot::{
    CreateRequest, DiskFilter, Instance, Patience, PendingSnapshots, PlannedSnapshot, Reached,
    SnapshotCloud, SnapshotErrorKind, SnapshotLock, SnapshotRecord, SnapshotsInfo, select,
    snapshot_name, wait,
};
use crate::store::{PutMode, PutOptions};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// What shall be done beyond what every backup is told; every field decided.
#[derive(Clone, Debug)]
pub struct SnapshotBackupOptions {
    pub instance: String,
    pub disks: Vec<String>,
    /// The server's own name, which records of snapshot backups carry.
    pub server_name: String,
    pub lock: Option<SnapshotLock>,
    pub patience: Patience,
}

/// A backup that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBackupSummary {
    pub id: BackupId,
    pub snapshots: usize,
}

/// One run, from the claimed id on.
struct Run<'a> {
    id: BackupId,
    catalog: &'a Catalog,
    cloud: &'a dyn SnapshotCloud,
    machine: &'a Machine,
    common: &'a BackupOptions,
    options: &'a SnapshotBackupOptions,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    begun: Instant,
    facts: ServerFacts,
    instance: Instance,
    disks: Vec<MountedDisk>,
    pending: PendingSnapshots,
    info: BackupInfo,
    created: Vec<SnapshotRecord>,
    /// Whether the cloud may have been asked for a snapshot.
    asked: bool,
}

/// As long as an id, and of the same characters: names are checked before one is claimed.
const NAME_LIKE_AN_ID: &str = "20000101T000000";

/// Takes one backup by snapshots of all `disks` at once.
#[expect(clippy::too_many_arguments, reason = "inputs, then options, as every verb has them")]
pub async fn backup_snapshots(
    session: Session,
    catalog: &Catalog,
    cloud: &dyn SnapshotCloud,
    machine: &Machine,
    common: &BackupOptions,
    options: &SnapshotBackupOptions,
    limits: &Limits,
    monitor: Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<SnapshotBackupSummary, BackupError> {
    let begun = Instant::now();
    session.check_privileges(cancel).await.map_err(BackupError::Postgres)?;
    let facts = session.facts(cancel).await.map_err(BackupError::Postgres)?;
    preflight(&facts, common)?;
    // Before anything is touched: is all of the cluster on disks that can be had?
    let filter = DiskFilter::Named(options.disks.clone());
    let instance = look_up(cloud, &options.instance, &filter, cancel).await?;
    let volumes = select(&instance, &options.disks).map_err(BackupError::SnapshotRefused)?;
    let disks = mounted_disks(machine, &options.disks, &volumes)?;
    let named = planned(&disks, NAME_LIKE_AN_ID);
    cloud.check_plan(&named).map_err(BackupError::SnapshotRefused)?;
    check_coverage(machine, &facts, &disks)?;
    let until = catalog.until(cancel);
    check_archive(&until, &facts).await?;
    check_name(&until, common, limits).await?;

    let provider = cloud.provider_record(&[]);
    let run = format!("{}/{}", common.host, std::process::id());
    let unnamed = planned(&disks, "");
    let pending = PendingSnapshots::of(provider, &options.server_name, run, &unnamed);
    let claim = claim_of(common, &pending);
    let id = until.claim(&claim).await.map_err(BackupError::Catalog)?;
    tracing::info!(backup_id = %id, "backup begins");
    let mut info = facts_before(&facts, common);
    info.server_name = Some(options.server_name.clone());
    let cancel = cancel.child();
    let (created, asked) = (Vec::new(), false);
    let mut run = Run {
        id,
        catalog,
        cloud,
        machine,
        common,
        options,
        monitor,
        cancel,
        begun,
        facts,
        instance,
        disks,
        pending,
        info,
        created,
        asked,
    };
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
    async fn take(&mut self, session: Session) -> Result<SnapshotBackupSummary, BackupError> {
        self.monitor.phase(Phase::StartingBackup);
        let label = format!("Barman backup {} {}", self.options.server_name, self.id);
        let started = session
            .start_backup(&label, self.common.checkpoint, &self.cancel)
            .await
            .map_err(BackupError::Postgres)?;
        let start = Begun {
            lsn: started.begin,
            timeline: started.timeline,
            time: started.begin_time.clone(),
        };
        add_begin(&mut self.info, &start);
        // The checkpoint may have taken minutes: is everything still where it was?
        let volumes: Vec<_> = self.disks.iter().map(|disk| &disk.volume).collect();
        let now = mounted_disks(self.machine, &self.options.disks, &volumes)?;
        if now != self.disks {
            return Err(BackupError::MountsChanged);
        }

        let copying = Instant::now();
        self.monitor.phase(Phase::CreatingSnapshots);
        self.create(&started).await?;
        // The point in time of all snapshots is fixed: PostgreSQL need not wait for the copying.
        self.monitor.phase(Phase::StoppingBackup);
        let restore_point = format!("barman_{}", self.id);
        let wait = self.common.wal.who_waits();
        let stopped = started.stop(&restore_point, wait, &self.cancel).await;
        let stopped = stopped.map_err(BackupError::Postgres)?;
        check_timeline(self.info.timeline, stopped.timeline)?;
        add_end(&mut self.info, &stopped);

        self.monitor.phase(Phase::WaitingForSnapshots);
        self.wait(Reached::Completion).await?;
        let took = copying.elapsed();
        if let WalConfirmation::WaitUpTo(patience) = self.common.wal {
            self.monitor.phase(Phase::WaitingForWal);
            let failure = stopped.archiver_failure.clone();
            let (begin, end) = (start.lsn, stopped.end);
            let catalog = self.catalog.until(&self.cancel);
            let needed = NeededWal::of(&catalog, &self.facts, start.timeline, begin, end, failure);
            needed.confirm(patience, &self.cancel).await?;
            // Before the locks, which nothing takes back.
            needed.look_again().await?;
        }
        self.remove_surplus().await;
        self.lock().await?;
        self.publish(&stopped, took).await
    }

    /// Creates all snapshots and returns when their point in time is fixed.
    ///
    /// A request that is on its way is not abandoned, not even by a signal: what it creates
    /// after we have looked would never be found.
    async fn create(&mut self, started: &StartedBackup) -> Result<(), BackupError> {
        self.cancel.check().map_err(|_| BackupError::Cancelled)?;
        let planned = planned(&self.disks, self.id.as_str());
        let marker = self.pending.marker(self.id.as_str());
        let request = CreateRequest {
            instance: &self.instance,
            planned: &planned,
            marker: &marker,
            tags: &self.common.tags,
        };
        self.asked = true;
        self.created = self.cloud.create(&request).await.map_err(BackupError::Snapshot)?;
        let hundred = u64::try_from(self.created.len() * 100).unwrap_or(u64::MAX);
        self.monitor.expect(Metric::SnapshotPercent, hundred);
        // A backup whose session is lost cannot be ended: do not wait for it.
        let watch = started.watch();
        tokio::select! {
            fixed = self.wait(Reached::PointInTime) => fixed,
            lost = watch.lost() => Err(BackupError::Postgres(lost)),
        }
    }

    async fn wait(&self, reached: Reached) -> Result<(), BackupError> {
        let (monitor, patience) = (self.monitor.as_ref(), self.options.patience);
        let waited =
            wait(self.cloud, &self.created, reached, patience, monitor, &self.cancel).await;
        waited.map_err(|error| match error.kind {
            SnapshotErrorKind::Cancelled => BackupError::Cancelled,
            _ => BackupError::Snapshot(error),
        })
    }

    /// Deletes what carries the run's marker and is not one of its snapshots: no record would
    /// name it, and somebody would pay for it for ever. What is found so late shall not cost the
    /// backup, which is whole.
    async fn remove_surplus(&self) {
        let marker = self.pending.marker(self.id.as_str());
        let expected = self.pending.expected(self.id.as_str());
        let found = match self.cloud.find(&expected, &marker).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(backup_id = %self.id, %error, "could not look for snapshots beyond the plan");
                return;
            }
        };
        let created = |id: &str| self.created.iter().any(|created| created.identifier() == id);
        for surplus in found.iter().filter(|found| !created(found.identifier())) {
            let snapshot = surplus.identifier();
            match self.cloud.delete(surplus).await {
                Ok(_) => tracing::warn!(snapshot, "deleted a snapshot beyond the plan"),
                Err(error) => {
                    tracing::warn!(snapshot, %error, "could not delete a snapshot beyond the plan");
                }
            }
        }
    }

    async fn lock(&mut self) -> Result<(), BackupError> {
        let Some(lock) = &self.options.lock else { return Ok(()) };
        self.cancel.check().map_err(|_| BackupError::Cancelled)?;
        for snapshot in &mut self.created {
            *snapshot = self.cloud.lock(snapshot, lock).await.map_err(BackupError::Snapshot)?;
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        stopped: &StoppedBackup,
        took: std::time::Duration,
    ) -> Result<SnapshotBackupSummary, BackupError> {
        let mounts = self.disks.iter().map(|disk| disk.mount.clone());
        let info = SnapshotsInfo {
            provider: self.cloud.provider_record(&self.created),
            snapshots: self.created.iter().cloned().zip(mounts).collect(),
        };
        self.info.snapshots_info = Some(info.to_json());
        let key = self.catalog.layout().backup_object(&self.id, "backup_label");
        let label = Bytes::from(stopped.label.as_str().to_string());
        let options = PutOptions { tags: self.common.tags.clone(), ..PutOptions::default() };
        self.catalog
            .store()
            .put(&key, label, PutMode::Overwrite, &options)
            .await
            .map_err(BackupError::Store)?;
        let (id, info) = (self.id.clone(), self.info.clone());
        let record = record::done_snapshot(id, info, took, self.begun.elapsed());
        publish_in_time(publish_record(self.catalog, &record, None), &self.cancel).await?;
        Ok(SnapshotBackupSummary { id: self.id.clone(), snapshots: self.created.len() })
    }

    /// Deletes the run's snapshots and records the failure, as far as cloud and store answer.
    async fn fail(&self, error: &BackupError) {
        if self.asked {
            self.delete_snapshots().await;
        }
        remove_in_time(self.catalog, &self.id, &self.cancel).await;
        let reason = prepare::failure_reason(error);
        let mut info = self.info.clone();
        info.snapshots_info = None;
        let record = record::failed_snapshot(self.id.clone(), info, reason);
        let published = publish_record(self.catalog, &record, None);
        if let Err(error) = publish_in_time(published, &self.cancel).await {
            tracing::warn!(backup_id = %self.id, %error, "could not record the failed backup");
        }
    }

    /// What `create` returned, and what it may have left when it failed. What cannot be deleted
    /// now is found again, by its marker, when the failed backup is deleted.
    async fn delete_snapshots(&self) {
        let marker = self.pending.marker(self.id.as_str());
        let expected = self.pending.expected(self.id.as_str());
        let mut doomed = self.created.clone();
        match self.cloud.find(&expected, &marker).await {
            Ok(found) => doomed.extend(found),
            Err(error) => {
                tracing::warn!(backup_id = %self.id, %error, "could not look for snapshots of the failed backup");
            }
        }
        let identifier = |record: &SnapshotRecord| record.identifier().to_string();
        doomed.sort_by_key(identifier);
        doomed.dedup_by_key(|record| identifier(record));
        for snapshot in &doomed {
            match self.cloud.delete(snapshot).await {
                Ok(_) => tracing::info!(
                    snapshot = snapshot.identifier(),
                    "deleted snapshot of the failed backup"
                ),
                Err(error) => {
                    tracing::warn!(backup_id = %self.id, %error, "could not delete snapshot of the failed backup");
                }
            }
        }
    }
}

fn claim_of(common: &BackupOptions, pending: &PendingSnapshots) -> StartedRecord {
    StartedRecord {
        tool: record::TOOL.into(),
        name: common.name.clone(),
        method: BackupMethod::Snapshot,
        started: common.now,
        host: common.host.clone(),
        process: std::process::id(),
        snapshots: Some(pending.to_json()),
    }
}

async fn look_up(
    cloud: &dyn SnapshotCloud,
    instance: &str,
    filter: &DiskFilter,
    cancel: &Cancel,
) -> Result<Instance, BackupError> {
    tokio::select! {
        found = cloud.instance(instance, filter) => found.map_err(BackupError::SnapshotRefused),
        () = cancel.cancelled() => Err(BackupError::Cancelled),
    }
}

fn planned(disks: &[MountedDisk], id: &str) -> Vec<PlannedSnapshot> {
    let plan = |disk: &MountedDisk| PlannedSnapshot {
        disk: disk.disk.clone(),
        name: snapshot_name(&disk.disk, id),
        volume: disk.volume.clone(),
    };
    disks.iter().map(plan).collect()
}
