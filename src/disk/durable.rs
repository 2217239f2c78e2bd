//! Files that are either complete under their name or not there at all.
//!
//! ```text
//! .NAME.<pid>.<random>.tmp  → fsync → rename to NAME → fsync of the directory
//! (no name at all)          → fsync → link as NAME   → fsync of the directory
//! ```
//!
//! Crash points: before the rename only the temporary file is left behind, after it the name
//! holds the whole content. A writer that is dropped without publishing removes its file. Where
//! nobody would ever clean up, a file is made out of sight: without a name as long as the file
//! system can do that, and else under one that the next writer removes once its owner is gone,
//! which the lock on it tells.

use crate::disk::leftovers::{is_claimed, remove_leftovers};
use crate::disk::nameless::{name_it, nameless};
use crate::disk::{Attributes, DiskError, DiskOperation, apply};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many temporary names are tried before giving up.
const NAMES_MAX: u32 = 16;

/// A private file (mode 0600) on its way to its name.
#[derive(Debug)]
pub struct DurableFile {
    file: File,
    /// `None` for a file that has no name yet.
    temporary: Option<PathBuf>,
    destination: PathBuf,
}

impl DurableFile {
    /// Creates the temporary file beside `destination`, whose directory must exist.
    pub fn create(destination: &Path) -> Result<Self, DiskError> {
        for _ in 0..NAMES_MAX {
            let temporary = temporary_name(destination)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&temporary) {
                Ok(file) if is_claimed(&file) => {
                    let (temporary, destination) = (Some(temporary), destination.to_path_buf());
                    return Ok(Self { file, temporary, destination });
                }
                // Somebody took it for a leftover before it was locked.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DiskError::new(DiskOperation::Create, &temporary, error)),
            }
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(DiskError::new(DiskOperation::Create, destination, error))
    }

    /// Creates a file of which nothing is left when this process is killed or, where the file
    /// system has no files without names, nothing that the next call here would not remove.
    pub fn create_out_of_sight(destination: &Path) -> Result<Self, DiskError> {
        remove_leftovers(destination);
        match nameless(directory_of(destination)) {
            Some(file) => {
                Ok(Self { file, temporary: None, destination: destination.to_path_buf() })
            }
            None => Self::create(destination),
        }
    }

    /// Gives the file mode, owner and time before it gets its name.
    pub fn apply(&self, attributes: &Attributes) -> io::Result<()> {
        apply(&self.file, attributes)
    }

    /// Names the destination in an error of writing.
    pub fn write_error(&self, error: io::Error) -> DiskError {
        DiskError::new(DiskOperation::Write, &self.destination, error)
    }

    /// Makes what was written so far durable.
    pub fn sync(&self) -> Result<(), DiskError> {
        let synced = self.file.sync_all();
        let path = self.temporary.as_ref().unwrap_or(&self.destination);
        synced.map_err(|error| DiskError::new(DiskOperation::Sync, path, error))
    }

    /// Gives the file its name, replacing what was there; durable when this returns.
    pub fn publish(self) -> Result<(), DiskError> {
        self.sync()?;
        let destination = self.destination.clone();
        self.publish_unsynced(&destination)?;
        sync_directory_of(&destination)
    }

    /// Gives the file the name `destination` in the same directory; a crash of the machine may
    /// lose or damage it, so readers must check what they find.
    pub fn publish_unsynced(self, destination: &Path) -> Result<(), DiskError> {
        let named = match &self.temporary {
            // The drop that follows finds nothing under the temporary name.
            Some(temporary) => fs::rename(temporary, destination),
            None => name_it(&self.file, destination),
        };
        named.map_err(|error| DiskError::new(DiskOperation::Rename, destination, error))
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for DurableFile {
    fn drop(&mut self) {
        // Published files have left this name; nobody else can own it.
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Creates a directory and its missing parents, all private (0700). One that exists is left
/// as it is.
pub fn create_private_directory(path: &Path) -> Result<(), DiskError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| DiskError::new(DiskOperation::CreateDirectory, path, error))
}

/// Makes the entries of the directory that holds `path` durable.
pub fn sync_directory_of(path: &Path) -> Result<(), DiskError> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| DiskError::new(DiskOperation::Sync, directory, error))
}

/// A name in the directory of `path` that no other process uses: processes in different
/// containers may share a directory and a process id, so the id alone would not do.
pub(crate) fn temporary_name(path: &Path) -> Result<PathBuf, DiskError> {
    let Some(name) = path.file_name() else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it does not name a file");
        return Err(DiskError::new(DiskOperation::Create, path, error));
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    let random = RandomState::new().hash_one(std::process::id());
    temporary.push(format!(".{}.{random:016x}.tmp", std::process::id()));
    Ok(directory_of(path).join(temporary))
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::{DurableFile, create_private_directory};
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("directory");
        entries
            .map(|entry| entry.expect("entry").file_name().into_string().expect("utf-8"))
            .collect()
    }

    #[test]
    fn a_published_file_is_complete_private_and_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let destination = directory.path().join("0000000100000000000000FE.tmp");
        fs::write(&destination, "old").expect("write");
        let mut file = DurableFile::create(&destination).expect("create");
        file.write_all(b"new content").expect("write");
        assert_eq!(fs::read(&destination).expect("read"), b"old");
        file.publish().expect("publish");
        assert_eq!(fs::read(&destination).expect("read"), b"new content");
        let mode = fs::metadata(&destination).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["0000000100000000000000FE.tmp"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let mut file = DurableFile::create(&directory.path().join("x")).expect("create");
        file.write_all(b"half").expect("write");
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_file_out_of_sight_replaces_what_was_there_and_leaves_nothing_when_dropped() {
        let directory = tempfile::tempdir().expect("directory");
        let destination = directory.path().join("RECOVERYXLOG");
        for content in ["first", "second"] {
            let mut file = DurableFile::create_out_of_sight(&destination).expect("create");
            file.write_all(content.as_bytes()).expect("write");
            file.publish().expect("publish");
            assert_eq!(fs::read_to_string(&destination).expect("read"), content);
        }
        let mut file = DurableFile::create_out_of_sight(&destination).expect("create");
        file.write_all(b"half").expect("write");
        drop(file);
        assert_eq!(names(directory.path()), ["RECOVERYXLOG"]);
    }

    #[test]
    fn a_destination_in_a_missing_directory_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("directory");
        let error = DurableFile::create(&directory.path().join("missing/x")).expect_err("missing");
        assert!(error.to_string().contains("/missing/.x."), "{error}");
        assert!(DurableFile::create(Path::new("/")).is_err());
    }

    #[test]
    fn private_directories_are_for_their_owner_only() {
        let directory = tempfile::tempdir().expect("directory");
        let deep = directory.path().join("a/b");
        create_private_directory(&deep).expect("create");
        create_private_directory(&deep).expect("exists");
        for path in [deep.as_path(), deep.parent().expect("parent")] {
            let mode = fs::metadata(path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
