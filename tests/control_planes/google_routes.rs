//! What Compute Engine and the metadata server answer.

use crate::control_planes::google::{
    AUDIENCE, Change, Operation, PROJECT, Resource, State, ZONE, error, link, zone_path,
};
use crate::control_planes::google_bodies::{
    check_parameters, check_request_id, held_to_the_model, read,
};
use crate::control_planes::tokens::Verdict;
use crate::gcs_fake::http::{Answer, Request, decoded, iso_date};
use serde_json::{Value, json};
use std::time::SystemTime;

const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

pub fn answer(state: &mut State, request: &Request, origin: &str) -> Answer {
    held_to_the_model(judged(state, request, origin))
}

fn judged(state: &mut State, request: &Request, origin: &str) -> Answer {
    if request.path == METADATA {
        return metadata(state, request);
    }
    let header = request.header("authorization");
    match state.tokens.judge(header, &[AUDIENCE]) {
        Verdict::Good => {}
        Verdict::Missing => return error(401, "required", "Login Required."),
        _ => return error(401, "authError", "Invalid Credentials"),
    }
    let path = decoded(&request.path);
    let Some(path) = path.strip_prefix("/compute/v1/") else {
        return error(404, "notFound", "Not Found");
    };
    if let Err(refused) = check_parameters(request, path) {
        return refused;
    }
    let words: Vec<&str> = path.split('/').collect();
    if words.first() != Some(&"projects") || words.get(1) != Some(&PROJECT) {
        let text = format!("The resource 'projects/{}' was not found", words.get(1).unwrap_or(&""));
        return error(404, "notFound", &text);
    }
    let zone = ["zones", ZONE];
    match (request.method.as_str(), &words[2..]) {
        ("GET", ["global", "operations", _]) => look_at(state, path, request),
        ("GET", ["zones", ZONE, "operations", _]) => look_at(state, path, request),
        ("POST", [.., "operations", _, "wait"]) => {
            look_at(state, path.trim_end_matches("/wait"), request)
        }
        ("GET", ["global", "snapshots", _] | ["regions", _, "disks", _]) => show(state, path),
        ("GET", [first, second, "instances" | "disks", _]) if [*first, *second] == zone => {
            show(state, path)
        }
        ("POST", ["global", "snapshots"]) => insert(state, request, path, origin),
        ("POST", ["zones", ZONE, "disks"]) => insert(state, request, path, origin),
        ("POST", ["zones", ZONE, "instances", _, "attachDisk"]) => {
            attach(state, request, path.trim_end_matches("/attachDisk"), origin)
        }
        ("POST", ["zones", ZONE, "instances", _, "detachDisk"]) => {
            detach(state, request, path.trim_end_matches("/detachDisk"), origin)
        }
        ("DELETE", ["global", "snapshots", _] | ["zones", ZONE, "disks", _]) => {
            delete(state, request, path, origin)
        }
        ("GET" | "POST" | "DELETE", ["zones", zone, ..]) if *zone != ZONE => {
            let text = format!("Invalid value for field 'zone': '{zone}'. Unknown zone.");
            error(400, "invalid", &text)
        }
        _ => error(404, "notFound", "Not Found"),
    }
}

fn metadata(state: &mut State, request: &Request) -> Answer {
    if request.header("metadata-flavor") != Some("Google") {
        return Answer::new(403).body("text/html", "Missing Metadata-Flavor:Google header.");
    }
    let body = json!({
        "access_token": state.tokens.issue(AUDIENCE),
        "expires_in": state.tokens.lifetime.as_secs(),
        "token_type": "Bearer",
    });
    Answer::new(200).with("metadata-flavor", "Google").body("application/json", body.to_string())
}

fn not_found(path: &str) -> Answer {
    error(404, "notFound", &format!("The resource '{path}' was not found"))
}

fn show(state: &mut State, path: &str) -> Answer {
    // Time passes with every look.
    tick_resource(state, path);
    match state.resources.get_mut(path) {
        Some(resource) if resource.hidden_gets > 0 => {
            resource.hidden_gets -= 1;
            not_found(path)
        }
        Some(resource) => ok(&resource.value),
        None => not_found(path),
    }
}

fn insert(state: &mut State, request: &Request, collection: &str, origin: &str) -> Answer {
    if let Some(answer) = repeated(state, request) {
        return answer;
    }
    let body = match read(request, collection) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let name = body["name"].as_str().unwrap_or_default().to_string();
    let path = format!("{collection}/{name}");
    if state.resources.contains_key(&path) {
        return error(409, "alreadyExists", &format!("The resource '{path}' already exists"));
    }
    let mut value = body;
    if let Some(kind) = value["type"].as_str() {
        // A zonal disk is of a type of its zone: one of a region is refused.
        if !kind.contains(&format!("zones/{ZONE}/diskTypes/")) {
            let text = format!("Invalid value for field 'resource.type': '{kind}'.");
            return error(400, "invalid", &text);
        }
        value["type"] = json!(link(origin, &path_of(kind).unwrap_or_default()));
    }
    for field in ["sourceDisk", "sourceSnapshot"] {
        let Some(source) = value[field].as_str() else { continue };
        let Some(source) = path_of(source) else {
            let text = format!(
                "Invalid value for field 'resource.{field}': '{source}'. The URL is malformed."
            );
            return error(400, "invalid", &text);
        };
        let Some(found) = state.resources.get(&source) else { return not_found(&source) };
        let id = found.value["id"].clone();
        value[field] = json!(link(origin, &source));
        value[format!("{field}Id")] = id;
    }
    let snapshot = collection.ends_with("/snapshots");
    value["kind"] = json!(if snapshot { "compute#snapshot" } else { "compute#disk" });
    value["id"] = json!(state.next_id().to_string());
    value["selfLink"] = json!(link(origin, &path));
    value["creationTimestamp"] = json!(iso_date(SystemTime::now()));
    value["status"] = json!("CREATING");
    let resource = Resource { value, hidden_gets: state.behaviour.hidden_gets, operation: None };
    state.resources.insert(path.clone(), resource);
    begin(state, request, &path, Change::Insert, origin)
}

fn delete(state: &mut State, request: &Request, path: &str, origin: &str) -> Answer {
    if let Some(answer) = repeated(state, request) {
        return answer;
    }
    tick_resource(state, path);
    if in_use(state, path) {
        let text = format!("The disk resource '{path}' is already being used");
        return error(400, "resourceInUseByAnotherResource", &text);
    }
    let Some(resource) = state.resources.get_mut(path) else { return not_found(path) };
    if resource.operation.is_some() {
        let text = format!("The resource '{path}' is not ready");
        return error(400, "resourceNotReady", &text);
    }
    resource.value["status"] = json!("DELETING");
    begin(state, request, path, Change::Delete, origin)
}

fn attach(state: &mut State, request: &Request, machine: &str, origin: &str) -> Answer {
    if let Some(answer) = repeated(state, request) {
        return answer;
    }
    let body = match read(request, &format!("{machine}/attachDisk")) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let source = body["source"].as_str().and_then(path_of).unwrap_or_default();
    if !state.resources.contains_key(&source) {
        return not_found(&source);
    }
    if !state.resources.contains_key(machine) {
        return not_found(machine);
    }
    let user = link(origin, machine);
    let disk = state.resources.get_mut(&source).expect("looked up above");
    disk.value["users"] = json!([user]);
    let resource = state.resources.get_mut(machine).expect("looked up above");
    let Some(disks) = resource.value["disks"].as_array_mut() else { return not_found(machine) };
    if disks
        .iter()
        .any(|disk| disk["source"].as_str().and_then(path_of).as_deref() == Some(&source))
    {
        let text = format!("The disk resource '{source}' is already being used by '{machine}'");
        return error(400, "resourceInUseByAnotherResource", &text);
    }
    let index = disks.len();
    disks.push(json!({
        "kind": "compute#attachedDisk",
        "type": "PERSISTENT",
        "mode": body["mode"].as_str().unwrap_or("READ_WRITE"),
        "source": link(origin, &source),
        "deviceName": body["deviceName"].as_str().map_or(format!("persistent-disk-{index}"), str::to_string),
        "index": index,
        "boot": false,
    }));
    begin(state, request, machine, Change::Update, origin)
}

fn detach(state: &mut State, request: &Request, machine: &str, origin: &str) -> Answer {
    if let Some(answer) = repeated(state, request) {
        return answer;
    }
    let Some(device) = request.parameter("deviceName") else {
        return error(400, "required", "Required parameter: deviceName");
    };
    let Some(resource) = state.resources.get_mut(machine) else { return not_found(machine) };
    let Some(disks) = resource.value["disks"].as_array_mut() else { return not_found(machine) };
    let leaving = disks.iter().position(|disk| disk["deviceName"] == device);
    let leaving = leaving.map(|index| disks.remove(index));
    let Some(leaving) = leaving else {
        let text = format!("No attached disk found with device name '{device}'");
        return error(400, "invalid", &text);
    };
    let source = leaving["source"].as_str().and_then(path_of).unwrap_or_default();
    if let Some(disk) = state.resources.get_mut(&source) {
        disk.value["users"] = json!([]);
    }
    begin(state, request, machine, Change::Update, origin)
}

/// The operation that a repeated `requestId` began; also refuses malformed ids.
fn repeated(state: &State, request: &Request) -> Option<Answer> {
    let id = request.parameter("requestId")?;
    if let Err(refused) = check_request_id(id) {
        return Some(refused);
    }
    let operation = state.operations.get(state.request_ids.get(id)?)?;
    Some(ok(&shown(operation)))
}

fn in_use(state: &State, disk: &str) -> bool {
    let machines =
        state.resources.values().filter_map(|resource| resource.value["disks"].as_array());
    machines
        .flatten()
        .any(|attached| attached["source"].as_str().and_then(path_of).as_deref() == Some(disk))
}

/// A full or partial URL of a resource → its path.
fn path_of(url: &str) -> Option<String> {
    let at = url.find("projects/")?;
    let before = &url[..at];
    let known = before.is_empty() || before.ends_with("/compute/v1/");
    known.then(|| url[at..].to_string())
}

fn begin(
    state: &mut State,
    request: &Request,
    resource: &str,
    change: Change,
    origin: &str,
) -> Answer {
    let id = state.next_id();
    let name = format!("operation-{id}-5f3c4a7e-9a103a4a-d1f8a6e7");
    let zonal = resource.contains("/zones/");
    let parent = if zonal { zone_path() } else { format!("projects/{PROJECT}/global") };
    let path = format!("{parent}/operations/{name}");
    let kind = match change {
        Change::Insert => "insert",
        Change::Update => "attachDisk",
        Change::Delete => "delete",
    };
    let mut value = json!({
        "kind": "compute#operation",
        "id": id.to_string(),
        "name": name,
        "operationType": kind,
        "targetLink": link(origin, resource),
        "targetId": state.resources[resource].value["id"],
        "user": "backup@postgres-project.iam.gserviceaccount.com",
        "insertTime": iso_date(SystemTime::now()),
        "selfLink": link(origin, &path),
    });
    if zonal {
        value["zone"] = json!(link(origin, &zone_path()));
    }
    if let Some((code, message)) = &state.behaviour.operations_warn {
        value["warnings"] = json!([{"code": code, "message": message, "data": []}]);
    }
    let operation = Operation {
        value,
        resource: resource.to_string(),
        change,
        polls: 0,
        polls_needed: state.behaviour.pending_polls,
        hidden_gets: state.behaviour.hidden_gets,
        failure: state.behaviour.operations_fail.clone(),
        finished: false,
    };
    let answer = ok(&shown(&operation));
    if let Some(id) = request.parameter("requestId") {
        state.request_ids.insert(id.to_string(), path.clone());
    }
    state.operations.insert(path.clone(), operation);
    state.resources.get_mut(resource).expect("the caller saw it").operation = Some(path);
    answer
}

fn look_at(state: &mut State, path: &str, request: &Request) -> Answer {
    let Some(operation) = state.operations.get_mut(path) else { return not_found(path) };
    if operation.hidden_gets > 0 {
        operation.hidden_gets -= 1;
        return not_found(path);
    }
    if request.method == "POST" && !request.body.is_empty() {
        return error(400, "badRequest", "Invalid JSON payload received. Unknown name.");
    }
    tick(state, path);
    ok(&shown(&state.operations[path]))
}

/// An operation with its status.
fn shown(operation: &Operation) -> Value {
    let mut value = operation.value.clone();
    if !operation.finished {
        let running = operation.polls > 0;
        value["status"] = json!(if running { "RUNNING" } else { "PENDING" });
        value["progress"] = json!(if running { 50 } else { 0 });
        return value;
    }
    value["status"] = json!("DONE");
    value["progress"] = json!(100);
    value["endTime"] = json!(iso_date(SystemTime::now()));
    if let Some((code, message)) = &operation.failure {
        value["error"] = json!({"errors": [{"code": code, "message": message}]});
        value["httpErrorStatusCode"] = json!(400);
        value["httpErrorMessage"] = json!("BAD REQUEST");
    }
    value
}

fn tick_resource(state: &mut State, path: &str) {
    let operation = state.resources.get(path).and_then(|resource| resource.operation.clone());
    if let Some(operation) = operation {
        tick(state, &operation);
    }
}

/// Lets an operation come one look nearer to its end.
fn tick(state: &mut State, path: &str) {
    let Some(operation) = state.operations.get_mut(path) else { return };
    if operation.finished {
        return;
    }
    operation.polls += 1;
    operation.finished = operation.polls > operation.polls_needed;
    let (key, change, finished) =
        (operation.resource.clone(), operation.change, operation.finished);
    let failed = finished && operation.failure.is_some();
    let Some(resource) = state.resources.get_mut(&key) else { return };
    if !finished {
        if change == Change::Insert && key.contains("/snapshots/") {
            resource.value["status"] = json!("UPLOADING");
        }
        return;
    }
    resource.operation = None;
    match (change, failed) {
        (Change::Delete, false) => {
            state.resources.remove(&key);
        }
        (Change::Insert, true) => resource.value["status"] = json!("FAILED"),
        (Change::Insert | Change::Delete, _) => resource.value["status"] = json!("READY"),
        (Change::Update, _) => {}
    }
}

fn ok(value: &Value) -> Answer {
    Answer::new(200).body("application/json; charset=UTF-8", value.to_string())
}
