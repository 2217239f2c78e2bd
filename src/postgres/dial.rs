//! Opening a connection: hosts in turn, their addresses in turn, with and without TLS.
//!
//! ```text
//! host → address → attempt(s) as sslmode says → logged in → the kind of server we want?
//! ```
//!
//! A server that refuses the identity ends the search; one that cannot be reached, is
//! starting up, or is of the wrong kind is passed over.
//! Source: `PQconnectPoll`, PostgreSQL src/interfaces/libpq/fe-connect.c.

use crate::postgres::PostgresError;
use crate::postgres::error::reason_of;
use crate::postgres::options::{ConnectOptions, HostAddress, HostOrder, HostTarget, SessionKind};
use crate::postgres::session::ConnectionWatch;
use crate::postgres::tls::SslMode;
use crate::postgres::user::name_of_uid;
use rustls::pki_types::ServerName;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as TlsUse;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Bytes to and from the server, before TLS.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
type Stream = Box<dyn Wire>;
type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect;

/// A logged-in connection and the task that carries its bytes.
pub(crate) struct Link {
    pub client: Client,
    pub task: JoinHandle<()>,
    pub watch: ConnectionWatch,
    pub route: Route,
}

/// How the server was reached, to reach it again with a cancel request.
#[derive(Clone)]
pub(crate) struct Route {
    address: Address,
    tls: Option<(MakeRustlsConnect, String)>,
    options: ConnectOptions,
}

#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// Why one place did not give a session.
struct Failure {
    target: String,
    error: Refusal,
}

enum Refusal {
    /// Go on with the next place.
    Passed(String),
    /// The server knows who we are and does not want us: another place would be a guess.
    Final(PostgresError),
}

/// How TLS is asked for in one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Plain,
    /// As far as the server offers it.
    Offered,
    Tls,
}

/// A cancel request that takes longer than this is given up: ending the connection does
/// the rest.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds the first host that gives a session of the wanted kind.
pub(crate) async fn dial(options: &ConnectOptions) -> Result<Link, PostgresError> {
    let connector = connector(options)?;
    let passes = match options.session_kind {
        SessionKind::PreferStandby => vec![SessionKind::Standby, SessionKind::Any],
        kind => vec![kind],
    };
    let hosts = in_order(options);
    let mut failures = Vec::new();
    for kind in passes {
        failures.clear();
        for host in &hosts {
            match dial_host(host, kind, options, connector.as_ref()).await {
                Ok(link) => return Ok(link),
                Err(more) => failures.extend(more),
            }
            if let Some(Failure { error: Refusal::Final(error), .. }) = failures.last() {
                return Err(error.clone());
            }
        }
    }
    Err(gave_up(&failures))
}

/// TLS files are read once, and only if TLS may be used.
fn connector(options: &ConnectOptions) -> Result<Option<MakeRustlsConnect>, PostgresError> {
    let all_local =
        options.hosts.iter().all(|host| matches!(host.address, HostAddress::SocketDirectory(_)));
    if options.tls.mode == SslMode::Disable || all_local {
        return Ok(None);
    }
    let config = options.tls.client_config().map_err(|reason| PostgresError::Connect {
        target: describe_hosts(&options.hosts),
        reason,
        hint: None,
    })?;
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn in_order(options: &ConnectOptions) -> Vec<&HostTarget> {
    let mut hosts: Vec<_> = options.hosts.iter().collect();
    if options.host_order == HostOrder::Random {
        // A fresh hasher is keyed at random, which spreads clients well enough.
        let random = RandomState::new();
        hosts.sort_by_cached_key(|host| random.hash_one(format!("{host:?}")));
    }
    hosts
}

async fn dial_host(
    host: &HostTarget,
    kind: SessionKind,
    options: &ConnectOptions,
    connector: Option<&MakeRustlsConnect>,
) -> Result<Link, Vec<Failure>> {
    let addresses = match addresses(host).await {
        Ok(addresses) => addresses,
        Err(reason) => {
            let error = Refusal::Passed(reason);
            return Err(vec![Failure { target: describe(host, None), error }]);
        }
    };
    let mut failures = Vec::new();
    for address in addresses {
        let target = describe(host, Some(&address));
        let place = Place { host, address, target, options, connector };
        match place.dial(kind).await {
            Ok(link) => return Ok(link),
            Err(error) => {
                let is_final = matches!(error, Refusal::Final(_));
                failures.push(Failure { target: place.target, error });
                if is_final {
                    break;
                }
            }
        }
    }
    Err(failures)
}

async fn addresses(host: &HostTarget) -> Result<Vec<Address>, String> {
    match &host.address {
        HostAddress::Ip(ip) => Ok(vec![Address::Tcp(SocketAddr::new(*ip, host.port))]),
        HostAddress::SocketDirectory(directory) => {
            Ok(vec![Address::Unix(format!("{directory}/.s.PGSQL.{}", host.port))])
        }
        HostAddress::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
            let found: Vec<_> = found
                .map_err(|error| format!("could not translate host name to address: {error}"))?
                .map(Address::Tcp)
                .collect();
            if found.is_empty() { Err("host name has no address".into()) } else { Ok(found) }
        }
    }
}

/// One address of one host.
struct Place<'a> {
    host: &'a HostTarget,
    address: Address,
    target: String,
    options: &'a ConnectOptions,
    connector: Option<&'a MakeRustlsConnect>,
}

impl Place<'_> {
    async fn dial(&self, kind: SessionKind) -> Result<Link, Refusal> {
        let opened = async {
            let link = self.log_in().await?;
            check_kind(&link.client, kind).await.map_err(Refusal::Passed)?;
            Ok(link)
        };
        match self.options.connect_timeout {
            None => opened.await,
            Some(limit) => match tokio::time::timeout(limit, opened).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    Err(Refusal::Passed(format!("timeout expired after {} s", limit.as_secs())))
                }
            },
        }
    }

    /// Up to two attempts, as `sslmode` allow and prefer have it.
    async fn log_in(&self) -> Result<Link, Refusal> {
        let (first, second) = match (&self.address, self.options.tls.mode) {
            (Address::Unix(_), _) | (_, SslMode::Disable) => (Attempt::Plain, None),
            (_, SslMode::Allow) => (Attempt::Plain, Some(Attempt::Tls)),
            (_, SslMode::Prefer) => (Attempt::Offered, Some(Attempt::Plain)),
            _ => (Attempt::Tls, None),
        };
        let failed = match self.attempt(first).await {
            Ok(link) => return Ok(link),
            Err(failed) => failed,
        };
        match second.filter(|_| failed.other_way_may_work) {
            None => Err(failed.refusal),
            Some(second) => self
                .attempt(second)
                .await
                .map_err(|also_failed| merge(failed.refusal, also_failed.refusal)),
        }
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Link, AttemptFailure> {
        let stream = self.open().await.map_err(|reason| AttemptFailure {
            refusal: Refusal::Passed(reason),
            other_way_may_work: false,
        })?;
        let config = self.config(attempt);
        let route =
            |tls| Route { address: self.address.clone(), tls, options: self.options.clone() };
        let Some(connector) = self.connector.filter(|_| attempt != Attempt::Plain) else {
            let connected = config.connect_raw(stream, NoTls).await;
            let (client, connection) =
                connected.map_err(|error| self.failure(&error, attempt, false))?;
            return Ok(link(client, connection, route(None)));
        };
        let name = self.server_name();
        let tls_begun = Arc::new(AtomicBool::new(false));
        let connect =
            Marked { inner: rustls_connect(connector, &name), begun: Arc::clone(&tls_begun) };
        let connected = config.connect_raw(stream, connect).await;
        let begun = tls_begun.load(Ordering::Relaxed);
        let (client, connection) =
            connected.map_err(|error| self.failure(&error, attempt, begun))?;
        let tls = begun.then(|| (connector.clone(), name));
        Ok(link(client, connection, route(tls)))
    }

    async fn open(&self) -> Result<Stream, String> {
        open(&self.address, self.options).await
    }

    fn config(&self, attempt: Attempt) -> Config {
        let mut config = Config::new();
        config
            .user(&self.options.user)
            .dbname(&self.options.dbname)
            .application_name(&self.options.application_name)
            .channel_binding(self.options.channel_binding)
            .ssl_negotiation(self.options.tls.negotiation)
            .ssl_mode(match attempt {
                Attempt::Plain => TlsUse::Disable,
                Attempt::Offered => TlsUse::Prefer,
                Attempt::Tls => TlsUse::Require,
            });
        if let Some(options) = &self.options.options {
            config.options(options);
        }
        if let Some(password) = &self.host.password {
            config.password(password.reveal());
        }
        config
    }

    /// What the certificate must name. Without verification any name will do, but TLS
    /// wants a well-formed one.
    fn server_name(&self) -> String {
        let address = match &self.address {
            Address::Tcp(address) => address.ip().to_string(),
            Address::Unix(_) => "localhost".into(),
        };
        match &self.host.name {
            Some(name) if self.options.tls.mode == SslMode::VerifyFull => name.clone(),
            Some(name) if ServerName::try_from(name.as_str()).is_ok() => name.clone(),
            _ => address,
        }
    }

    fn failure(
        &self,
        error: &tokio_postgres::Error,
        attempt: Attempt,
        tls_begun: bool,
    ) -> AttemptFailure {
        let other_way_may_work = match attempt {
            Attempt::Plain => error.as_db_error().is_some(),
            Attempt::Offered => tls_begun,
            Attempt::Tls => false,
        };
        AttemptFailure { refusal: self.refusal(error), other_way_may_work }
    }

    fn refusal(&self, error: &tokio_postgres::Error) -> Refusal {
        let reason = reason_of(error);
        let authentication = |reason: String, hint: Option<&str>| {
            Refusal::Final(PostgresError::Authentication {
                target: self.target.clone(),
                user: self.options.user.clone(),
                reason,
                hint: hint.map(Into::into),
            })
        };
        // Everything after the socket is open and before the server speaks is either its
        // refusal, our lack of a password, or a broken line.
        match (error.code(), error.to_string().as_str()) {
            (Some(&SqlState::CANNOT_CONNECT_NOW), _) => Refusal::Passed(reason),
            (Some(code), _) if code.code().starts_with("28") => {
                authentication(reason, identity_hint(code, self.host.password.is_some()))
            }
            (Some(_), _) => Refusal::Final(PostgresError::Connect {
                target: self.target.clone(),
                reason,
                hint: None,
            }),
            (None, "invalid configuration") => authentication(
                "no password supplied".into(),
                Some("Set PGPASSWORD, or write the password into ~/.pgpass (mode 0600)."),
            ),
            (None, "authentication error") => authentication(reason, None),
            _ => Refusal::Passed(reason),
        }
    }
}

fn identity_hint(code: &SqlState, had_password: bool) -> Option<&'static str> {
    match *code {
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Some("Does pg_hba.conf let this role in, and does the role exist?")
        }
        SqlState::INVALID_PASSWORD if had_password => Some("Is the password right?"),
        _ => None,
    }
}

struct AttemptFailure {
    refusal: Refusal,
    other_way_may_work: bool,
}

/// What both attempts said, the later one's verdict first.
fn merge(first: Refusal, second: Refusal) -> Refusal {
    match (first, second) {
        (_, Refusal::Final(error)) | (Refusal::Final(error), _) => Refusal::Final(error),
        (Refusal::Passed(first), Refusal::Passed(second)) if first == second => {
            Refusal::Passed(first)
        }
        (Refusal::Passed(first), Refusal::Passed(second)) => {
            Refusal::Passed(format!("{first}; and the other way: {second}"))
        }
    }
}

/// Notes that the server agreed to TLS.
struct Marked<T> {
    inner: T,
    begun: Arc<AtomicBool>,
}

impl<S, T: TlsConnect<S>> TlsConnect<S> for Marked<T> {
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = T::Future;

    fn connect(self, stream: S) -> Self::Future {
        self.begun.store(true, Ordering::Relaxed);
        self.inner.connect(stream)
    }
}

fn rustls_connect(connector: &MakeRustlsConnect, name: &str) -> RustlsConnect {
    match MakeTlsConnect::<Stream>::make_tls_connect(&mut connector.clone(), name) {
        Ok(connect) => connect,
        Err(never) => match never {},
    }
}

fn link<T>(client: Client, connection: tokio_postgres::Connection<Stream, T>, route: Route) -> Link
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = ConnectionWatch::new();
    let task = tokio::spawn(watch.clone().drive(connection));
    Link { client, task, watch, route }
}

async fn open(address: &Address, options: &ConnectOptions) -> Result<Stream, String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            tune(&stream, options).map_err(|error| error.to_string())?;
            Ok(Box::new(stream))
        }
        Address::Unix(path) => {
            // tokio takes a leading zero byte for the abstract namespace.
            let name = path.strip_prefix('@').map(|name| format!("\0{name}"));
            let stream = UnixStream::connect(name.as_ref().unwrap_or(path)).await;
            let stream = stream.map_err(|error| error.to_string())?;
            if let Some(required) = &options.require_peer {
                check_peer(&stream, required)?;
            }
            Ok(Box::new(stream))
        }
    }
}

fn tune(stream: &TcpStream, options: &ConnectOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    if let Some(keepalives) = options.keepalives {
        let settings = socket2::TcpKeepalive::new()
            .with_time(keepalives.idle)
            .with_interval(keepalives.interval)
            .with_retries(keepalives.count);
        socket.set_tcp_keepalive(&settings)?;
    }
    if let Some(limit) = options.tcp_user_timeout {
        socket.set_tcp_user_timeout(Some(limit))?;
    }
    Ok(())
}

fn check_peer(stream: &UnixStream, required: &str) -> Result<(), String> {
    let uid = stream.peer_cred().map_err(|error| error.to_string())?.uid();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_of_uid(&passwd, uid) {
        Some(name) if name == required => Ok(()),
        Some(name) => Err(format!(
            "requirepeer specifies \"{required}\", but actual peer user name is \"{name}\""
        )),
        None => Err(format!(
            "requirepeer specifies \"{required}\", but the peer's user ID {uid} has no name"
        )),
    }
}

/// Whether the server is what `target_session_attrs` asks for.
async fn check_kind(client: &Client, kind: SessionKind) -> Result<(), String> {
    if kind == SessionKind::Any {
        return Ok(());
    }
    let statement = "SELECT pg_catalog.pg_is_in_recovery(), \
        pg_catalog.current_setting('transaction_read_only')::boolean";
    let row = client.query_one(statement, &[]).await.map_err(|error| reason_of(&error))?;
    let (in_recovery, read_only): (bool, bool) = (row.get(0), row.get(1));
    match kind {
        SessionKind::ReadWrite if read_only => Err("session is read-only".into()),
        SessionKind::ReadOnly if !read_only => Err("session is not read-only".into()),
        SessionKind::Primary if in_recovery => Err("server is in hot standby mode".into()),
        SessionKind::Standby if !in_recovery => Err("server is not in hot standby mode".into()),
        _ => Ok(()),
    }
}

impl Route {
    /// Asks the server to cancel what the session of `client` is doing; best effort.
    pub(crate) async fn cancel(&self, client: &Client) {
        let token = client.cancel_token();
        let request = async {
            let Ok(stream) = open(&self.address, &self.options).await else { return };
            let sent = match &self.tls {
                Some((connector, name)) => {
                    token.cancel_query_raw(stream, rustls_connect(connector, name)).await
                }
                // A server that declined TLS before declines it again.
                None => token.cancel_query_raw(stream, NoTls).await,
            };
            if let Err(error) = sent {
                tracing::debug!(error = reason_of(&error), "could not send the cancel request");
            }
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, request).await;
    }
}

fn gave_up(failures: &[Failure]) -> PostgresError {
    let reasons = failures.iter().map(|failure| match &failure.error {
        Refusal::Passed(reason) => reason.clone(),
        Refusal::Final(error) => error.to_string(),
    });
    let mut text = String::new();
    for (failure, reason) in failures.iter().zip(reasons) {
        if text.is_empty() {
            text = reason;
        } else {
            text = format!("{text}; at {}: {reason}", failure.target);
        }
    }
    let nobody_there = ["Connection refused", "No such file or directory"];
    let hint = nobody_there
        .iter()
        .any(|words| text.contains(words))
        .then(|| "Is PostgreSQL running there and accepting connections?".to_string());
    let target = failures.first().map_or_else(String::new, |failure| failure.target.clone());
    PostgresError::Connect { target, reason: text, hint }
}

fn describe_hosts(hosts: &[HostTarget]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| describe(host, None)).collect();
    hosts.join(", ")
}

/// `socket "/tmp/.s.PGSQL.5432"` or `"db.example" (192.0.2.1), port 5432`.
fn describe(host: &HostTarget, address: Option<&Address>) -> String {
    let port = host.port;
    match (&host.address, address) {
        (HostAddress::SocketDirectory(directory), _) => {
            format!("socket \"{directory}/.s.PGSQL.{port}\"")
        }
        (HostAddress::Name(name), Some(Address::Tcp(address))) if !is_ip(name, address.ip()) => {
            format!("\"{name}\" ({}), port {port}", address.ip())
        }
        (HostAddress::Name(name), _) => format!("\"{name}\", port {port}"),
        (HostAddress::Ip(ip), _) => format!("\"{ip}\", port {port}"),
    }
}

fn is_ip(name: &str, ip: IpAddr) -> bool {
    name.parse().is_ok_and(|parsed: IpAddr| parsed == ip)
}
