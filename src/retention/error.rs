//! Why a deletion was refused or is not complete.

use crate::catalog::{BackupId, CatalogError};
use crate::flow::Cancelled;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("cannot delete backup \"{id}\": it has a keep annotation ({keep})")]
    Kept { id: BackupId, keep: String },
    #[error(
        "cannot delete backup \"{id}\": {done} DONE backups exist, minimum redundancy is {minimum}"
    )]
    MinimumRedundancy { id: BackupId, done: usize, minimum: u32 },
    #[error("cannot delete backup \"{id}\": incremental backup \"{child}\" builds on it")]
    HasChild { id: BackupId, child: BackupId },
    #[error("cannot delete backup \"{id}\": its {reason}")]
    SnapshotRecord { id: BackupId, reason: String },
    #[error("cannot delete backup \"{id}\"")]
    Snapshot {
        id: BackupId,
        #[source]
        source: SnapshotError,
    },
    #[error("cannot delete backup \"{id}\": object \"{object}\" is locked {lock}")]
    Locked { id: BackupId, object: String, lock: String },
    /// What was asked for was done, but no WAL was deleted.
    #[error("cannot tell which WAL is obsolete: backup {ids:?} does not tell which WAL it needs")]
    WalUnknown { ids: Vec<String> },
    /// The same, because of a backup that retention could not judge.
    #[error("cannot judge backup \"{id}\": object \"{object}\" is malformed: {reason}")]
    Unreadable { id: BackupId, object: String, reason: String },
    #[error("could not delete {count} objects of backup \"{id}\"")]
    NotDeleted {
        id: BackupId,
        count: usize,
        #[source]
        first: StoreError,
    },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RetentionError {
    /// The likeliest mistake or the next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Catalog(error) => error.hint(),
            Self::Kept { id, .. } => {
                Some(format!("Release it with \"barman-cloud-backup-keep --release … {id}\"."))
            }
            Self::HasChild { child, .. } => Some(format!("Delete backup \"{child}\" first.")),
            Self::Snapshot { source, .. } => source.hint.clone(),
            Self::WalUnknown { .. } | Self::Unreadable { .. } => {
                let text = "While it is there no WAL is deleted. Repair or delete that backup.";
                Some(text.into())
            }
            Self::NotDeleted { first, .. } => first.hint.clone(),
            Self::MinimumRedundancy { .. }
            | Self::Locked { .. }
            | Self::SnapshotRecord { .. }
            | Self::Cancelled(_) => None,
        }
    }
}
