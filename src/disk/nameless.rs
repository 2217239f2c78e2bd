//! Files that have no name until they are complete: a process that is killed leaves none.
//!
//! Source: `O_TMPFILE` in open(2), and `AT_SYMLINK_FOLLOW` in linkat(2). ext4, XFS, Btrfs and tmpfs
//! have such files; NFS and others have not.

use crate::disk::durable::temporary_name;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Where the kernel shows a process its open files: the way to give one a name.
const OPEN_FILES: &str = "/proc/self/fd";

/// A private file (mode 0600) in `directory`; `None` where there can be none.
pub fn nameless(directory: &Path) -> Option<File> {
    if !Path::new(OPEN_FILES).is_dir() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    open(directory, flags, Mode::RUSR | Mode::WUSR).ok().map(File::from)
}

/// Gives a nameless file its name, replacing what was there.
pub fn name_it(file: &File, destination: &Path) -> io::Result<()> {
    match link(file, destination) {
        Err(Errno::EXIST) => {}
        linked => return linked.map_err(Into::into),
    }
    // A link never replaces. Killed between these two lines, a whole file is left beside the
    // destination, which the next writer removes.
    let temporary = temporary_name(destination).map_err(|error| error.cause)?;
    link(file, &temporary)?;
    let renamed = fs::rename(&temporary, destination);
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

fn link(file: &File, path: &Path) -> Result<(), Errno> {
    let open_file = format!("{OPEN_FILES}/{}", file.as_raw_fd());
    linkat(CWD, open_file.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)
}

#[cfg(test)]
mod tests {
    use crate::disk::nameless::{name_it, nameless};
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_nameless_file_is_seen_when_it_is_named_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().expect("directory");
        let destination = directory.path().join("RECOVERYXLOG");
        for content in ["first", "second"] {
            let Some(mut file) = nameless(directory.path()) else { return };
            file.write_all(content.as_bytes()).expect("write");
            let seen = fs::read_dir(directory.path()).expect("list").count();
            assert_eq!(seen, usize::from(content == "second"));
            name_it(&file, &destination).expect("named");
            assert_eq!(fs::read_to_string(&destination).expect("read"), content);
            let mode = fs::metadata(&destination).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }
}
