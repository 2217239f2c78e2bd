//! Temporary files whose writers were killed: who may remove which.
//!
//! A writer holds a lock on its temporary file as long as it lives, whatever container it is in; so
//! a file that can be locked has no writer any more. Only names of ours for the very same
//! destination are looked at, and only files of this user.

use crate::disk::durable::directory_of;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Takes the lock that says "in use"; `false` when somebody was faster and removed the file. On
/// file systems without locks nothing is ever taken for a leftover, and all is well.
pub fn is_claimed(file: &File) -> bool {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => false,
        _ => file.metadata().is_ok_and(|metadata| metadata.nlink() > 0),
    }
}

/// Removes temporary files for `destination` that nobody writes any more. What cannot be looked
/// at stays.
pub fn remove_leftovers(destination: &Path) {
    let Some(name) = destination.file_name().and_then(|name| name.to_str()) else { return };
    let Ok(listing) = fs::read_dir(directory_of(destination)) else { return };
    for entry in listing.flatten() {
        let found = entry.file_name();
        if found.to_str().is_some_and(|found| is_temporary_of(found, name)) {
            remove_if_left(&entry.path());
        }
    }
}

/// Whether `found` is `.NAME.<pid>.<16 hex>.tmp`.
fn is_temporary_of(found: &str, name: &str) -> bool {
    let parts = || {
        let rest = found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?;
        rest.strip_suffix(".tmp")?.split_once('.')
    };
    parts().is_some_and(|(pid, random)| {
        !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && random.len() == 16
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn remove_if_left(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open(path, flags, Mode::empty()).map(File::from) else { return };
    let ours = file.metadata().is_ok_and(|metadata| {
        metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw()
    });
    let abandoned = ours && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // Published meanwhile, the name is gone; nobody makes the same one again.
    if abandoned && fs::remove_file(path).is_ok() {
        tracing::debug!(file = %path.display(), "removed what a killed process left");
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::DurableFile;
    use crate::disk::leftovers::{is_temporary_of, remove_leftovers};
    use std::fs;
    use std::os::unix::fs::symlink;

    const NAME: &str = "RECOVERYXLOG";
    const LEFT: &str = ".RECOVERYXLOG.4711.0123456789abcdef.tmp";

    #[test]
    fn only_names_of_ours_for_the_same_destination_are_temporary() {
        assert!(is_temporary_of(LEFT, NAME));
        for other in [
            "RECOVERYXLOG",
            ".RECOVERYXLOG.tmp",
            ".RECOVERYXLOG.x.0123456789abcdef.tmp",
            ".RECOVERYXLOG..0123456789abcdef.tmp",
            ".RECOVERYXLOG.4711.0123456789abcde.tmp",
            ".RECOVERYXLOG.4711.0123456789abcdeg.tmp",
            ".RECOVERYXLOG.4711.0123456789abcdef",
            "RECOVERYXLOG.4711.0123456789abcdef.tmp",
            ".RECOVERYHISTORY.4711.0123456789abcdef.tmp",
        ] {
            assert!(!is_temporary_of(other, NAME), "{other}");
        }
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().expect("directory");
        let path = |name: &str| directory.path().join(name);
        let foreign = ["000000010000000000000001", ".RECOVERYXLOG.tmp", "notes.txt"];
        for name in foreign.into_iter().chain([LEFT]) {
            fs::write(path(name), "x").expect("write");
        }
        let link = ".RECOVERYXLOG.4712.0123456789abcdef.tmp";
        symlink(path("notes.txt"), path(link)).expect("link");
        let folder = ".RECOVERYXLOG.4713.0123456789abcdef.tmp";
        fs::create_dir(path(folder)).expect("create");
        // One that is being written now, by this process or in another container.
        let living = DurableFile::create(&path(NAME)).expect("create");
        let before = fs::read_dir(directory.path()).expect("list").count();
        remove_leftovers(&path(NAME));
        assert!(!path(LEFT).exists());
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), before - 1);
        assert!(foreign.iter().all(|name| path(name).exists()));
        living.publish().expect("it was in use");
    }
}
