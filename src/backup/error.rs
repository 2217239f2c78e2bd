//! Why a backup was not taken.

use crate::backup::local_wal::WaitingSegments;
use crate::backup::ship::ShipError;
use crate::backup::wal::Delay;
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
    WalMissing { first: String, count: usize, waited: Duration, delay: Box<Delay> },
    /// The archive holds another content under the name of a segment of this backup, or of one
    /// that the archiver must pass on before those of this backup.
    #[error(
        "the WAL archive does not hold WAL segment \"{segment}\" as this server wrote it: object \"{object}\" is not it, {difference}"
    )]
    WalNotOurs { segment: String, object: String, difference: String },
    /// What was confirmed is not there any more.
    #[error(
        "the WAL archive has lost {count} of the segments that the backup needs while it ran, the first is \"{first}\""
    )]
    WalGone { first: String, count: usize },
    /// A part of the backup was stored and is not there as it was written.
    #[error("object \"{object}\" was stored with {written} bytes and {}", match found {
        Some(bytes) => format!("has {bytes}"),
        None => "is not there any more".into(),
    })]
    ObjectLost { object: String, written: u64, found: Option<u64> },
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

impl BackupError {
    /// What is known beyond the message.
    pub fn detail(&self) -> Option<String> {
        let Self::WalMissing { delay, .. } = self else { return None };
        let Delay::Archiver { waiting, failure } = delay.as_ref() else { return None };
        let waiting = waiting.as_ref().map(|WaitingSegments { first, count }| {
            format!("{count} segments wait for this server's archiver, the first is \"{first}\".")
        });
        let failure = failure.as_ref().map(|failure| format!("When the backup ended, {failure}."));
        let sentences: Vec<String> = waiting.into_iter().chain(failure).collect();
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { hint, .. } => hint,
            Self::NotMounted { .. } => {
                "The file system must lie directly on the disk, without partitions or LVM."
            }
            Self::Uncovered { .. } => "Name its disk too, with --snapshot-disk.",
            Self::WalMissing { delay, .. } => hint_of(delay),
            Self::WalNotOurs { .. } => {
                "Was this server reverted to an older state, or does another one archive to the same server name? Archive it under another server name."
            }
            Self::ObjectLost { .. } => "Was the backup deleted while it was running?",
            Self::WalGone { .. } => {
                "Has a run of barman-cloud-backup-delete or a rule of the bucket deleted them?"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

fn hint_of(delay: &Delay) -> &'static str {
    match delay {
        Delay::Archiver { .. } => "PostgreSQL's log says why archive_command fails.",
        Delay::IdlePrimary => {
            "The primary has written too little to complete the segment. While the backup waits, run on the primary: SELECT pg_switch_wal(); or set archive_timeout there, or give --wal-timeout."
        }
        Delay::Elsewhere => {
            "Does whoever archives the WAL of this server (on a standby, the primary) archive to the same server name?"
        }
    }
}

pub fn disk_error(action: &'static str, path: &Path, source: io::Error) -> BackupError {
    BackupError::Disk { action, path: path.display().to_string(), source }
}
