//! A cloud in memory, for tests of verbs.

use crate::flow::Cancel;
use crate::snapshot::{
    AttachedVolume, AwsSnapshot, Clouds, CreateRequest, Deletion, DiskFilter, ExpectedSnapshot,
    Instance, PlannedSnapshot, ProviderRecord, SnapshotCloud, SnapshotError, SnapshotErrorKind,
    SnapshotLock, SnapshotPlace, SnapshotRecord, SnapshotState, VolumeRequest,
};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, MutexGuard};

/// Snapshots by identifier, each with its marker and whether it is locked.
#[derive(Clone, Debug, Default)]
pub struct MemoryCloud {
    held: Arc<Mutex<Vec<Held>>>,
}

#[derive(Clone, Debug)]
struct Held {
    id: String,
    marker: String,
    locked: bool,
}

impl MemoryCloud {
    /// A cloud that holds one snapshot.
    pub fn with(self, id: &str, marker: &str) -> Self {
        let (id, marker) = (id.into(), marker.into());
        self.held().push(Held { id, marker, locked: false });
        self
    }

    pub fn locked(self, id: &str) -> Self {
        self.held().iter_mut().filter(|held| held.id == id).for_each(|held| held.locked = true);
        self
    }

    pub fn ids(&self) -> Vec<String> {
        self.held().iter().map(|held| held.id.clone()).collect()
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().expect("no test panics while it holds this")
    }
}

impl Clouds for MemoryCloud {
    fn open(&self, _: &SnapshotPlace) -> Result<Arc<dyn SnapshotCloud>, SnapshotError> {
        Ok(Arc::new(self.clone()))
    }
}

fn record(id: &str) -> SnapshotRecord {
    SnapshotRecord::Aws(AwsSnapshot {
        device_name: None,
        snapshot_id: id.into(),
        snapshot_name: None,
        lock_mode: None,
        account_id: None,
    })
}

fn unsupported<T>() -> Result<T, SnapshotError> {
    Err(SnapshotError::new(SnapshotErrorKind::Unsupported, "not in memory"))
}

#[async_trait]
impl SnapshotCloud for MemoryCloud {
    async fn instance(&self, _: &str, _: &DiskFilter) -> Result<Instance, SnapshotError> {
        unsupported()
    }

    async fn create(&self, _: &CreateRequest<'_>) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        unsupported()
    }

    async fn states(&self, _: &[SnapshotRecord]) -> Result<Vec<SnapshotState>, SnapshotError> {
        unsupported()
    }

    fn provider_record(&self, _: &[SnapshotRecord]) -> ProviderRecord {
        ProviderRecord::Aws { account_id: None, region: None }
    }

    async fn lock(
        &self,
        _: &SnapshotRecord,
        _: &SnapshotLock,
    ) -> Result<SnapshotRecord, SnapshotError> {
        unsupported()
    }

    fn check_plan(&self, _: &[PlannedSnapshot]) -> Result<(), SnapshotError> {
        Ok(())
    }

    async fn find(
        &self,
        _: &[ExpectedSnapshot],
        marker: &str,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let ours = |held: &&Held| held.marker == marker;
        Ok(self.held().iter().filter(ours).map(|held| record(&held.id)).collect())
    }

    async fn delete(&self, snapshot: &SnapshotRecord) -> Result<Deletion, SnapshotError> {
        let mut held = self.held();
        let Some(index) = held.iter().position(|held| held.id == snapshot.identifier()) else {
            return Ok(Deletion::Absent);
        };
        if held[index].locked {
            return Err(SnapshotError::new(SnapshotErrorKind::Locked, "it is locked"));
        }
        held.remove(index);
        Ok(Deletion::Deleted)
    }

    async fn create_volume(
        &self,
        _: &VolumeRequest<'_>,
        _: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError> {
        unsupported()
    }

    async fn discard_volume(&self, _: &VolumeRequest<'_>) -> Result<(), SnapshotError> {
        unsupported()
    }
}
