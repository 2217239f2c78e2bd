//! One logged-in session and what watches over it.

use crate::flow::Cancel;
use crate::postgres::dial::dial;
use crate::postgres::error::{message_of, reason_of};
use crate::postgres::login::Link;
use crate::postgres::{ConnectOptions, PostgresError};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Connection, Row};
use tracing::{debug, info, warn};

/// A session on PostgreSQL 10 or later, prepared to wait: no statement or idle time-outs.
pub struct Session {
    link: Link,
    role: String,
    version: ServerVersion,
}

/// `server_version_num`; prints as PostgreSQL does since 10 (`15.20`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(u32);

/// Tells from anywhere whether the connection is still there.
#[derive(Clone, Debug, Default)]
pub struct ConnectionWatch {
    ended: Arc<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    reason: OnceLock<String>,
    notify: Notify,
}

/// The oldest server whose backup functions and settings are known here.
const OLDEST: ServerVersion = ServerVersion(100_000);
/// A connection that does not close in this time is cut.
const END_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects and prepares the session; needs a running tokio runtime.
    pub async fn connect(options: &ConnectOptions, cancel: &Cancel) -> Result<Self, PostgresError> {
        if cancel.is_cancelled() {
            return Err(PostgresError::Cancelled);
        }
        let link = tokio::select! {
            dialed = dial(options) => dialed?,
            () = cancel.cancelled() => return Err(PostgresError::Cancelled),
        };
        let mut session = Self { link, role: options.user.clone(), version: OLDEST };
        session.version = session.read_version(cancel).await?;
        session.prepare(options, cancel).await?;
        Ok(session)
    }

    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The role that logged in.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// A handle that outlives borrows of the session.
    pub fn watch(&self) -> ConnectionWatch {
        self.link.watch.clone()
    }

    /// Whether the connection has not been seen to end.
    pub fn is_alive(&self) -> bool {
        !self.link.client.is_closed()
    }

    /// Asks the server for a sign of life, waiting up to `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), PostgresError> {
        match tokio::time::timeout(limit, self.link.client.check_connection()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => Err(PostgresError::ConnectionLost {
                reason: format!("no answer in {} s", limit.as_secs()),
            }),
        }
    }

    /// Ends the session in order.
    pub async fn end(self) {
        let Link { client, mut task, .. } = self.link;
        drop(client);
        if tokio::time::timeout(END_TIMEOUT, &mut task).await.is_err() {
            task.abort();
        }
    }

    /// Runs a statement that gives one row, however long it takes, until `cancel`.
    ///
    /// A cancelled statement takes the session with it.
    pub(crate) async fn one_row(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        cancel: &Cancel,
    ) -> Result<Row, PostgresError> {
        let rows = self.rows(what, statement, parameters, cancel).await?;
        let count = rows.len();
        rows.into_iter().next().filter(|_| count == 1).ok_or_else(|| {
            PostgresError::odd_answer(what, format!("the server gave {count} rows instead of one"))
        })
    }

    /// As [`Session::one_row`], for any number of rows.
    pub(crate) async fn rows(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        cancel: &Cancel,
    ) -> Result<Vec<Row>, PostgresError> {
        let mut answer = pin!(self.link.client.query(statement, parameters));
        tokio::select! {
            answer = &mut answer => return answer.map_err(|error| self.translate(what, &error)),
            () = cancel.cancelled() => {}
        }
        // Closing the connection is not enough: PostgreSQL would notice only when it next
        // has something to say, after a checkpoint or never.
        self.link.route.cancel(&self.link.client).await;
        if tokio::time::timeout(END_TIMEOUT, answer).await.is_err() {
            self.link.task.abort();
        }
        Err(PostgresError::Cancelled)
    }

    fn translate(&self, what: &'static str, error: &tokio_postgres::Error) -> PostgresError {
        match PostgresError::of_statement(what, self, error) {
            PostgresError::ConnectionLost { .. } => self.lost(error),
            translated => translated,
        }
    }

    /// Says why the connection ended: the server's last words know more than the statement
    /// that found it closed, whichever of the two got them.
    fn lost(&self, error: &tokio_postgres::Error) -> PostgresError {
        let words = self.link.watch.ended.reason.get().filter(|_| error.as_db_error().is_none());
        PostgresError::ConnectionLost { reason: words.cloned().unwrap_or_else(|| reason_of(error)) }
    }

    async fn read_version(&self, cancel: &Cancel) -> Result<ServerVersion, PostgresError> {
        let what = "read the server version";
        let statement = "SELECT pg_catalog.current_setting('server_version_num')::int4";
        let number: i32 = value(&self.one_row(what, statement, &[], cancel).await?, 0, what)?;
        let version = ServerVersion(u32::try_from(number).unwrap_or_default());
        if version < OLDEST { Err(PostgresError::TooOld { version }) } else { Ok(version) }
    }

    /// A time-out that suits an application would cut a checkpoint or the wait for the
    /// archive; a search path could put other functions under PostgreSQL's names.
    async fn prepare(
        &self,
        options: &ConnectOptions,
        cancel: &Cancel,
    ) -> Result<(), PostgresError> {
        let mut settings = vec![
            ("search_path", "pg_catalog"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ];
        if self.version.major() >= 14 {
            settings.push(("idle_session_timeout", "0"));
        }
        if self.version.major() >= 17 {
            settings.push(("transaction_timeout", "0"));
        }
        settings
            .extend(options.session_settings.iter().map(|(name, value)| (*name, value.as_str())));
        for (name, value) in settings {
            let statement = "SELECT pg_catalog.set_config($1, $2, false)";
            self.one_row("prepare the session", statement, &[&name, &value], cancel).await?;
        }
        Ok(())
    }
}

/// Reads column `index`; a type that does not fit is an odd answer, not a panic.
pub(crate) fn value<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
    what: &'static str,
) -> Result<T, PostgresError> {
    row.try_get(index).map_err(|error| PostgresError::odd_answer(what, reason_of(&error)))
}

impl ConnectionWatch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Completes when the connection has ended, and says why.
    pub async fn lost(&self) -> PostgresError {
        loop {
            let notified = self.ended.notify.notified();
            if let Some(reason) = self.ended.reason.get() {
                return PostgresError::ConnectionLost { reason: reason.clone() };
            }
            notified.await;
        }
    }

    /// Carries the connection's bytes until it ends, and passes on what PostgreSQL says
    /// between answers.
    pub(crate) async fn drive<S, T>(self, mut connection: Connection<S, T>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let reason = loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notice(notice))) => log_notice(&notice),
                Some(Ok(_)) => {}
                Some(Err(error)) => break reason_of(&error),
                None => break "the session has ended".into(),
            }
        };
        let _ = self.ended.reason.set(reason);
        self.ended.notify.notify_waiters();
    }
}

/// PostgreSQL reports a stop that waits for the archive as a WARNING every few minutes:
/// the one sign of a broken `archive_command`.
fn log_notice(notice: &tokio_postgres::error::DbError) {
    let message = message_of(notice);
    let detail = notice.hint().or(notice.detail());
    match notice.severity() {
        "WARNING" => warn!(detail, "PostgreSQL says: {message}"),
        "NOTICE" | "INFO" => info!(detail, "PostgreSQL says: {message}"),
        _ => debug!(detail, "PostgreSQL says: {message}"),
    }
}

impl ServerVersion {
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As in `server_version_num`: 150020.
    pub const fn number(self) -> u32 {
        self.0
    }

    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self < OLDEST {
            return write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100);
        }
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.role)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
