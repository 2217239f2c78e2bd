//! What can go wrong with PostgreSQL, in the words of who has to act.
//!
//! PostgreSQL's own message is kept whole; passwords are never part of any text here.

use crate::postgres::{ServerVersion, Session};
use std::io;
use tokio_postgres::error::{DbError, SqlState};

/// `Display` is the primary message; [`PostgresError::detail`] and [`PostgresError::hint`]
/// are the lines below it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// The connection settings contradict libpq's grammar or each other.
    #[error("cannot use the connection settings: {reason}")]
    ConninfoMalformed { reason: String },
    /// A word of the connection string has no value.
    #[error("cannot use the connection settings: {reason}")]
    ConninfoIncomplete { reason: String },
    /// No session: nothing listens, DNS, TLS, time-out, or the server turned us away for a
    /// reason other than identity.
    #[error("could not connect to PostgreSQL at {target}: {reason}")]
    Connect { target: String, reason: String, hint: Option<String> },
    /// The server does not accept who we say we are.
    #[error("could not log in to PostgreSQL at {target} as user \"{user}\": {reason}")]
    Authentication { target: String, user: String, reason: String, hint: Option<String> },
    /// The role may not do what a backup needs.
    #[error("role \"{role}\" is missing permission: {missing}")]
    Privilege { role: String, missing: String, hint: String },
    #[error("cannot back up PostgreSQL {version}: versions 10 to 18 are supported")]
    TooOld { version: ServerVersion },
    /// PostgreSQL answered with an error, or with something that cannot be.
    #[error("could not {what}: {message}")]
    Query {
        what: &'static str,
        code: Option<String>,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    },
    /// The connection ended; a backup in progress ended with it.
    #[error("lost the connection to PostgreSQL: {reason}")]
    ConnectionLost { reason: String },
    #[error("the command was told to stop")]
    Cancelled,
}

impl PostgresError {
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Query { detail, .. } => detail.as_deref(),
            _ => None,
        }
    }

    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Connect { hint, .. }
            | Self::Authentication { hint, .. }
            | Self::Query { hint, .. } => hint.as_deref(),
            Self::Privilege { hint, .. } => Some(hint),
            Self::TooOld { .. } => Some("Upgrade PostgreSQL, or back it up with an older tool."),
            Self::ConninfoMalformed { .. }
            | Self::ConninfoIncomplete { .. }
            | Self::ConnectionLost { .. }
            | Self::Cancelled => None,
        }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::ConninfoMalformed { reason: reason.into() }
    }

    /// The server's answer to `what` makes no sense.
    pub(crate) fn odd_answer(what: &'static str, message: impl Into<String>) -> Self {
        Self::Query { what, code: None, message: message.into(), detail: None, hint: None }
    }

    /// Translates a failed statement that `session` ran to do `what`.
    pub(crate) fn of_statement(
        what: &'static str,
        session: &Session,
        error: &tokio_postgres::Error,
    ) -> Self {
        match error.as_db_error() {
            Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE => Self::Privilege {
                role: session.role().into(),
                missing: db.message().into(),
                hint: session.grant_hint(),
            },
            Some(db) if ends_the_session(db) => Self::ConnectionLost { reason: message_of(db) },
            Some(db) => Self::Query {
                what,
                code: Some(db.code().code().into()),
                message: message_of(db),
                detail: db.detail().map(Into::into),
                hint: db.hint().map(Into::into),
            },
            // An answer that does not decode is the only failure that leaves the session.
            None if error.to_string().starts_with("error deserializing") => {
                Self::odd_answer(what, reason_of(error))
            }
            None => Self::ConnectionLost { reason: reason_of(error) },
        }
    }
}

/// After these the server closes the connection.
fn ends_the_session(error: &DbError) -> bool {
    matches!(error.severity(), "FATAL" | "PANIC")
}

/// PostgreSQL's primary message with its code: `database is shutting down (57P03)`.
pub(crate) fn message_of(error: &DbError) -> String {
    format!("{} ({})", error.message(), error.code().code())
}

/// The innermost cause in words; the outer layers only repeat that something failed.
pub(crate) fn reason_of(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return message_of(db);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let is_cut = cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if error.is_closed() || is_cut {
        // libpq's words; the libraries below speak of TLS notices and stream lengths.
        return "server closed the connection unexpectedly".into();
    }
    cause.to_string()
}
