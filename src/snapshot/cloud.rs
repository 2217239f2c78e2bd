//! What every cloud must be able to do.

use crate::flow::Cancel;
use crate::snapshot::{
    AttachedVolume, DiskFilter, Instance, Patience, PlannedSnapshot, ProviderRecord, SnapshotError,
    SnapshotLock, SnapshotRecord,
};
use async_trait::async_trait;
use std::fmt;

/// One cloud's volumes and snapshots, in one region, resource group or project.
///
/// Every call retries what is worth it. A call that is not answered for certain and may have
/// taken effect looks before it asks again, so that nothing is created twice.
#[async_trait]
pub trait SnapshotCloud: fmt::Debug + Send + Sync {
    /// Finds an instance and its volumes that `disks` takes.
    ///
    /// Fails with [`InstanceMissing`](crate::snapshot::SnapshotErrorKind::InstanceMissing) or
    /// [`InstanceAmbiguous`](crate::snapshot::SnapshotErrorKind::InstanceAmbiguous).
    async fn instance(&self, name: &str, disks: &DiskFilter) -> Result<Instance, SnapshotError>;

    /// Asks for all snapshots at once and returns, in the order of the plan, when every request
    /// was answered. Their data may still be on its way; see [`states`](Self::states).
    ///
    /// On failure some may exist: [`find`](Self::find) tells which.
    async fn create(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError>;

    /// How far each snapshot is, in the same order. Just after its creation a snapshot that is
    /// not found yet counts as [`Creating`](SnapshotState::Creating).
    async fn states(
        &self,
        snapshots: &[SnapshotRecord],
    ) -> Result<Vec<SnapshotState>, SnapshotError>;

    /// What `backup.info` tells of the account that holds `snapshots`.
    fn provider_record(&self, snapshots: &[SnapshotRecord]) -> ProviderRecord;

    /// Locks one snapshot against deletion and returns its record with the lock.
    ///
    /// Clouds without locks fail with
    /// [`Unsupported`](crate::snapshot::SnapshotErrorKind::Unsupported).
    async fn lock(
        &self,
        snapshot: &SnapshotRecord,
        lock: &SnapshotLock,
    ) -> Result<SnapshotRecord, SnapshotError>;

    /// Refuses a plan whose snapshots the cloud would not make or which could not be restored:
    /// names, and what else is known beforehand. Nothing is asked.
    fn check_plan(&self, planned: &[PlannedSnapshot]) -> Result<(), SnapshotError>;

    /// Finds snapshots that a broken run may have left: those that carry its marker, of
    /// whatever volume, and where names are unique, the expected ones.
    async fn find(
        &self,
        expected: &[ExpectedSnapshot],
        marker: &str,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError>;

    /// Deletes one snapshot and returns when the cloud has confirmed it.
    ///
    /// Fails with [`Locked`](crate::snapshot::SnapshotErrorKind::Locked) when a lock holds it.
    async fn delete(&self, snapshot: &SnapshotRecord) -> Result<Deletion, SnapshotError>;

    /// Makes a volume of a snapshot, attaches it to the instance and returns when the instance
    /// has it. A volume of the same name and source that an earlier run left is used again.
    async fn create_volume(
        &self,
        request: &VolumeRequest<'_>,
        cancel: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError>;

    /// Detaches and deletes volumes that [`create_volume`](Self::create_volume) made for this
    /// request, attached or not. Nothing to delete is success.
    async fn discard_volume(&self, request: &VolumeRequest<'_>) -> Result<(), SnapshotError>;
}

/// A snapshot that a run may have made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedSnapshot {
    pub name: String,
    pub volume_id: String,
}

/// The snapshots of one backup.
#[derive(Clone, Debug)]
pub struct CreateRequest<'a> {
    pub instance: &'a Instance,
    pub planned: &'a [PlannedSnapshot],
    /// A text that is unique to the run, stored with each snapshot: as description or tag.
    pub marker: &'a str,
    /// Keys and values for clouds that have tags on snapshots.
    pub tags: &'a [(String, String)],
}

/// A volume that shall be made.
#[derive(Clone, Debug)]
pub struct VolumeRequest<'a> {
    pub instance: &'a Instance,
    pub snapshot: &'a SnapshotRecord,
    /// Deterministic, so that a repeated run finds it.
    pub name: &'a str,
    pub patience: Patience,
}

/// How far a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Asked for; its point in time is not certain yet.
    Creating,
    /// Its point in time is fixed, its data is being copied.
    Copying {
        percent: Option<u8>,
    },
    Complete,
    Failed {
        reason: String,
    },
}

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    /// It was not there any more, which the cloud said positively.
    Absent,
}
