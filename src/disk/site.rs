//! Where a directory is or shall be, found without following a symbolic link.
//!
//! A path is walked from the root of the file system, one directory at a time: whoever may
//! change one of its parts cannot send a command of root's elsewhere between look and use.

use crate::disk::{ExtractRoot, Owner};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// A directory that is there, or the nearest one above it; held open.
#[derive(Debug)]
pub struct Site {
    nearest: OwnedFd,
    /// What is not there yet, outermost first.
    missing: Vec<OsString>,
    path: PathBuf,
}

impl Site {
    /// `path` must be absolute and lead through no link: a link in it is "not a directory".
    pub fn find(path: &Path) -> io::Result<Self> {
        let mut components = path.components();
        if components.next() != Some(Component::RootDir) {
            return Err(refused(path));
        }
        let mut nearest = rustix::fs::openat(CWD, "/", step(), Mode::empty())?;
        let mut missing = Vec::new();
        for component in components {
            let Component::Normal(name) = component else { return Err(refused(path)) };
            if missing.is_empty() {
                match rustix::fs::openat(&nearest, name, step(), Mode::empty()) {
                    Ok(next) => {
                        nearest = next;
                        continue;
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            missing.push(name.to_os_string());
        }
        Ok(Self { nearest, missing, path: path.into() })
    }

    pub fn is_there(&self) -> bool {
        self.missing.is_empty()
    }

    /// Of the directory itself, or of the nearest one above it that is there.
    pub fn owner(&self) -> io::Result<Owner> {
        let stat = rustix::fs::fstat(&self.nearest)?;
        Ok(Owner { user_id: stat.st_uid, group_id: stat.st_gid })
    }

    /// Opens the directory, creating what is missing: itself private, whatever the umask, and
    /// its parents as everybody else would make them. Fails when it appeared meanwhile.
    pub fn open(mut self) -> io::Result<ExtractRoot> {
        if let Some(own) = self.missing.pop() {
            for name in &self.missing {
                match rustix::fs::mkdirat(&self.nearest, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                self.nearest = rustix::fs::openat(&self.nearest, name, step(), Mode::empty())?;
            }
            rustix::fs::mkdirat(&self.nearest, &own, Mode::RWXU)?;
            self.nearest = rustix::fs::openat(&self.nearest, &own, step(), Mode::empty())?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.nearest, ".", flags, Mode::empty())?;
        Ok(ExtractRoot::new(directory, self.path))
    }
}

/// Enough to go on from: a directory on the way need not be readable.
fn step() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn refused(path: &Path) -> io::Error {
    let reason = format!("\"{}\" is not an absolute path of plain names", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use crate::disk::Site;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    #[test]
    fn missing_directories_are_made_and_the_last_one_is_private() {
        let folder = tempfile::tempdir().expect("temp");
        let real = folder.path().canonicalize().expect("real");
        let site = Site::find(&real.join("a/b/c")).expect("found");
        assert!(!site.is_there());
        let owner = fs::metadata(&real).expect("metadata").uid();
        assert_eq!(site.owner().expect("owner").user_id, owner);
        let root = site.open().expect("made");
        assert_eq!(root.path(), real.join("a/b/c"));
        let mode = fs::metadata(real.join("a/b/c")).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(Site::find(&real.join("a/b/c")).expect("found").is_there());
    }

    #[test]
    fn a_link_on_the_way_or_at_the_end_is_refused() {
        let folder = tempfile::tempdir().expect("temp");
        let real = folder.path().canonicalize().expect("real");
        fs::create_dir(real.join("there")).expect("mkdir");
        symlink(real.join("there"), real.join("link")).expect("link");
        for path in ["link", "link/below", "there/../link"] {
            assert!(Site::find(&real.join(path)).is_err(), "{path}");
        }
        assert!(Site::find(Path::new("relative")).is_err());
        assert_eq!(fs::read_dir(real.join("there")).expect("list").count(), 0);
    }

    #[test]
    fn a_directory_that_appeared_meanwhile_is_not_taken() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().canonicalize().expect("real").join("new");
        let site = Site::find(&path).expect("found");
        fs::create_dir(&path).expect("mkdir");
        let taken = site.open().expect_err("somebody else's");
        assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
    }
}
