//! Mounting a device as another machine had it mounted, without an external program.

use rustix::mount::{MountFlags, UnmountFlags, mount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// File systems by their magic numbers: offset, bytes, names as the kernel calls them.
/// Source: Linux, include/uapi/linux/magic.h; fs/xfs/libxfs/xfs_format.h; fs/btrfs.
const MAGIC: &[(u64, &[u8], &[&str])] = &[
    (0, b"XFSB", &["xfs"]),
    (1024 + 56, &[0x53, 0xEF], &["ext4", "ext3", "ext2"]),
    (0x10040, b"_BHRfS_M", &["btrfs"]),
];

/// What the kernel shows but does not take, because it follows from the machine's own setting.
const NOT_TAKEN: &[&str] = &["seclabel"];

/// Mounts `device` at `point` with options as `findmnt` prints them. The directory is created
/// if it is missing. Needs root.
pub fn mount_device(device: &Path, point: &Path, options: &str) -> io::Result<()> {
    fs::create_dir_all(point)?;
    let (flags, data) = split_options(options);
    let data = CString::new(data).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut failure = io::Error::from(io::ErrorKind::Unsupported);
    for file_system in file_systems(device)? {
        match mount(device, point, file_system.as_str(), flags, data.as_c_str()) {
            Ok(()) => return Ok(()),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Unmounts what was mounted at `point`.
pub fn unmount(point: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(point, UnmountFlags::empty())?)
}

/// The candidates for what is on the device: by its magic number, else all that need a device.
fn file_systems(device: &Path) -> io::Result<Vec<String>> {
    let file = File::open(device)?;
    for (offset, magic, names) in MAGIC {
        let mut found = vec![0; magic.len()];
        if file.read_exact_at(&mut found, *offset).is_ok() && found == *magic {
            return Ok(names.iter().map(ToString::to_string).collect());
        }
    }
    let known = fs::read_to_string("/proc/filesystems")?;
    Ok(known.lines().filter(|line| line.starts_with('\t')).map(|l| l.trim().into()).collect())
}

/// The kernel takes the options of every file system as flags, those of one kind as a text.
fn split_options(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',') {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "" | "rw" | "_netdev" => {}
            option if option.starts_with("x-") || option.starts_with("X-") => {}
            option if NOT_TAKEN.contains(&option) => {}
            option => data.push(option),
        }
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use crate::disk::mounting::{file_systems, split_options};
    use rustix::mount::MountFlags;

    #[test]
    fn options_are_split_into_flags_and_the_file_systems_own() {
        let (flags, data) =
            split_options("rw,noatime,nosuid,seclabel,attr2,logbsize=32k,_netdev,x-a.b");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NOSUID);
        assert_eq!(data, "attr2,logbsize=32k");
        assert_eq!(split_options("rw").1, "");
        assert_eq!(split_options("ro").0, MountFlags::RDONLY);
    }

    #[test]
    fn a_file_system_is_known_by_its_magic_number() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("device");
        let mut content = vec![0; 4096];
        content[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        std::fs::write(&path, &content).expect("write");
        assert_eq!(file_systems(&path).expect("ext"), ["ext4", "ext3", "ext2"]);
        content[..4].copy_from_slice(b"XFSB");
        std::fs::write(&path, &content).expect("write");
        assert_eq!(file_systems(&path).expect("xfs"), ["xfs"]);
    }
}
