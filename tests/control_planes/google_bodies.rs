//! Bodies that Compute Engine accepts, and what it says of others.

use crate::control_planes::google::error;
use crate::control_planes::shape::{Misfit, Shape, check, optional, required};
use crate::gcs_fake::http::{Answer, Request};
use serde_json::Value;

const KEY: Shape = Shape::Object(&[
    optional("rawKey", Shape::Text),
    optional("rsaEncryptedKey", Shape::Text),
    optional("kmsKeyName", Shape::Text),
    optional("kmsKeyServiceAccount", Shape::Text),
]);

/// Source: `Snapshot`, without what is output only.
pub const SNAPSHOT: Shape = Shape::Object(&[
    required("name", Shape::Text),
    required("sourceDisk", Shape::Text),
    optional("description", Shape::Text),
    optional("labels", Shape::Texts),
    optional("storageLocations", Shape::List(&Shape::Text)),
    optional("snapshotType", Shape::Text),
    optional("chainName", Shape::Text),
    optional("guestFlush", Shape::Boolean),
    optional("snapshotEncryptionKey", KEY),
    optional("sourceDiskEncryptionKey", KEY),
]);

/// Source: `Disk`, what is needed to make one of a snapshot.
pub const DISK: Shape = Shape::Object(&[
    required("name", Shape::Text),
    optional("sourceSnapshot", Shape::Text),
    optional("sizeGb", Shape::Text),
    optional("type", Shape::Text),
    optional("description", Shape::Text),
    optional("labels", Shape::Texts),
]);

/// Source: `AttachedDisk`, what attaches an existing one.
pub const ATTACHED_DISK: Shape = Shape::Object(&[
    required("source", Shape::Text),
    optional("deviceName", Shape::Text),
    optional("mode", Shape::Text),
    optional("type", Shape::Text),
    optional("boot", Shape::Boolean),
    optional("autoDelete", Shape::Boolean),
    optional("interface", Shape::Text),
]);

/// Parses and checks the body.
pub fn read(request: &Request, shape: &Shape) -> Result<Value, Answer> {
    let content_type = request.header("content-type").unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        let text = format!("Media type '{content_type}' is not supported.");
        return Err(error(400, "badContent", &text));
    }
    let value: Value = serde_json::from_slice(&request.body)
        .map_err(|failure| error(400, "parseError", &format!("Parse Error: {failure}")))?;
    match check(&value, shape, "") {
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

/// RFC 1035 label: `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 63.
pub fn check_name(name: &str) -> Result<(), Answer> {
    let body = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let legal = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(body)
        && !name.ends_with('-');
    if legal {
        return Ok(());
    }
    let text = format!(
        "Invalid value for field 'resource.name': '{name}'. Must be a match of regex '(?:[a-z](?:[-a-z0-9]{{0,61}}[a-z0-9])?)'"
    );
    Err(error(400, "invalid", &text))
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
