//! Google Compute Engine v1 and the metadata server's tokens.
//!
//! Sources: Compute Engine API v1 reference (instances, disks, snapshots, globalOperations,
//! zoneOperations; the fields of `Operation` and `Snapshot`); "Handle API responses" (operations
//! and their errors); "Best practices … rate limits" (403 `rateLimitExceeded`); `requestId` in
//! the method pages; "View and query VM metadata" and "Authenticate workloads … access token".

use crate::control_planes::google_routes;
use crate::control_planes::server::{Fault, Server, lock};
use crate::control_planes::tokens::Tokens;
use crate::gcs_fake::http::Answer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const PROJECT: &str = "postgres-project";
/// Whom the metadata server's tokens are for, and what the API takes.
pub const AUDIENCE: &str = "https://www.googleapis.com/auth/cloud-platform";
pub const ZONE: &str = "europe-west1-b";

/// How the server behaves; a test changes what it is about.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How often an operation is looked at before it is done.
    pub pending_polls: usize,
    /// How many GETs of a new resource or operation answer 404.
    pub hidden_gets: usize,
    /// Code and message with which operations end.
    pub operations_fail: Option<(String, String)>,
    /// Code and message of a warning on every operation.
    pub operations_warn: Option<(String, String)>,
}

/// What there is. Keys are paths below `/compute/v1/`.
pub struct State {
    pub behaviour: Behaviour,
    pub tokens: Tokens,
    pub resources: BTreeMap<String, Resource>,
    pub operations: BTreeMap<String, Operation>,
    /// Which operation a `requestId` began.
    pub request_ids: BTreeMap<String, String>,
    pub next_number: u64,
}

#[derive(Clone, Debug)]
pub struct Resource {
    pub value: Value,
    pub hidden_gets: usize,
    /// The operation that changes it, by its path.
    pub operation: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Operation {
    /// What GET shows, but for the status.
    pub value: Value,
    pub resource: String,
    pub change: Change,
    pub polls: usize,
    pub polls_needed: usize,
    pub hidden_gets: usize,
    pub failure: Option<(String, String)>,
    pub finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

/// A running server; it stops when dropped.
pub struct GoogleFake {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl GoogleFake {
    pub fn start() -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State {
            behaviour: Behaviour {
                pending_polls: 2,
                hidden_gets: 0,
                operations_fail: None,
                operations_warn: None,
            },
            tokens: Tokens::new(),
            resources: BTreeMap::new(),
            operations: BTreeMap::new(),
            request_ids: BTreeMap::new(),
            next_number: 1,
        }));
        let answering = Arc::clone(&state);
        let server = Server::start(Box::new(move |request, origin| {
            google_routes::answer(&mut lock(&answering), request, origin)
        }))?;
        Ok(Self { server, state })
    }

    /// As `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE` takes it.
    pub fn endpoint(&self) -> String {
        format!("{}/compute/v1/", self.server.endpoint())
    }

    /// As `GCE_METADATA_HOST` takes it.
    pub fn metadata_host(&self) -> String {
        self.server.host()
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

    /// Gives a disk another type.
    pub fn set_disk_type(&self, name: &str, path: &str) {
        let link = self.link(path);
        let mut state = lock(&self.state);
        let disk = state.resources.get_mut(&format!("{}/disks/{name}", zone_path()));
        disk.expect("it was added").value["type"] = json!(link);
    }

    /// A disk as GET shows it.
    pub fn disk(&self, name: &str) -> Option<Value> {
        let state = lock(&self.state);
        let disk = state.resources.get(&format!("{}/disks/{name}", zone_path()));
        disk.map(|resource| resource.value.clone())
    }

    /// Requests to the compute API, without those for tokens.
    pub fn requests(&self) -> Vec<String> {
        let mut requests = self.server.requests();
        requests.retain(|request| request.contains(" /compute/v1/"));
        requests
    }

    /// A token as the metadata server gives it.
    pub fn token(&self) -> String {
        lock(&self.state).tokens.issue(AUDIENCE)
    }

    pub fn token_lifetime(&self, lifetime: Duration) {
        lock(&self.state).tokens.lifetime = lifetime;
    }

    pub fn add_disk(&self, name: &str) {
        self.put(
            &format!("{}/disks/{name}", zone_path()),
            json!({
                "kind": "compute#disk",
                "name": name,
                "sizeGb": "10",
                "status": "READY",
                "zone": self.link(&zone_path()),
                "type": self.link(&format!("{}/diskTypes/pd-ssd", zone_path())),
            }),
        );
    }

    /// A disk as it is created from a snapshot.
    pub fn add_disk_from(&self, name: &str, snapshot: &str) {
        self.add_disk(name);
        let source = self.link(&snapshot_path(snapshot));
        let mut state = lock(&self.state);
        let disk = state.resources.get_mut(&format!("{}/disks/{name}", zone_path()));
        disk.expect("just added").value["sourceSnapshot"] = json!(source);
    }

    /// A machine with a boot disk and disks under device names.
    pub fn add_machine(&self, name: &str, disks: &[(&str, &str)]) {
        let boot = format!("{name}-boot");
        let boot = [(boot.as_str(), "persistent-disk-0")];
        let attached: Vec<Value> = boot
            .iter()
            .chain(disks)
            .enumerate()
            .map(|(index, (disk, device))| {
                json!({
                    "kind": "compute#attachedDisk",
                    "type": "PERSISTENT",
                    "mode": "READ_WRITE",
                    "source": self.link(&format!("{}/disks/{disk}", zone_path())),
                    "deviceName": device,
                    "index": index,
                    "boot": index == 0,
                    "autoDelete": index == 0,
                })
            })
            .collect();
        self.add_disk(&format!("{name}-boot"));
        let machine = self.link(&format!("{}/instances/{name}", zone_path()));
        for (disk, _) in boot.iter().chain(disks) {
            let mut state = lock(&self.state);
            if let Some(disk) = state.resources.get_mut(&format!("{}/disks/{disk}", zone_path())) {
                disk.value["users"] = json!([machine]);
            }
        }
        self.put(
            &format!("{}/instances/{name}", zone_path()),
            json!({
                "kind": "compute#instance",
                "name": name,
                "status": "RUNNING",
                "zone": self.link(&zone_path()),
                "disks": attached,
            }),
        );
    }

    /// Names of all snapshots, whatever their state.
    pub fn snapshots(&self) -> Vec<String> {
        self.names("/snapshots/")
    }

    /// Names of all disks.
    pub fn disks(&self) -> Vec<String> {
        self.names("/disks/")
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let state = lock(&self.state);
        let paths = state.resources.keys().filter(|path| path.contains(kind));
        paths.filter_map(|path| path.rsplit('/').next().map(str::to_string)).collect()
    }

    /// A snapshot as GET shows it.
    pub fn snapshot(&self, name: &str) -> Option<Value> {
        let state = lock(&self.state);
        state.resources.get(&snapshot_path(name)).map(|resource| resource.value.clone())
    }

    fn link(&self, path: &str) -> String {
        link(&self.server.endpoint(), path)
    }

    fn put(&self, path: &str, mut value: Value) {
        value["selfLink"] = json!(self.link(path));
        let mut state = lock(&self.state);
        value["id"] = json!(state.next_id().to_string());
        let resource = Resource { value, hidden_gets: 0, operation: None };
        state.resources.insert(path.to_string(), resource);
    }
}

impl State {
    pub fn next_id(&mut self) -> u64 {
        self.next_number += 1;
        4_200_000_000_000_000_000 + self.next_number
    }
}

pub fn zone_path() -> String {
    format!("projects/{PROJECT}/zones/{ZONE}")
}

pub fn snapshot_path(name: &str) -> String {
    format!("projects/{PROJECT}/global/snapshots/{name}")
}

pub fn link(origin: &str, path: &str) -> String {
    format!("{origin}/compute/v1/{path}")
}

/// `{"error": {"code": …, "message": …, "errors": [{"reason": …}]}}`.
pub fn error(status: u16, reason: &str, message: &str) -> Answer {
    let body = json!({
        "error": {
            "code": status,
            "message": message,
            "errors": [{"message": message, "domain": "global", "reason": reason}],
        },
    });
    Answer::new(status).body("application/json; charset=UTF-8", body.to_string())
}

/// Google limits rates with 403, not only with 429.
pub fn throttled() -> Fault {
    Fault::Refuse(error(403, "rateLimitExceeded", "Rate Limit Exceeded"))
}

pub fn too_many_requests(retry_after: u32) -> Fault {
    let answer = error(429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'.");
    Fault::Refuse(answer.with("retry-after", retry_after.to_string()))
}

pub fn forbidden(permission: &str, path: &str) -> Fault {
    let text = format!("Required '{permission}' permission for '{path}'");
    Fault::Refuse(error(403, "forbidden", &text))
}

pub fn broken(status: u16) -> Fault {
    Fault::Refuse(error(status, "backendError", "Internal error. Please try again."))
}
