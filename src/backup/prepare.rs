//! Before and around a backup: options, what must be true first, what is cleaned up after.

use crate::backup::BackupError;
use crate::backup::budget::divide;
use crate::backup::plan::{AreaSurvey, BackupPlan, cut};
use crate::backup::produce::PageChecks;
use crate::backup::ship::Freight;
use crate::backup::survey::{Area, survey};
use crate::backup::tally::Tally;
use crate::backup::wal::WalPatience;
use crate::catalog::{ArchiveIdentity, BackupStatus, Catalog, TarballTarget};
use crate::codec::{BLOCK_BYTES, Compression, TarballCodec};
use crate::flow::{Buffers, Cancel, Limits, Pace, WorkerPool};
use crate::monitor::{Metric, Monitor};
use crate::pgdata::{ControlFile, FileFilter, ManifestVersion, PAGE_BYTES};
use crate::postgres::{ArchiveWait, Checkpoint, ServerFacts, TablespaceLocation};
use crate::store::{Courier, PutOptions};
use crate::wal::{Lsn, TimelineId};
use jiff::Timestamp;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What shall be done; every field decided.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// When the command began: the backup id is made of it.
    pub now: Timestamp,
    /// Name of this machine, for the claim of the id.
    pub host: String,
    pub name: Option<String>,
    pub compression: Option<Compression>,
    /// The algorithm's own number; `None` is the default for throughput.
    pub level: Option<i32>,
    pub checkpoint: Checkpoint,
    /// Bytes of tar stream that no tarball exceeds, unless one file does.
    pub tarball_bytes_max: u64,
    pub part_bytes_min: Option<u64>,
    pub tags: Vec<(String, String)>,
    pub pages: PageChecksums,
    pub wal: WalConfirmation,
}

/// Whether data checksums are verified while pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChecksums {
    Verify,
    Leave,
}

/// Whether a backup is complete only when the archive holds its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalConfirmation {
    WaitUpTo(WalPatience),
    /// For archives that another tool keeps somewhere else.
    Leave,
}

impl WalConfirmation {
    /// Where we look into the archive ourselves, PostgreSQL need not: it looks once a second.
    pub fn who_waits(self) -> ArchiveWait {
        match self {
            Self::WaitUpTo(_) => ArchiveWait::Caller,
            Self::Leave => ArchiveWait::Server,
        }
    }
}

/// What can be seen from here: the data directory must be on this machine, readable, and the
/// one that the server runs on.
pub fn preflight(facts: &ServerFacts, options: &BackupOptions) -> Result<ControlFile, BackupError> {
    let confirms = matches!(options.wal, WalConfirmation::WaitUpTo(_));
    if confirms && facts.archive_mode == "off" && !facts.in_recovery {
        return Err(BackupError::Refused {
            reason: "archive_mode is off, so the WAL that the backup needs would not be archived"
                .into(),
            hint: "Set archive_mode and archive_command (barman-cloud-wal-archive), or give --no-wal-check if another tool keeps the WAL.",
        });
    }
    if let Some(failure) = facts.archiver_failure.as_ref().filter(|_| confirms) {
        tracing::warn!(%failure, "this server's archiver is not getting anywhere: the backup will wait for it at its end");
    }
    let path = facts.data_directory.join("global/pg_control");
    let content = fs::read(&path).map_err(|error| BackupError::Refused {
        reason: format!("cannot read \"{}\": {error}", path.display()),
        hint: "Run the backup on the server's own machine, as the user that owns the data directory.",
    })?;
    let control = ControlFile::parse(&content)
        .map_err(|source| BackupError::ControlFile { path: path.display().to_string(), source })?;
    warn_of_later_version(&control);
    if control.system_identifier != facts.system_identifier {
        return Err(BackupError::Refused {
            reason: format!(
                "data directory \"{}\" has system identifier {}, the server says {}",
                facts.data_directory.display(),
                control.system_identifier,
                facts.system_identifier
            ),
            hint: "Does the connection lead to a server on another machine?",
        });
    }
    Ok(control)
}

/// A PostgreSQL that came after this program is backed up as the last known one is.
pub fn warn_of_later_version(control: &ControlFile) {
    if control.is_of_later_version() {
        tracing::warn!(
            control_version = control.control_version,
            "the control file is of a later PostgreSQL than this program knows; its fields were found by its checksum. Try a restore of this backup"
        );
    }
}

/// Refuses an archive that belongs to another cluster; one that belongs to nobody yet is fine.
pub async fn check_archive(catalog: &Catalog, facts: &ServerFacts) -> Result<(), BackupError> {
    let Some(stored) = catalog.identity().await.map_err(BackupError::Catalog)? else {
        return Ok(());
    };
    let ours = ArchiveIdentity {
        system_identifier: facts.system_identifier,
        first_timeline: stored.first_timeline,
        segment_size: facts.wal_segment_size,
    };
    catalog.check_identity(&stored, &ours).map_err(BackupError::Catalog)
}

/// Refuses a name that another backup has: a restore by name could not tell them apart. A
/// failed one does not count: its name is free for the next try.
pub async fn check_name(
    catalog: &Catalog,
    options: &BackupOptions,
    limits: &Limits,
) -> Result<(), BackupError> {
    let Some(name) = options.name.as_deref() else { return Ok(()) };
    let listing = catalog.load(limits, options.now).await.map_err(BackupError::Catalog)?;
    let taken = listing
        .backups
        .iter()
        .filter(|backup| {
            !matches!(backup.status(), BackupStatus::Failed | BackupStatus::Incomplete)
        })
        .find(|backup| backup.name() == Some(name));
    match taken {
        None => Ok(()),
        Some(backup) => Err(BackupError::Refused {
            reason: format!("backup \"{}\" already has the name \"{name}\"", backup.id),
            hint: "Choose another --name, or delete the other backup first.",
        }),
    }
}

/// The data directory and every tablespace that lies elsewhere.
pub fn areas(facts: &ServerFacts, control: &ControlFile) -> Vec<Area> {
    let located: Vec<(u32, &Path)> = facts
        .tablespaces
        .iter()
        .filter_map(|tablespace| match &tablespace.location {
            TablespaceLocation::Absolute(location) => Some((tablespace.oid, location.as_path())),
            TablespaceLocation::InPlace => None,
        })
        .collect();
    let inside = |(_, location): &(u32, &Path)| {
        location.strip_prefix(&facts.data_directory).ok().map(Path::to_path_buf)
    };
    let filter = FileFilter {
        version_directory: control.tablespace_version_directory(facts.version.major()),
        linked_tablespaces: located.iter().map(|(oid, _)| *oid).collect(),
        emptied_directories: located
            .iter()
            .filter_map(inside)
            .chain(stats_directory(facts))
            .collect(),
    };
    let data = Area {
        target: TarballTarget::Data,
        root: facts.data_directory.clone(),
        manifest_prefix: PathBuf::new(),
        filter: filter.clone(),
        replaced: external_files(facts).iter().filter_map(|path| file_name(path)).collect(),
    };
    let tablespaces = located.iter().map(|(oid, location)| Area {
        target: TarballTarget::Tablespace(*oid),
        root: location.to_path_buf(),
        manifest_prefix: format!("pg_tblspc/{oid}").into(),
        filter: filter.clone(),
        replaced: Vec::new(),
    });
    std::iter::once(data).chain(tablespaces).collect()
}

/// Configuration files outside the data directory. A missing `pg_ident.conf` is normal; a
/// missing other one is found out when it is read.
pub fn external_files(facts: &ServerFacts) -> Vec<PathBuf> {
    let outside = |path: &&PathBuf| !path.starts_with(&facts.data_directory);
    let main = [&facts.config_file, &facts.hba_file].into_iter().filter(outside);
    let ident = [&facts.ident_file].into_iter().filter(outside).filter(|path| path.exists());
    main.chain(ident).cloned().collect()
}

/// Temporary statistics, which PostgreSQL up to 14 may keep elsewhere below its directory.
fn stats_directory(facts: &ServerFacts) -> Option<PathBuf> {
    let path = facts.stats_temp_directory.as_ref()?;
    if path.is_relative() {
        return Some(path.clone());
    }
    path.strip_prefix(&facts.data_directory).ok().map(Path::to_path_buf)
}

/// Looks over all areas, on a thread of its own, and cuts them into tarballs.
pub async fn look_over(
    areas: Vec<Area>,
    options: &BackupOptions,
    limits: &Limits,
    monitor: &dyn Monitor,
    tally: &Arc<Tally>,
    cancel: &Cancel,
) -> Result<(BackupPlan, Vec<(Area, AreaSurvey)>), BackupError> {
    let (tally, cancel) = (Arc::clone(tally), cancel.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let look = |area: Area| survey(&area, &tally, &cancel).map(|survey| (area, survey));
        areas.into_iter().map(look).collect::<Result<Vec<_>, BackupError>>()
    });
    let surveyed = looking.await.expect("the looking thread neither panics nor is cancelled")?;
    let surveys: Vec<_> = surveyed.iter().map(|(_, survey)| survey.clone()).collect();
    let plan = cut(&surveys, limits.jobs, options.tarball_bytes_max, options.compression);
    monitor.expect(Metric::ClusterBytes, plan.tarballs.iter().map(|tarball| tarball.bytes).sum());
    Ok((plan, surveyed))
}

/// What page checksums are verified against; `None` when they are not.
pub fn page_checks(
    control: &ControlFile,
    options: &BackupOptions,
    begun_at: Option<Lsn>,
) -> Option<PageChecks> {
    // Pages of another size than PostgreSQL's usual one are not understood.
    let checked = options.pages == PageChecksums::Verify
        && control.has_data_checksums()
        && usize::try_from(control.page_bytes) == Ok(PAGE_BYTES);
    let relation_segment_pages = control.relation_segment_pages;
    begun_at.filter(|_| checked).map(|begun_at| PageChecks { begun_at, relation_segment_pages })
}

fn file_name(path: &Path) -> Option<OsString> {
    path.file_name().map(OsString::from)
}

pub fn manifest_version(facts: &ServerFacts) -> ManifestVersion {
    if facts.version.major() >= 17 {
        ManifestVersion::Two(facts.system_identifier)
    } else {
        ManifestVersion::One
    }
}

/// What all tarballs share, within the memory budget.
pub fn freight(
    catalog: &Catalog,
    options: &BackupOptions,
    limits: &Limits,
    monitor: &Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Freight {
    let budget =
        divide(limits, options.tarball_bytes_max, options.part_bytes_min, options.compression);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let depth = size(budget.depth);
    Freight {
        courier: Courier {
            store: catalog.store().until(cancel),
            parts: Arc::new(Semaphore::new(size(budget.parts_in_flight))),
            part_bytes: size(budget.part_bytes),
            pace: limits.bandwidth_max.map(Pace::new),
            monitor: Arc::clone(monitor),
            options: PutOptions { tags: options.tags.clone(), ..PutOptions::default() },
        },
        codec: TarballCodec::new(options.compression, options.level),
        pool: WorkerPool::new(limits.workers),
        buffers: Buffers::new(BLOCK_BYTES, limits.jobs.get() * depth),
        depth,
        tails: size(budget.tails),
        zstd_workers: budget.zstd_workers,
        cancel: cancel.clone(),
    }
}

/// A standby that was promoted meanwhile has ended its backup on another timeline, where the
/// label that was handed out does not lead.
pub fn check_timeline(begun: Option<TimelineId>, ended: TimelineId) -> Result<(), BackupError> {
    match begun {
        Some(begun) if begun != ended => {
            Err(BackupError::TimelineChanged { begin: begun.number(), end: ended.number() })
        }
        _ => Ok(()),
    }
}

/// What the catalog says of a failed backup, in Barman's form (contract §6.1): one line.
pub fn failure_reason(error: &BackupError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let first_line = text.lines().next().unwrap_or_default();
    format!("failure uploading data ({first_line})")
}
