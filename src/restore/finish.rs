//! The last steps: links, empty directories, the manifest, and at the very end the control file.
//!
//! Crash points: until the control file has its name, PostgreSQL refuses the directory and a
//! second run goes on; a second run that finds it there, but no word that it is ready, takes the
//! name away again and checks everything; after that word the directory is complete, and a second
//! run only removes the traces.
//!
//! Everything goes through the root's own descriptor and follows no link: as root, a link in the
//! place of a file would give somebody else's file away.

use crate::disk::{Attributes, EntryKind, ExtractRoot, Extractor, Owner, Site};
use crate::pgdata::{BackupLabel, ControlFile, ControlFileError};
use crate::restore::apply::sync;
use crate::restore::extract::{PG_CONTROL, PG_CONTROL_WAITING, Targets, apply_to_root};
use crate::restore::journal::Journal;
use crate::restore::{
    PlannedTablespace, RestoreError, RestorePlan, Unfinished, manifest, receipts, roots,
};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories that PostgreSQL expects, and that a backup may leave out because they are empty.
///
/// Source: `subdirs` of PostgreSQL src/bin/initdb/initdb.c, and the directories whose contents
/// `excludeDirContents` of src/backend/backup/basebackup.c leaves out.
const DIRECTORIES: [&str; 16] = [
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
];

/// Whether PostgreSQL fills the directory itself, so that it is made when a backup lacks it.
pub fn is_made_anew(path: &Path) -> bool {
    let name = path.to_str().unwrap_or_default();
    DIRECTORIES.contains(&name) || name == "pg_wal" || name == "pg_xlog"
}

/// How a restore ends.
pub struct Finish {
    pub plan: Arc<RestorePlan>,
    pub targets: Arc<Targets>,
    pub journal: Journal,
    pub has_manifest: bool,
    pub unfinished: Unfinished,
}

/// Completes and starts off the restored directory. Blocks until everything is durable.
pub fn finish(finish: Finish) -> Result<(), RestoreError> {
    let Finish { plan, targets, mut journal, has_manifest, unfinished } = finish;
    let data = &targets.data;
    let attributes = normalise_roots(&targets)?;
    let mut extractor = data.extractor();
    let wal = [plan.wal_directory.to_string(), format!("{}/archive_status", plan.wal_directory)];
    let directories = DIRECTORIES.into_iter().chain(wal.iter().map(String::as_str));
    for directory in directories.map(Path::new) {
        create_missing(data, &mut extractor, directory, &attributes)?;
    }
    for tablespace in &plan.tablespaces {
        link(data, &mut extractor, tablespace, attributes.owner)?;
    }
    manifest::place(data, has_manifest, &file_attributes(&attributes))?;
    require(&plan, data, &mut extractor, unfinished)?;
    if unfinished == Unfinished::Refuse {
        check_identity(&plan, &targets, &journal.source.url)?;
    }
    take_label(data, &attributes)?;
    sync(&targets)?;
    // With all of it noted, a run that finds the control file in place knows what it sees.
    journal.finished = plan.tarballs.iter().map(|tarball| tarball.name.file_name()).collect();
    journal.contested = targets.contested().clone();
    journal.write(data)?;
    let (waiting, control) = (Path::new(PG_CONTROL_WAITING), Path::new(PG_CONTROL));
    let renamed = match extractor.exists(waiting).map_err(at(data, control))? {
        true => extractor.rename(waiting, control),
        // A backup that was never completed has none; it was asked for all the same.
        false => Ok(()),
    };
    renamed.map_err(at(data, control))?;
    journal.ready = true;
    journal.write(data)?;
    remove_traces(&plan, data, targets.tablespaces.values())
}

/// Takes the control file's name away again: an earlier run gave it, and was stopped before it
/// could say so.
pub fn take_back(data: &ExtractRoot) -> Result<(), RestoreError> {
    let (waiting, control) = (Path::new(PG_CONTROL_WAITING), Path::new(PG_CONTROL));
    let mut extractor = data.extractor();
    match extractor.exists(control).map_err(at(data, control))? {
        true => extractor.rename(control, waiting).map_err(at(data, control)),
        false => Ok(()),
    }
}

/// What an earlier run left of itself in a directory that is complete.
pub fn remove_traces_of_complete(
    plan: &RestorePlan,
    data: &ExtractRoot,
) -> Result<(), RestoreError> {
    let mut tablespaces = Vec::new();
    for PlannedTablespace { location, .. } in &plan.tablespaces {
        let site = Site::find(location).map_err(RestoreError::disk(location))?;
        if site.is_there() {
            tablespaces.push(site.open().map_err(RestoreError::disk(location))?);
        }
    }
    remove_traces(plan, data, tablespaces.iter())
}

/// The journal last: with it, whatever else is left is found and removed by the next run.
fn remove_traces<'a>(
    plan: &RestorePlan,
    data: &ExtractRoot,
    tablespaces: impl Iterator<Item = &'a ExtractRoot>,
) -> Result<(), RestoreError> {
    receipts::remove(data, plan)?;
    for root in tablespaces {
        roots::unmark(root)?;
    }
    Journal::remove(data)
}

/// Compares what PostgreSQL will recover from with what is recorded: a tarball of another backup
/// may be whole in itself.
fn check_identity(plan: &RestorePlan, targets: &Targets, source: &str) -> Result<(), RestoreError> {
    let data = &targets.data;
    let corrupt = |reason: String| RestoreError::Corrupt { object: source.into(), reason };
    if let Some(control) = read_small(data, Path::new(PG_CONTROL_WAITING))? {
        match ControlFile::parse(&control) {
            Ok(control) => {
                let found = control.system_identifier.to_string();
                if plan.system_identifier.as_ref().is_some_and(|recorded| *recorded != found) {
                    return Err(corrupt(format!(
                        "it holds the cluster with system identifier {found}, not the recorded one"
                    )));
                }
            }
            Err(error @ ControlFileError::Checksum { .. }) => {
                return Err(corrupt(error.to_string()));
            }
            Err(error) => tracing::warn!(%error, "cannot check the control file"),
        }
    }
    if let Some(label) = read_small(data, Path::new("backup_label"))?
        && let Ok(text) = std::str::from_utf8(&label)
        && let Ok(label) = BackupLabel::parse(text)
        && let Some(begin) = plan.begin.filter(|begin| *begin != label.start)
    {
        let reason = format!("its backup_label begins at {}, not at {begin}", label.start);
        return Err(corrupt(reason));
    }
    Ok(())
}

/// The control file has 8 KiB, the label some hundred bytes.
const SMALL_BYTES_MAX: u64 = 64 << 10;

fn read_small(data: &ExtractRoot, path: &Path) -> Result<Option<Vec<u8>>, RestoreError> {
    let read = || -> io::Result<Option<Vec<u8>>> {
        let Some(file) = data.extractor().open(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(SMALL_BYTES_MAX).read_to_end(&mut content)?;
        Ok(Some(content))
    };
    read().map_err(at(data, path))
}

/// Only the owner may look into a tablespace; group access follows the data directory's.
/// Returns what files made from now on shall have.
fn normalise_roots(targets: &Targets) -> Result<Attributes, RestoreError> {
    let data = &targets.data;
    let group = data.mode().map_err(RestoreError::disk(data.path()))? & 0o050 == 0o050;
    let mode = if group { 0o750 } else { 0o700 };
    let owner = match targets.accounts {
        Some(_) => Some(cluster_owner(data)?),
        None => None,
    };
    let attributes = Attributes { mode, owner, modified: None };
    for root in std::iter::once(data).chain(targets.tablespaces.values()) {
        apply_to_root(root, &attributes)?;
    }
    Ok(attributes)
}

/// Whose cluster it was: the data directory itself may have been made by root, and a tarball
/// need not have an entry for it.
fn cluster_owner(data: &ExtractRoot) -> Result<Owner, RestoreError> {
    let path = Path::new("PG_VERSION");
    match data.extractor().open(path).map_err(at(data, path))? {
        Some(file) => {
            let file = file.metadata().map_err(at(data, path))?;
            Ok(Owner { user_id: file.uid(), group_id: file.gid() })
        }
        None => data.owner().map_err(RestoreError::disk(data.path())),
    }
}

fn create_missing(
    data: &ExtractRoot,
    extractor: &mut Extractor,
    path: &Path,
    attributes: &Attributes,
) -> Result<(), RestoreError> {
    match extractor.kind(path).map_err(at(data, path))? {
        Some(EntryKind::Directory) => Ok(()),
        Some(_) => Err(at(data, path)(io::ErrorKind::NotADirectory.into())),
        None => extractor.directory(path, attributes).map_err(at(data, path)),
    }
}

fn link(
    data: &ExtractRoot,
    extractor: &mut Extractor,
    tablespace: &PlannedTablespace,
    owner: Option<Owner>,
) -> Result<(), RestoreError> {
    let path = PathBuf::from(format!("pg_tblspc/{}", tablespace.oid));
    let linked = extractor.symbolic_link(&path, tablespace.location.as_os_str(), owner);
    linked.map_err(at(data, &path))
}

/// Without these PostgreSQL would start from the wrong place or not at all.
fn require(
    plan: &RestorePlan,
    data: &ExtractRoot,
    extractor: &mut Extractor,
    unfinished: Unfinished,
) -> Result<(), RestoreError> {
    let files = [
        ("backup_label", "backup_label"),
        (PG_CONTROL_WAITING, PG_CONTROL),
        ("PG_VERSION", "PG_VERSION"),
    ];
    for (path, file) in files {
        if extractor.exists(Path::new(path)).map_err(at(data, Path::new(path)))? {
            continue;
        }
        match unfinished {
            Unfinished::Refuse => {
                return Err(RestoreError::Incomplete { id: plan.id.clone(), file });
            }
            Unfinished::Restore => {
                tracing::warn!(file, "the backup has no such file, PostgreSQL may not start");
            }
        }
    }
    Ok(())
}

/// Barman stores the label as root's and readable for all.
fn take_label(data: &ExtractRoot, attributes: &Attributes) -> Result<(), RestoreError> {
    let path = Path::new("backup_label");
    let Some(label) = data.extractor().open(path).map_err(at(data, path))? else { return Ok(()) };
    crate::disk::apply(&label, &file_attributes(attributes)).map_err(at(data, path))
}

fn file_attributes(directory: &Attributes) -> Attributes {
    Attributes { mode: directory.mode & 0o640, ..*directory }
}

fn at<'a>(data: &'a ExtractRoot, path: &'a Path) -> impl FnOnce(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Disk { path: data.path().join(path), source }
}
