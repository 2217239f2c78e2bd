//! Azure Resource Manager with `Microsoft.Compute`, and two token services.
//!
//! Sources: Azure REST API reference, Compute 2024-03-02 (snapshots, disks) and 2024-07-01
//! (virtual machines), as in azure-rest-api-specs, `Microsoft.Compute/DiskRP/stable/2024-03-02/
//! snapshot.json` and its examples; "Track asynchronous Azure operations"; "Troubleshoot common
//! Azure deployment errors" (codes); "Troubleshooting API throttling errors" (429); "How to use
//! managed identities … to acquire an access token"; "Microsoft identity platform and the OAuth
//! 2.0 client credentials flow".

use crate::control_planes::azure_routes;
use crate::control_planes::server::{Fault, Server, lock};
use crate::control_planes::tokens::Tokens;
use crate::gcs_fake::http::Answer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const SUBSCRIPTION: &str = "0b1f6471-1bf0-4dda-aec3-cb9272f09590";
pub const GROUP: &str = "postgres-group";
pub const LOCATION: &str = "westeurope";
pub const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
pub const CLIENT: &str = "6731de76-14a6-49ae-97bc-6eba6914391e";
pub const CLIENT_SECRET: &str = "secret-of-the-fake";

/// How the server behaves; a test changes what it is about.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How often an operation is looked at before it is finished.
    pub pending_polls: usize,
    /// `Retry-After` of accepted and pending operations.
    pub retry_after: Option<u32>,
    pub tracking: Tracking,
    /// How many GETs of a new resource answer 404.
    pub hidden_gets: usize,
    /// How many GETs of a finished snapshot show a copy in the background.
    pub copy_gets: usize,
    /// Code and message with which operations end.
    pub operations_fail: Option<(String, String)>,
    /// Whether a management lock forbids deletions.
    pub scope_locked: bool,
    /// How many data disks a machine takes.
    pub data_disks_max: usize,
}

/// Which headers of an accepted change tell where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    Both,
    LocationOnly,
    /// Neither: the resource's `provisioningState` tells.
    Resource,
}

/// What there is. Keys are resource ids in lower case: ids are case-insensitive.
pub struct State {
    pub behaviour: Behaviour,
    pub tokens: Tokens,
    pub resources: BTreeMap<String, Resource>,
    pub operations: BTreeMap<String, Operation>,
    pub next_number: u64,
}

#[derive(Clone, Debug)]
pub struct Resource {
    pub value: Value,
    pub hidden_gets: usize,
    pub copy_gets: usize,
    /// The operation that changes it.
    pub operation: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub resource: String,
    pub polls_left: usize,
    pub change: Change,
    pub failure: Option<(String, String)>,
    pub finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write,
    Delete,
}

/// A running server; it stops when dropped.
pub struct AzureFake {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl AzureFake {
    pub fn start() -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State {
            behaviour: Behaviour {
                pending_polls: 2,
                retry_after: Some(0),
                tracking: Tracking::Both,
                hidden_gets: 0,
                copy_gets: 0,
                operations_fail: None,
                scope_locked: false,
                data_disks_max: 64,
            },
            tokens: Tokens::new(),
            resources: BTreeMap::new(),
            operations: BTreeMap::new(),
            next_number: 1,
        }));
        let answering = Arc::clone(&state);
        let server = Server::start(Box::new(move |request, origin| {
            azure_routes::answer(&mut lock(&answering), request, origin)
        }))?;
        Ok(Self { server, state })
    }

    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.state).behaviour);
    }

    pub fn fail(&self, method: &str, path_part: &str, passed: usize, times: usize, fault: Fault) {
        self.server.fail(method, path_part, passed, times, fault);
    }

    /// From now on everything goes well.
    pub fn forget_faults(&self) {
        self.server.forget_faults();
    }

    /// Makes a disk one of 4096-byte sectors, as Premium SSD v2 is by default.
    pub fn enlarge_sectors(&self, name: &str) {
        let mut state = lock(&self.state);
        let disk = &mut state.resources.get_mut(&key("disks", name)).expect("a disk").value;
        disk["sku"] = json!({"name": "PremiumV2_LRS", "tier": "Premium"});
        disk["zones"] = json!(["1"]);
        disk["properties"]["creationData"]["logicalSectorSize"] = json!(4096);
    }

    /// Gives a machine a zone, and its system disk a kind.
    pub fn place_machine(&self, name: &str, zone: &str, kind: &str) {
        let mut state = lock(&self.state);
        let machine = &mut state.resources.get_mut(&key("virtualMachines", name));
        let machine = &mut machine.as_mut().expect("a machine").value;
        machine["zones"] = json!([zone]);
        let system = &mut machine["properties"]["storageProfile"]["osDisk"]["managedDisk"];
        system["storageAccountType"] = json!(kind);
    }

    /// A disk as GET shows it.
    pub fn disk(&self, name: &str) -> Option<Value> {
        let state = lock(&self.state);
        state.resources.get(&key("disks", name)).map(|resource| resource.value.clone())
    }

    /// Requests to the management API, without those for tokens.
    pub fn requests(&self) -> Vec<String> {
        let mut requests = self.server.requests();
        requests.retain(|request| request.contains(" /subscriptions/"));
        requests
    }

    pub fn token_lifetime(&self, lifetime: Duration) {
        lock(&self.state).tokens.lifetime = lifetime;
    }

    /// How many tokens were given out.
    pub fn tokens_issued(&self) -> usize {
        lock(&self.state).tokens.count()
    }

    pub fn add_disk(&self, name: &str) {
        let value = json!({
            "name": name,
            "id": resource_id("disks", name),
            "type": "Microsoft.Compute/disks",
            "location": LOCATION,
            "sku": {"name": "Premium_LRS", "tier": "Premium"},
            "properties": {
                "creationData": {"createOption": "Empty"},
                "diskSizeGB": 10,
                "timeCreated": "2026-11-21T07:00:00.0000000+00:00",
                "provisioningState": "Succeeded",
                "diskState": "Attached",
            },
        });
        self.put(value);
    }

    /// A disk as it is created from a snapshot.
    pub fn add_disk_from(&self, name: &str, snapshot: &str) {
        self.add_disk(name);
        let mut state = lock(&self.state);
        let disk = state.resources.get_mut(&key("disks", name)).expect("just added");
        disk.value["properties"]["creationData"] = json!({
            "createOption": "Copy",
            "sourceResourceId": resource_id("snapshots", snapshot),
        });
    }

    /// A machine with disks at logical unit numbers.
    pub fn add_machine(&self, name: &str, disks: &[(&str, u32)]) {
        let disks: Vec<Value> = disks
            .iter()
            .map(|(disk, lun)| {
                json!({
                    "lun": lun,
                    "name": disk,
                    "createOption": "Attach",
                    "caching": "None",
                    "managedDisk": {
                        "storageAccountType": "Premium_LRS",
                        "id": resource_id("disks", disk),
                    },
                    "toBeDetached": false,
                })
            })
            .collect();
        self.put(json!({
            "name": name,
            "id": resource_id("virtualMachines", name),
            "type": "Microsoft.Compute/virtualMachines",
            "location": LOCATION,
            "properties": {
                "vmId": "8df46e88-a7d9-4cb5-a4d7-6b6a6f7a29c3",
                "provisioningState": "Succeeded",
                "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
                "storageProfile": {
                    "osDisk": {
                        "osType": "Linux",
                        "name": format!("{name}-os"),
                        "createOption": "FromImage",
                        "managedDisk": {"id": resource_id("disks", &format!("{name}-os"))},
                    },
                    "dataDisks": disks,
                },
            },
        }));
    }

    /// Names of all snapshots, whatever their state.
    pub fn snapshots(&self) -> Vec<String> {
        let state = lock(&self.state);
        let snapshots = state.resources.values().map(|resource| &resource.value);
        snapshots
            .filter(|value| value["type"] == "Microsoft.Compute/snapshots")
            .filter_map(|value| value["name"].as_str().map(str::to_string))
            .collect()
    }

    /// Names of all disks.
    pub fn disks(&self) -> Vec<String> {
        let state = lock(&self.state);
        let disks = state.resources.values().map(|resource| &resource.value);
        disks
            .filter(|value| value["type"] == "Microsoft.Compute/disks")
            .filter_map(|value| value["name"].as_str().map(str::to_string))
            .collect()
    }

    /// A snapshot as GET shows it.
    pub fn snapshot(&self, name: &str) -> Option<Value> {
        let state = lock(&self.state);
        state.resources.get(&key("snapshots", name)).map(|resource| resource.value.clone())
    }

    fn put(&self, value: Value) {
        let key = value["id"].as_str().expect("an id").to_lowercase();
        let resource = Resource { value, hidden_gets: 0, copy_gets: 0, operation: None };
        lock(&self.state).resources.insert(key, resource);
    }
}

pub fn resource_id(kind: &str, name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute/{kind}/{name}"
    )
}

fn key(kind: &str, name: &str) -> String {
    resource_id(kind, name).to_lowercase()
}

/// `{"error": {"code": …, "message": …}}`.
pub fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"error": {"code": code, "message": message}});
    Answer::new(status)
        .with("x-ms-request-id", "c27a2a35-f4c2-4e52-8d0e-2e4f3d4b3b3a")
        .body("application/json; charset=utf-8", body.to_string())
}

pub fn throttled(retry_after: u32) -> Fault {
    let answer = error(
        429,
        "OperationNotAllowed",
        "The server rejected the request because too many requests have been received for this subscription.",
    );
    Fault::Refuse(answer.with("retry-after", retry_after.to_string()))
}

pub fn forbidden(action: &str) -> Fault {
    Fault::Refuse(error(
        403,
        "AuthorizationFailed",
        &format!(
            "The client '{CLIENT}' with object id '{CLIENT}' does not have authorization to perform action '{action}' over scope '/subscriptions/{SUBSCRIPTION}' or the scope is invalid. If access was recently granted, please refresh your credentials."
        ),
    ))
}

pub fn broken(status: u16) -> Fault {
    Fault::Refuse(error(status, "InternalServerError", "Encountered internal server error."))
}

/// A conflict of this code.
pub fn refused(code: &str) -> Answer {
    error(409, code, "The operation could not be completed as things are.")
}
