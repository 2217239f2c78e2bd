//! Looking over a data directory and its tablespaces before a backup: what is there, how big.
//!
//! Nothing is kept per small file, so memory grows with the number of directories and of big
//! files only; the names of one directory at a time are held while it is read. Files that
//! vanish meanwhile are left out, as `pg_basebackup` does.

use crate::backup::plan::{AreaSurvey, BIG_FILE_BYTES, BigFile, SmallFiles};
use crate::backup::tally::Tally;
use crate::backup::{BackupError, disk_error};
use crate::catalog::TarballTarget;
use crate::flow::Cancel;
use crate::pgdata::{FileFilter, Inclusion, Root};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One directory tree that becomes tarballs of its own.
#[derive(Clone, Debug)]
pub struct Area {
    pub target: TarballTarget,
    /// Where it lies now.
    pub root: PathBuf,
    /// What the manifest puts before its paths: empty, or `pg_tblspc/16384`.
    pub manifest_prefix: PathBuf,
    pub filter: FileFilter,
    /// Names at the root that other files of the backup replace: configuration files from
    /// outside the data directory are stored under their base names.
    pub replaced: Vec<OsString>,
}

/// One name in a directory that belongs into the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A directory; its content is taken too unless `empty`.
    Directory { path: PathBuf, empty: bool },
    /// A regular file, or a symlink to one: its content is taken either way.
    File { path: PathBuf, bytes: u64 },
    /// What a tarball cannot hold in a way that another machine could use.
    Left { path: PathBuf, kind: &'static str },
}

/// Looks over one area; what is left out is told to `tally`.
pub fn survey(area: &Area, tally: &Tally, cancel: &Cancel) -> Result<AreaSurvey, BackupError> {
    let mut survey = AreaSurvey {
        target: area.target,
        directories: Vec::new(),
        big_files: Vec::new(),
        small_files: Vec::new(),
    };
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        cancel.check().map_err(|_| BackupError::Cancelled)?;
        let mut small = SmallFiles { directory: directory.clone(), files: 0, bytes: 0 };
        visit(area, &directory, &mut |found| {
            match found {
                Found::Directory { path, empty } => {
                    survey.directories.push(path.clone());
                    if !empty {
                        waiting.push(path);
                    }
                }
                Found::File { path, bytes } if bytes >= BIG_FILE_BYTES => {
                    survey.big_files.push(BigFile { path, bytes });
                }
                Found::File { bytes, .. } => {
                    small.files += 1;
                    small.bytes += bytes;
                }
                Found::Left { path, kind } => {
                    let path = area.root.join(path);
                    tracing::warn!(path = %path.display(), kind, "left a file out");
                    tally.note(format!("left out {kind} \"{}\"", path.display()));
                }
            }
            Ok(())
        })?;
        survey.small_files.push(small);
    }
    survey.directories.sort();
    Ok(survey)
}

/// Calls `each` with everything in one directory of an area that belongs into the backup.
/// A directory that has vanished has nothing in it.
pub fn visit(
    area: &Area,
    directory: &Path,
    each: &mut dyn FnMut(Found) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let absolute = area.root.join(directory);
    let names = names(&absolute)?;
    let root = match area.target {
        TarballTarget::Data => Root::DataDirectory,
        TarballTarget::Tablespace(_) => Root::Tablespace,
    };
    let filter = area.filter.directory(root, directory, names.iter().map(OsString::as_os_str));
    for name in &names {
        if directory.as_os_str().is_empty() && area.replaced.contains(name) {
            continue;
        }
        let emptied = match filter.decide(name) {
            // `pg_control` has its own place at the end of the story.
            Inclusion::Skip | Inclusion::Last => continue,
            Inclusion::SkipContents => true,
            Inclusion::Include => false,
        };
        if let Some(found) = look(area, directory.join(name), emptied)? {
            each(found)?;
        }
    }
    Ok(())
}

/// What lies at `path`; `None` for what is gone again.
fn look(area: &Area, path: PathBuf, emptied: bool) -> Result<Option<Found>, BackupError> {
    let absolute = area.root.join(&path);
    let Some(own) = present(fs::symlink_metadata(&absolute))
        .map_err(|error| disk_error("read file information of", &absolute, error))?
    else {
        return Ok(None);
    };
    if own.is_dir() {
        return Ok(Some(Found::Directory { path, empty: emptied }));
    }
    if own.is_file() {
        return Ok((!emptied).then_some(Found::File { path, bytes: own.len() }));
    }
    if !own.is_symlink() {
        // Sockets and the like; nobody misses them on another machine.
        return Ok(Some(Found::Left { path, kind: "special file" }));
    }
    // A link to a file (a certificate, a configuration file) gives the file's content, so that
    // the restored cluster stands alone; `pg_wal` and the like become empty directories.
    match present(fs::metadata(&absolute)) {
        Ok(Some(target)) if target.is_file() && !emptied => {
            Ok(Some(Found::File { path, bytes: target.len() }))
        }
        Ok(Some(target)) if target.is_dir() && emptied => {
            Ok(Some(Found::Directory { path, empty: true }))
        }
        _ => Ok(Some(Found::Left { path, kind: "symbolic link" })),
    }
}

fn names(absolute: &Path) -> Result<Vec<OsString>, BackupError> {
    let failed = |error| disk_error("read directory", absolute, error);
    let entries = present(fs::read_dir(absolute)).map_err(failed)?;
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.map(|entry| entry.file_name()).map_err(failed))
        .collect()
}

/// Absence while a cluster runs is a value: files come and go.
pub fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
