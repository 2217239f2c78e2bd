//! What can go wrong in a restore, each with the object and the numbers.

use crate::catalog::{BackupId, BackupStatus, CatalogError, TarballError};
use crate::flow::{Cancelled, WorkerGone};
use crate::snapshot::SnapshotError;
use crate::store::StoreError;
use crate::tarball::TarballReadError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a restore did not happen. Up to [`NoSpace`](Self::NoSpace) nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No such backup, an ambiguous name, or a catalog that cannot be read.
    #[error(transparent)]
    Catalog(CatalogError),
    #[error("no completed backup leads to the recovery target")]
    NoCandidate,
    #[error("cannot choose a backup for the latest timeline: archive \"{server}\" holds no WAL")]
    EmptyArchive { server: String },
    #[error("cannot choose a backup for timeline \"current\": nothing runs yet")]
    CurrentTimeline,
    #[error("backup \"{id}\" cannot be restored: its status is {status}")]
    NotDone { id: BackupId, status: BackupStatus },
    /// A backup made of snapshots cannot be recovered as things are (contract §14.5).
    #[error("cannot recover from snapshots: {reason}")]
    Recovery { reason: String, hint: Option<String> },
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    #[error("could not mount \"{}\" at \"{}\"", device.display(), point.display())]
    Mount { device: PathBuf, point: PathBuf, source: io::Error },
    #[error("backup \"{id}\" is made of volume snapshots, which cannot be restored from tarballs")]
    Snapshot { id: BackupId },
    /// The backup's folder does not hold what the backup is made of.
    #[error(transparent)]
    Tarballs(TarballError),
    #[error("object \"{object}\" has {found} bytes, not the recorded {expected}")]
    SizeMismatch { object: String, expected: u64, found: u64 },
    #[error("\"{}\" exists and is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("directory \"{}\" is not empty", path.display())]
    TargetNotEmpty { path: PathBuf },
    #[error(
        "directory \"{}\" holds an unfinished restore of \"{found}\", {difference}",
        path.display()
    )]
    OtherRestore { path: PathBuf, found: String, difference: String },
    /// The journal of an earlier run is of no use.
    #[error(
        "directory \"{}\" holds an unfinished restore that cannot be gone on with: {reason}",
        path.parent().unwrap_or(path).display()
    )]
    Journal { path: PathBuf, reason: String },
    #[error("another process restores into directory \"{}\"", path.display())]
    Busy { path: PathBuf },
    #[error("directory \"{}\" for tablespace \"{name}\" is not empty", path.display())]
    TablespaceNotEmpty { name: String, path: PathBuf },
    /// Root is told by the backup to write where the cluster's owner could not.
    #[error(
        "tablespace \"{name}\" cannot be restored into \"{}\": user {owner} owns the directory (or \
         the one above it), and the data directory is user {data_owner}'s",
        path.display()
    )]
    TablespaceOwner { name: String, path: PathBuf, owner: u32, data_owner: u32 },
    #[error("tablespace \"{name}\" cannot be restored into \"{}\": {reason}", path.display())]
    TablespaceLocation { name: String, path: PathBuf, reason: String },
    #[error(
        "cannot restore {needed} bytes into \"{}\": its file system has {available} bytes left",
        path.display()
    )]
    NoSpace { path: PathBuf, needed: u64, available: u64 },

    #[error(transparent)]
    Store(StoreError),
    #[error("object \"{object}\" was there and is gone")]
    MissingObject { object: String },
    /// What is stored is not what was written: the backup is damaged.
    #[error("object \"{object}\" is damaged: {reason}")]
    Corrupt { object: String, reason: String },
    #[error("tarball \"{object}\" cannot be extracted: {reason}")]
    EscapingMember { object: String, reason: String },
    #[error("backup \"{id}\" has no file \"{file}\": PostgreSQL could not recover from it")]
    Incomplete { id: BackupId, file: &'static str },
    #[error("could not write \"{}\"", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("the restore was told to stop")]
    Cancelled,
    #[error("a thread of the restore died")]
    Worker(#[source] WorkerGone),
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
}

impl RestoreError {
    pub(crate) fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Disk { path: path.into(), source }
    }

    pub(crate) fn tarball(object: &str, error: &TarballReadError) -> Self {
        let (object, reason) = (object.to_string(), error.to_string());
        match error {
            TarballReadError::Path(_) => Self::EscapingMember { object, reason },
            _ => Self::Corrupt { object, reason },
        }
    }

    /// The likeliest mistake or the exact next step, a full sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotDone { .. } => {
                Some("Choose a backup that the list shows as complete.".to_string())
            }
            Self::TargetNotEmpty { .. } => Some(
                "Name a directory that is empty or does not exist, or remove what is in it."
                    .to_string(),
            ),
            Self::OtherRestore { .. } => Some(
                "Run that restore again, with the same places of tablespaces, to finish it; or \
                 remove what is in the directory and in those of the tablespaces."
                    .to_string(),
            ),
            Self::Journal { .. } => Some(
                "Remove what is in the directory and in those of the tablespaces, and restore \
                 again."
                    .to_string(),
            ),
            Self::TablespaceOwner { name, path, owner, .. } => Some(match owner {
                0 => format!(
                    "If it belongs there, say so with --tablespace \"{name}:{}\".",
                    path.display()
                ),
                _ => "Give the directory to the data directory's owner, or choose another place \
                      with --tablespace."
                    .to_string(),
            }),
            Self::TablespaceNotEmpty { name, .. } => {
                Some(format!("Name another place with --tablespace \"{name}:/LOCATION\"."))
            }
            Self::Tarballs(_) | Self::Corrupt { .. } | Self::SizeMismatch { .. } => {
                Some("Restore another backup; this one is not whole.".to_string())
            }
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("Make room and run the same restore again; it goes on where it was.".into())
            }
            Self::Store(error) => error.hint.clone(),
            Self::Recovery { hint, .. } => hint.clone(),
            Self::Snapshots(error) => error.hint.clone(),
            Self::Catalog(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<Cancelled> for RestoreError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}
