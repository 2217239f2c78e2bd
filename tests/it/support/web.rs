//! An HTTP server whose answers are written by the test: plain, behind TLS, or as the proxy and
//! the server behind it in one, for hosts that exist elsewhere only.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked.
#[derive(Clone, Debug, Default)]
pub struct WebRequest {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl WebRequest {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What it is told.
#[derive(Clone, Debug)]
pub enum WebAnswer {
    Told {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Nothing, for longer than anybody waits.
    Silence,
}

impl WebAnswer {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self::Told { status, headers: Vec::new(), body: body.into() }
    }

    /// An error as S3 and Azure word it.
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        Self::new(status, body).with("x-ms-error-code", code)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Told { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

type Answering = dyn Fn(&WebRequest) -> WebAnswer + Send + Sync;

/// A running server. Its threads end with the test process.
pub struct WebServer {
    pub port: u16,
    requests: Arc<Mutex<Vec<WebRequest>>>,
}

impl WebServer {
    pub fn play(answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(answer))
    }

    /// Speaks TLS with `certificate`, and takes `CONNECT` before that, as a proxy does.
    pub fn play_encrypted(
        certificate: &Path,
        key: &Path,
        answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static,
    ) -> Self {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .expect("a certificate")
            .map(|certificate| certificate.expect("a certificate"))
            .collect();
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a matching key");
        Self::listen(Some(Arc::new(config)), Arc::new(answer))
    }

    fn listen(config: Option<Arc<ServerConfig>>, answer: Arc<Answering>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::<Mutex<Vec<WebRequest>>>::default();
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer, config) = (Arc::clone(&log), Arc::clone(&answer), config.clone());
                std::thread::spawn(move || accept(stream, config, &log, &*answer));
            }
        });
        Self { port, requests }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// As if nothing had been asked so far.
    pub fn forget(&self) {
        self.requests.lock().expect("no panic in here").clear();
    }

    /// Everything that was asked so far, in order.
    pub fn requests(&self) -> Vec<WebRequest> {
        self.requests.lock().expect("no panic in here").clone()
    }
}

fn accept(
    mut stream: TcpStream,
    config: Option<Arc<ServerConfig>>,
    log: &Mutex<Vec<WebRequest>>,
    answer: &Answering,
) {
    let Some(config) = config else { return serve(stream, log, answer) };
    let mut first = [0];
    if stream.peek(&mut first).is_ok() && first == *b"C" {
        // `CONNECT host:port`: byte for byte, because TLS begins right after the empty line.
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n");
    }
    let connection = ServerConnection::new(config).expect("a connection");
    serve(StreamOwned::new(connection, stream), log, answer);
}

fn serve(stream: impl Read + Write, log: &Mutex<Vec<WebRequest>>, answer: &Answering) {
    let mut reader = BufReader::new(stream);
    let Some(request) = read_request(&mut reader) else { return };
    log.lock().expect("no panic in here").push(request.clone());
    let (status, headers, body) = match answer(&request) {
        WebAnswer::Told { status, headers, body } => (status, headers, body),
        WebAnswer::Silence => return std::thread::sleep(Duration::from_secs(120)),
    };
    let mut head = format!("HTTP/1.1 {status} Told\r\nConnection: close\r\n");
    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let stream = reader.get_mut();
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(body.as_bytes());
    }
    let _ = stream.flush();
}

fn read_request(reader: &mut impl BufRead) -> Option<WebRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let mut words = line.split_whitespace().map(String::from);
    let mut request =
        WebRequest { method: words.next()?, target: words.next()?, ..WebRequest::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let length = request.header("content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Some(request)
}
