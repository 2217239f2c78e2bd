//! Azure managed disks: snapshots in one resource group.
//!
//! Sources: Azure REST API reference, Compute (virtual machines, disks, snapshots); "Create an
//! incremental snapshot for managed disks": of Ultra Disks and Premium SSD v2 a snapshot exists
//! at once and its data follows, as `completionPercent` tells. Devices: azure-vm-utils and the
//! older Azure agent rules, which link logical unit numbers in `/dev/disk/azure`.

use crate::cloud::{ApiClient, ApiError, Environment, RETRY_AFTER_MAX, ResourceManagerSettings};
use crate::flow::Cancel;
use crate::snapshot::azure_manager::{
    Change, Outcome, Progress, ResourceManager, Tracking, is_busy, is_locked, name_of,
    provisioning_state,
};
use crate::snapshot::pause::Pauses;
use crate::snapshot::pending::{MARKER_TAG, check_names};
use crate::snapshot::{
    AttachedVolume, AzureSnapshot, CreateRequest, Deletion, DeviceClues, DiskFilter,
    ExpectedSnapshot, Instance, Patience, PlannedSnapshot, ProviderRecord, SnapshotCloud,
    SnapshotError, SnapshotErrorKind, SnapshotLock, SnapshotOptions, SnapshotRecord, SnapshotState,
    VolumeRequest,
};
use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// One resource group.
#[derive(Debug)]
pub struct Azure {
    pub(crate) manager: ResourceManager,
    subscription_id: String,
    resource_group: String,
    /// What this process knows of snapshots, by name.
    known: Mutex<BTreeMap<String, Known>>,
}

#[derive(Clone, Debug)]
enum Known {
    /// It was there before we asked, so it is not ours.
    Foreign,
    /// Asked for, and perhaps where its progress is told, not before when.
    Asked(Option<(Tracking, Instant)>),
}

/// How long the name of a snapshot may be.
const NAME_MAX: usize = 80;

/// How long deletions are waited for.
pub(crate) const DELETE_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(900), pause_max: Duration::from_secs(2) };

/// How long a snapshot that was asked for may stay invisible before it counts as absent.
const LATE_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(10), pause_max: Duration::from_secs(2) };

impl Azure {
    /// Endpoint and identity are the environment's; no request is sent.
    pub fn open(
        subscription_id: &str,
        resource_group: &str,
        options: &SnapshotOptions,
        environment: &Environment,
    ) -> Result<Self, SnapshotError> {
        let plain = options.plain_http(environment);
        let settings = ResourceManagerSettings::resolve(environment, plain)?;
        let transport = options.transport(settings.ca_bundle.clone());
        let tokens = settings.tokens(environment, options.azure_credential, &transport);
        let client = ApiClient::with_bearer(transport, Arc::new(tokens), options.retry);
        Ok(Self::new(client, settings.endpoint, subscription_id, resource_group))
    }

    pub fn new(
        client: ApiClient,
        endpoint: Url,
        subscription_id: &str,
        resource_group: &str,
    ) -> Self {
        Self {
            manager: ResourceManager::new(client, endpoint),
            subscription_id: subscription_id.to_string(),
            resource_group: resource_group.to_string(),
            known: Mutex::new(BTreeMap::new()),
        }
    }

    /// `kind` is the plural of the resource type.
    pub(crate) fn id(&self, kind: &str, name: &str) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/{kind}/{name}",
            self.subscription_id, self.resource_group
        )
    }

    async fn volume(
        &self,
        instance: &str,
        attached: &Value,
    ) -> Result<AttachedVolume, SnapshotError> {
        let id = attached["managedDisk"]["id"].as_str().unwrap_or_default();
        let action = format!("describe disk \"{}\" of instance \"{instance}\"", name_of(id));
        let disk = self.manager.get(id).await;
        let disk = disk.map_err(|error| SnapshotError::of_call(&action, &error))?;
        let Some(disk) = disk else {
            let message = format!("could not {action}: it is not there any more");
            return Err(SnapshotError::new(SnapshotErrorKind::DiskMissing, message));
        };
        attached_volume(attached, &disk)
    }

    async fn create_one(
        &self,
        planned: &PlannedSnapshot,
        marker: &str,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let name = planned.name.as_str();
        let action = format!("create snapshot \"{name}\" of disk \"{}\"", planned.disk);
        let failed = |error: ApiError| SnapshotError::of_call(&action, &error);
        let id = self.id("snapshots", name);
        // PUT also updates: one that is there would be taken for new, with its old data.
        if self.manager.get(&id).await.map_err(failed)?.is_some() {
            self.known().insert(name.to_string(), Known::Foreign);
            let message = format!("could not {action}: a snapshot of this name is there already");
            return Err(SnapshotError::new(SnapshotErrorKind::Call, message));
        }
        let body = json!({
            "location": planned.volume.location,
            "tags": {MARKER_TAG: marker},
            "properties": {
                "incremental": true,
                "creationData": {
                    "createOption": "Copy",
                    "sourceResourceId": planned.volume.id,
                },
            },
        });
        // Noted first: a request whose answer is lost may have been heard.
        self.known().insert(name.to_string(), Known::Asked(None));
        match self.manager.begin(Method::PUT, &id, Some(&body)).await {
            Ok(answer) => {
                let when = look_at(answer.retry_after());
                let tracking = self.manager.tracking(&answer).map(|tracking| (tracking, when));
                self.known().insert(name.to_string(), Known::Asked(tracking));
            }
            // The first request was heard, its answer lost, and the repeated one met it.
            Err(error) if error.may_have_happened && is_busy(&error) => {}
            Err(error) => {
                if !error.may_have_happened {
                    self.known().remove(name);
                }
                return Err(failed(error));
            }
        }
        Ok(SnapshotRecord::Azure(AzureSnapshot {
            location: planned.volume.location.clone(),
            lun: planned.volume.lun,
            snapshot_name: name.to_string(),
        }))
    }

    async fn state(&self, snapshot: &SnapshotRecord) -> Result<SnapshotState, SnapshotError> {
        let name = azure_record(snapshot)?.snapshot_name.as_str();
        let action = format!("look at snapshot \"{name}\"");
        let failed = |error: ApiError| SnapshotError::of_call(&action, &error);
        let tracking = match self.known().get(name) {
            Some(Known::Asked(tracking)) => tracking.clone(),
            Some(Known::Foreign) | None => None,
        };
        if let Some((tracking, when)) = tracking {
            // Asked too early it would only tell the same, and count against our rate.
            if Instant::now() < when {
                return Ok(SnapshotState::Creating);
            }
            match self.manager.look(&tracking).await.map_err(failed)? {
                Progress::Running { retry_after } => {
                    let next = Known::Asked(Some((tracking, look_at(retry_after))));
                    self.known().insert(name.to_string(), next);
                    return Ok(SnapshotState::Creating);
                }
                Progress::Failed { reason } => return Ok(SnapshotState::Failed { reason }),
                Progress::Done | Progress::Untold => {
                    self.known().insert(name.to_string(), Known::Asked(None));
                }
            }
        }
        let found = self.manager.get(&self.id("snapshots", name)).await.map_err(failed)?;
        Ok(found.map_or(SnapshotState::Creating, |found| state_of(&found)))
    }

    async fn find_one(
        &self,
        expected: &ExpectedSnapshot,
        marker: &str,
    ) -> Result<Option<SnapshotRecord>, SnapshotError> {
        let name = expected.name.as_str();
        let known = self.known().get(name).cloned();
        if matches!(known, Some(Known::Foreign)) {
            return Ok(None);
        }
        let action = format!("look for snapshot \"{name}\"");
        let mut pauses = Pauses::new(LATE_PATIENCE, None);
        loop {
            let found = self.manager.get(&self.id("snapshots", name)).await;
            let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
            if let Some(found) = found {
                let data = &found["properties"]["creationData"];
                let source = data["sourceResourceId"].as_str().unwrap_or_default();
                // A namesake of another run is not ours to touch. Without the tag it is of a
                // release that set none.
                let tag = found["tags"][MARKER_TAG].as_str();
                let ours = source.eq_ignore_ascii_case(&expected.volume_id)
                    && tag.is_none_or(|tag| tag == marker);
                let record = SnapshotRecord::Azure(AzureSnapshot {
                    location: found["location"].as_str().map(str::to_string),
                    lun: None,
                    snapshot_name: name.to_string(),
                });
                return Ok(ours.then_some(record));
            }
            if known.is_none() || pauses.rest(&action, None).await.is_err() {
                return Ok(None);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SnapshotCloud for Azure {
    async fn instance(&self, name: &str, disks: &DiskFilter) -> Result<Instance, SnapshotError> {
        let id = self.id("virtualMachines", name);
        let found = self.manager.get(&id).await.map_err(|error| {
            let told = SnapshotError::of_call(&format!("describe instance \"{name}\""), &error);
            match error.is_not_found() {
                true => SnapshotError { kind: SnapshotErrorKind::InstanceMissing, ..told }
                    .hint("Are subscription and resource group those of the instance?"),
                false => told,
            }
        })?;
        let Some(found) = found else {
            let message = format!(
                "instance \"{name}\" was not found in resource group \"{}\" of subscription \
                 \"{}\"",
                self.resource_group, self.subscription_id
            );
            return Err(SnapshotError::new(SnapshotErrorKind::InstanceMissing, message));
        };
        let attached = found["properties"]["storageProfile"]["dataDisks"].as_array();
        let attached = attached.cloned().unwrap_or_default();
        let (wanted, others): (Vec<&Value>, Vec<&Value>) = attached.iter().partition(|disk| {
            disk["managedDisk"]["id"].is_string() && disks.takes(&disk_names(disk))
        });
        let volumes = try_join_all(wanted.iter().map(|disk| self.volume(name, disk))).await?;
        let others = others.iter().filter_map(|disk| disk_names(disk).into_iter().next());
        Ok(Instance {
            id,
            name: name.to_string(),
            zone: found["location"].as_str().unwrap_or_default().to_string(),
            volumes,
            others: others.collect(),
        })
    }

    async fn create(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let all = request.planned.iter().map(|planned| self.create_one(planned, request.marker));
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
        ProviderRecord::Azure {
            subscription_id: Some(self.subscription_id.clone()),
            resource_group: Some(self.resource_group.clone()),
        }
    }

    async fn lock(
        &self,
        snapshot: &SnapshotRecord,
        _: &SnapshotLock,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let message =
            format!("cannot lock snapshot \"{}\": Azure has no such locks", snapshot.identifier());
        Err(SnapshotError::new(SnapshotErrorKind::Unsupported, message))
    }

    fn check_plan(&self, planned: &[PlannedSnapshot]) -> Result<(), SnapshotError> {
        let rule = "Names have letters, digits, \"_\", \"-\" and \".\" here, begin with a letter \
                    or digit and do not end with \"-\" or \".\".";
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
        let name = azure_record(snapshot)?.snapshot_name.as_str();
        let id = self.id("snapshots", name);
        let what = format!("deletion of snapshot \"{name}\"");
        let mut pauses = Pauses::new(DELETE_PATIENCE, None);
        let deleted = loop {
            match self.manager.begin(Method::DELETE, &id, None).await {
                Ok(answer) if answer.status == StatusCode::NO_CONTENT => break Deletion::Absent,
                Ok(answer) => {
                    let change = Change { id: &id, outcome: Outcome::Absent, what: &what };
                    self.manager.finish(&answer, &change, &mut pauses).await?;
                    break Deletion::Deleted;
                }
                Err(error) if error.has_code(&["ResourceNotFound", "NotFound"]) => {
                    break Deletion::Absent;
                }
                Err(error) if is_locked(&error) => {
                    let message = format!("could not delete snapshot \"{name}\": {error}");
                    return Err(SnapshotError::new(SnapshotErrorKind::Locked, message));
                }
                // Its creation, or an earlier deletion, is still under way.
                Err(error) if is_busy(&error) => pauses.rest_after(&what, &error).await?,
                Err(error) => {
                    let action = format!("delete snapshot \"{name}\"");
                    return Err(SnapshotError::of_call(&action, &error));
                }
            }
        };
        self.known().remove(name);
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

/// `attached` is one of the machine's data disks, `disk` the disk itself.
pub(crate) fn attached_volume(
    attached: &Value,
    disk: &Value,
) -> Result<AttachedVolume, SnapshotError> {
    let id = attached["managedDisk"]["id"].as_str().unwrap_or_default().to_string();
    let lun = attached["lun"].as_u64().and_then(|lun| u32::try_from(lun).ok());
    let Some(lun) = lun else {
        let message = format!("disk \"{}\" has no logical unit number", name_of(&id));
        return Err(SnapshotError::new(SnapshotErrorKind::Call, message));
    };
    let data = &disk["properties"]["creationData"];
    let source = data["sourceResourceId"].as_str().filter(|_| data["createOption"] == "Copy");
    let of_snapshot = |id: &&str| id.to_lowercase().contains("/snapshots/");
    let paths = [format!("scsi1/lun{lun}"), format!("data/by-lun/{lun}")];
    Ok(AttachedVolume {
        names: disk_names(attached),
        device_name: format!("lun{lun}"),
        lun: Some(lun),
        location: disk["location"].as_str().map(str::to_string),
        clues: DeviceClues {
            paths: paths.iter().map(|path| format!("/dev/disk/azure/{path}").into()).collect(),
            serial: None,
        },
        source_snapshot: source.filter(of_snapshot).map(name_of).map(str::to_string),
        id,
    })
}

pub(crate) fn azure_record(record: &SnapshotRecord) -> Result<&AzureSnapshot, SnapshotError> {
    match record {
        SnapshotRecord::Azure(azure) => Ok(azure),
        SnapshotRecord::Aws(_) | SnapshotRecord::Google(_) => {
            let message = format!("snapshot \"{}\" is not Azure's", record.identifier());
            Err(SnapshotError::new(SnapshotErrorKind::Settings, message))
        }
    }
}

/// Name and id of a data disk; an unmanaged one has no id.
fn disk_names(attached: &Value) -> Vec<String> {
    let id = attached["managedDisk"]["id"].as_str();
    let name = attached["name"].as_str().or_else(|| id.map(name_of)).unwrap_or_default();
    std::iter::once(name).chain(id).map(str::to_string).collect()
}

fn state_of(snapshot: &Value) -> SnapshotState {
    match provisioning_state(snapshot) {
        "Succeeded" => {}
        state @ ("Failed" | "Canceled") => {
            return SnapshotState::Failed { reason: format!("its provisioning state is {state}") };
        }
        _ => return SnapshotState::Creating,
    }
    let properties = &snapshot["properties"];
    if let Some(error) = properties["copyCompletionError"]["errorMessage"].as_str() {
        return SnapshotState::Failed { reason: error.trim_end_matches('.').to_string() };
    }
    match properties["completionPercent"].as_f64() {
        Some(percent) if percent < 100.0 => {
            let whole = (0..100u8).take_while(|whole| f64::from(*whole) <= percent).last();
            SnapshotState::Copying { percent: whole }
        }
        Some(_) | None => SnapshotState::Complete,
    }
}

/// When an operation shall be looked at next.
fn look_at(retry_after: Option<Duration>) -> Instant {
    Instant::now() + retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)
}

/// What Azure takes for the name of a snapshot.
/// Source: "Naming rules and restrictions for Azure resources", Microsoft.Compute.
fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use crate::snapshot::SnapshotState;
    use crate::snapshot::azure::{attached_volume, state_of};
    use serde_json::json;

    #[test]
    fn a_snapshot_is_complete_when_its_data_has_arrived() {
        let state = |properties| state_of(&json!({"properties": properties}));
        assert_eq!(state(json!({"provisioningState": "Updating"})), SnapshotState::Creating);
        assert_eq!(state(json!({"provisioningState": "Succeeded"})), SnapshotState::Complete);
        let copying = json!({"provisioningState": "Succeeded", "completionPercent": 47.6});
        assert_eq!(state(copying), SnapshotState::Copying { percent: Some(47) });
        let failed = state(json!({"provisioningState": "Failed"}));
        assert!(matches!(failed, SnapshotState::Failed { .. }));
    }

    #[test]
    fn only_disks_copied_from_a_snapshot_have_one_as_source() {
        let attached = json!({"lun": 3, "name": "data", "managedDisk": {"id": "/x/disks/data"}});
        let source = |option: &str, source: &str| {
            let data = json!({"createOption": option, "sourceResourceId": source});
            let disk = json!({"location": "l", "properties": {"creationData": data}});
            attached_volume(&attached, &disk).expect("a volume").source_snapshot
        };
        assert_eq!(source("Copy", "/x/snapshots/s").as_deref(), Some("s"));
        assert_eq!(source("Copy", "/x/disks/d"), None);
        assert_eq!(source("Restore", "/x/snapshots/s"), None);
        let volume = attached_volume(&attached, &json!({})).expect("a volume");
        assert_eq!(volume.names, ["data", "/x/disks/data"]);
        assert_eq!(volume.clues.paths[0].to_string_lossy(), "/dev/disk/azure/scsi1/lun3");
    }
}
