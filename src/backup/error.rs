//! Why a backup was not taken.

use crate::backup::ship::ShipError;
use crate::catalog::CatalogError;
use crate::pgdata::ControlFileError;
use crate::postgres::PostgresError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What a caller acts on.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Postgres(PostgresError),
    #[error(transparent)]
    Catalog(CatalogError),
    #[error(transparent)]
    Store(StoreError),
    /// Refused before anything was touched.
    #[error("cannot back up this server: {reason}")]
    Refused { reason: String, hint: &'static str },
    #[error("could not {action} \"{path}\"")]
    Disk { action: &'static str, path: String, source: io::Error },
    #[error("could not read control file \"{path}\"")]
    ControlFile { path: String, source: ControlFileError },
    /// The tar stream could not be written.
    #[error("could not write tarball")]
    Tarball { source: io::Error },
    #[error("could not upload \"{object}\"")]
    Upload { object: String, source: ShipError },
    /// The files are stored, but recovery would lack WAL.
    #[error(
        "the WAL archive lacks {count} of the segments that the backup needs, the first is \"{first}\" (waited {} s)",
        waited.as_secs()
    )]
    WalMissing { first: String, count: usize, waited: Duration },
    /// The backup spans a promotion: its files belong to two timelines.
    #[error("the server changed from timeline {begin} to {end} during the backup")]
    TimelineChanged { begin: u32, end: u32 },
    /// The instance or a disk is not what the options say; nothing was touched.
    #[error(transparent)]
    SnapshotRefused(SnapshotError),
    #[error("disk \"{disk}\" is not mounted (its device is \"{device}\")")]
    NotMounted { disk: String, device: String },
    /// A part of the cluster lies elsewhere.
    #[error("directory \"{path}\" is on mount \"{point}\", of which no snapshot would be taken")]
    Uncovered { path: String, point: String },
    #[error("disks were mounted or unmounted while the backup began")]
    MountsChanged,
    #[error(transparent)]
    Snapshot(SnapshotError),
    #[error("the backup was cancelled")]
    Cancelled,
}

pub fn disk_error(action: &'static str, path: &Path, source: io::Error) -> BackupError {
    BackupError::Disk { action, path: path.display().to_string(), source }
}
