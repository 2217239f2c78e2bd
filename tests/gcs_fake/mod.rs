//! A Google Cloud Storage server in memory, with both of Google's faces over one map of
//! objects: XML for object_store, JSON for Barman and Google's clients.
//!
//! It checks preconditions, part sizes and checksums as Google documents them. It does not
//! check credentials, ACLs or quotas, and a request is answered at once.

#![allow(clippy::disallowed_methods, reason = "a server outside the house has a clock of its own")]

pub mod http;
mod json;
mod state;
mod xml;

use crate::gcs_fake::http::{Answer, Request, query};
use crate::gcs_fake::state::State;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What shall go wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and nothing done.
    Status(u16),
    /// The answer's body breaks off after so many bytes.
    CutBody(usize),
    /// Answered after this long.
    Hold(Duration),
}

/// Which requests a fault hits, and how many of them.
#[derive(Clone, Debug)]
struct Rule {
    method: String,
    path_part: String,
    passed: usize,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<String>>,
}

/// A running server; it stops when dropped.
pub struct GcsFake {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GcsFake {
    /// Starts on a free port of the loopback interface, on a thread of its own.
    pub fn start() -> io::Result<Self> {
        Self::start_on("127.0.0.1:0")
    }

    pub fn start_on(address: &str) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a bound listener");
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn create_bucket(&self, name: &str) {
        lock(&self.shared.state).buckets.entry(name.to_string()).or_default();
    }

    /// Makes `times` requests fail after `passed` of them have gone well; a request is meant
    /// when its method is `method` and its path with query contains `path_part`.
    pub fn fail(&self, method: &str, path_part: &str, passed: usize, times: usize, fault: Fault) {
        let (method, path_part) = (method.to_string(), path_part.to_string());
        lock(&self.shared.rules).push(Rule { method, path_part, passed, times, fault });
    }

    /// All requests so far: method, path and query.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.log).clone()
    }

    /// The bytes of an object, past both faces.
    pub fn object(&self, bucket: &str, name: &str) -> Option<Bytes> {
        lock(&self.shared.state).object(bucket, name).map(|object| object.bytes.clone())
    }

    /// Names of a bucket's objects.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        let state = lock(&self.shared.state);
        state.buckets.get(bucket).into_iter().flat_map(|objects| objects.keys().cloned()).collect()
    }

    /// The customer's key that an object was written with.
    pub fn kms_key(&self, bucket: &str, name: &str) -> Option<String> {
        lock(&self.shared.state).object(bucket, name)?.attributes.kms_key.clone()
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        lock(&self.shared.state).uploads.len()
    }
}

impl Drop for GcsFake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Otherwise an answer's body waits 40 ms for the acknowledgement of its head.
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(request, &shared).await) }
    });
    // A client that goes away is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Chunks = futures::stream::BoxStream<'static, Result<Frame<Bytes>, io::Error>>;

async fn respond(
    request: hyper::Request<Incoming>,
    shared: &Shared,
) -> hyper::Response<StreamBody<Chunks>> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_string();
    // Where the client found us, which behind a container's port is not where we listen.
    let host = head.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin = format!("http://{host}");
    lock(&shared.log).push(format!("{} {target}", head.method));
    let fault = fault_for(shared, head.method.as_str(), &target);
    let Ok(body) = body.collect().await else { return built(Answer::new(400), None) };
    let request = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_string(),
        query: query(head.uri.query().unwrap_or_default()),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect(),
        body: body.to_bytes(),
    };
    match fault {
        Some(Fault::Status(status)) => return built(Answer::new(status), None),
        Some(Fault::Hold(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    let answer = {
        let mut state = lock(&shared.state);
        if json::is_json_path(&request.path) {
            json::answer(&mut state, &request, &origin)
        } else {
            xml::answer(&mut state, &request)
        }
    };
    match fault {
        Some(Fault::CutBody(bytes)) => built(answer, Some(bytes)),
        _ => built(answer, None),
    }
}

fn fault_for(shared: &Shared, method: &str, target: &str) -> Option<Fault> {
    let mut rules = lock(&shared.rules);
    let rule = rules
        .iter_mut()
        .find(|rule| rule.times > 0 && rule.method == method && target.contains(&rule.path_part))?;
    if rule.passed > 0 {
        rule.passed -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn built(answer: Answer, cut_after: Option<usize>) -> hyper::Response<StreamBody<Chunks>> {
    let length = answer.announced_bytes.unwrap_or(answer.body.len());
    let mut response = hyper::Response::builder().status(answer.status);
    // 204 and 304 have no body and no length.
    if !matches!(answer.status, 204 | 304) {
        response = response.header("content-length", length);
    }
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let mut frames = Vec::new();
    match cut_after.filter(|bytes| *bytes < answer.body.len()) {
        Some(bytes) => {
            frames.push(Ok(Frame::data(answer.body.slice(..bytes))));
            frames.push(Err(io::Error::other("cut on purpose")));
        }
        None if answer.body.is_empty() => {}
        None => frames.push(Ok(Frame::data(answer.body))),
    }
    let chunks = futures::stream::iter(frames).then(|frame| async {
        if frame.is_err() {
            // What was sent before must be on its way, or the break swallows the head as well.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        frame
    });
    response.body(StreamBody::new(chunks.boxed())).expect("a valid response")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
