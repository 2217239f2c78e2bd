//! What a cloud tells about instances and volumes, and what is asked of it.

use jiff::Timestamp;
use std::path::PathBuf;

/// An instance and those of its volumes that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The cloud's own identifier: `i-…`, a resource ID, a name.
    pub id: String,
    /// As the user gave it, for messages.
    pub name: String,
    /// Availability zone or region, where new volumes must be; empty when the cloud has none.
    pub zone: String,
    /// In the cloud's order, the boot volume left out.
    pub volumes: Vec<AttachedVolume>,
    /// Identifiers of the attached volumes that were not asked for, the boot volume excluded.
    pub others: Vec<String>,
}

/// A volume that is attached to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedVolume {
    /// The cloud's own identifier: `vol-…`, a resource ID, the path of a disk.
    pub id: String,
    /// What `--snapshot-disk` may call it: identifier and name, compared exactly.
    pub names: Vec<String>,
    /// How the instance calls the attachment: `/dev/sdf`, `lun0`, a device name.
    pub device_name: String,
    /// Azure's logical unit number.
    pub lun: Option<u32>,
    /// Azure's region of the disk.
    pub location: Option<String>,
    pub clues: DeviceClues,
    /// The snapshot it was made from, by the identifier that `backup.info` records.
    pub source_snapshot: Option<String>,
}

/// Where the operating system may show an attached volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceClues {
    /// Device nodes or links to them, in the order in which they are tried.
    pub paths: Vec<PathBuf>,
    /// Serial number of an NVMe device (`/sys/block/<name>/device/serial`), hyphens left out.
    pub serial: Option<String>,
}

/// A snapshot that shall be taken. Its name is deterministic, so that it can be found again
/// whatever happens to whoever asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSnapshot {
    /// The disk as the user gave it.
    pub disk: String,
    /// `<disk>-<backup ID in lower case>`
    pub name: String,
    pub volume: AttachedVolume,
}

/// A lock against deletion (AWS alone has them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotLock {
    pub mode: LockMode,
    pub term: LockTerm,
    /// Hours in which a compliance lock can still be changed.
    pub cool_off_hours: Option<u32>,
}

/// Who may lift a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has the permission.
    Governance,
    /// Nobody, once the cool-off period is over.
    Compliance,
}

/// How long a lock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockTerm {
    Days(u32),
    Until(Timestamp),
}

impl LockMode {
    /// The word of the command line, of the interface and of `backup.info`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}
