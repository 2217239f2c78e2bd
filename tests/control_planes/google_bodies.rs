//! Bodies that Compute Engine accepts, and what it says of others.

use crate::control_planes::google::error;
use crate::control_planes::model::{self, Misfit, Side};
use crate::gcs_fake::http::{Answer, Request};
use serde_json::Value;

/// Parameters that every method has.
const COMMON: [&str; 5] = ["alt", "fields", "key", "prettyPrint", "quotaUser"];

/// Checks that the method has the request's parameters, and a body only if it takes one.
pub fn check_parameters(request: &Request, path: &str) -> Result<(), Answer> {
    let Some((_, method)) = model::google().method(&request.method, path) else { return Ok(()) };
    let known = method["query"].as_object().cloned().unwrap_or_default();
    for name in request.query.keys() {
        if !known.contains_key(name) && !COMMON.contains(&name.as_str()) {
            let text = format!("Invalid JSON payload received. Unknown name \"{name}\".");
            return Err(error(400, "badRequest", &text));
        }
    }
    for (name, rule) in &known {
        if rule["required"] == true && !request.query.contains_key(name) {
            return Err(error(400, "required", &format!("Required parameter: {name}")));
        }
    }
    if method["body"].is_null() && !request.body.is_empty() {
        return Err(error(400, "badRequest", "Request body is not empty."));
    }
    Ok(())
}

/// Holds an answer of the stand-in itself to the model.
pub fn held_to_the_model(answer: Answer) -> Answer {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let object = match body["kind"].as_str() {
        Some("compute#snapshot") => "Snapshot",
        Some("compute#disk") => "Disk",
        Some("compute#instance") => "Instance",
        Some("compute#operation") => "Operation",
        _ => return answer,
    };
    match model::google().check(&body, object, "", Side::Answer) {
        Ok(()) => answer,
        Err(misfit) => error(418, "standInIsWrong", &format!("{object}: {misfit:?}")),
    }
}

/// Parses and checks the body.
pub fn read(request: &Request, path: &str) -> Result<Value, Answer> {
    let content_type = request.header("content-type").unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        let text = format!("Media type '{content_type}' is not supported.");
        return Err(error(400, "badContent", &text));
    }
    let value: Value = serde_json::from_slice(&request.body)
        .map_err(|failure| error(400, "parseError", &format!("Parse Error: {failure}")))?;
    let (name, method) = model::google().method(&request.method, path).expect("it was routed");
    let object = method["body"].as_str().expect("a method with a body");
    match model::google().check(&value, object, name, Side::Request) {
        Ok(()) if object == "Snapshot" && value["sourceDisk"].is_null() => {
            Err(error(400, "required", "Required field 'resource.sourceDisk' not specified"))
        }
        Ok(()) => Ok(value),
        Err(Misfit::Unknown { path, .. }) => Err(error(
            400,
            "badRequest",
            &format!("Invalid JSON payload received. Unknown name \"{path}\": Cannot find field."),
        )),
        Err(Misfit::Missing { path }) => {
            Err(error(400, "required", &format!("Required field 'resource.{path}' not specified")))
        }
        Err(Misfit::Wrong { path }) => {
            Err(error(400, "invalid", &format!("Invalid value for field 'resource.{path}'.")))
        }
    }
}

/// A UUID other than zero.
pub fn check_request_id(id: &str) -> Result<(), Answer> {
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    let digits = id.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    let zero = id.chars().all(|c| c == '-' || c == '0');
    if groups == [8, 4, 4, 4, 12] && digits && !zero {
        return Ok(());
    }
    let text = format!("Invalid value for field 'requestId': '{id}'. Must be a valid UUID.");
    Err(error(400, "invalid", &text))
}
