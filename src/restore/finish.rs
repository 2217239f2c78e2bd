//! The last steps: links, empty directories, the manifest, and at the very end the control file.
//!
//! Crash points: until the control file has its name, PostgreSQL refuses the directory and a
//! second run goes on; between that and the removal of the journal the directory is complete,
//! and a second run only removes the journal.

use crate::disk::{Attributes, ExtractRoot, Extractor, Owner};
use crate::restore::apply::sync;
use crate::restore::extract::{PG_CONTROL, PG_CONTROL_WAITING, Targets, apply_to_root};
use crate::restore::journal::Journal;
use crate::restore::{PlannedTablespace, RestoreError, RestorePlan, Unfinished};
use bytes::Bytes;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// Completes and starts off the restored directory. Blocks until everything is durable.
pub fn finish(
    plan: &RestorePlan,
    targets: &Targets,
    journal: Journal,
    manifest: Option<&[Bytes]>,
    unfinished: Unfinished,
) -> Result<(), RestoreError> {
    let data = &targets.data;
    let attributes = normalise_roots(targets)?;
    let mut extractor = data.extractor();
    let wal = [plan.wal_directory.to_string(), format!("{}/archive_status", plan.wal_directory)];
    let directories = DIRECTORIES.into_iter().chain(wal.iter().map(String::as_str));
    for directory in directories.map(Path::new) {
        create_missing(data, &mut extractor, directory, &attributes)?;
    }
    for tablespace in &plan.tablespaces {
        link(data, &mut extractor, tablespace, attributes.owner)?;
    }
    if let Some(manifest) = manifest {
        write(data, &mut extractor, Path::new("backup_manifest"), manifest, &attributes)?;
    }
    require(plan, data, &mut extractor, unfinished)?;
    take_label(data, &attributes)?;
    sync(targets)?;
    // With all of it noted, a run that finds the control file in place knows what it sees.
    journal.with_all_finished(plan).write(data)?;
    let (waiting, control) = (Path::new(PG_CONTROL_WAITING), Path::new(PG_CONTROL));
    let renamed = match extractor.exists(waiting).map_err(at(data, control))? {
        true => extractor.rename(waiting, control),
        // A backup that was never completed has none; it was asked for all the same.
        false => Ok(()),
    };
    renamed.map_err(at(data, control))?;
    Journal::remove(data)
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
    match data.path().join("PG_VERSION").symlink_metadata() {
        Ok(file) => Ok(Owner { user_id: file.uid(), group_id: file.gid() }),
        Err(_) => data.owner().map_err(RestoreError::disk(data.path())),
    }
}

fn create_missing(
    data: &ExtractRoot,
    extractor: &mut Extractor,
    path: &Path,
    attributes: &Attributes,
) -> Result<(), RestoreError> {
    match data.path().join(path).symlink_metadata() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            extractor.directory(path, attributes).map_err(at(data, path))
        }
        Err(error) => Err(at(data, path)(error)),
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

fn write(
    data: &ExtractRoot,
    extractor: &mut Extractor,
    path: &Path,
    content: &[Bytes],
    attributes: &Attributes,
) -> Result<(), RestoreError> {
    let mut write = || -> io::Result<()> {
        let mut file = extractor.file(path, attributes.owner)?;
        for part in content {
            file.write_all(part)?;
        }
        crate::disk::apply(&file, &file_attributes(attributes))
    };
    write().map_err(at(data, path))
}

/// Without these PostgreSQL would start from the wrong place or not at all.
fn require(
    plan: &RestorePlan,
    data: &ExtractRoot,
    extractor: &mut Extractor,
    unfinished: Unfinished,
) -> Result<(), RestoreError> {
    for (path, file) in [("backup_label", "backup_label"), (PG_CONTROL_WAITING, PG_CONTROL)] {
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
    let path = data.path().join("backup_label");
    match std::fs::File::open(&path) {
        Ok(file) => crate::disk::apply(&file, &file_attributes(attributes))
            .map_err(RestoreError::disk(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RestoreError::Disk { path, source: error }),
    }
}

fn file_attributes(directory: &Attributes) -> Attributes {
    Attributes { mode: directory.mode & 0o640, ..*directory }
}

fn at<'a>(data: &'a ExtractRoot, path: &'a Path) -> impl FnOnce(io::Error) -> RestoreError + 'a {
    move |source| RestoreError::Disk { path: data.path().join(path), source }
}
