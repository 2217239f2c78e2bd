//! Volumes of a machine: memory file systems that look mounted from a cloud's disks.
//!
//! The source of such a mount is the link that the cloud's disk would have in `/dev/disk`, which
//! is how the commands find it where the kernel shows no such device.

use crate::support::outside;
use crate::support::scratch::{private_folder, scratch};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// One mounted volume; unmounted when dropped.
pub struct Volume {
    folder: TempDir,
    point: PathBuf,
}

impl Volume {
    /// `None` (after saying so) where mounting is not allowed.
    pub fn mount(source: &str) -> Option<Self> {
        let folder = scratch();
        let point = private_folder(folder.path(), "volume");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "rw,noatime,mode=0755", source])
            .arg(&point)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            outside::not_here("mounting a file system needs root and its capabilities");
            return None;
        }
        Some(Self { folder, point })
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Moves a folder here and leaves a link in its place.
    pub fn take(&self, folder: &Path) {
        let name = folder.file_name().expect("a name");
        let moved = self.point.join(name);
        let copied = Command::new("cp").arg("-a").args([folder, &moved]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp {}", folder.display());
        std::fs::remove_dir_all(folder).expect("the folder is there");
        std::os::unix::fs::symlink(moved, folder).expect("a link");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a server may still have files open, and the folder goes next.
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        let _ = &self.folder;
    }
}
