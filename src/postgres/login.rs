//! Logging in at one address, with and without TLS.

use crate::postgres::PostgresError;
use crate::postgres::error::reason_of;
use crate::postgres::hosts::HostTarget;
use crate::postgres::options::{ConnectOptions, SessionKind};
use crate::postgres::session::ConnectionWatch;
use crate::postgres::socket::{Address, Stream, open};
use crate::postgres::tls::SslMode;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as TlsUse;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

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

pub(crate) enum Refusal {
    /// Go on with the next place.
    Passed(String),
    /// The server knows who we are and does not want us: another place would be a guess.
    Final(PostgresError),
}

type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect;

/// How TLS is asked for in one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Plain,
    /// As far as the server offers it.
    Offered,
    Tls,
}

/// What tokio-postgres calls a log-in that needs a password it does not have, and one that
/// went wrong on our side (SCRAM, channel binding): it has no other way to tell.
const WITHOUT_PASSWORD: &str = "invalid configuration";
const NOT_AUTHENTICATED: &str = "authentication error";

/// A cancel request that takes longer than this is given up: ending the connection does
/// the rest.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// One address of one host.
pub(crate) struct Place<'a> {
    pub host: &'a HostTarget,
    pub address: Address,
    pub target: String,
    pub options: &'a ConnectOptions,
    pub connector: Option<&'a MakeRustlsConnect>,
}

impl Place<'_> {
    /// Opens a session of the wanted kind.
    pub(crate) async fn dial(&self, kind: SessionKind) -> Result<Link, Refusal> {
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
        let lacks_a_password = error.to_string() == WITHOUT_PASSWORD;
        let other_way_may_work = match attempt {
            Attempt::Plain => error.as_db_error().is_some(),
            Attempt::Offered => tls_begun && !lacks_a_password,
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
            (None, WITHOUT_PASSWORD) => authentication(
                "no password supplied".into(),
                Some("Set PGPASSWORD, or write the password into ~/.pgpass (mode 0600)."),
            ),
            (None, NOT_AUTHENTICATED) => authentication(reason, None),
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

/// What both attempts said: the first one's verdict with the second one's words, because the
/// second often fails only for being the other way ("no encryption").
fn merge(first: Refusal, second: Refusal) -> Refusal {
    let added = match second {
        Refusal::Passed(reason) => reason,
        Refusal::Final(PostgresError::Authentication { reason, .. })
        | Refusal::Final(PostgresError::Connect { reason, .. }) => reason,
        Refusal::Final(other) => return Refusal::Final(other),
    };
    let join = |reason: String| {
        if reason == added {
            reason
        } else {
            format!("{reason}; tried again the other way: {added}")
        }
    };
    match first {
        Refusal::Passed(reason) => Refusal::Passed(join(reason)),
        Refusal::Final(PostgresError::Authentication { target, user, reason, hint }) => {
            let reason = join(reason);
            Refusal::Final(PostgresError::Authentication { target, user, reason, hint })
        }
        Refusal::Final(other) => Refusal::Final(other),
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
