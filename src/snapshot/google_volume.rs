//! Disks made of snapshots on Google Cloud, attached and taken away again.

use crate::cloud::ApiError;
use crate::flow::Cancel;
use crate::snapshot::google::{DELETE_PATIENCE, Google, attached_volume, google_record};
use crate::snapshot::google_compute::{name_of, path_of};
use crate::snapshot::pause::Pauses;
use crate::snapshot::{AttachedVolume, SnapshotError, SnapshotErrorKind, VolumeRequest};
use serde_json::{Value, json};

impl Google {
    pub(crate) async fn make_volume(
        &self,
        request: &VolumeRequest<'_>,
        cancel: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError> {
        let mut pauses = Pauses::new(request.patience, Some(cancel));
        let path = self.zonal(&request.instance.zone, "disks", request.name);
        let instance = self.instance_now(request).await?;
        if self.disk_now(&path).await?.is_none() {
            self.insert_disk(request, &instance, &mut pauses).await?;
        }
        let disk = loop {
            let what = format!("creation of disk \"{}\"", request.name);
            match self.disk_now(&path).await? {
                Some(disk) if disk["status"] == "READY" => break disk,
                Some(disk) if disk["status"] == "FAILED" => {
                    let message = format!("{what} failed");
                    return Err(SnapshotError::new(SnapshotErrorKind::Broken, message));
                }
                _ => pauses.rest(&what, None).await?,
            }
        };
        let wanted = google_record(request.snapshot)?.snapshot_name.as_str();
        let source = disk["sourceSnapshot"].as_str().map(name_of).unwrap_or_default();
        if source != wanted {
            let message =
                format!("disk \"{}\" is there already and no copy of \"{wanted}\"", request.name);
            return Err(SnapshotError::new(SnapshotErrorKind::DiskAmbiguous, message)
                .hint("Was it made by hand? Remove or rename it."));
        }
        if let Some(attached) = attachment(&instance, &path) {
            return Ok(attached_volume(attached, &disk));
        }
        self.attach(request, &path, &mut pauses).await?;
        loop {
            let instance = self.instance_now(request).await?;
            if let Some(attached) = attachment(&instance, &path) {
                return Ok(attached_volume(attached, &disk));
            }
            let what = format!("attachment of disk \"{}\"", request.name);
            pauses.rest(&what, None).await?;
        }
    }

    /// The new disk is of the type of the boot disk: machines of some series take only some
    /// types, and the snapshot does not tell that of its source.
    async fn insert_disk(
        &self,
        request: &VolumeRequest<'_>,
        instance: &Value,
        pauses: &mut Pauses,
    ) -> Result<(), SnapshotError> {
        let google = google_record(request.snapshot)?;
        let project = google.snapshot_project.as_deref();
        let mut body = json!({
            "name": request.name,
            "sourceSnapshot": self.snapshot_path(project, &google.snapshot_name),
        });
        let disks = instance["disks"].as_array();
        let boot = disks.into_iter().flatten().find(|disk| disk["boot"] == true);
        if let Some(source) = boot.and_then(|disk| disk["source"].as_str())
            && let Some(boot) = self.disk_now(path_of(source)).await?
            && let Some(kind) = boot["type"].as_str()
        {
            body["type"] = json!(self.zonal(&request.instance.zone, "diskTypes", zonal_kind(kind)));
        }
        let zone = &request.instance.zone;
        let path = self.zonal(zone, "disks", "");
        let action =
            format!("create disk \"{}\" of snapshot \"{}\"", request.name, google.snapshot_name);
        match self.compute.post(path.trim_end_matches('/'), &[], Some(&body)).await {
            Ok(operation) => {
                let what = format!("creation of disk \"{}\"", request.name);
                self.compute.finish(operation, &what, pauses).await
            }
            // Another run was faster; the caller looks at what it is.
            Err(error) if error.has_code(&["alreadyExists"]) => Ok(()),
            Err(error) => Err(SnapshotError::of_call(&action, &error)),
        }
    }

    async fn attach(
        &self,
        request: &VolumeRequest<'_>,
        disk: &str,
        pauses: &mut Pauses,
    ) -> Result<(), SnapshotError> {
        let body = json!({
            "source": disk,
            "deviceName": request.name,
            "mode": "READ_WRITE",
            "autoDelete": false,
        });
        let path = format!("{}/attachDisk", request.instance.id);
        let what = format!("attachment of disk \"{}\"", request.name);
        let begun = self.compute.post(&path, &[], Some(&body)).await;
        let operation = begun.map_err(|error| {
            let (disk, instance) = (request.name, &request.instance.name);
            let action = format!("attach disk \"{disk}\" to instance \"{instance}\"");
            SnapshotError::of_call(&action, &error)
        })?;
        self.compute.finish(operation, &what, pauses).await
    }

    pub(crate) async fn drop_volume(
        &self,
        request: &VolumeRequest<'_>,
    ) -> Result<(), SnapshotError> {
        let mut pauses = Pauses::new(DELETE_PATIENCE, None);
        let path = self.zonal(&request.instance.zone, "disks", request.name);
        let action = format!("detach disk \"{}\"", request.name);
        let instance = self.instance_now(request).await?;
        if let Some(attached) = attachment(&instance, &path) {
            let device = attached["deviceName"].as_str().unwrap_or_default();
            let target = format!("{}/detachDisk", request.instance.id);
            let begun = self.compute.post(&target, &[("deviceName", device)], None).await;
            let operation = begun.map_err(|error| SnapshotError::of_call(&action, &error))?;
            let what = format!("detachment of disk \"{}\"", request.name);
            self.compute.finish(operation, &what, &mut pauses).await?;
        }
        let what = format!("deletion of disk \"{}\"", request.name);
        loop {
            match self.compute.delete(&path).await {
                Ok(None) => return Ok(()),
                Ok(Some(operation)) => {
                    return self.compute.finish(operation, &what, &mut pauses).await;
                }
                Err(error) if is_passing(&error) && !self.is_used_elsewhere(request).await? => {
                    pauses.rest_after(&what, &error).await?;
                }
                Err(error) => {
                    let action = format!("delete disk \"{}\"", request.name);
                    return Err(SnapshotError::of_call(&action, &error));
                }
            }
        }
    }

    /// Whether another machine has the disk: it will not be let go by waiting.
    async fn is_used_elsewhere(&self, request: &VolumeRequest<'_>) -> Result<bool, SnapshotError> {
        let path = self.zonal(&request.instance.zone, "disks", request.name);
        let disk = self.disk_now(&path).await?.unwrap_or_default();
        let users = disk["users"].as_array().cloned().unwrap_or_default();
        let ours = name_of(&request.instance.id);
        Ok(users.iter().filter_map(Value::as_str).any(|user| name_of(user) != ours))
    }

    async fn instance_now(&self, request: &VolumeRequest<'_>) -> Result<Value, SnapshotError> {
        let name = &request.instance.name;
        let action = format!("describe instance \"{name}\"");
        let found = self.compute.get(&request.instance.id).await;
        let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
        found.ok_or_else(|| {
            let message = format!("instance \"{name}\" is not there any more");
            SnapshotError::new(SnapshotErrorKind::InstanceMissing, message)
        })
    }

    async fn disk_now(&self, path: &str) -> Result<Option<Value>, SnapshotError> {
        let action = format!("describe disk \"{}\"", name_of(path));
        self.compute.get(path).await.map_err(|error| SnapshotError::of_call(&action, &error))
    }
}

/// The attachment of a disk to an instance.
fn attachment<'a>(instance: &'a Value, disk: &str) -> Option<&'a Value> {
    let attached = instance["disks"].as_array()?;
    attached.iter().find(|attached| attached["source"].as_str().map(path_of) == Some(disk))
}

/// The name of the type that a zonal disk must have to be as a disk of this type, which may be
/// a regional one: its URL is of no use in a zone, and one type has another name there.
/// Source: "About Hyperdisk Balanced High Availability".
fn zonal_kind(url: &str) -> &str {
    match name_of(url) {
        "hyperdisk-balanced-high-availability" => "hyperdisk-balanced",
        name => name,
    }
}

/// Its creation, attachment or detachment is still under way.
fn is_passing(error: &ApiError) -> bool {
    error.has_code(&["resourceNotReady", "resourceInUseByAnotherResource"])
}

#[cfg(test)]
mod tests {
    use crate::snapshot::google_volume::zonal_kind;

    #[test]
    fn a_regional_disks_type_is_told_as_that_of_a_zonal_one() {
        let regional = "https://h/compute/v1/projects/p/regions/r/diskTypes/pd-ssd";
        assert_eq!(zonal_kind(regional), "pd-ssd");
        let high = "projects/p/regions/r/diskTypes/hyperdisk-balanced-high-availability";
        assert_eq!(zonal_kind(high), "hyperdisk-balanced");
    }
}
