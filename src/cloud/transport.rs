//! How requests reach a cloud: one HTTP client with our TLS roots, proxies and time limits.
//!
//! ```text
//! object_store ── HttpConnector ──> Transport ── reqwest ──> the cloud
//!                                      │
//!                                    Trace   attempts, status, code, how it broke
//! ```
//!
//! `object_store` decides what is tried again; this decides what it gets to see. Failures that
//! trying again cannot mend (an untrusted certificate, an endpoint that stays unreachable) come
//! back as final; all others as worth a retry, because every request we make may be repeated.

use crate::cloud::error_body::{beginning_of, read_answer};
use crate::cloud::metered::{Incoming, Movement, Outgoing};
use crate::cloud::{Answer, CloudError, Trace, trust};
use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// What a transport may spend and whom it trusts.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    pub connect_timeout: Duration,
    /// How long nothing may move in either direction.
    pub read_timeout: Duration,
    /// How long an endpoint that cannot be connected to is tried at all. Much shorter than the
    /// deadline for answers: whoever mistyped a host name waits for this.
    pub unreachable_after: Duration,
    /// PEM file of the only authorities to trust; `None` trusts the system's.
    pub ca_bundle: Option<PathBuf>,
    pub proxies: Proxies,
}

/// Whether `HTTPS_PROXY` and its kin are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    FromEnvironment,
    Never,
}

/// What the requests of a transport are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Objects and buckets: failures are the operation's.
    Store,
    /// A provider's management interface: the same, but its caller waits as long as it is asked.
    Management,
    /// Tokens: failures mean that there are no credentials.
    Identity,
}

/// Changes requests just before they are sent, or repeats one elsewhere.
#[async_trait]
pub trait Rewrite: fmt::Debug + Send + Sync {
    /// Adds headers, replaces the signature.
    async fn prepare(&self, request: &mut HttpRequest) -> Result<(), HttpError>;

    /// Whether the same request shall be prepared and sent once more after this answer. `sent`
    /// is what [`prepare`](Self::prepare) attached to the request that was answered.
    fn again(&self, sent: &http::Extensions, answer: &Answer) -> bool {
        let _ = (sent, answer);
        false
    }
}

/// One HTTP client, built at its first request.
#[derive(Clone, Debug)]
pub struct Transport {
    shared: Arc<Shared>,
    role: Role,
    rewrite: Option<Arc<dyn Rewrite>>,
}

#[derive(Debug)]
struct Shared {
    options: TransportOptions,
    /// Two clients, because one for `http` needs no TLS roots: reading them takes longer than
    /// archiving a WAL segment.
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
}

/// How often one request is sent elsewhere before its answer counts.
const REWRITES_MAX: u32 = 3;

/// The longest that an answer's `Retry-After` is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

impl Transport {
    pub fn new(options: TransportOptions) -> Self {
        let shared = Shared { options, plain: OnceLock::new(), secure: OnceLock::new() };
        Self { shared: Arc::new(shared), role: Role::Store, rewrite: None }
    }

    /// The same client for another purpose.
    pub fn with_role(&self, role: Role) -> Self {
        Self { role, ..self.clone() }
    }

    pub fn with_rewrite(&self, rewrite: Arc<dyn Rewrite>) -> Self {
        Self { rewrite: Some(rewrite), ..self.clone() }
    }

    /// Sends one request and records its answer in the current [`Trace`].
    ///
    /// A status of 400 and above is an answer, not an error; its body is still readable.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let trace = Trace::current();
        let Some(rewrite) = &self.rewrite else {
            return self.send_once(&trace, request).await;
        };
        let mut rewrites = 0;
        loop {
            let mut prepared = request.clone();
            rewrite.prepare(&mut prepared).await?;
            let sent = prepared.extensions().clone();
            let response = self.send_once(&trace, prepared).await?;
            // Its own answer: the trace may have got that of a neighbour meanwhile.
            match response.extensions().get::<Answer>() {
                Some(answer) if rewrites < REWRITES_MAX && rewrite.again(&sent, answer) => {
                    rewrites += 1;
                }
                _ => return Ok(response),
            }
        }
    }

    async fn send_once(
        &self,
        trace: &Trace,
        request: HttpRequest,
    ) -> Result<HttpResponse, HttpError> {
        let method = request.method().clone();
        let optional = is_metadata_service(request.uri().host());
        let attempt = self.count(trace);
        let begun = Instant::now();
        debug!(%method, host = request.uri().host(), attempt, "request");
        match self.execute(request).await {
            Ok(response) => self.examine(trace, method, response).await,
            Err(failure) => {
                debug!(%method, attempt, reason = %failure.answer(), "request failed");
                if self.role == Role::Identity && failure.may_pass(optional) {
                    trace.identity_was_busy();
                }
                Err(self.failed(trace, attempt, begun, &failure))
            }
        }
    }

    fn count(&self, trace: &Trace) -> u32 {
        match self.role {
            Role::Store | Role::Management => trace.attempt(),
            Role::Identity => 0,
        }
    }

    async fn execute(&self, request: HttpRequest) -> Result<reqwest::Response, SendFailure> {
        let client = self.shared.client(request.uri().scheme_str())?;
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|error| {
            SendFailure::Final(format!("the request's URL is malformed: {error}"))
        })?;
        let movement = Movement::new();
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        // Small bodies go as they are, so that hyper knows their length.
        *request.body_mut() = Some(match body.as_bytes() {
            Some(bytes) => bytes.clone().into(),
            None => reqwest::Body::wrap(Outgoing::new(body, movement.clone())),
        });
        let limit = self.shared.options.read_timeout;
        tokio::select! {
            biased;
            answer = client.execute(request) => answer.map_err(|error| self.shared.broken(error)),
            () = movement.stalled(limit) => Err(SendFailure::Silent(limit)),
        }
    }

    /// Records the answer; reads an error's body for its code.
    async fn examine(
        &self,
        trace: &Trace,
        method: Method,
        response: reqwest::Response,
    ) -> Result<HttpResponse, HttpError> {
        let response: http::Response<reqwest::Body> = response.into();
        let (mut parts, body) = response.into_parts();
        let body = Incoming::new(body, self.shared.options.read_timeout, body_failed);
        let body = HttpResponseBody::new(body);
        if parts.status.is_success() {
            if self.role != Role::Identity {
                trace.succeeded();
            }
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let text = match method {
            Method::HEAD => Vec::new(),
            _ => beginning_of(body).await?,
        };
        let answer = read_answer(parts.status, &parts.headers, &text);
        debug!(?answer, "answer");
        parts.extensions.insert(answer.clone());
        match self.role {
            Role::Store | Role::Management => trace.answered(answer),
            Role::Identity => {
                if is_busy(parts.status) {
                    trace.identity_was_busy();
                }
                trace.no_identity(identity_refused(parts.status));
            }
        }
        if self.role != Role::Management {
            wait_if_asked(&parts.headers, parts.status).await;
        }
        if parts.status == StatusCode::NOT_IMPLEMENTED {
            // The library tries every 5xx again, but this one will never change its mind.
            return Err(HttpError::new(HttpErrorKind::Unknown, NotImplemented));
        }
        // A body of unknown encoding would end as a decoding error and hide the status.
        parts.headers.remove(http::header::CONTENT_ENCODING);
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(HttpResponse::from_parts(parts, text.into()))
    }

    fn failed(
        &self,
        trace: &Trace,
        attempt: u32,
        begun: Instant,
        failure: &SendFailure,
    ) -> HttpError {
        let answer = failure.answer();
        let text = answer.to_string();
        if attempt == 4 {
            warn!(attempts = attempt, reason = %text, "the store does not answer, still trying");
        }
        let last_try = match answer {
            Answer::Untrusted { .. } | Answer::Status { .. } => true,
            // The next pause is about as long as all before, so stop at half of the time.
            Answer::Unreachable { .. } => {
                trace.unreachable_for(begun) * 2 >= self.shared.options.unreachable_after
            }
            Answer::Silent { .. } | Answer::Cut { .. } => false,
        };
        match self.role {
            Role::Store | Role::Management => trace.answered(answer),
            Role::Identity => trace.no_identity(text.clone()),
        }
        let kind = if last_try { HttpErrorKind::Unknown } else { HttpErrorKind::Request };
        HttpError::new(kind, Broken(text))
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.send(request).await
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl Shared {
    /// Says which authorities a certificate is not from.
    fn broken(&self, error: reqwest::Error) -> SendFailure {
        if !mentions_certificate(&error) {
            return SendFailure::Broken(error);
        }
        let trusted = match &self.options.ca_bundle {
            Some(path) => format!("\"{}\"", path.display()),
            None => "the system".into(),
        };
        let reason = root_of(&error);
        SendFailure::Final(format!("{reason} (trusted are the certificates of {trusted})"))
    }

    fn client(&self, scheme: Option<&str>) -> Result<&reqwest::Client, SendFailure> {
        let (slot, secure) = match scheme {
            Some("http") => (&self.plain, false),
            _ => (&self.secure, true),
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = self.build(secure).map_err(|error| SendFailure::Final(error.message))?;
        Ok(slot.get_or_init(|| client))
    }

    fn build(&self, secure: bool) -> Result<reqwest::Client, CloudError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("barman-cloud/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.options.connect_timeout)
            // One connection per request in flight carries more than streams in one.
            .http1_only()
            // A redirected request would need another signature; see the callers.
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true);
        if self.options.proxies == Proxies::Never {
            builder = builder.no_proxy();
        }
        builder = match secure {
            true => {
                let bundle = self.options.ca_bundle.as_deref();
                builder.tls_backend_preconfigured(trust::client_config(bundle)?)
            }
            false => builder.tls_certs_only([]),
        };
        builder
            .build()
            .map_err(|error| CloudError::new(format!("could not set up TLS: {}", root_of(&error))))
    }
}

/// How a request ended without a status.
#[derive(Debug)]
enum SendFailure {
    Broken(reqwest::Error),
    Silent(Duration),
    Final(String),
}

impl SendFailure {
    fn answer(&self) -> Answer {
        match self {
            Self::Silent(waited) => Answer::Silent { waited: *waited },
            Self::Final(detail) => Answer::Untrusted { detail: detail.clone() },
            Self::Broken(error) => answer_of(error),
        }
    }

    /// Whether an identity service may answer later; an `optional` one need not be there at all.
    fn may_pass(&self, optional: bool) -> bool {
        match self.answer() {
            Answer::Untrusted { .. } => false,
            Answer::Unreachable { .. } => !optional,
            Answer::Status { .. } | Answer::Silent { .. } | Answer::Cut { .. } => true,
        }
    }
}

fn answer_of(error: &reqwest::Error) -> Answer {
    let detail = root_of(error);
    if mentions_certificate(error) {
        Answer::Untrusted { detail }
    } else if error.is_connect() && error.is_timeout() {
        Answer::Unreachable { detail: "connection timed out".into() }
    } else if error.is_connect() {
        Answer::Unreachable { detail }
    } else {
        Answer::Cut { detail }
    }
}

/// rustls hides its errors in an `io::Error`, whose `source` skips them.
fn mentions_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let hidden = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        if let Some(tls) = hidden.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        next = match hidden {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// The innermost cause, which is the one that names it; the outer ones repeat "error sending".
fn root_of(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let text = root.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

fn body_failed(error: reqwest::Error) -> HttpError {
    let answer = Answer::Cut { detail: root_of(&error) };
    let text = answer.to_string();
    Trace::current().answered(answer);
    HttpError::new(HttpErrorKind::Interrupted, Broken(text))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

#[derive(Debug, thiserror::Error)]
#[error("not implemented")]
struct NotImplemented;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, code: Some(code), .. } => write!(f, "{status} {code}"),
            Self::Status { status, .. } => match StatusCode::from_u16(*status) {
                Ok(status) => write!(f, "{status}"),
                Err(_) => write!(f, "{status}"),
            },
            Self::Unreachable { detail } | Self::Untrusted { detail } | Self::Cut { detail } => {
                f.write_str(detail)
            }
            Self::Silent { waited } => write!(f, "no answer for {} s", waited.as_secs()),
        }
    }
}

async fn wait_if_asked(headers: &HeaderMap, status: StatusCode) {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
    let asked = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    if let Some(seconds) = asked.filter(|_| busy).and_then(|text| text.trim().parse().ok()) {
        tokio::time::sleep(Duration::from_secs(seconds).min(RETRY_AFTER_MAX)).await;
    }
}

/// Statuses after which a token service is worth asking again.
fn is_busy(status: StatusCode) -> bool {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    busy.contains(&status) || status.is_server_error()
}

/// Whether a host that does not answer only says that this machine is not in a cloud.
fn is_metadata_service(host: Option<&str>) -> bool {
    host.is_some_and(|host| ["169.254.169.254", "metadata.google.internal"].contains(&host))
}

fn identity_refused(status: StatusCode) -> String {
    format!("the identity service answered {status}")
}

/// Retries of a token request: a metadata server that is not there must not hold anyone up.
pub(crate) fn identity_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    }
}
