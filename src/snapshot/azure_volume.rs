//! Disks made of snapshots on Azure, attached and taken away again.
//!
//! Source: Azure REST API reference, "Disks - Create Or Update" (copy of a snapshot), "Virtual
//! Machines - Attach Detach Data Disks": it names only the disks that change, so that two runs
//! on one machine do not undo each other, and chooses a free logical unit number.

use crate::flow::Cancel;
use crate::snapshot::azure::{Azure, DELETE_PATIENCE, attached_volume, azure_record};
use crate::snapshot::azure_manager::{
    Change, Outcome, is_busy, is_not_allowed, name_of, provisioning_state,
};
use crate::snapshot::pause::Pauses;
use crate::snapshot::{AttachedVolume, SnapshotError, SnapshotErrorKind, VolumeRequest};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Sectors that only some kinds of disks have, and the kind that any machine in a zone takes.
const LARGE_SECTOR_BYTES: u64 = 4096;
const LARGE_SECTOR_SKU: &str = "PremiumV2_LRS";
const ULTRA_SKU: &str = "UltraSSD_LRS";

/// How long a disk may count as attached after it was detached.
const SETTLED_AFTER: Duration = Duration::from_secs(30);

impl Azure {
    pub(crate) async fn make_volume(
        &self,
        request: &VolumeRequest<'_>,
        cancel: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError> {
        let mut pauses = Pauses::new(request.patience, Some(cancel));
        let id = self.id("disks", request.name);
        let machine = self.machine_now(request).await?;
        let disk = match self.disk_now(&id).await? {
            Some(disk) => disk,
            None => self.copy_snapshot(request, &machine, &mut pauses).await?,
        };
        let wanted = azure_record(request.snapshot)?.snapshot_name.as_str();
        let source = disk["properties"]["creationData"]["sourceResourceId"].as_str();
        if !source.map(name_of).is_some_and(|name| name.eq_ignore_ascii_case(wanted)) {
            let message =
                format!("disk \"{}\" is there already and no copy of \"{wanted}\"", request.name);
            return Err(SnapshotError::new(SnapshotErrorKind::DiskAmbiguous, message)
                .hint("Was it made by hand? Remove or rename it."));
        }
        if let Some(attached) = attachment(&machine, &id) {
            return attached_volume(attached, &disk);
        }
        let what = format!("attachment of disk \"{}\"", request.name);
        // Ultra disks and Premium SSD v2 take no caching, and others default to some.
        let large = disk["sku"]["name"] == LARGE_SECTOR_SKU || disk["sku"]["name"] == ULTRA_SKU;
        let body = match large {
            true => json!({"dataDisksToAttach": [{"diskId": id, "caching": "None"}]}),
            false => json!({"dataDisksToAttach": [{"diskId": id}]}),
        };
        self.change_disks(request, &body, &what, &mut pauses).await?;
        loop {
            let machine = self.machine_now(request).await?;
            if let Some(attached) = attachment(&machine, &id) {
                return attached_volume(attached, &disk);
            }
            pauses.rest(&what, None).await?;
        }
    }

    /// The new disk is where the machine is, and of the kind of its system disk: the snapshot
    /// does not tell that of its source. But a snapshot of 4096-byte sectors becomes a Premium
    /// SSD v2 or an Ultra disk, nothing else.
    /// Source: "Create an incremental snapshot for managed disks".
    async fn copy_snapshot(
        &self,
        request: &VolumeRequest<'_>,
        machine: &Value,
        pauses: &mut Pauses,
    ) -> Result<Value, SnapshotError> {
        let snapshot = azure_record(request.snapshot)?.snapshot_name.as_str();
        let id = self.id("disks", request.name);
        let mut body = json!({
            "location": machine["location"],
            "properties": {
                "creationData": {
                    "createOption": "Copy",
                    "sourceResourceId": self.id("snapshots", snapshot),
                },
            },
        });
        if machine["zones"].is_array() {
            body["zones"] = machine["zones"].clone();
        }
        let system = &machine["properties"]["storageProfile"]["osDisk"]["managedDisk"];
        let sectors = self.sector_bytes(snapshot).await?;
        if sectors == Some(LARGE_SECTOR_BYTES) {
            body["sku"] = json!({"name": LARGE_SECTOR_SKU});
            body["properties"]["creationData"]["logicalSectorSize"] = json!(LARGE_SECTOR_BYTES);
        } else if system["storageAccountType"].is_string() {
            body["sku"] = json!({"name": system["storageAccountType"]});
        }
        let action = format!("create disk \"{}\" of snapshot \"{snapshot}\"", request.name);
        let begun = self.manager.begin(Method::PUT, &id, Some(&body)).await;
        let what = format!("creation of disk \"{}\"", request.name);
        match begun {
            Ok(answer) => {
                let change = Change { id: &id, outcome: Outcome::Present, what: &what };
                self.manager.finish(&answer, &change, pauses).await?;
            }
            // An earlier request is under way: ours, whose answer was lost, or another run's.
            Err(error) if is_busy(&error) => pauses.rest_after(&what, &error).await?,
            Err(error) => return Err(SnapshotError::of_call(&action, &error)),
        }
        loop {
            match self.disk_now(&id).await? {
                Some(disk) if provisioning_state(&disk) == "Succeeded" => return Ok(disk),
                Some(disk) if provisioning_state(&disk) == "Failed" => {
                    let message = format!("{what} failed");
                    return Err(SnapshotError::new(SnapshotErrorKind::Broken, message));
                }
                _ => pauses.rest(&what, None).await?,
            }
        }
    }

    /// The size of the sectors that disks of this snapshot have; only Ultra disks and Premium
    /// SSD v2 tell one.
    async fn sector_bytes(&self, snapshot: &str) -> Result<Option<u64>, SnapshotError> {
        let action = format!("describe snapshot \"{snapshot}\"");
        let found = self.manager.get(&self.id("snapshots", snapshot)).await;
        let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
        let Some(found) = found else {
            let message = format!("snapshot \"{snapshot}\" does not exist");
            return Err(SnapshotError::new(SnapshotErrorKind::Absent, message));
        };
        Ok(found["properties"]["creationData"]["logicalSectorSize"].as_u64())
    }

    /// Attaches or detaches, once the machine takes changes.
    async fn change_disks(
        &self,
        request: &VolumeRequest<'_>,
        body: &Value,
        what: &str,
        pauses: &mut Pauses,
    ) -> Result<(), SnapshotError> {
        let machine = &request.instance.id;
        let target = format!("{machine}/attachDetachDataDisks");
        loop {
            match self.manager.begin(Method::POST, &target, Some(body)).await {
                Ok(answer) => {
                    let change = Change { id: machine, outcome: Outcome::Present, what };
                    return self.manager.finish(&answer, &change, pauses).await;
                }
                Err(error) if is_busy(&error) => pauses.rest_after(what, &error).await?,
                Err(error) => {
                    let action =
                        format!("change the disks of instance \"{}\"", request.instance.name);
                    return Err(SnapshotError::of_call(&action, &error));
                }
            }
        }
    }

    pub(crate) async fn drop_volume(
        &self,
        request: &VolumeRequest<'_>,
    ) -> Result<(), SnapshotError> {
        let mut pauses = Pauses::new(DELETE_PATIENCE, None);
        let id = self.id("disks", request.name);
        let machine = self.machine_now(request).await?;
        if attachment(&machine, &id).is_some() {
            let what = format!("detachment of disk \"{}\"", request.name);
            let body = json!({"dataDisksToDetach": [{"diskId": id}]});
            self.change_disks(request, &body, &what, &mut pauses).await?;
        }
        let what = format!("deletion of disk \"{}\"", request.name);
        let detached_ago = Instant::now();
        loop {
            match self.manager.begin(Method::DELETE, &id, None).await {
                Ok(answer) if answer.status == StatusCode::NO_CONTENT => return Ok(()),
                Ok(answer) => {
                    let change = Change { id: &id, outcome: Outcome::Absent, what: &what };
                    return self.manager.finish(&answer, &change, &mut pauses).await;
                }
                Err(error) if error.has_code(&["ResourceNotFound", "NotFound"]) => return Ok(()),
                Err(error) if is_busy(&error) => pauses.rest_after(&what, &error).await?,
                // Attached, it says. For a moment that may still be the attachment that is gone.
                Err(error) if is_not_allowed(&error) && detached_ago.elapsed() < SETTLED_AFTER => {
                    pauses.rest_after(&what, &error).await?;
                }
                Err(error) => {
                    let action = format!("delete disk \"{}\"", request.name);
                    return Err(SnapshotError::of_call(&action, &error));
                }
            }
        }
    }

    async fn machine_now(&self, request: &VolumeRequest<'_>) -> Result<Value, SnapshotError> {
        let name = &request.instance.name;
        let action = format!("describe instance \"{name}\"");
        let found = self.manager.get(&request.instance.id).await;
        let found = found.map_err(|error| SnapshotError::of_call(&action, &error))?;
        found.ok_or_else(|| {
            let message = format!("instance \"{name}\" is not there any more");
            SnapshotError::new(SnapshotErrorKind::InstanceMissing, message)
        })
    }

    async fn disk_now(&self, id: &str) -> Result<Option<Value>, SnapshotError> {
        let action = format!("describe disk \"{}\"", name_of(id));
        self.manager.get(id).await.map_err(|error| SnapshotError::of_call(&action, &error))
    }
}

/// The attachment of a disk to a machine. Ids are compared without regard to case.
fn attachment<'a>(machine: &'a Value, disk: &str) -> Option<&'a Value> {
    let attached = machine["properties"]["storageProfile"]["dataDisks"].as_array()?;
    attached.iter().find(|attached| {
        let id = attached["managedDisk"]["id"].as_str();
        id.is_some_and(|id| id.eq_ignore_ascii_case(disk))
    })
}
