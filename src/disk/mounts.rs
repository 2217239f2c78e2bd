//! What is mounted where, and from which device: `/proc/self/mountinfo` and `/sys`.
//!
//! Options are put together exactly as `findmnt -o OPTIONS` prints them, because Barman records
//! that text with a backup of snapshots and compares it literally at recovery.
//! Source: proc(5), "mountinfo"; util-linux libmount `merge_optstr` and `mnt_fs_strdup_options`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The folder above `/dev`, `/proc`, `/run` and `/sys`.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub point: PathBuf,
    /// As `findmnt -n -o OPTIONS` prints them.
    pub options: String,
    /// `/` unless only a part of the file system is mounted here.
    part: PathBuf,
    source: PathBuf,
    device: String,
}

impl Machine {
    pub fn this() -> Self {
        Self::below("/")
    }

    /// A machine whose system folders lie below `root`, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The block device that has the serial number, or that one of `paths` leads to, as
    /// `/dev/<name>`. A serial number cannot be confused, so it goes first.
    pub fn device(&self, paths: &[PathBuf], serial: Option<&str>) -> io::Result<Option<PathBuf>> {
        if let Some(serial) = serial
            && let Some(name) = self.device_with_serial(serial)?
        {
            return Ok(Some(Path::new("/dev").join(name)));
        }
        Ok(paths.iter().find_map(|path| self.device_at(path)))
    }

    /// Where that device's file system is mounted; the first mount of the whole of it.
    pub fn mount_of(&self, paths: &[PathBuf], serial: Option<&str>) -> io::Result<Option<Mount>> {
        let device = self.device(paths, serial)?;
        let number = device.as_deref().and_then(|device| self.number_of(device));
        let mounts = self.mounts()?;
        let is_ours = |mount: &&Mount| {
            number.as_ref().is_some_and(|number| *number == mount.device)
                || device.as_ref().is_some_and(|device| *device == mount.source)
                // A device that is not shown here but was mounted by this very path.
                || device.is_none() && paths.contains(&mount.source)
        };
        let mut found: Vec<&Mount> = mounts.iter().filter(is_ours).collect();
        found.sort_by_key(|mount| mount.part != Path::new("/"));
        Ok(found.first().map(|mount| (*mount).clone()))
    }

    /// Everything that is mounted, in the kernel's order.
    pub fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = fs::read(self.inside("/proc/self/mountinfo"))?;
        let users = fs::read(self.inside("/run/mount/utab")).unwrap_or_default();
        let lines = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        };
        let users = lines(&users);
        Ok(lines(&text).iter().filter_map(|line| parse(line, &users)).collect())
    }

    fn device_with_serial(&self, serial: &str) -> io::Result<Option<OsString>> {
        let folder = match fs::read_dir(self.inside("/sys/block")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        for entry in folder.flatten() {
            let found = fs::read_to_string(entry.path().join("device/serial")).unwrap_or_default();
            if found.trim().replace('-', "") == serial {
                return Ok(Some(entry.file_name()));
            }
        }
        Ok(None)
    }

    /// Follows links below the machine's root: `/dev/disk/…` leads to the kernel's name.
    fn device_at(&self, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(self.inside(path)).ok()?;
        let name = real.file_name()?;
        let device = Path::new("/dev").join(name);
        self.number_of(&device).map(|_| device)
    }

    /// `major:minor` of a block device; `None` for what is none.
    fn number_of(&self, device: &Path) -> Option<String> {
        let name = device.file_name()?;
        let file = self.inside("/sys/class/block").join(name).join("dev");
        fs::read_to_string(file).ok().map(|text| text.trim().to_string())
    }

    fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// `36 35 98:0 /part /point rw,noatime shared:1 - ext4 /dev/sdf rw,errors=continue`
fn parse(line: &[u8], users: &[Vec<u8>]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let end = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let (number, part, point) = (fields.get(2)?, fields.get(3)?, fields.get(4)?);
    let point = path(point);
    let mut options = merged(&text(fields.get(5)?), &text(fields.get(end + 3)?));
    if let Some(more) = user_options(&point, users) {
        options = format!("{options},{more}");
    }
    Some(Mount {
        options,
        part: path(part),
        source: path(fields.get(end + 2)?),
        device: text(number),
        point,
    })
}

/// The mount's and the file system's options as one text: `ro` or `rw` first, the rest in order.
fn merged(mount: &str, file_system: &str) -> String {
    if mount == file_system || file_system.is_empty() {
        return mount.into();
    }
    let all: Vec<&str> = mount.split(',').chain(file_system.split(',')).collect();
    let mode = if all.contains(&"ro") { "ro" } else { "rw" };
    let rest = all.into_iter().filter(|option| !["ro", "rw", ""].contains(option));
    std::iter::once(mode).chain(rest).collect::<Vec<_>>().join(",")
}

/// What `mount` was told and the kernel does not know, `_netdev` and `x-…`: util-linux keeps it
/// in `/run/mount/utab`, one mount a line: `SRC=… TARGET=… ROOT=… OPTS=…`.
fn user_options(point: &Path, users: &[Vec<u8>]) -> Option<String> {
    users.iter().find_map(|line| {
        let field = |name: &[u8]| {
            line.split(|byte| *byte == b' ').find_map(|field| field.strip_prefix(name))
        };
        let target = field(b"TARGET=")?;
        let options = field(b"OPTS=").filter(|options| !options.is_empty())?;
        (path(target) == point).then(|| String::from_utf8_lossy(&unescaped(options)).into_owned())
    })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescaped(field)).into()
}

/// The kernel writes blanks, tabs, line ends and backslashes as `\ooo`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::disk::mounts::{Machine, Mount, merged, parse, user_options};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    const MOUNTINFO: &str = "\
25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro\n\
40 25 259:3 /sub /srv/bind rw - xfs /dev/nvme1n1 rw,attr2\n\
41 25 259:3 / /var/lib/postgresql rw,noatime shared:9 - xfs /dev/nvme1n1 rw,attr2,inode64\n\
42 25 8:32 / /srv/a\\040b ro,noatime - ext4 /dev/sdc rw\n\
43 25 0:40 / /mnt/ram rw,noatime - tmpfs /dev/sdz rw,size=20480k\n";

    fn machine() -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            fs::write(path, text).expect("write");
        };
        write("proc/self/mountinfo", MOUNTINFO);
        write("sys/block/nvme1n1/device/serial", "vol0a1b2c           \n");
        write("sys/block/nvme0n1/device/serial", "vol0ffff\n");
        write("sys/class/block/nvme1n1/dev", "259:3\n");
        write("sys/class/block/sdc/dev", "8:32\n");
        write("dev/sdc", "");
        write("dev/nvme1n1", "");
        fs::create_dir_all(folder.path().join("dev/disk/azure/scsi1")).expect("folder");
        symlink("../../../sdc", folder.path().join("dev/disk/azure/scsi1/lun0")).expect("link");
        let machine = Machine::below(folder.path());
        (folder, machine)
    }

    fn mount_of(paths: &[&str], serial: Option<&str>) -> Option<(PathBuf, String)> {
        let (_folder, machine) = machine();
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let mount = machine.mount_of(&paths, serial).expect("mounts")?;
        Some((mount.point, mount.options))
    }

    #[test]
    fn an_nvme_device_is_found_by_its_serial_and_mounted_as_a_whole() {
        let found = mount_of(&["/dev/sdf"], Some("vol0a1b2c")).expect("mounted");
        assert_eq!(found.0, Path::new("/var/lib/postgresql"));
        assert_eq!(found.1, "rw,noatime,attr2,inode64");
        assert_eq!(mount_of(&["/dev/sdf"], Some("vol0ffff")), None, "not mounted");
    }

    #[test]
    fn links_below_dev_and_plain_names_lead_to_the_mount() {
        let lun = mount_of(&["/dev/disk/azure/scsi1/lun0"], None).expect("mounted");
        assert_eq!((lun.0.as_path(), lun.1.as_str()), (Path::new("/srv/a b"), "ro,noatime"));
        assert_eq!(mount_of(&["/dev/none", "/dev/sdc"], Some("no")).expect("mounted"), lun);
        let by_source = mount_of(&["/dev/sdz"], None).expect("mounted");
        assert_eq!(by_source.1, "rw,noatime,size=20480k");
        assert_eq!(mount_of(&["/dev/sdq"], None), None);
    }

    #[test]
    fn options_are_merged_as_findmnt_prints_them() {
        for (mount, file_system, expected) in [
            ("rw,relatime", "rw", "rw,relatime"),
            ("rw,relatime", "rw,size=1k", "rw,relatime,size=1k"),
            ("ro,relatime", "rw,a", "ro,relatime,a"),
            ("rw", "ro", "ro"),
            ("rw", "rw", "rw"),
        ] {
            assert_eq!(merged(mount, file_system), expected, "{mount} {file_system}");
        }
        let utab = vec![
            b"SRC=/dev/sdb TARGET=/x ROOT=/ OPTS=user".to_vec(),
            b"SRC=/dev/sdc TARGET=/srv/a\\040b ROOT=/ OPTS=_netdev,x-a.b".to_vec(),
        ];
        let options = user_options(Path::new("/srv/a b"), &utab);
        assert_eq!(options.as_deref(), Some("_netdev,x-a.b"));
        assert_eq!(parse(b"no mount", &[]), None::<Mount>);
    }

    /// The promise that matters: what the machine's own `findmnt` says.
    #[test]
    fn the_options_of_every_mount_here_are_those_of_findmnt() {
        let Ok(output) = std::process::Command::new("findmnt")
            .args(["--list", "--noheadings", "--raw", "-o", "TARGET,OPTIONS"])
            .output()
        else {
            return;
        };
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        for mount in Machine::this().mounts().expect("mounts") {
            // Raw output escapes blanks, and other tests may mount meanwhile.
            let Some(point) = mount.point.to_str().filter(|point| !point.contains(' ')) else {
                continue;
            };
            let lines: Vec<&str> = told
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(target, _)| *target == point)
                .map(|(_, options)| options)
                .collect();
            if !lines.is_empty() {
                assert!(lines.contains(&mount.options.as_str()), "{mount:?} {lines:?}");
            }
        }
    }
}
