//! For tests: an S3 server in memory whose answers go wrong as a seed says.
//!
//! It stands where the network would: the real client library, its retries and our own reading
//! of errors are all above it. What happens to a request is a function of the seed, the client,
//! the request and how often it was made, so that a seed tells the same story however the
//! requests of concurrent commands interleave.

use crate::cloud::{Answer, Trace};
use crate::store::Store;
use crate::store::bucket::Bucket;
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use crate::store::simulated_s3::{Conditions, Objects};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use object_store::aws::AmazonS3Builder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The server that all clients of one world share.
#[derive(Clone)]
pub(crate) struct SimulatedServer {
    objects: Arc<Mutex<Objects>>,
}

/// How often requests of one client go wrong, and when the client dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Faults {
    pub seed: u64,
    /// Of a thousand requests.
    pub per_mille: u64,
    /// The request, counted from zero, at which the client is killed.
    pub killed_at: Option<u64>,
}

/// One process's way to the server.
#[derive(Clone)]
pub(crate) struct SimulatedClient {
    server: SimulatedServer,
    faults: Faults,
    requests: Arc<Mutex<Requests>>,
    killed: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Requests {
    all: u64,
    /// How often each was made.
    made: BTreeMap<String, u64>,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The connection breaks before the server has read the request.
    Lost,
    /// The server carries it out, and its answer never arrives.
    AnswerLost,
    /// 503 without a change.
    Busy,
    /// 500 although it was carried out.
    BrokenAfterwards,
    /// It arrives twice.
    Twice,
    /// 403.
    Denied,
    /// The body of the answer breaks off.
    Truncated,
    KilledBefore,
    KilledAfterwards,
}

impl SimulatedServer {
    pub fn new(conditions: Conditions) -> Self {
        Self { objects: Arc::new(Mutex::new(Objects::new(conditions))) }
    }

    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store whose requests suffer `faults`.
    pub fn client(&self, faults: Faults) -> (Store, SimulatedClient) {
        let client = SimulatedClient {
            server: self.clone(),
            faults,
            requests: Arc::default(),
            killed: Arc::new(watch::Sender::new(false)),
        };
        (client.store(), client)
    }

    /// A store on which nothing goes wrong.
    pub fn faultless(&self) -> Store {
        self.client(Faults { seed: 0, per_mille: 0, killed_at: None }).0
    }
}

impl Faults {
    /// A number that depends on all of `words` and on nothing else.
    pub fn draw(seed: u64, words: &[u64]) -> u64 {
        let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
        for word in words {
            state = mixed(state ^ *word);
        }
        mixed(state)
    }

    fn fate(&self, request: &str, time: u64, all: u64) -> Fate {
        let draw = Self::draw(self.seed, &[text_number(request), time]);
        if self.killed_at.is_some_and(|at| all >= at) {
            return if draw.is_multiple_of(2) {
                Fate::KilledBefore
            } else {
                Fate::KilledAfterwards
            };
        }
        if draw % 1000 >= self.per_mille {
            return Fate::Answered;
        }
        match (draw >> 32) % 16 {
            0..=2 => Fate::Lost,
            3..=6 => Fate::AnswerLost,
            7..=9 => Fate::Busy,
            10..=11 => Fate::BrokenAfterwards,
            12 => Fate::Twice,
            13..=14 => Fate::Truncated,
            _ => Fate::Denied,
        }
    }
}

/// The finalizer of splitmix64.
fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn text_number(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |number, byte| {
        (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

impl SimulatedClient {
    /// Completes when the client has been killed.
    pub async fn killed(&self) {
        let mut killed = self.killed.subscribe();
        let _ = killed.wait_for(|killed| *killed).await;
    }

    fn store(&self) -> Store {
        let retry = crate::flow::RetryLimits {
            attempts_max: 4,
            deadline: Duration::from_secs(5),
            delay_first: Duration::from_micros(200),
            delay_max: Duration::from_millis(2),
        };
        let backoff = BackoffConfig {
            init_backoff: retry.delay_first,
            max_backoff: retry.delay_max,
            base: 2.0,
        };
        let builder = AmazonS3Builder::new()
            .with_bucket_name("b")
            .with_region("us-east-1")
            .with_endpoint("http://simulated")
            .with_access_key_id("simulated")
            .with_secret_access_key("simulated")
            .with_retry(RetryConfig { backoff, max_retries: 2, retry_timeout: retry.deadline })
            .with_unsigned_payload(true)
            .with_http_connector(self.clone())
            .with_allow_http(true);
        let objects = Arc::new(builder.build().expect("settings that fit together"));
        let inner = StoreInner {
            objects: objects.clone(),
            names: Some(objects),
            one_by_one: None,
            bucket: Bucket::Memory,
            root_url: "s3://b".into(),
            labels: Labels::Metadata,
            retry,
            delete_batch: 1000,
            conditional_writes: Known::nothing(),
            blocks: None,
        };
        Store::of(inner)
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let trace = Trace::current();
        trace.attempt();
        let words = format!("{} {}", request.method(), without_upload(&request.uri().to_string()));
        let (time, all) = self.count(&words);
        let fate = self.faults.fate(&words, time, all);
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        // Requests of concurrent commands take their turns in an order that the seed says.
        for _ in 0..Faults::draw(self.faults.seed, &[text_number(&words), time, 1]) % 8 {
            tokio::task::yield_now().await;
        }
        match fate {
            Fate::KilledBefore => return self.die().await,
            Fate::Lost => return Err(cut(&trace)),
            Fate::Busy => return Ok(refused(&trace, 503, "SlowDown")),
            Fate::Denied => return Ok(refused(&trace, 403, "AccessDenied")),
            _ => {}
        }
        let mut answer = self.server.objects().carry_out(&parts, &body);
        if fate == Fate::Twice {
            answer = self.server.objects().carry_out(&parts, &body);
        }
        match fate {
            Fate::KilledAfterwards => self.die().await,
            Fate::AnswerLost => Err(cut(&trace)),
            Fate::BrokenAfterwards => Ok(refused(&trace, 500, "InternalError")),
            Fate::Truncated if parts.method == http::Method::GET => {
                trace.succeeded();
                Ok(truncated(answer))
            }
            _ => told(&trace, answer),
        }
    }

    fn count(&self, words: &str) -> (u64, u64) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let all = requests.all;
        requests.all += 1;
        let made = requests.made.entry(words.into()).or_default();
        *made += 1;
        (*made, all)
    }

    /// Nothing that this client began goes on.
    async fn die(&self) -> Result<HttpResponse, HttpError> {
        self.killed.send_replace(true);
        std::future::pending().await
    }
}

/// The names of uploads differ from run to run; what is asked of them does not.
fn without_upload(uri: &str) -> String {
    match uri.split_once("uploadId=") {
        None => uri.into(),
        Some((before, after)) => {
            let rest = after.split_once('&').map_or("", |(_, rest)| rest);
            format!("{before}uploadId&{rest}")
        }
    }
}

#[async_trait]
impl HttpService for SimulatedClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.answer(request).await
    }
}

impl HttpConnector for SimulatedClient {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl fmt::Debug for SimulatedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedClient").field("faults", &self.faults).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("connection reset")]
struct Reset;

#[derive(Debug, thiserror::Error)]
#[error("not implemented")]
struct NotImplemented;

/// As the transport of real stores tells it.
fn cut(trace: &Trace) -> HttpError {
    trace.answered(Answer::Cut { detail: "connection reset".into() });
    HttpError::new(HttpErrorKind::Request, Reset)
}

fn refused(trace: &Trace, status: u16, code: &str) -> HttpResponse {
    let body = format!("<Error><Code>{code}</Code><Message>simulated</Message></Error>");
    let answer = Answer::Status { status, code: Some(code.into()), message: None, region: None };
    trace.answered(answer);
    Response::builder().status(status).body(body.into()).expect("a response")
}

fn told(trace: &Trace, answer: Response<Bytes>) -> Result<HttpResponse, HttpError> {
    if answer.status().is_success() {
        trace.succeeded();
    } else {
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        trace.answered(Answer::Status {
            status: answer.status().as_u16(),
            code: code.map(|(code, _)| code.into()),
            message: None,
            region: None,
        });
        if answer.status() == StatusCode::NOT_IMPLEMENTED {
            return Err(HttpError::new(HttpErrorKind::Unknown, NotImplemented));
        }
    }
    Ok(answer.map(HttpResponseBody::from))
}

/// The first half of the body, then a broken connection.
fn truncated(answer: Response<Bytes>) -> HttpResponse {
    let (parts, body) = answer.into_parts();
    let half = body.slice(..body.len() / 2);
    let frames = stream::iter([
        Ok(Frame::data(half)),
        Err(HttpError::new(HttpErrorKind::Interrupted, Reset)),
    ]);
    Response::from_parts(parts, HttpResponseBody::new(StreamBody::new(frames)))
}
