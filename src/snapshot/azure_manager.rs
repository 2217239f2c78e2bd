//! Azure Resource Manager: resources by their ids, changes as long-running operations.
//!
//! Sources: Azure REST API reference, Compute; "Track asynchronous Azure operations": an accepted
//! change names where to look in `Azure-AsyncOperation` or `Location`, and how long to wait in
//! `Retry-After`; without both the resource's `provisioningState` tells.

use crate::cloud::{ApiAnswer, ApiClient, ApiError, ApiRequest, Repeat};
use crate::snapshot::pause::Pauses;
use crate::snapshot::{SnapshotError, SnapshotErrorKind};
use bytes::Bytes;
use http::header::{HeaderName, LOCATION};
use http::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// The interface.
#[derive(Debug)]
pub struct ResourceManager {
    client: ApiClient,
    endpoint: Url,
}

/// Where the progress of a change is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// `Azure-AsyncOperation`: a document with a status.
    Operation(Url),
    /// `Location`: 202 until it is over.
    Location(Url),
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Running {
        retry_after: Option<Duration>,
    },
    Done,
    Failed {
        reason: String,
    },
    /// Whoever may act on a resource but not on its group may not look at operations, says the
    /// document; the resource itself tells as well.
    Untold,
}

/// What becomes of a resource by a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Present,
    Absent,
}

/// One change: of which resource, to what, and as a noun for messages.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub id: &'a str,
    pub outcome: Outcome,
    pub what: &'a str,
}

/// The version of the disk resource provider that this code was written for.
const DISK_VERSION: &str = "2024-03-02";

/// The same for virtual machines.
const MACHINE_VERSION: &str = "2024-07-01";

const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");

impl ResourceManager {
    pub fn new(client: ApiClient, endpoint: Url) -> Self {
        Self { client, endpoint }
    }

    /// A resource; `None` after the positive answer that there is none of this name in its
    /// group. A missing group or subscription is an error.
    pub async fn get(&self, id: &str) -> Result<Option<Value>, ApiError> {
        match self.call(Method::GET, self.url(id), None).await {
            Ok(answer) => Ok(Some(answer.json())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a change. All changes that are asked for here may be repeated: PUT and DELETE say
    /// how it shall be, and attaching what is attached changes nothing.
    pub async fn begin(
        &self,
        method: Method,
        id: &str,
        body: Option<&Value>,
    ) -> Result<ApiAnswer, ApiError> {
        self.call(method, self.url(id), body).await
    }

    /// Where an accepted change can be followed; `None` when it is over or has no such place.
    pub fn tracking(&self, answer: &ApiAnswer) -> Option<Tracking> {
        let url = |name: &HeaderName| {
            let url = Url::parse(answer.header(name)?).ok()?;
            // The token goes there: nobody but the interface itself may get it.
            is_same_service(&self.endpoint, &url).then_some(url)
        };
        if let Some(url) = url(&ASYNC_OPERATION) {
            return Some(Tracking::Operation(url));
        }
        let accepted = answer.status == StatusCode::ACCEPTED;
        url(&LOCATION).filter(|_| accepted).map(Tracking::Location)
    }

    pub async fn look(&self, tracking: &Tracking) -> Result<Progress, ApiError> {
        let (Tracking::Operation(url) | Tracking::Location(url)) = tracking;
        let answer = match self.call(Method::GET, url.clone(), None).await {
            Ok(answer) => answer,
            // Not visible yet.
            Err(error) if error.is_not_found() => {
                return Ok(Progress::Running { retry_after: None });
            }
            Err(error) if error.is_denied() => return Ok(Progress::Untold),
            Err(error) if matches!(tracking, Tracking::Location(_)) && is_verdict(&error) => {
                return Ok(Progress::Failed { reason: error.reason });
            }
            Err(error) => return Err(error),
        };
        let running = Progress::Running { retry_after: answer.retry_after() };
        if matches!(tracking, Tracking::Location(_)) {
            let accepted = answer.status == StatusCode::ACCEPTED;
            return Ok(if accepted { running } else { Progress::Done });
        }
        let told = answer.json();
        Ok(match told["status"].as_str() {
            Some("Succeeded") => Progress::Done,
            Some(status @ ("Failed" | "Canceled")) => {
                let error = &told["error"];
                let words = error["message"].as_str().unwrap_or("no reason given");
                let words = words.trim_end_matches('.');
                let code = error["code"].as_str().unwrap_or(status);
                Progress::Failed { reason: format!("{words} ({code})") }
            }
            _ => running,
        })
    }

    /// Waits until a change is over, and the resource shows it.
    pub async fn finish(
        &self,
        answer: &ApiAnswer,
        change: &Change<'_>,
        pauses: &mut Pauses,
    ) -> Result<(), SnapshotError> {
        let action = format!("look at the {}", change.what);
        let failed = |error: ApiError| SnapshotError::of_call(&action, &error);
        let broken = |reason: &str| {
            let message = format!("{} failed: {reason}", change.what);
            SnapshotError::new(SnapshotErrorKind::Broken, message)
        };
        let mut retry_after = answer.retry_after();
        if let Some(tracking) = self.tracking(answer) {
            loop {
                pauses.rest(change.what, retry_after).await?;
                match self.look(&tracking).await {
                    Ok(Progress::Done | Progress::Untold) => break,
                    Ok(Progress::Running { retry_after: asked }) => retry_after = asked,
                    Ok(Progress::Failed { reason }) => return Err(broken(&reason)),
                    // It says nothing of the change, which goes on.
                    Err(error) if error.passing => pauses.rest_after(change.what, &error).await?,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        loop {
            let found = match self.get(change.id).await {
                Ok(found) => found,
                Err(error) if error.passing => {
                    pauses.rest_after(change.what, &error).await?;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let state = found.as_ref().map(provisioning_state);
            match (change.outcome, state) {
                (Outcome::Absent, None) | (Outcome::Present, Some("Succeeded")) => return Ok(()),
                (_, Some(state @ ("Failed" | "Canceled"))) => {
                    return Err(broken(&format!("its provisioning state is {state}")));
                }
                // The answer of a moment ago, or the change is still under way.
                _ => pauses.rest(change.what, None).await?,
            }
        }
    }

    fn url(&self, id: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(id.trim_start_matches('/').split('/'));
        }
        let machine = id.to_lowercase().contains("/virtualmachines/");
        let version = if machine { MACHINE_VERSION } else { DISK_VERSION };
        url.query_pairs_mut().append_pair("api-version", version);
        url
    }

    async fn call(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<ApiAnswer, ApiError> {
        let request = ApiRequest {
            method,
            url,
            content_type: body.map(|_| "application/json"),
            body: body.map_or_else(Bytes::new, |body| body.to_string().into()),
            repeat: Repeat::Freely,
        };
        self.client.call(&request).await
    }
}

/// `Succeeded`, `Failed`, `Canceled`, or a word for something that is under way. Without one
/// the change is over, says the document.
pub fn provisioning_state(resource: &Value) -> &str {
    resource["properties"]["provisioningState"].as_str().unwrap_or("Succeeded")
}

/// The last part of an id: the resource's name.
pub fn name_of(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

/// Refusals that pass by themselves: something else changes the resource just now. All others
/// with status 409 are verdicts (a full machine, an exhausted quota, a lock, a property that
/// cannot be changed) and waiting for them is waiting in vain.
/// Sources: "Troubleshoot common Azure deployment errors", "Azure REST API reference, Compute";
/// as met by users of the Azure CLI and of Kubernetes' disk driver.
const PASSING: &[&str] = &[
    "AnotherOperationInProgress",
    "AttachDiskWhileBeingDetached",
    "Conflict",
    "ConflictingConcurrentWriteNotAllowed",
    "OperationPreempted",
    "OperationPreemptedByAnotherOperation",
    "RetryableError",
    "RetryableErrorDueToAnotherOperation",
];

/// Another change of the resource is under way: ask again later.
pub fn is_busy(error: &ApiError) -> bool {
    matches!(error.status, Some(409 | 412)) && error.has_code(PASSING)
}

/// Refused as the thing is now: a disk that is attached, a machine that is full.
pub fn is_not_allowed(error: &ApiError) -> bool {
    error.status == Some(409) && error.has_code(&["OperationNotAllowed"])
}

/// Source: "Lock your resources to protect your infrastructure".
pub fn is_locked(error: &ApiError) -> bool {
    error.has_code(&["ScopeLocked"])
}

fn is_absent(error: &ApiError) -> bool {
    error.is_not_found() && error.has_code(&["ResourceNotFound", "NotFound"])
}

/// A client error at `Location` is how the operation ended, unless it is about the question.
fn is_verdict(error: &ApiError) -> bool {
    error.status.is_some_and(|status| (400..500).contains(&status) && status != 429)
}

fn is_same_service(endpoint: &Url, url: &Url) -> bool {
    let (Some(ours), Some(theirs)) = (endpoint.host_str(), url.host_str()) else { return false };
    let host = theirs == ours || theirs.ends_with(&format!(".{ours}"));
    host && endpoint.scheme() == url.scheme()
        && endpoint.port_or_known_default() == url.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use crate::cloud::ApiError;
    use crate::snapshot::azure_manager::{is_busy, is_same_service};
    use url::Url;

    #[test]
    fn only_refusals_that_pass_by_themselves_are_waited_for() {
        let refused = |code: &str| ApiError {
            status: Some(409),
            code: Some(code.into()),
            reason: code.into(),
            may_have_happened: false,
            passing: false,
            hint: None,
        };
        for code in ["AnotherOperationInProgress", "Conflict", "AttachDiskWhileBeingDetached"] {
            assert!(is_busy(&refused(code)), "{code}");
        }
        for code in [
            "OperationNotAllowed",
            "ScopeLocked",
            "QuotaExceeded",
            "SkuNotAvailable",
            "PropertyChangeNotAllowed",
            "SnapshotCountExceeded",
            "anything new",
        ] {
            assert!(!is_busy(&refused(code)), "{code}");
        }
    }

    #[test]
    fn tokens_go_to_the_service_alone() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let endpoint = url("https://management.azure.com/");
        for (text, same) in [
            ("https://management.azure.com/subscriptions/s/operations/o", true),
            ("https://westeurope.management.azure.com/operations/o", true),
            ("http://management.azure.com/operations/o", false),
            ("https://management.azure.com:8443/operations/o", false),
            ("https://evilmanagement.azure.com/operations/o", false),
            ("https://example.com/management.azure.com", false),
        ] {
            assert_eq!(is_same_service(&endpoint, &url(text)), same, "{text}");
        }
    }
}
