//! Google Compute Engine: zonal or regional disks, global snapshots.
//!
//! Sources: Compute Engine API v1 reference (instances, disks, snapshots); "Create disk
//! snapshots": a snapshot is CREATING until its point in time is fixed, UPLOADING while its data
//! is copied, READY at last. Devices: "Persistent disk device naming", symlinks
//! `/dev/disk/by-id/google-<device name>`.
//!
//! Requests for a change carry a `requestId`, so that one whose answer was lost is repeated
//! without being done twice.

use crate::cloud::{ApiClient, ApiError, ComputeEngineSettings, Environment};
use crate::flow::Cancel;
use crate::snapshot::google_compute::{Compute, name_of, path_of};
use crate::snapshot::pause::Pauses;
use crate::snapshot::pending::check_names;
use crate::snapshot::{
    AttachedVolume, CreateRequest, Deletion, DeviceClues, DiskFilter, ExpectedSnapshot,
    GoogleSnapshot, Instance, Patience, PlannedSnapshot, ProviderRecord, SnapshotCloud,
    SnapshotError, SnapshotErrorKind, SnapshotLock, SnapshotOptions, SnapshotRecord, SnapshotState,
    VolumeRequest,
};
use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::Url;

/// One project.
#[derive(Debug)]
pub struct Google {
    pub(crate) compute: Compute,
    project: String,
    zone: Option<String>,
    /// Snapshots that this process asked for, by name, each with its operation if that was told
    /// and is not known to be over.
    begun: Mutex<BTreeMap<String, Option<String>>>,
}

/// How long the name of a snapshot may be.
const NAME_MAX: usize = 63;

/// How long deletions are waited for.
pub(crate) const DELETE_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(900), pause_max: Duration::from_secs(2) };

/// How long a snapshot that was asked for may stay invisible before it counts as absent.
const LATE_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(10), pause_max: Duration::from_secs(2) };

impl Google {
    /// Endpoint and identity are the environment's; no request is sent.
    pub fn open(
        project: &str,
        zone: Option<&str>,
        options: &SnapshotOptions,
        environment: &Environment,
    ) -> Result<Self, SnapshotError> {
        let plain = options.plain_http(environment);
        let settings = ComputeEngineSettings::resolve(environment, plain)?;
        let transport = options.transport(settings.ca_bundle.clone());
        let tokens = Arc::new(settings.tokens(&transport)?);
        let client = ApiClient::with_bearer(transport, tokens, options.retry);
        Ok(Self::new(client, settings.endpoint, project, zone))
    }

    pub fn new(client: ApiClient, endpoint: Url, project: &str, zone: Option<&str>) -> Self {
        Self {
            compute: Compute::new(client, endpoint),
            project: project.to_string(),
            zone: zone.map(str::to_string),
            begun: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn zonal(&self, zone: &str, kind: &str, name: &str) -> String {
        format!("projects/{}/zones/{zone}/{kind}/{name}", self.project)
    }

    pub(crate) fn snapshot_path(&self, project: Option<&str>, name: &str) -> String {
        format!("projects/{}/global/snapshots/{name}", project.unwrap_or(&self.project))
    }

    async fn volume(
        &self,
        instance: &str,
        attached: &Value,
    ) -> Result<AttachedVolume, SnapshotError> {
        let path = path_of(attached["source"].as_str().unwrap_or_default());
        let action = format!("describe disk \"{}\" of instance \"{instance}\"", name_of(path));
        let disk = self.compute.get(path).await;
        let disk = disk.map_err(|error| SnapshotError::of_call(&action, &error))?;
        let Some(disk) = disk else {
            let message = format!("could not {action}: it is not there any more");
            return Err(SnapshotError::new(SnapshotErrorKind::DiskMissing, message));
        };
        Ok(attached_volume(attached, &disk))
    }

    async fn create_one(
        &self,
        planned: &PlannedSnapshot,
        request: &CreateRequest<'_>,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let name = planned.name.as_str();
        let action = format!("create snapshot \"{name}\" of disk \"{}\"", planned.disk);
        // No labels: they need a permission of their own, and the command says that tags are
        // for objects here.
        let body = json!({
            "name": name,
            "sourceDisk": planned.volume.id,
            "description": request.marker,
        });
        let path = format!("projects/{}/global/snapshots", self.project);
        // Noted first: a request whose answer is lost may have been heard.
        self.begun().insert(name.to_string(), None);
        match self.compute.post(&path, &[], Some(&body)).await {
            Ok(operation) => {
                self.begun().insert(name.to_string(), Some(operation.path));
            }
            Err(error) => {
                if !error.may_have_happened {
                    self.begun().remove(name);
                }
                return Err(refused_name(&error, &action));
            }
        }
        Ok(SnapshotRecord::Google(GoogleSnapshot {
            device_name: Some(planned.volume.device_name.clone()),
            snapshot_name: name.to_string(),
            snapshot_project: Some(self.project.clone()),
        }))
    }

    async fn state(&self, snapshot: &SnapshotRecord) -> Result<SnapshotState, SnapshotError> {
        let google = google_record(snapshot)?;
        let name = google.snapshot_name.as_str();
        let action = format!("look at snapshot \"{name}\"");
        let failed = |error: ApiError| SnapshotError::of_call(&action, &error);
        let operation = self.begun().get(name).cloned().flatten();
        let mut percent = None;
        if let Some(path) = operation
            && let Some(operation) = self.compute.operation(&path).await.map_err(failed)?
        {
            if let Some(failure) = operation.failure {
                return Ok(SnapshotState::Failed { reason: failure.reason });
            }
            percent = operation.percent;
            if operation.done {
                operation.warn(&format!("creation of snapshot \"{name}\""));
                self.begun().insert(name.to_string(), None);
            }
        }
        let path = self.snapshot_path(google.snapshot_project.as_deref(), name);
        let Some(found) = self.compute.get(&path).await.map_err(failed)? else {
            return Ok(SnapshotState::Creating);
        };
        Ok(match found["status"].as_str() {
            Some("READY") => SnapshotState::Complete,
            Some("UPLOADING") => SnapshotState::Copying { percent },
            Some(status @ ("FAILED" | "DELETING")) => {
                SnapshotState::Failed { reason: format!("its status is {status}") }
            }
            _ => SnapshotState::Creating,
        })
    }

    async fn find_one(
        &self,
        expected: &ExpectedSnapshot,
        marker: &str,
    ) -> Result<Option<SnapshotRecord>, SnapshotError> {
        let name = expected.name.as_str();
        let path = self.snapshot_path(None, name);
        let action = format!("look for snapshot \"{name}\"");
        let mut pauses = Pauses::new(LATE_PATIENCE, None);
        loop {
            let found = self.compute.get(&path).await;
            let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
            if let Some(found) = found {
                let source = found["sourceDisk"].as_str().unwrap_or_default();
                let record = SnapshotRecord::Google(GoogleSnapshot {
                    device_name: None,
                    snapshot_name: name.to_string(),
                    snapshot_project: Some(self.project.clone()),
                });
                // A namesake of another run is not ours to touch.
                let ours = same_disk(source, &expected.volume_id) && found["description"] == marker;
                return Ok(ours.then_some(record));
            }
            let asked_for = self.begun().contains_key(name);
            if !asked_for || pauses.rest(&action, None).await.is_err() {
                return Ok(None);
            }
        }
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SnapshotCloud for Google {
    async fn instance(&self, name: &str, disks: &DiskFilter) -> Result<Instance, SnapshotError> {
        let zone = self.zone.as_deref().ok_or_else(|| {
            let message = format!("the zone of instance \"{name}\" was not given");
            SnapshotError::new(SnapshotErrorKind::Settings, message)
                .hint("Name it with --gcp-zone.")
        })?;
        let path = self.zonal(zone, "instances", name);
        let found = self.compute.get(&path).await;
        let action = format!("describe instance \"{name}\"");
        let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
        let Some(found) = found else {
            let message = format!(
                "instance \"{name}\" was not found in zone \"{zone}\" of project \"{}\"",
                self.project
            );
            return Err(SnapshotError::new(SnapshotErrorKind::InstanceMissing, message));
        };
        let attached = found["disks"].as_array().cloned().unwrap_or_default();
        let data = attached.iter().filter(|disk| disk["boot"] != true);
        let (wanted, others): (Vec<&Value>, Vec<&Value>) =
            data.partition(|disk| disk["source"].is_string() && disks.takes(&disk_names(disk)));
        let volumes = try_join_all(wanted.iter().map(|disk| self.volume(name, disk))).await?;
        let others = others.iter().filter_map(|disk| disk_names(disk).into_iter().next());
        Ok(Instance {
            id: path,
            name: name.to_string(),
            zone: zone.to_string(),
            volumes,
            others: others.collect(),
        })
    }

    async fn create(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let all = request.planned.iter().map(|planned| self.create_one(planned, request));
        // Every request is answered before the first failure is told.
        join_all(all).await.into_iter().collect()
    }

    async fn states(
        &self,
        snapshots: &[SnapshotRecord],
    ) -> Result<Vec<SnapshotState>, SnapshotError> {
        try_join_all(snapshots.iter().map(|snapshot| self.state(snapshot))).await
    }

    fn provider_record(&self, _: &[SnapshotRecord]) -> ProviderRecord {
        ProviderRecord::Google { project: Some(self.project.clone()) }
    }

    async fn lock(
        &self,
        snapshot: &SnapshotRecord,
        _: &SnapshotLock,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let message = format!(
            "cannot lock snapshot \"{}\": Google Cloud has no locks",
            snapshot.identifier()
        );
        Err(SnapshotError::new(SnapshotErrorKind::Unsupported, message))
    }

    fn check_plan(&self, planned: &[PlannedSnapshot]) -> Result<(), SnapshotError> {
        let rule = "Names have lower-case letters, digits and \"-\" here, begin with a letter \
                    and do not end with \"-\".";
        check_names(planned, NAME_MAX, is_name, rule)
    }

    async fn find(
        &self,
        expected: &[ExpectedSnapshot],
        marker: &str,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let all = expected.iter().map(|expected| self.find_one(expected, marker));
        Ok(try_join_all(all).await?.into_iter().flatten().collect())
    }

    async fn delete(&self, snapshot: &SnapshotRecord) -> Result<Deletion, SnapshotError> {
        let google = google_record(snapshot)?;
        let name = google.snapshot_name.as_str();
        let path = self.snapshot_path(google.snapshot_project.as_deref(), name);
        let what = format!("deletion of snapshot \"{name}\"");
        let mut pauses = Pauses::new(DELETE_PATIENCE, None);
        let deleted = loop {
            match self.compute.delete(&path).await {
                Ok(None) => break Deletion::Absent,
                Ok(Some(operation)) => {
                    self.compute.finish(operation, &what, &mut pauses).await?;
                    break Deletion::Deleted;
                }
                // Its creation, or an earlier deletion, is still under way.
                Err(error) if error.has_code(&["resourceNotReady"]) => {
                    pauses.rest_after(&what, &error).await?;
                }
                Err(error) => {
                    let action = format!("delete snapshot \"{name}\"");
                    return Err(SnapshotError::of_call(&action, &error));
                }
            }
        };
        self.begun().remove(name);
        Ok(deleted)
    }

    async fn create_volume(
        &self,
        request: &VolumeRequest<'_>,
        cancel: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError> {
        self.make_volume(request, cancel).await
    }

    async fn discard_volume(&self, request: &VolumeRequest<'_>) -> Result<(), SnapshotError> {
        self.drop_volume(request).await
    }
}

pub(crate) fn attached_volume(attached: &Value, disk: &Value) -> AttachedVolume {
    let source = attached["source"].as_str().unwrap_or_default();
    let device_name = attached["deviceName"].as_str().unwrap_or_default().to_string();
    let link = format!("/dev/disk/by-id/google-{device_name}");
    AttachedVolume {
        id: path_of(source).to_string(),
        names: disk_names(attached),
        clues: DeviceClues { paths: vec![link.into()], serial: None },
        device_name,
        lun: None,
        location: None,
        source_snapshot: disk["sourceSnapshot"].as_str().map(name_of).map(str::to_string),
    }
}

pub(crate) fn google_record(record: &SnapshotRecord) -> Result<&GoogleSnapshot, SnapshotError> {
    match record {
        SnapshotRecord::Google(google) => Ok(google),
        SnapshotRecord::Aws(_) | SnapshotRecord::Azure(_) => {
            let message = format!("snapshot \"{}\" is not Google Cloud's", record.identifier());
            Err(SnapshotError::new(SnapshotErrorKind::Settings, message))
        }
    }
}

/// Name and path of an attached disk; a local SSD has neither, only its device name.
fn disk_names(attached: &Value) -> Vec<String> {
    match attached["source"].as_str() {
        Some(source) => vec![name_of(source).to_string(), path_of(source).to_string()],
        None => vec![attached["deviceName"].as_str().unwrap_or_default().to_string()],
    }
}

/// Whether two URLs name one disk. The project may be written as its name or its number.
fn same_disk(one: &str, other: &str) -> bool {
    let place = |url: &str| path_of(url).splitn(3, '/').nth(2).map(str::to_string);
    place(one) == place(other)
}

/// What Google takes for a name (RFC 1035), as `Snapshot.name` of the discovery document has it.
fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

fn refused_name(error: &ApiError, action: &str) -> SnapshotError {
    let told = SnapshotError::of_call(action, error);
    match error.has_code(&["alreadyExists"]) {
        true => told.hint("A snapshot of this name was there before this backup."),
        false => told,
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::google::same_disk;

    #[test]
    fn a_disk_is_the_same_whether_its_project_is_named_or_numbered() {
        let url = "https://compute.googleapis.com/compute/v1/projects/p/zones/z/disks/data";
        assert!(same_disk(url, "projects/123/zones/z/disks/data"));
        assert!(!same_disk(url, "projects/p/zones/z/disks/pgdata"));
        assert!(!same_disk(url, "projects/p/zones/y/disks/data"));
    }
}
