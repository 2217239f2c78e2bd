//! Volumes and their snapshots: one trait, three clouds.
//!
//! ```text
//! open ─ SnapshotCloud ─┬─ aws      EC2 query API, signed
//!                       ├─ azure    Resource Manager, bearer token
//!                       └─ google   Compute v1, bearer token
//! ```
//!
//! What all clouds have in common stands beside them: which volumes are meant (`select`), how
//! snapshots are waited for (`wait`), and how they are recorded in `backup.info` (`record`).
//! Nothing here knows of PostgreSQL or of mounts: a volume comes with [`DeviceClues`], from which
//! `disk` finds the local device.

mod aws;
pub(crate) mod aws_answers;
mod aws_create;
mod aws_volumes;
mod azure;
mod azure_manager;
mod azure_volume;
mod cloud;
mod ec2;
mod error;
mod google;
mod google_compute;
mod google_volume;
#[cfg(test)]
pub(crate) mod memory;
mod open;
mod pause;
mod pending;
mod record;
mod select;
mod volume;
mod wait;
pub(crate) mod xml;

pub use azure::Azure;
pub use cloud::{
    CreateRequest, Deletion, ExpectedSnapshot, SnapshotCloud, SnapshotState, VolumeRequest,
};
pub use error::{SnapshotError, SnapshotErrorKind};
pub use google::Google;
pub use open::{Clouds, CloudsOfEnvironment, RecoveryPlace, SnapshotOptions, SnapshotPlace, open};
pub use pending::{PendingDisk, PendingSnapshots, snapshot_name};
pub use record::{
    AwsSnapshot, AzureSnapshot, GoogleSnapshot, MountRecord, ProviderRecord, SnapshotRecord,
    SnapshotsInfo, SnapshotsInfoError,
};
pub use select::{DiskFilter, select};
pub use volume::{
    AttachedVolume, DeviceClues, Instance, LockMode, LockTerm, PlannedSnapshot, SnapshotLock,
};
pub use wait::{Patience, Reached, wait};
