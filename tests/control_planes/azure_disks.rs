//! Attaching data disks to Azure's machines and detaching them.
//!
//! Source: Azure REST API reference, "Virtual Machines - Attach Detach Data Disks".

use crate::control_planes::azure::{Change, State, error, resource_id};
use crate::control_planes::azure_bodies::read;
use crate::control_planes::azure_routes::{accept, busy, not_found, tick_resource};
use crate::gcs_fake::http::{Answer, Request};
use serde_json::{Value, json};

pub fn change(state: &mut State, request: &Request, name: &str, origin: &str) -> Answer {
    let key = resource_id("virtualMachines", name).to_lowercase();
    tick_resource(state, &key);
    let body = match read(request, "AttachDetachDataDisksRequest") {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let Some(machine) = state.resources.get(&key) else {
        return not_found("virtualMachines", name);
    };
    if machine.operation.is_some() {
        return busy(name);
    }
    let attached = &machine.value["properties"]["storageProfile"]["dataDisks"];
    let mut disks = attached.as_array().cloned().unwrap_or_default();
    let id_of = |disk: &Value| disk["diskId"].as_str().unwrap_or_default().to_lowercase();
    for wanted in body["dataDisksToDetach"].as_array().into_iter().flatten() {
        let id = id_of(wanted);
        disks.retain(|disk| attached_id(disk) != id);
        if let Some(disk) = state.resources.get_mut(&id) {
            disk.value["managedBy"] = Value::Null;
        }
    }
    for wanted in body["dataDisksToAttach"].as_array().into_iter().flatten() {
        let id = id_of(wanted);
        let Some(disk) = state.resources.get_mut(&id) else {
            return error(404, "NotFound", &format!("Disk {id} is not found."));
        };
        if disks.iter().any(|disk| attached_id(disk) == id) {
            continue;
        }
        let most = state.behaviour.data_disks_max;
        if disks.len() >= most {
            let text = format!(
                "The maximum number of data disks allowed to be attached to a VM of this size is {most}."
            );
            return error(409, "OperationNotAllowed", &text);
        }
        let without_cache = ["PremiumV2_LRS", "UltraSSD_LRS"];
        let kind = disk.value["sku"]["name"].as_str().unwrap_or_default().to_string();
        if without_cache.contains(&kind.as_str()) && wanted["caching"] != "None" {
            let text = format!("Disks of sku {kind} do not support caching.");
            return error(400, "InvalidParameter", &text);
        }
        let taken = |lun: u64| disks.iter().any(|disk| disk["lun"] == lun);
        let lun = wanted["lun"].as_u64().or_else(|| (0..64).find(|lun| !taken(*lun)));
        let Some(lun) = lun.filter(|lun| !taken(*lun)) else {
            let text = "A disk with this Lun is already attached to the VM.";
            return error(400, "InvalidParameter", text);
        };
        disk.value["managedBy"] = json!(resource_id("virtualMachines", name));
        disks.push(json!({
            "lun": lun,
            "name": disk.value["name"],
            "createOption": "Attach",
            "caching": "None",
            "managedDisk": {"id": disk.value["id"]},
        }));
    }
    let machine = state.resources.get_mut(&key).expect("looked up above");
    machine.value["properties"]["storageProfile"]["dataDisks"] = disks.into();
    accept(state, &key, Change::Write, origin)
}

fn attached_id(disk: &Value) -> String {
    disk["managedDisk"]["id"].as_str().unwrap_or_default().to_lowercase()
}
