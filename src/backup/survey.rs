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
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
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
    File { path: PathBuf },
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
        visit(area, &directory, &|_| true, &mut |found| {
            match found {
                Found::Directory { path, empty } => {
                    survey.directories.push(path.clone());
                    if !empty {
                        waiting.push(path);
                    }
                }
                Found::File { path } => match bytes_of(&area.root.join(&path))? {
                    None => {}
                    Some(bytes) if bytes >= BIG_FILE_BYTES => {
                        survey.big_files.push(BigFile { path, bytes });
                    }
                    Some(bytes) => {
                        small.files += 1;
                        small.bytes += bytes;
                    }
                },
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

/// Calls `each` with everything in one directory of an area that belongs into the backup and
/// has a name that is `wanted`; nothing else is asked of the disk for other names.
/// A directory that has vanished has nothing in it.
pub fn visit(
    area: &Area,
    directory: &Path,
    wanted: &dyn Fn(&OsStr) -> bool,
    each: &mut dyn FnMut(Found) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let absolute = area.root.join(directory);
    let entries = entries(&absolute)?;
    let root = match area.target {
        TarballTarget::Data => Root::DataDirectory,
        TarballTarget::Tablespace(_) => Root::Tablespace,
    };
    let filter =
        area.filter.directory(root, directory, entries.iter().map(|(name, _)| name.as_os_str()));
    for (name, kind) in entries.iter().filter(|(name, _)| wanted(name)) {
        if directory.as_os_str().is_empty() && area.replaced.contains(name) {
            continue;
        }
        let emptied = match filter.decide(name) {
            // `pg_control` has its own place at the end of the story.
            Inclusion::Skip | Inclusion::Last => continue,
            Inclusion::SkipContents => true,
            Inclusion::Include => false,
        };
        if let Some(found) = look(area, directory.join(name), *kind, emptied)? {
            each(found)?;
        }
    }
    Ok(())
}

/// What lies at `path`; `None` for what is gone again.
fn look(
    area: &Area,
    path: PathBuf,
    kind: FileType,
    emptied: bool,
) -> Result<Option<Found>, BackupError> {
    if kind.is_dir() {
        return Ok(Some(Found::Directory { path, empty: emptied }));
    }
    if kind.is_file() {
        return Ok((!emptied).then_some(Found::File { path }));
    }
    if !kind.is_symlink() {
        // Sockets and the like; nobody misses them on another machine.
        return Ok(Some(Found::Left { path, kind: "special file" }));
    }
    // A link to a file (a certificate, a configuration file) gives the file's content, so that
    // the restored cluster stands alone; `pg_wal` and the like become empty directories.
    match present(fs::metadata(area.root.join(&path))) {
        Ok(Some(target)) if target.is_file() && !emptied => Ok(Some(Found::File { path })),
        Ok(Some(target)) if target.is_dir() && emptied => {
            Ok(Some(Found::Directory { path, empty: true }))
        }
        _ => Ok(Some(Found::Left { path, kind: "symbolic link" })),
    }
}

/// The names in a directory and what they are, which most file systems keep beside the name: no
/// file is touched for it.
fn entries(absolute: &Path) -> Result<Vec<(OsString, FileType)>, BackupError> {
    let failed = |error| disk_error("read directory", absolute, error);
    let mut found = Vec::new();
    for entry in present(fs::read_dir(absolute)).map_err(failed)?.into_iter().flatten() {
        let entry = entry.map_err(failed)?;
        if let Some(kind) = present(entry.file_type()).map_err(failed)? {
            found.push((entry.file_name(), kind));
        }
    }
    Ok(found)
}

/// The size of a file; `None` for one that is gone again.
fn bytes_of(absolute: &Path) -> Result<Option<u64>, BackupError> {
    present(fs::metadata(absolute))
        .map(|metadata| metadata.map(|metadata| metadata.len()))
        .map_err(|error| disk_error("read file information of", absolute, error))
}

/// Absence while a cluster runs is a value: files come and go.
pub fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
