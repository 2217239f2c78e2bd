//! HTTP for the fakes: one thread, whole bodies, faults at chosen requests, a log.

use crate::gcs_fake::http::{Answer, Request, query};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What shall go wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answered so, and nothing done.
    Refuse(Answer),
    /// Done, but the connection breaks before the answer.
    LoseAnswer,
    /// Answered after this long.
    Hold(Duration),
}

/// Makes the answer to a request; `origin` is how the client reached the server.
pub type Handler = Box<dyn Fn(&Request, &str) -> Answer + Send + Sync>;

/// Which requests a fault hits, and how many of them.
struct Rule {
    method: String,
    path_part: String,
    passed: usize,
    times: usize,
    fault: Fault,
}

struct Shared {
    handler: Handler,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<String>>,
}

/// A running server; it stops when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port of the loopback interface, on a thread of its own.
    pub fn start(handler: Handler) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            handler,
            rules: Mutex::new(Vec::new()),
            log: Mutex::new(Vec::new()),
        });
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

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Makes `times` requests fail after `passed` of them have gone well; a request is meant
    /// when its method starts with `method` and its path with query contains `path_part`.
    pub fn fail(&self, method: &str, path_part: &str, passed: usize, times: usize, fault: Fault) {
        let (method, path_part) = (method.to_string(), path_part.to_string());
        lock(&self.shared.rules).push(Rule { method, path_part, passed, times, fault });
    }

    /// Makes nothing fail any more.
    pub fn forget_faults(&self) {
        lock(&self.shared.rules).clear();
    }

    /// All requests so far: method, path and query.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.log).clone()
    }
}

impl Drop for Server {
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
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { respond(request, &shared).await }
    });
    // A client that goes away is no news, and neither is an answer lost on purpose.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: hyper::Request<Incoming>,
    shared: &Shared,
) -> io::Result<hyper::Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_string();
    let host = head.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let origin = format!("http://{host}");
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    lock(&shared.log).push(format!("{} {target}", head.method));
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
        body,
    };
    if needs_length(&request) {
        // As the front ends of both clouds do, before anybody looks at the request.
        let text = "POST requests require a Content-length header.";
        return Ok(built(Answer::new(411).body("text/html; charset=UTF-8", text)));
    }
    match fault_for(shared, &request.method, &target) {
        Some(Fault::Refuse(answer)) => return Ok(built(answer)),
        Some(Fault::LoseAnswer) => {
            (shared.handler)(&request, &origin);
            return Err(io::Error::other("lost on purpose"));
        }
        Some(Fault::Hold(time)) => tokio::time::sleep(time).await,
        None => {}
    }
    Ok(built((shared.handler)(&request, &origin)))
}

fn needs_length(request: &Request) -> bool {
    let told = ["content-length", "transfer-encoding"];
    ["POST", "PUT", "PATCH"].contains(&request.method.as_str())
        && told.iter().all(|name| request.header(name).is_none())
}

fn fault_for(shared: &Shared, method: &str, target: &str) -> Option<Fault> {
    let mut rules = lock(&shared.rules);
    let rule = rules.iter_mut().find(|rule| {
        rule.times > 0 && method.starts_with(&rule.method) && target.contains(&rule.path_part)
    })?;
    if rule.passed > 0 {
        rule.passed -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn built(answer: Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(answer.body)).expect("a valid response")
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
