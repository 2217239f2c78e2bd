//! Calls to a provider's management interface: signed, retried, and honest about what may have
//! happened.
//!
//! ```text
//! ApiRequest → Sign (SigV4, bearer token) → Transport → ApiAnswer | ApiError
//! ```
//!
//! A call is tried again after throttling, resets, time-outs and 5xx, within the limits of
//! `flow`. A call that must not be doubled ([`Repeat::OnlyIfSurelyNot`]) is tried again only
//! when it surely had no effect; else its error says so and the caller looks first.

use crate::cloud::{Answer, CloudError, Trace, Transport};
use crate::flow::{Backoff, RetryLimits};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;
use url::Url;

/// Adds what proves who we are.
#[async_trait]
pub trait Sign: fmt::Debug + Send + Sync {
    async fn sign(&self, request: &mut HttpRequest) -> Result<(), CloudError>;
}

/// Gives bearer tokens, renewed before they expire.
#[async_trait]
pub trait TokenSource: fmt::Debug + Send + Sync {
    async fn token(&self) -> Result<String, CloudError>;
}

/// One provider's interface.
#[derive(Clone, Debug)]
pub struct ApiClient {
    transport: Transport,
    signer: Arc<dyn Sign>,
    retry: RetryLimits,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub method: Method,
    pub url: Url,
    pub content_type: Option<&'static str>,
    pub body: Bytes,
    pub repeat: Repeat,
}

/// Whether a call may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Freely,
    OnlyIfSurelyNot,
}

/// A status below 400 and what came with it.
#[derive(Clone, Debug)]
pub struct ApiAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// `None` without an answer.
    pub status: Option<u16>,
    /// The provider's word for what is wrong.
    pub code: Option<String>,
    pub reason: String,
    /// Whether it may have taken effect although it looks failed.
    pub may_have_happened: bool,
    pub hint: Option<String>,
}

/// Codes that mean "too fast": nothing was done, whatever the status.
/// Source: "Request throttling for the Amazon EC2 API"; Azure "Troubleshooting API throttling
/// errors - Compute"; Google's `rateLimitExceeded`.
const THROTTLED: &[&str] = &[
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "RequestThrottled",
    "SnapshotCreationPerVolumeRateExceeded",
    "PendingSnapshotLimitExceeded",
    "ConcurrentSnapshotLimitExceeded",
    "TooManyRequests",
    "OperationNotAllowedDueToThrottling",
    "rateLimitExceeded",
    "userRateLimitExceeded",
];

/// Answers are pages of descriptions; what is longer is no answer of these interfaces.
const BODY_BYTES_MAX: usize = 16 << 20;

impl ApiClient {
    pub fn new(transport: Transport, signer: Arc<dyn Sign>, retry: RetryLimits) -> Self {
        Self { transport, signer, retry }
    }

    /// A client whose requests carry `Authorization: Bearer …`.
    pub fn with_bearer(
        transport: Transport,
        tokens: Arc<dyn TokenSource>,
        retry: RetryLimits,
    ) -> Self {
        Self::new(transport, Arc::new(Bearer { tokens }), retry)
    }

    /// Makes one call, as often as it may be worth it.
    pub async fn call(&self, request: &ApiRequest) -> Result<ApiAnswer, ApiError> {
        let mut backoff = Backoff::new(self.retry);
        let mut may_have_happened = false;
        // One trace for all attempts: an endpoint that stays unreachable is given up early.
        let trace = Trace::new();
        loop {
            let attempt = trace.follow(self.attempt(request, &trace)).await;
            let (mut error, again) = match attempt {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            may_have_happened |= error.may_have_happened;
            error.may_have_happened = may_have_happened;
            let may_repeat = request.repeat == Repeat::Freely || !may_have_happened;
            let delay = if again && may_repeat { backoff.next_delay(None) } else { None };
            let Some(delay) = delay else {
                let (attempts, elapsed) = backoff.spent();
                if attempts > 1 {
                    let seconds = elapsed.as_secs();
                    error.reason.push_str(&format!(" after {attempts} attempts in {seconds} s"));
                }
                return Err(error);
            };
            debug!(url = %request.url, reason = %error.reason, ?delay, "call is tried again");
            tokio::time::sleep(delay).await;
        }
    }

    /// One attempt; on failure also whether another is worth it.
    async fn attempt(
        &self,
        request: &ApiRequest,
        trace: &Trace,
    ) -> Result<ApiAnswer, (ApiError, bool)> {
        let mut http = http_request(request).map_err(|error| (error, false))?;
        self.signer.sign(&mut http).await.map_err(|error| (ApiError::unsigned(error), false))?;
        let response = match self.transport.send(http).await {
            Ok(response) => response,
            Err(error) => return Err(unanswered(trace, &error)),
        };
        let (parts, body) = response.into_parts();
        let body = match body.bytes().await {
            Ok(body) if body.len() <= BODY_BYTES_MAX => body,
            Ok(_) => return Err((ApiError::refused("the answer is too long"), false)),
            Err(error) => return Err(unanswered(trace, &error)),
        };
        if parts.status.as_u16() >= 400 {
            return Err(refused(parts.status, trace.last()));
        }
        Ok(ApiAnswer { status: parts.status, headers: parts.headers, body })
    }
}

impl ApiAnswer {
    /// The value of a header that is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// How long the provider asks to wait before the next look.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header(&http::header::RETRY_AFTER)?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

impl ApiError {
    pub fn is_denied(&self) -> bool {
        matches!(self.status, Some(401 | 403))
            || self.code.as_deref() == Some("UnauthorizedOperation")
    }

    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }

    pub fn has_code(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    fn refused(reason: &str) -> Self {
        let reason = reason.to_string();
        Self { status: None, code: None, reason, may_have_happened: false, hint: None }
    }

    fn unsigned(error: CloudError) -> Self {
        Self { hint: error.hint, ..Self::refused(&error.message) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ApiError {}

fn http_request(request: &ApiRequest) -> Result<HttpRequest, ApiError> {
    let malformed = |_| ApiError::refused("the request's URL is malformed");
    let mut http = HttpRequest::new(request.body.clone().into());
    *http.method_mut() = request.method.clone();
    *http.uri_mut() = request.url.as_str().parse().map_err(malformed)?;
    if let Some(content_type) = request.content_type {
        let value = HeaderValue::from_static(content_type);
        http.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    Ok(http)
}

fn refused(status: StatusCode, answer: Option<Answer>) -> (ApiError, bool) {
    let (code, message) = match answer {
        Some(Answer::Status { code, message, .. }) => (code, message),
        _ => (None, None),
    };
    let throttled = code.as_deref().is_some_and(|code| THROTTLED.contains(&code))
        || status == StatusCode::TOO_MANY_REQUESTS;
    let server = status.is_server_error();
    let mut reason = message.unwrap_or_else(|| "refused".into()).trim_end_matches('.').to_string();
    match &code {
        Some(code) => reason.push_str(&format!(" ({} {code})", status.as_u16())),
        None => reason.push_str(&format!(" ({status})")),
    }
    let may_have_happened = server && !throttled;
    let error =
        ApiError { status: Some(status.as_u16()), code, reason, may_have_happened, hint: None };
    (error, throttled || server)
}

/// No answer: what the transport saw decides.
fn unanswered(trace: &Trace, error: &HttpError) -> (ApiError, bool) {
    let last = trace.last();
    if let Some(Answer::Status { status, .. }) = &last {
        // Answered "not implemented", which the transport takes for final.
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::NOT_IMPLEMENTED);
        return (refused(status, last).0, false);
    }
    let may_have_happened = matches!(last, Some(Answer::Silent { .. } | Answer::Cut { .. }));
    let reason = last.map_or_else(|| error.to_string(), |answer| answer.to_string());
    // What trying again cannot mend comes as "unknown" from the transport.
    let again = error.kind() != HttpErrorKind::Unknown;
    (ApiError { may_have_happened, ..ApiError::refused(&reason) }, again)
}

#[derive(Debug)]
struct Bearer {
    tokens: Arc<dyn TokenSource>,
}

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut HttpRequest) -> Result<(), CloudError> {
        let token = self.tokens.token().await?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| CloudError::new("the bearer token is malformed"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        Ok(())
    }
}
