//! What can go wrong with the catalog, by what a caller does about it.

use crate::catalog::{BackupId, BackupStatus, TarballError};
use crate::pgdata::SystemIdentifier;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name or shortcut that stands for no backup.
    #[error("backup \"{text}\" does not exist for server \"{server}\"")]
    UnknownBackup { text: String, server: String },
    #[error("backup name \"{name}\" is ambiguous: it belongs to backups {ids:?}")]
    AmbiguousName { name: String, ids: Vec<String> },
    /// A well-formed id without a backup.
    #[error("backup \"{id}\" does not exist for server \"{server}\"")]
    AbsentBackup { id: BackupId, server: String },
    #[error("cannot read backup \"{id}\": object \"{object}\" is malformed: {reason}")]
    Unreadable { id: BackupId, object: String, reason: String },
    #[error("cannot keep backup \"{id}\": its status is {status}, not DONE")]
    NotDone { id: BackupId, status: BackupStatus },
    /// A keep was written or removed, and reading it back tells otherwise.
    #[error(
        "could not change the keep of backup \"{id}\": it was to be {wanted}, and it is {found}"
    )]
    KeepNotChanged { id: BackupId, wanted: String, found: String },
    #[error("object \"{object}\" is malformed: {reason}")]
    Malformed { object: String, reason: String },
    /// A backup that is to be published as DONE is not all there.
    #[error(transparent)]
    Incomplete(#[from] TarballError),
    /// The archive holds the WAL of another cluster.
    #[error(
        "archive \"{archive}\" belongs to system identifier {stored}, this cluster has system identifier {ours}"
    )]
    OtherCluster { archive: String, stored: SystemIdentifier, ours: SystemIdentifier },
    /// An object that is written once is there already, with other content.
    #[error("cannot write object \"{object}\": it exists with other content")]
    WrittenOtherwise { object: String },
    #[error("could not claim a backup ID from \"{first}\" to \"{last}\": all are taken")]
    NoFreeId { first: BackupId, last: BackupId },
}

impl CatalogError {
    /// The likeliest mistake or the next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint.clone(),
            Self::UnknownBackup { .. } => {
                Some("\"barman-cloud-backup-list\" shows IDs and names.".into())
            }
            Self::AmbiguousName { .. } => Some("Give the backup's ID.".into()),
            Self::OtherCluster { .. } => Some(
                "Do two clusters archive to the same server name? If this one takes its place \
                 (after pg_upgrade), run \"barman-cloud-check-wal-archive --adopt PGDATA\" once."
                    .into(),
            ),
            Self::Incomplete(_) => Some("Was it deleted while it was running?".into()),
            Self::KeepNotChanged { .. } => {
                Some("Is somebody else changing it? Look with --status and try again.".into())
            }
            Self::AbsentBackup { .. }
            | Self::Unreadable { .. }
            | Self::NotDone { .. }
            | Self::Malformed { .. }
            | Self::WrittenOtherwise { .. }
            | Self::NoFreeId { .. } => None,
        }
    }
}
