//! Bodies that Azure Compute accepts, and what it says of others.
//!
//! The words of `InvalidRequestContent` are those that users of other clients report, e.g. for
//! `incremental` beside `properties` instead of in it.

use crate::control_planes::azure::error;
use crate::control_planes::shape::{Misfit, Shape, check, optional, required};
use crate::gcs_fake::http::{Answer, Request};
use serde_json::Value;

const CREATION_DATA: Shape = Shape::Object(&[
    required("createOption", Shape::Text),
    optional("sourceResourceId", Shape::Text),
    optional("sourceUri", Shape::Text),
    optional("storageAccountId", Shape::Text),
    optional("uploadSizeBytes", Shape::Integer),
    optional("logicalSectorSize", Shape::Integer),
    optional("instantAccessDurationMinutes", Shape::Integer),
]);

const SKU: Shape = Shape::Object(&[required("name", Shape::Text)]);

/// Source: `Snapshot` in snapshot.json, without what only the server sets.
pub const SNAPSHOT: Shape = Shape::Object(&[
    required("location", Shape::Text),
    optional("tags", Shape::Texts),
    optional("sku", SKU),
    required(
        "properties",
        Shape::Object(&[
            required("creationData", CREATION_DATA),
            optional("incremental", Shape::Boolean),
            optional("diskSizeGB", Shape::Integer),
            optional("osType", Shape::Text),
            optional("hyperVGeneration", Shape::Text),
            optional("networkAccessPolicy", Shape::Text),
            optional("publicNetworkAccess", Shape::Text),
            optional("diskAccessId", Shape::Text),
            optional("dataAccessAuthMode", Shape::Text),
        ]),
    ),
]);

/// Source: `Disk` in disk.json, without what only the server sets.
pub const DISK: Shape = Shape::Object(&[
    required("location", Shape::Text),
    optional("tags", Shape::Texts),
    optional("sku", SKU),
    optional("zones", Shape::List(&Shape::Text)),
    required(
        "properties",
        Shape::Object(&[
            required("creationData", CREATION_DATA),
            optional("diskSizeGB", Shape::Integer),
            optional("osType", Shape::Text),
            optional("networkAccessPolicy", Shape::Text),
            optional("publicNetworkAccess", Shape::Text),
        ]),
    ),
]);

/// Source: `AttachDetachDataDisksRequest` in virtualMachine.json.
pub const DISK_CHANGES: Shape = Shape::Object(&[
    optional("dataDisksToAttach", Shape::List(&DISK_TO_ATTACH)),
    optional("dataDisksToDetach", Shape::List(&DISK_TO_DETACH)),
]);

const DISK_TO_ATTACH: Shape = Shape::Object(&[
    required("diskId", Shape::Text),
    optional("lun", Shape::Integer),
    optional("caching", Shape::Text),
    optional("deleteOption", Shape::Text),
    optional("writeAcceleratorEnabled", Shape::Boolean),
]);

const DISK_TO_DETACH: Shape =
    Shape::Object(&[required("diskId", Shape::Text), optional("detachOption", Shape::Text)]);

/// Parses and checks the body.
pub fn read(request: &Request, shape: &Shape) -> Result<Value, Answer> {
    let content_type = request.header("content-type").unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        return Err(error(
            415,
            "UnsupportedMediaType",
            &format!(
                "The content media type '{content_type}' is not supported. Only 'application/json' is supported."
            ),
        ));
    }
    let invalid = |what: String| {
        let message =
            format!("The request content was invalid and could not be deserialized: '{what}'.");
        error(400, "InvalidRequestContent", &message)
    };
    let value: Value = serde_json::from_slice(&request.body)
        .map_err(|error| invalid(format!("Unexpected character: {error}")))?;
    match check(&value, shape, "") {
        Ok(()) => Ok(value),
        Err(Misfit::Unknown { member, path }) => Err(invalid(format!(
            "Could not find member '{member}' on object of type 'ResourceDefinition'. Path '{path}', line 1, position 1."
        ))),
        Err(Misfit::Missing { path }) if path == "location" => Err(error(
            400,
            "LocationRequired",
            "The location property is required for this definition.",
        )),
        Err(Misfit::Missing { path }) => Err(error(
            400,
            "InvalidParameter",
            &format!("Required parameter '{path}' is missing (null)."),
        )),
        Err(Misfit::Wrong { path }) => {
            Err(invalid(format!("Error converting value. Path '{path}', line 1, position 1.")))
        }
    }
}
