//! Where the disks of a snapshot backup are mounted, and whether the cluster lies on them.

use crate::backup::{BackupError, disk_error};
use crate::disk::{Machine, Mount};
use crate::postgres::{ServerFacts, TablespaceLocation};
use crate::snapshot::{AttachedVolume, MountRecord};
use std::fs;
use std::path::{Path, PathBuf};

/// A disk, its volume and its mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedDisk {
    pub disk: String,
    pub volume: AttachedVolume,
    pub mount: MountRecord,
}

/// Finds the mount of each disk's volume.
pub fn mounted_disks(
    machine: &Machine,
    disks: &[String],
    volumes: &[&AttachedVolume],
) -> Result<Vec<MountedDisk>, BackupError> {
    let mounted = |(disk, volume): (&String, &&AttachedVolume)| {
        let found = machine.mount_of(&volume.clues.paths, volume.clues.serial.as_deref()).map_err(
            |error| disk_error("look for mounts of", Path::new(&volume.device_name), error),
        )?;
        let mount = found.ok_or_else(|| BackupError::NotMounted {
            disk: disk.clone(),
            device: volume.device_name.clone(),
        })?;
        let mount =
            MountRecord { point: mount.point.display().to_string(), options: mount.options };
        Ok(MountedDisk { disk: disk.clone(), volume: (*volume).clone(), mount })
    };
    disks.iter().zip(volumes).map(mounted).collect()
}

/// Refuses snapshots that would not hold the data directory and all tablespaces: they could not
/// be recovered from.
pub fn check_coverage(
    machine: &Machine,
    facts: &ServerFacts,
    disks: &[MountedDisk],
) -> Result<(), BackupError> {
    let mounts = machine
        .mounts()
        .map_err(|error| disk_error("read", Path::new("/proc/self/mountinfo"), error))?;
    let tablespaces =
        facts.tablespaces.iter().filter_map(|tablespace| match &tablespace.location {
            TablespaceLocation::Absolute(location) => Some(location),
            TablespaceLocation::InPlace => None,
        });
    for path in std::iter::once(&facts.data_directory).chain(tablespaces) {
        let real =
            fs::canonicalize(path).map_err(|error| disk_error("look up directory", path, error))?;
        let point = mount_point_of(&mounts, &real);
        if !disks.iter().any(|disk| Path::new(&disk.mount.point) == point) {
            return Err(BackupError::Uncovered {
                path: path.display().to_string(),
                point: point.display().to_string(),
            });
        }
    }
    Ok(())
}

/// The innermost mount that `path` lies on.
fn mount_point_of(mounts: &[Mount], path: &Path) -> PathBuf {
    let above = mounts.iter().map(|mount| &mount.point).filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.components().count()).cloned().unwrap_or_else(|| "/".into())
}
