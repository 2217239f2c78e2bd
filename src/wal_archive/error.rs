//! What can go wrong with one WAL file, by what a caller does about it.

use crate::catalog::CatalogError;
use crate::codec::CodecError;
use crate::disk::DiskError;
use crate::flow::Cancelled;
use crate::pgdata::SystemIdentifier;
use crate::store::StoreError;
use crate::wal::{WalFileFault, WalFileKind, WalFileName, WalFileNameError};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum WalArchiveError {
    /// The path does not end in the name of a WAL file.
    #[error(transparent)]
    BadName(#[from] WalFileNameError),
    /// The file to archive could not be read to its end.
    #[error("could not read WAL file \"{}\"", path.display())]
    Source { path: PathBuf, source: std::io::Error },
    /// The file to archive is not what its name says.
    #[error("cannot archive {} \"{name}\": {fault}", noun(name))]
    NotWal { name: WalFileName, fault: WalFileFault },
    /// The archive has this name already, with other content.
    #[error(
        "cannot archive {} \"{name}\": server name \"{server}\" already holds other content under this name",
        noun(name)
    )]
    OtherContent { name: WalFileName, server: String, object: String, detail: String },
    /// The archive belongs to another cluster.
    #[error(
        "cannot archive {} \"{name}\": server name \"{server}\" holds the WAL of another cluster",
        noun(name)
    )]
    OtherCluster {
        name: WalFileName,
        server: String,
        stored: SystemIdentifier,
        ours: SystemIdentifier,
    },
    /// The archive holds names that a new cluster may use.
    #[error(
        "cannot adopt server name \"{server}\": its archive holds WAL where this cluster's begins"
    )]
    InTheWay { server: String, newest: WalFileName, first: WalFileName, next: WalFileName },
    /// A data directory does not tell which cluster it is.
    #[error("could not read control file \"{}\": {reason}", path.display())]
    ControlFile { path: PathBuf, reason: String },
    /// What the archive holds is not what was once archived.
    #[error("cannot use object \"{object}\": {reason}")]
    Damaged { object: String, reason: String },
    /// The archive does not name the file, but nothing shows that this is the archive at all.
    #[error(
        "cannot tell whether {} \"{name}\" is archived: there is nothing below \"{url}\"",
        noun(name)
    )]
    NoArchive { name: WalFileName, url: String },
    /// The store gave no clear answer until the deadline.
    #[error("could not fetch {} \"{name}\": gave up after {attempts} attempts in {} s", noun(name), elapsed.as_secs())]
    GaveUp { name: WalFileName, attempts: u32, elapsed: Duration, source: Box<StoreError> },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Catalog(CatalogError),
    #[error(transparent)]
    Codec(CodecError),
    /// The destination could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The spool was asked for and cannot be used.
    #[error("cannot use the spool: {0}")]
    Spool(DiskError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl WalArchiveError {
    /// What was found, in a full sentence.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::OtherContent { detail, .. } => Some(detail.clone()),
            Self::OtherCluster { stored, ours, .. } => Some(format!(
                "The archive belongs to system identifier {stored}, this cluster is {ours}."
            )),
            Self::InTheWay { newest, first, .. } => Some(format!(
                "The archive holds \"{newest}\", the first WAL of this cluster is \"{first}\"."
            )),
            _ => None,
        }
    }

    /// The likeliest mistake or the next step, in a full sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherContent { name, .. } if name.kind() == WalFileKind::History => Some(
                "Only one of them can archive here: let the other one archive to another server \
                 name. With restore_command set, a standby sees the timelines that are taken."
                    .into(),
            ),
            Self::OtherContent { .. } => Some(
                "Do two clusters archive to the same server name? If this one shall replace the \
                 stored WAL, use --allow-overwrite."
                    .into(),
            ),
            Self::OtherCluster { .. } => Some(
                "Do two clusters archive to the same server name? If this one takes its place \
                 (after pg_upgrade), run \"barman-cloud-check-wal-archive --adopt PGDATA\" once."
                    .into(),
            ),
            Self::InTheWay { next, .. } => Some(format!(
                "Archive to another server name, or stop PostgreSQL, run \
                 \"pg_resetwal -l {next} PGDATA\" and try again; standbys must be made anew then."
            )),
            Self::ControlFile { .. } => {
                Some("Give the data directory of the cluster that shall have the archive.".into())
            }
            Self::NoArchive { .. } => {
                Some("Are URL and server name right, and is the file system mounted there?".into())
            }
            Self::Store(error) => error.hint.clone(),
            Self::GaveUp { source, .. } => source.hint.clone(),
            Self::Catalog(error) => error.hint(),
            Self::NotWal { .. } => {
                Some("Is this a file that PostgreSQL handed to archive_command?".into())
            }
            _ => None,
        }
    }
}

impl From<CatalogError> for WalArchiveError {
    /// A store's error keeps its meaning on the way through the catalog.
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Store(error) => Self::Store(error),
            error => Self::Catalog(error),
        }
    }
}

/// What people call a file of this kind.
pub(crate) fn noun(name: &WalFileName) -> &'static str {
    match name.kind() {
        WalFileKind::Segment => "WAL segment",
        WalFileKind::Partial => "partial WAL segment",
        WalFileKind::History => "timeline history file",
        WalFileKind::BackupHistory => "backup history file",
    }
}
