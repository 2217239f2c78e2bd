//! The live PostgreSQL: where it is, how to get in, and a session that holds it in backup mode.
//!
//! ```text
//! -d -h -p -U, PG* variables, service file, password file → ConnectOptions
//!   → Session::connect     hosts in turn, TLS as sslmode says, SCRAM
//!   → Session::facts       what the catalog records about the server
//!   → start_backup → StartedBackup → stop → StoppedBackup
//! ```
//!
//! A backup belongs to its session: PostgreSQL ends backup mode by itself when the
//! connection ends, so dropping a [`StartedBackup`] or a crash of ours leaves nothing
//! behind on the server. There is no reconnecting.
//!
//! PostgreSQL 10 to 18. Every wait listens to [`crate::flow::Cancel`]. Here is no
//! replication protocol.

mod backup_mode;
pub(crate) mod conninfo;
mod dial;
mod error;
mod facts;
mod hosts;
mod keywords;
mod login;
mod options;
pub(crate) mod passfile;
pub(crate) mod service;
mod session;
mod socket;
mod tls;
mod tls_verify;
pub(crate) mod uri;
mod user;

pub use backup_mode::{ArchiveWait, Checkpoint, StartedBackup, StoppedBackup};
pub use error::PostgresError;
pub use facts::{ArchiverFailure, ServerFacts, TablespaceFact, TablespaceLocation};
pub use hosts::{HostAddress, HostTarget, Password};
pub use options::{ConnectOptions, ConnectTarget, HostOrder, Keepalives, SessionKind};
pub use session::{ConnectionWatch, ServerVersion, Session};
pub use tls::{SslMode, TlsOptions};
