//! Bodies that Azure Compute accepts, and what it says of others.
//!
//! The words of `InvalidRequestContent` are those that users of other clients report, e.g. for
//! `incremental` beside `properties` instead of in it.

use crate::control_planes::azure::error;
use crate::control_planes::model::{self, Misfit, Side};
use crate::gcs_fake::http::{Answer, Request};
use serde_json::Value;

/// What an object of the model is when a resource of this type is shown.
const SHOWN: [(&str, &str); 3] = [
    ("Microsoft.Compute/snapshots", "Snapshot"),
    ("Microsoft.Compute/disks", "Disk"),
    ("Microsoft.Compute/virtualMachines", "VirtualMachine"),
];

/// Holds an answer of the stand-in itself to the model.
pub fn held_to_the_model(answer: Answer) -> Answer {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Some((_, object)) = SHOWN.iter().find(|(kind, _)| body["type"] == *kind) else {
        return answer;
    };
    match model::azure().check(&body, object, "", Side::Answer) {
        Ok(()) => answer,
        Err(misfit) => error(418, "StandInIsWrong", &format!("{object}: {misfit:?}")),
    }
}

/// Parses and checks the body.
pub fn read(request: &Request, object: &str) -> Result<Value, Answer> {
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
    match model::azure().check(&value, object, "", Side::Request) {
        Ok(()) if object == "AttachDetachDataDisksRequest" => Ok(value),
        // The model has it optional, because it is of no use to updates.
        Ok(()) if value["properties"]["creationData"].is_null() => Err(error(
            400,
            "InvalidParameter",
            "Required parameter 'properties.creationData' is missing (null).",
        )),
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
