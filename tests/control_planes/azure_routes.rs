//! What Azure Resource Manager answers.

use crate::control_planes::azure::{
    Change, GROUP, LOCATION, Operation, Resource, SUBSCRIPTION, State, Tracking, error,
};
use crate::control_planes::azure_bodies::{held_to_the_model, read};
use crate::control_planes::model;
use crate::control_planes::tokens::Verdict;
use crate::control_planes::{azure_disks, azure_tokens};
use crate::gcs_fake::http::{Answer, Request, decoded, iso_date};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Audiences that Resource Manager takes.
const AUDIENCES: [&str; 3] = [
    "https://management.azure.com/",
    "https://management.azure.com",
    "https://management.core.windows.net/",
];

/// Versions before this one have no incremental snapshots.
const DISKS_SINCE: &str = "2019-07-01";

pub fn answer(state: &mut State, request: &Request, origin: &str) -> Answer {
    held_to_the_model(judged(state, request, origin))
}

fn judged(state: &mut State, request: &Request, origin: &str) -> Answer {
    if let Some(answer) = azure_tokens::answer(state, request) {
        return answer;
    }
    if let Some(refused) = unauthorized(state, request) {
        return refused;
    }
    let path = decoded(&request.path);
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if !words.get(1).is_some_and(|id| id.eq_ignore_ascii_case(SUBSCRIPTION)) {
        let id = words.get(1).copied().unwrap_or_default();
        let text = format!("The subscription '{id}' could not be found.");
        return error(404, "SubscriptionNotFound", &text);
    }
    match words.as_slice() {
        [_, _, "providers", "Microsoft.Compute", "locations", LOCATION, "operations", id] => {
            match wrong_version(request, "operations") {
                Some(refused) => refused,
                None => operation(state, request, id, origin),
            }
        }
        [_, _, "resourceGroups", group, "providers", "Microsoft.Compute", kind, name] => {
            if let Some(refused) = wrong_version(request, kind) {
                return refused;
            }
            if !group.eq_ignore_ascii_case(GROUP) {
                let text = format!("Resource group '{group}' could not be found.");
                return error(404, "ResourceGroupNotFound", &text);
            }
            resource(state, request, kind, name, origin)
        }
        [
            _,
            _,
            "resourceGroups",
            GROUP,
            "providers",
            "Microsoft.Compute",
            "virtualMachines",
            name,
            "attachDetachDataDisks",
        ] => match wrong_version(request, "attachDetachDataDisks") {
            Some(refused) => refused,
            None if request.method == "POST" => azure_disks::change(state, request, name, origin),
            None => error(405, "MethodNotAllowed", "The action is a POST."),
        },
        _ => error(404, "InvalidResourceType", "The resource type could not be found."),
    }
}

fn unauthorized(state: &State, request: &Request) -> Option<Answer> {
    let (code, message) = match state.tokens.judge(request.header("authorization"), &AUDIENCES) {
        Verdict::Good => return None,
        Verdict::Missing => (
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
        ),
        Verdict::Unknown => ("InvalidAuthenticationToken", "The access token is invalid."),
        Verdict::OtherAudience => (
            "InvalidAuthenticationTokenAudience",
            "The access token has been obtained for wrong audience or resource.",
        ),
        Verdict::Expired => (
            "ExpiredAuthenticationToken",
            "The access token expiry UTC time is earlier than current UTC time.",
        ),
    };
    Some(error(401, code, message).with("www-authenticate", "Bearer error=\"invalid_token\""))
}

fn wrong_version(request: &Request, kind: &str) -> Option<Answer> {
    let Some(version) = request.parameter("api-version") else {
        return Some(error(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        ));
    };
    // Operations are looked at in any version of the disks.
    let group = if kind == "operations" { "disks" } else { kind };
    let mut known = model::azure().versions(group);
    known.retain(|version| *version >= DISKS_SINCE);
    if known.contains(&version) {
        return None;
    }
    let known = known.join(", ");
    let text = format!(
        "No registered resource provider found for location '{LOCATION}' and API version '{version}' for type '{kind}'. The supported api-versions are '{known}'."
    );
    Some(error(400, "NoRegisteredProviderFound", &text))
}

fn resource(state: &mut State, request: &Request, kind: &str, name: &str, origin: &str) -> Answer {
    let key = request_key(request);
    // Time passes with every look.
    tick_resource(state, &key);
    match (request.method.as_str(), kind) {
        ("GET", "virtualMachines" | "disks" | "snapshots") => show(state, &key, kind, name),
        ("PUT", "snapshots") => create(state, request, kind, name, origin),
        ("PUT", "disks") => create(state, request, kind, name, origin),
        ("DELETE", "snapshots" | "disks") => delete(state, &key, origin),
        _ => error(405, "MethodNotAllowed", "The requested resource does not support this method."),
    }
}

fn request_key(request: &Request) -> String {
    decoded(&request.path).to_lowercase()
}

pub fn not_found(kind: &str, name: &str) -> Answer {
    let text = format!(
        "The Resource 'Microsoft.Compute/{kind}/{name}' under resource group '{GROUP}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
    );
    error(404, "ResourceNotFound", &text)
}

fn show(state: &mut State, key: &str, kind: &str, name: &str) -> Answer {
    let Some(resource) = state.resources.get_mut(key) else { return not_found(kind, name) };
    if resource.hidden_gets > 0 {
        resource.hidden_gets -= 1;
        return not_found(kind, name);
    }
    let mut value = resource.value.clone();
    if resource.operation.is_none() && resource.copy_gets > 0 {
        resource.copy_gets -= 1;
        value["properties"]["completionPercent"] = json!(50.0);
    } else if resource.copy_gets == 0 && kind == "snapshots" {
        value["properties"]["completionPercent"] = json!(100.0);
    }
    ok(200, &value)
}

fn create(state: &mut State, request: &Request, kind: &str, name: &str, origin: &str) -> Answer {
    let object = if kind == "snapshots" { "Snapshot" } else { "Disk" };
    let body = match read(request, object) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.len() > 80 || !name.chars().all(legal) {
        let text = format!(
            "The entity name '{name}' is invalid according to its validation rule: ^[^_\\W][\\w-._]{{0,79}}(?<![-.])$."
        );
        return error(400, "InvalidParameter", &text);
    }
    let sectors = match check_source(state, &body, kind) {
        Ok(sectors) => sectors,
        Err(refused) => return refused,
    };
    let data = &body["properties"]["creationData"];
    let key = request_key(request);
    if state.resources.get(&key).is_some_and(|resource| resource.operation.is_some()) {
        return busy(name);
    }
    if let Some(old) = state.resources.get(&key) {
        // Create-or-update: the same definition changes nothing.
        let (old, new) = (&old.value["properties"]["creationData"], data);
        let same =
            ["createOption", "sourceResourceId"].iter().all(|field| old[field] == new[field]);
        if !same {
            let text = "Changing property 'creationData' is not allowed.";
            return error(409, "PropertyChangeNotAllowed", text);
        }
        return ok(200, &state.resources[&key].value);
    }
    let mut value = json!({
        "name": name,
        "id": decoded(&request.path),
        "type": format!("Microsoft.Compute/{kind}"),
        "location": body["location"],
        "properties": body["properties"],
    });
    for field in ["tags", "sku", "zones"] {
        if !body[field].is_null() {
            value[field] = body[field].clone();
        }
    }
    if !sectors.is_null() {
        value["properties"]["creationData"]["logicalSectorSize"] = sectors;
    }
    value["properties"]["provisioningState"] = json!("Updating");
    value["properties"]["timeCreated"] = json!(iso_date(SystemTime::now()));
    let resource = Resource {
        value,
        hidden_gets: state.behaviour.hidden_gets,
        copy_gets: if kind == "snapshots" { state.behaviour.copy_gets } else { 0 },
        operation: None,
    };
    state.resources.insert(key.clone(), resource);
    accept(state, &key, Change::Write, origin)
}

/// What a copy's source allows; the size of its sectors if it tells one.
///
/// Source: "Create an incremental snapshot for managed disks": sectors of 4096 bytes are for
/// Premium SSD v2 and Ultra disks alone, and those are in a zone.
fn check_source(state: &State, body: &Value, kind: &str) -> Result<Value, Answer> {
    let data = &body["properties"]["creationData"];
    let sku = body["sku"]["name"].as_str().unwrap_or("Standard_LRS");
    let large = ["PremiumV2_LRS", "UltraSSD_LRS"].contains(&sku);
    if kind == "disks" && large && !body["zones"].is_array() {
        let text = format!("Disks of sku {sku} are in a zone here.");
        return Err(error(400, "InvalidParameter", &text));
    }
    if data["createOption"] != "Copy" {
        return Ok(Value::Null);
    }
    let source = data["sourceResourceId"].as_str().unwrap_or_default();
    let Some(found) = state.resources.get(&source.to_lowercase()) else {
        return Err(error(404, "NotFound", &format!("Resource {source} not found.")));
    };
    if found.value["location"] != body["location"] {
        let text = format!("The source '{source}' is in another location than the copy.");
        return Err(error(400, "InvalidParameter", &text));
    }
    let sectors = found.value["properties"]["creationData"]["logicalSectorSize"].clone();
    let wanted = data["logicalSectorSize"].as_u64().unwrap_or(512);
    if kind == "disks" && sectors == 4096 && (!large || wanted != 4096) {
        let text = format!(
            "A snapshot of 4096 byte sectors cannot become a disk of sku {sku} and {wanted} byte sectors."
        );
        return Err(error(400, "BadRequest", &text));
    }
    Ok(sectors)
}

fn delete(state: &mut State, key: &str, origin: &str) -> Answer {
    let Some(resource) = state.resources.get(key) else { return Answer::new(204) };
    if resource.operation.is_some() {
        return busy(resource.value["name"].as_str().unwrap_or_default());
    }
    if let Some(machine) = resource.value["managedBy"].as_str() {
        let text = format!("Disk {key} is attached to VM {machine}.");
        return error(409, "OperationNotAllowed", &text);
    }
    if state.behaviour.scope_locked {
        let text = format!(
            "The scope '{key}' cannot perform delete operation because following scope(s) are locked: '{key}'. Please remove the lock and try again."
        );
        return error(409, "ScopeLocked", &text);
    }
    accept(state, key, Change::Delete, origin)
}

pub fn busy(name: &str) -> Answer {
    let text = format!("Another operation on '{name}' is in progress. Wait for it to finish.");
    error(409, "AnotherOperationInProgress", &text)
}

/// Begins an operation and answers 202.
pub fn accept(state: &mut State, key: &str, change: Change, origin: &str) -> Answer {
    let id = format!("{:08x}-5f3c-4a7e-9a10-3a4ad1f8a6e7", state.next_number);
    state.next_number += 1;
    let operation = Operation {
        resource: key.to_string(),
        polls_left: state.behaviour.pending_polls,
        change,
        failure: state.behaviour.operations_fail.clone(),
        finished: false,
    };
    state.operations.insert(id.clone(), operation);
    let resource = state.resources.get_mut(key).expect("the caller put it there");
    resource.operation = Some(id.clone());
    let url = format!(
        "{origin}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/operations/{id}?p=1f1d1e0c&api-version=2024-03-02"
    );
    let mut answer = Answer::new(202);
    if change == Change::Write {
        answer = ok(202, &resource.value);
    }
    if state.behaviour.tracking == Tracking::Both {
        answer = answer.with("azure-asyncoperation", &url);
    }
    if state.behaviour.tracking != Tracking::Resource {
        answer = answer.with("location", format!("{url}&monitor=true"));
    }
    paced(state, answer)
}

fn paced(state: &State, answer: Answer) -> Answer {
    match state.behaviour.retry_after {
        Some(seconds) => answer.with("retry-after", seconds.to_string()),
        None => answer,
    }
}

fn operation(state: &mut State, request: &Request, id: &str, origin: &str) -> Answer {
    if request.method != "GET" {
        return error(405, "MethodNotAllowed", "Operations can only be read.");
    }
    if !state.operations.contains_key(id) {
        return error(404, "NotFound", &format!("Operation '{id}' could not be found."));
    }
    tick(state, id);
    let operation = state.operations[id].clone();
    if request.parameter("monitor") == Some("true") {
        return monitored(state, &operation, id, origin);
    }
    let mut body = json!({"startTime": "2026-11-21T07:45:07.1234567+00:00", "name": id});
    if !operation.finished {
        body["status"] = json!("InProgress");
        return paced(state, ok(200, &body));
    }
    body["endTime"] = json!("2026-11-21T07:45:17.1234567+00:00");
    match operation.failure {
        Some((code, message)) => {
            body["status"] = json!("Failed");
            body["error"] = json!({"code": code, "message": message});
        }
        None => body["status"] = json!("Succeeded"),
    }
    ok(200, &body)
}

/// The `Location` way: 202 while it runs, then the answer itself.
fn monitored(state: &State, operation: &Operation, id: &str, origin: &str) -> Answer {
    if !operation.finished {
        let url = format!(
            "{origin}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/operations/{id}?p=1f1d1e0c&monitor=true&api-version=2024-03-02"
        );
        return paced(state, Answer::new(202).with("location", url));
    }
    if let Some((code, message)) = &operation.failure {
        return error(409, code, message);
    }
    match (operation.change, state.resources.get(&operation.resource)) {
        (Change::Write, Some(resource)) => ok(200, &resource.value),
        _ => Answer::new(200),
    }
}

pub fn tick_resource(state: &mut State, key: &str) {
    let operation = state.resources.get(key).and_then(|resource| resource.operation.clone());
    if let Some(id) = operation {
        tick(state, &id);
    }
}

/// Lets an operation come one look nearer to its end.
fn tick(state: &mut State, id: &str) {
    let Some(operation) = state.operations.get_mut(id) else { return };
    if operation.finished {
        return;
    }
    if operation.polls_left > 0 {
        operation.polls_left -= 1;
        return;
    }
    operation.finished = true;
    let (key, change, failed) =
        (operation.resource.clone(), operation.change, operation.failure.is_some());
    if change == Change::Delete && !failed {
        state.resources.remove(&key);
    } else if let Some(resource) = state.resources.get_mut(&key) {
        resource.operation = None;
        let outcome = if failed { "Failed" } else { "Succeeded" };
        resource.value["properties"]["provisioningState"] = json!(outcome);
    }
}

fn ok(status: u16, value: &Value) -> Answer {
    Answer::new(status).body("application/json; charset=utf-8", value.to_string())
}
