//! Compute Engine's interface: resources by their paths, changes as operations.
//!
//! Source: Compute Engine API v1 reference; "Handle API responses" for operations. Paths are
//! those below `…/compute/v1/`, from `projects/` on.

use crate::cloud::{ApiClient, ApiError, ApiRequest, Repeat};
use crate::snapshot::pause::Pauses;
use crate::snapshot::{SnapshotError, SnapshotErrorKind};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use url::Url;

/// The interface.
#[derive(Debug)]
pub struct Compute {
    client: ApiClient,
    endpoint: Url,
}

/// A change that is under way or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub path: String,
    pub done: bool,
    pub percent: Option<u8>,
    /// Why it ended without success.
    pub failure: Option<OperationFailure>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFailure {
    pub code: String,
    pub reason: String,
}

impl Compute {
    pub fn new(client: ApiClient, endpoint: Url) -> Self {
        Self { client, endpoint }
    }

    /// A resource; `None` after the positive answer that there is none.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.call(Method::GET, path, &[], None).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a change. A repeated request is recognised by its `requestId`, so that nothing is
    /// done twice.
    pub async fn post(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Operation, ApiError> {
        let id = request_id();
        let parameters: Vec<(&str, &str)> =
            parameters.iter().copied().chain([("requestId", id.as_str())]).collect();
        let value = self.call(Method::POST, path, &parameters, body).await?;
        Ok(Operation::read(&value))
    }

    /// Begins a deletion; `None` when there is nothing to delete.
    pub async fn delete(&self, path: &str) -> Result<Option<Operation>, ApiError> {
        let id = request_id();
        match self.call(Method::DELETE, path, &[("requestId", &id)], None).await {
            Ok(value) => Ok(Some(Operation::read(&value))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How far an operation is; `None` while it is not visible.
    pub async fn operation(&self, path: &str) -> Result<Option<Operation>, ApiError> {
        Ok(self.get(path).await?.map(|value| Operation::read(&value)))
    }

    /// Waits for the end of an operation. `what` is the change as a noun.
    pub async fn finish(
        &self,
        operation: Operation,
        what: &str,
        pauses: &mut Pauses,
    ) -> Result<(), SnapshotError> {
        let mut operation = operation;
        while !operation.done {
            pauses.rest(what, None).await?;
            match self.operation(&operation.path).await {
                Ok(Some(found)) => operation = found,
                Ok(None) => {}
                // It says nothing of the change, which goes on.
                Err(error) if error.passing => pauses.rest_after(what, &error).await?,
                Err(error) => {
                    return Err(SnapshotError::of_call(&format!("look at the {what}"), &error));
                }
            }
        }
        operation.warn(what);
        match operation.failure {
            None => Ok(()),
            Some(failure) => {
                let message = format!("{what} failed: {}", failure.reason);
                Err(SnapshotError::new(SnapshotErrorKind::Broken, message))
            }
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let request = ApiRequest {
            method,
            url,
            content_type: body.map(|_| "application/json"),
            body: body.map_or_else(Bytes::new, |body| body.to_string().into()),
            // Reading is free, and changes carry their requestId.
            repeat: Repeat::Freely,
        };
        Ok(self.client.call(&request).await?.json())
    }
}

impl Operation {
    fn read(value: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let failure = list(&value["error"]["errors"]).first().map(|error| OperationFailure {
            code: text(&error["code"]),
            reason: format!(
                "{} ({})",
                text(&error["message"]).trim_end_matches('.'),
                text(&error["code"])
            ),
        });
        Self {
            path: path_of(value["selfLink"].as_str().unwrap_or_default()).to_string(),
            done: value["status"] == "DONE",
            percent: value["progress"].as_u64().and_then(|percent| u8::try_from(percent).ok()),
            failure,
            warnings: list(&value["warnings"])
                .iter()
                .map(|warning| {
                    format!("{} ({})", text(&warning["message"]), text(&warning["code"]))
                })
                .collect(),
        }
    }

    /// Tells what the cloud warns of.
    pub fn warn(&self, what: &str) {
        for warning in &self.warnings {
            tracing::warn!(operation = what, %warning, "the cloud warns");
        }
    }
}

/// The path of a resource in its full or partial URL.
pub fn path_of(url: &str) -> &str {
    url.find("projects/").map_or(url, |at| &url[at..])
}

/// The last part of a resource's URL: its name.
pub fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// A random UUID, version 4. What it is for needs no cryptographer: two runs must differ.
fn request_id() -> String {
    let half = || RandomState::new().hash_one(0u8);
    let (high, low) = (half(), half());
    let high = (high & 0xffff_ffff_ffff_0fff) | 0x4000;
    let low = (low & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use crate::snapshot::google_compute::{Operation, name_of, path_of, request_id};
    use serde_json::json;

    #[test]
    fn request_ids_are_uuids_and_differ() {
        let (first, second) = (request_id(), request_id());
        assert_ne!(first, second);
        let lengths: Vec<usize> = first.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(first.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&first.as_bytes()[19]));
    }

    #[test]
    fn resources_are_named_by_the_last_part_of_their_url() {
        let url = "https://www.googleapis.com/compute/v1/projects/p/zones/z/disks/data";
        assert_eq!(path_of(url), "projects/p/zones/z/disks/data");
        assert_eq!(name_of(url), "data");
    }

    #[test]
    fn an_operation_fails_by_its_first_error() {
        let operation = Operation::read(&json!({
            "selfLink": "https://h/compute/v1/projects/p/global/operations/o",
            "status": "DONE",
            "error": {"errors": [{"code": "QUOTA_EXCEEDED", "message": "Quota is full."}]},
        }));
        assert_eq!(operation.path, "projects/p/global/operations/o");
        let failure = operation.failure.expect("failed");
        assert_eq!(failure.reason, "Quota is full (QUOTA_EXCEEDED)");
    }
}
