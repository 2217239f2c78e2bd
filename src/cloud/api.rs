//! Calls to a provider's management interface: signed, retried, and honest about what may have
//! happened.
//!
//! ```text
//! ApiRequest → Sign (SigV4, bearer token) → Transport → ApiAnswer | ApiError
//! ```
//!
//! A call is tried again after throttling, resets, time-outs and 5xx, within the limits of
//! `flow`; what a provider asks to wait on top of them ([`Asked`]) is waited, within reason. A
//! call that must not be doubled ([`Repeat::OnlyIfSurelyNot`]) is tried again only
//! when it surely had no effect; else its error says so and the caller looks first.

use crate::cloud::{Answer, Asked, CloudError, Role, Trace, Transport};
use crate::flow::{Backoff, RetryLimits};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};
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
    /// Whether the same call may succeed later: throttled, not answered, or the provider's fault.
    pub passing: bool,
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

/// From this try on, or from a wait of this length on, the operator is told.
const TELL_FROM_ATTEMPT: u32 = 3;
const TELL_FROM_DELAY: Duration = Duration::from_secs(5);

/// Answers are pages of descriptions; what is longer is no answer of these interfaces.
const BODY_BYTES_MAX: usize = 16 << 20;

impl ApiClient {
    pub fn new(transport: Transport, signer: Arc<dyn Sign>, retry: RetryLimits) -> Self {
        Self { transport: transport.with_role(Role::Management), signer, retry }
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
        let (mut backoff, mut asked) = (Backoff::new(self.retry), Asked::new());
        let mut may_have_happened = false;
        // One trace for all attempts: an endpoint that stays unreachable is given up early.
        let trace = Trace::new();
        loop {
            let attempt = trace.follow(self.attempt(request, &trace)).await;
            let Failed { mut error, again, retry_after } = match attempt {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            may_have_happened |= error.may_have_happened;
            error.may_have_happened = may_have_happened;
            let may_repeat = request.repeat == Repeat::Freely || !may_have_happened;
            let delay = match retry_after.filter(|_| again && may_repeat) {
                // What the provider asks for is not counted against our own deadline.
                Some(wanted) => asked.next(wanted),
                None if again && may_repeat => backoff.next_delay_besides(asked.waited()),
                None => None,
            };
            let Some(delay) = delay else {
                let (attempts, elapsed) = backoff.spent();
                let attempts = attempts + asked.count();
                if attempts > 1 {
                    let seconds = elapsed.as_secs();
                    error.reason.push_str(&format!(" after {attempts} attempts in {seconds} s"));
                }
                return Err(error);
            };
            let attempts = backoff.spent().0 + asked.count();
            if attempts > TELL_FROM_ATTEMPT || delay >= TELL_FROM_DELAY {
                let (host, reason) = (request.url.host_str(), &error.reason);
                warn!(host, attempts, %reason, ?delay, "waiting before the call is tried again");
            } else {
                debug!(url = %request.url, reason = %error.reason, ?delay, "call is tried again");
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// One attempt; on failure also whether another is worth it.
    async fn attempt(&self, request: &ApiRequest, trace: &Trace) -> Result<ApiAnswer, Failed> {
        let mut http = http_request(request).map_err(Failed::last)?;
        let signed = self.signer.sign(&mut http).await;
        signed.map_err(|error| Failed::last(ApiError::unsigned(error)))?;
        let response = match self.transport.send(http).await {
            Ok(response) => response,
            Err(error) => return Err(unanswered(trace, &error)),
        };
        let (parts, body) = response.into_parts();
        let body = match body.bytes().await {
            Ok(body) if body.len() <= BODY_BYTES_MAX => body,
            Ok(_) => return Err(Failed::last(ApiError::refused("the answer is too long"))),
            Err(error) => return Err(unanswered(trace, &error)),
        };
        if parts.status.as_u16() >= 400 {
            let failed = refused(parts.status, trace.last());
            return Err(Failed { retry_after: retry_after(&parts.headers), ..failed });
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
        retry_after(&self.headers)
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
        let (status, code, hint) = (None, None, None);
        Self { status, code, reason, may_have_happened: false, passing: false, hint }
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

/// How one attempt went wrong.
struct Failed {
    error: ApiError,
    /// Whether another attempt is worth it.
    again: bool,
    /// How long the provider asks to wait before it.
    retry_after: Option<Duration>,
}

impl Failed {
    fn last(error: ApiError) -> Self {
        Self { error, again: false, retry_after: None }
    }
}

fn http_request(request: &ApiRequest) -> Result<HttpRequest, ApiError> {
    let malformed = |_| ApiError::refused("the request's URL is malformed");
    let mut http = HttpRequest::new(request.body.clone().into());
    *http.method_mut() = request.method.clone();
    *http.uri_mut() = request.url.as_str().parse().map_err(malformed)?;
    if let Some(content_type) = request.content_type {
        let value = HeaderValue::from_static(content_type);
        http.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    // The HTTP client says nothing of a body that is empty, and front ends answer 411 to that:
    // whoever posts must tell a length, says RFC 9110, 8.6.
    let wants_length = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    if wants_length && request.body.is_empty() {
        http.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(http)
}

fn refused(status: StatusCode, answer: Option<Answer>) -> Failed {
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
    let again = throttled || server || status == StatusCode::REQUEST_TIMEOUT;
    let status = Some(status.as_u16());
    let error = ApiError { status, code, reason, may_have_happened, passing: again, hint: None };
    Failed { error, again, retry_after: None }
}

/// No answer: what the transport saw decides.
fn unanswered(trace: &Trace, error: &HttpError) -> Failed {
    let last = trace.last();
    if let Some(Answer::Status { status, .. }) = &last {
        // Answered "not implemented", which the transport takes for final.
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::NOT_IMPLEMENTED);
        return Failed::last(ApiError { passing: false, ..refused(status, last).error });
    }
    let may_have_happened = matches!(last, Some(Answer::Silent { .. } | Answer::Cut { .. }));
    let reason = last.as_ref().map_or_else(|| error.to_string(), ToString::to_string);
    // What trying again cannot mend comes as "unknown" from the transport.
    let again = error.kind() != HttpErrorKind::Unknown;
    // Whatever stands between us and the endpoint may be gone in a minute; a certificate that
    // is not trusted will not.
    let passing = !matches!(last, Some(Answer::Untrusted { .. }));
    let error = ApiError { may_have_happened, passing, ..ApiError::refused(&reason) };
    Failed { error, again, retry_after: None }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
#[expect(clippy::disallowed_methods, reason = "a date is compared with the clock here only")]
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let left = date.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
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
