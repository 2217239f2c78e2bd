//! Uploading a backup that a Barman server has on its own disk (hook scripts, contract §16).
//!
//! The same pipeline and layout as a backup of our own, without PostgreSQL: the files do not
//! change any more, the id and `backup.info` are Barman's and stay as they are, to the byte.

use crate::backup::copy::{Carried, Destination, copy, write_tarball};
use crate::backup::last::{LastFile, label_file, read_control_file, read_external, write_last};
use crate::backup::manifest::{MANIFEST_NAME, ManifestUpload};
use crate::backup::prepare::{freight, look_over, page_checks, warn_of_later_version};
use crate::backup::produce::{Production, SurveyedArea};
use crate::backup::publish::{publish, publish_in_time, remove_in_time, remove_objects};
use crate::backup::record::{self, Took};
use crate::backup::ship::Freight;
use crate::backup::survey::Area;
use crate::backup::tally::Tally;
use crate::backup::{BackupError, BackupOptions, BackupSummary, disk_error, summary_of};
use crate::catalog::format::backup_info;
use crate::catalog::{
    Backup, BackupId, BackupInfo, BackupMethod, Catalog, CatalogError, Claimed, StartedRecord,
    TarballTarget, UploadClaim,
};
use crate::disk::Accounts;
use crate::flow::{Cancel, Limits};
use crate::monitor::{Monitor, Phase};
use crate::pgdata::{ControlFile, FileFilter, ManifestVersion, WalRange};
use crate::store::hex;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A finished backup on the disk of a Barman server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalBackup {
    /// Holds `data` and one folder per tablespace OID.
    pub directory: PathBuf,
    pub id: BackupId,
    /// Barman's own `backup.info`.
    pub backup_info: PathBuf,
}

/// What was read before anything is written.
struct Read {
    info: BackupInfo,
    verbatim: Bytes,
    control: ControlFile,
    last: Vec<LastFile>,
    accounts: Accounts,
}

/// One upload under way.
struct Upload<'a> {
    local: &'a LocalBackup,
    catalog: &'a Catalog,
    options: &'a BackupOptions,
    limits: &'a Limits,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    tally: Arc<Tally>,
    begun: Instant,
}

/// Uploads `local`; `None` when this very backup is there already, because Barman runs a retry
/// script again until it succeeds. Another one under its id, complete or running, is refused; what
/// an interrupted run of this very upload left is replaced.
pub async fn upload_local(
    local: &LocalBackup,
    catalog: &Catalog,
    options: &BackupOptions,
    limits: &Limits,
    monitor: Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<Option<BackupSummary>, BackupError> {
    let begun = Instant::now();
    let read = read(local)?;
    let until = catalog.until(cancel);
    let found = until.find(&local.id, options.now).await.map_err(BackupError::Catalog)?;
    if let Some(backup) = found.filter(Backup::is_done) {
        check_same(local, catalog, &read.verbatim).await?;
        backup.tarballs().map_err(CatalogError::Incomplete).map_err(BackupError::Catalog)?;
        return Ok(None);
    }
    claim(local, catalog, options, &read.verbatim).await?;
    // The folder is ours: what lies there is what a killed run of this upload left.
    remove_objects(&until, &local.id).await;
    cancel.check().map_err(|_| BackupError::Cancelled)?;
    let (cancel, tally) = (cancel.child(), Arc::default());
    let upload = Upload { local, catalog, options, limits, monitor, cancel, tally, begun };
    match upload.run(read).await {
        Ok(summary) => {
            upload.monitor.phase(Phase::Done);
            Ok(Some(summary))
        }
        Err(error) => {
            remove_in_time(catalog, &local.id, &upload.cancel).await;
            release(local, catalog).await;
            Err(error)
        }
    }
}

/// Claims the id, or says who has it.
async fn claim(
    local: &LocalBackup,
    catalog: &Catalog,
    options: &BackupOptions,
    verbatim: &Bytes,
) -> Result<(), BackupError> {
    let started = StartedRecord {
        tool: record::TOOL.into(),
        name: None,
        method: BackupMethod::Files,
        started: options.now,
        host: options.host.clone(),
        process: std::process::id(),
        snapshots: None,
    };
    let content = hex(&Sha256::digest(verbatim));
    let claim = UploadClaim { id: &local.id, started: &started, content: &content };
    let claimed = catalog.claim_upload(&claim, options.now, &is_running).await;
    let (reason, hint) = match claimed.map_err(BackupError::Catalog)? {
        Claimed::Ours => return Ok(()),
        Claimed::Running { host, process } => (
            format!("backup \"{}\" is being uploaded by process {process} on \"{host}\"", local.id),
            "If that process is gone, delete the backup with barman-cloud-backup-delete.",
        ),
        Claimed::Taken => (
            format!("backup ID \"{}\" is taken by another backup, complete or not", local.id),
            "Does another server or command back up to the same server name?",
        ),
    };
    Err(BackupError::Refused { reason, hint })
}

/// Whether a process of this host is one of ours: its number alone may be another's by now.
fn is_running(process: u32) -> bool {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    words.windows(b"barman-cloud".len()).any(|word| word == b"barman-cloud")
}

/// Gives the id back: nothing of the failed upload is left.
async fn release(local: &LocalBackup, catalog: &Catalog) {
    let key = catalog.layout().backup_object(&local.id, "started.json");
    for (key, answer) in catalog.store().delete(vec![key]).await {
        if let Err(error) = answer {
            tracing::warn!(object = %key, %error, "could not delete object of the failed upload");
        }
    }
}

/// `backup.info` is written last: where it is the same to the byte, everything is there.
async fn check_same(
    local: &LocalBackup,
    catalog: &Catalog,
    verbatim: &Bytes,
) -> Result<(), BackupError> {
    let key = catalog.layout().backup_object(&local.id, "backup.info");
    let stored = catalog.store().get(&key).await.map_err(BackupError::Store)?;
    if stored.as_ref() == Some(verbatim) {
        return Ok(());
    }
    Err(BackupError::Refused {
        reason: format!("backup \"{}\" is already there, with another backup.info", local.id),
        hint: "Do two Barman servers upload to the same server name?",
    })
}

fn read(local: &LocalBackup) -> Result<Read, BackupError> {
    let path = &local.backup_info;
    let verbatim = fs::read(path).map_err(|error| disk_error("read file", path, error))?;
    let info = backup_info::parse(&String::from_utf8_lossy(&verbatim)).map_err(|error| {
        BackupError::Refused {
            reason: format!("file \"{}\" is malformed: {error}", path.display()),
            hint: "It must be the backup.info that Barman wrote for this backup.",
        }
    })?;
    if let Some(compression) = &info.compression {
        return Err(BackupError::Refused {
            reason: format!("backup \"{}\" is compressed with {compression}", local.id),
            hint: "Only uncompressed backups of a Barman server can be uploaded.",
        });
    }
    let accounts = Accounts::of_this_machine();
    let data = local.directory.join("data");
    let control_file = read_control_file(&data, &accounts)?;
    let control = ControlFile::parse(&control_file.content).map_err(|source| {
        let path = data.join("global/pg_control").display().to_string();
        BackupError::ControlFile { path, source }
    })?;
    warn_of_later_version(&control);
    let mut last = vec![control_file];
    let label = data.join("backup_label");
    if label.exists() {
        last.push(read_external(&label, &accounts)?);
    } else if let Some(text) = &info.backup_label {
        let modified = info.end_time.as_ref().map_or(0, |time| time.timestamp().as_second());
        let modified = u64::try_from(modified).unwrap_or(0);
        last.push(label_file(text, &data, &accounts, modified)?);
    }
    Ok(Read { info, verbatim: verbatim.into(), control, last, accounts })
}

impl Upload<'_> {
    async fn run(&self, read: Read) -> Result<BackupSummary, BackupError> {
        let Read { info, verbatim, control, last, accounts } = read;
        let freight = freight(self.catalog, self.options, self.limits, &self.monitor, &self.cancel);
        let key = self.catalog.layout().backup_object(&self.local.id, MANIFEST_NAME);
        let manifest = ManifestUpload::begin(&freight, key, manifest_version(&info, &control))?;
        let copied = self.copy(&info, &control, last, accounts, &manifest, &freight).await;
        let carried = match copied {
            Ok(carried) => carried,
            Err(error) => {
                manifest.abandon().await;
                return Err(error);
            }
        };
        let manifest = manifest.finish(wal_ranges(&info)).await?;
        let took = Took { copy: self.begun.elapsed(), total: self.begun.elapsed() };
        let noticed = self.tally.noticed();
        let id = self.local.id.clone();
        let copy_stats = info.copy_stats.clone();
        let mut record =
            record::done(id, info, self.options, &carried, noticed.clone(), self.limits, took);
        // Barman's own statistics of its own copy stay.
        record.info.copy_stats = copy_stats;
        let published = publish(self.catalog, &mut record, &manifest, Some(verbatim));
        publish_in_time(published, &self.cancel).await?;
        Ok(summary_of(&record, &noticed))
    }

    async fn copy(
        &self,
        info: &BackupInfo,
        control: &ControlFile,
        last: Vec<LastFile>,
        accounts: Accounts,
        manifest: &ManifestUpload,
        freight: &Freight,
    ) -> Result<Vec<Carried>, BackupError> {
        let areas = areas(self.local, info, control);
        let monitor = self.monitor.as_ref();
        let (plan, surveyed) =
            look_over(areas, self.options, self.limits, monitor, &self.tally, &self.cancel).await?;
        monitor.phase(Phase::CopyingFiles);
        let production = Arc::new(Production {
            areas: surveyed.into_iter().map(SurveyedArea::from).collect(),
            accounts,
            page_checks: page_checks(control, self.options, info.begin_xlog),
            manifest: manifest.manifest.clone(),
            tally: Arc::clone(&self.tally),
            cancel: self.cancel.child(),
            monitor: Arc::clone(&self.monitor),
        });
        let destination =
            Destination { layout: self.catalog.layout().clone(), id: self.local.id.clone() };
        let jobs = self.limits.jobs;
        let mut carried = copy(&plan, Arc::clone(&production), freight, &destination, jobs).await?;
        let lines = Arc::clone(&production.manifest);
        let write = move |sink| write_last(&last, &lines, sink);
        carried.push(write_tarball(plan.last, freight, &destination, None, write).await?);
        Ok(carried)
    }
}

fn areas(local: &LocalBackup, info: &BackupInfo, control: &ControlFile) -> Vec<Area> {
    let major = info.version.map_or(0, |version| version / 10_000);
    let tablespaces = info.tablespaces.as_deref().unwrap_or_default();
    let filter = FileFilter {
        version_directory: control.tablespace_version_directory(major),
        linked_tablespaces: tablespaces.iter().map(|tablespace| tablespace.oid).collect(),
        emptied_directories: Vec::new(),
    };
    let area = |target, root: PathBuf, prefix: &Path| Area {
        target,
        root,
        manifest_prefix: prefix.into(),
        filter: filter.clone(),
        replaced: Vec::new(),
    };
    let data = area(TarballTarget::Data, local.directory.join("data"), Path::new(""));
    let others = tablespaces.iter().map(|tablespace| {
        let oid = tablespace.oid;
        let root = local.directory.join(oid.to_string());
        area(TarballTarget::Tablespace(oid), root, Path::new(&format!("pg_tblspc/{oid}")))
    });
    std::iter::once(data).chain(others).collect()
}

fn manifest_version(info: &BackupInfo, control: &ControlFile) -> ManifestVersion {
    match info.version {
        Some(170_000..) => ManifestVersion::Two(control.system_identifier),
        _ => ManifestVersion::One,
    }
}

/// Empty when Barman's file does not tell: then `pg_verifybackup` has no WAL to look for.
fn wal_ranges(info: &BackupInfo) -> Vec<WalRange> {
    match (info.timeline, info.begin_xlog, info.end_xlog) {
        (Some(timeline), Some(begin), Some(end)) => vec![WalRange { timeline, begin, end }],
        _ => Vec::new(),
    }
}
