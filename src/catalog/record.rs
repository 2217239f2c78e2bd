//! What our own objects know beyond `backup.info`: `backup.json`, `started.json`, `archive.json`.

use crate::catalog::{BackupId, BackupInfo};
use crate::codec::Compression;
use crate::pgdata::SystemIdentifier;
use crate::wal::{SegmentSize, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How the files of a backup were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMethod {
    Files,
    Stream,
    Snapshot,
}

/// Everything about one backup that ended, well or not: what `backup.json` holds.
///
/// `backup.info` is written from [`info`](Self::info) alone.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupRecord {
    pub id: BackupId,
    /// Who wrote it: `barman-cloud 0.1.0`.
    pub tool: String,
    pub method: BackupMethod,
    /// The facts shared with Barman. Its `compression` stays `None`, as Barman leaves it.
    pub info: BackupInfo,
    /// Of the tarballs.
    pub compression: Option<Compression>,
    /// All tarballs, in the order they are to be extracted.
    pub tarballs: Vec<TarballRecord>,
    pub statistics: Option<BackupStatistics>,
    /// Files with pages whose checksum was wrong, also when read again.
    pub damaged_files: Vec<DamagedFile>,
    /// What the operator was told while the backup ran: skipped links and the like.
    pub warnings: Vec<String>,
    /// Keys of a newer version, kept as they are.
    pub other: Map<String, Value>,
}

/// One tarball of a backup, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarballRecord {
    /// The object's name inside the backup's folder: `data_0001.tar.gz`.
    pub name: String,
    pub stored_bytes: u64,
    /// Bytes of the tar stream before compression.
    pub raw_bytes: u64,
    pub members: u64,
    /// Lower-case hex SHA-256 of the stored object.
    pub sha256: String,
    /// Where its members and blocks lie; absent for compressions that can only be read in
    /// sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexRecord>,
}

/// The index of one tarball, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    pub stored_bytes: u64,
    /// Lower-case hex SHA-256 of the stored object.
    pub sha256: String,
}

/// What a backup cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupStatistics {
    pub files: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    pub jobs: u64,
    /// From the claim of the id to the last tarball.
    pub total_seconds: f64,
    /// From the first byte read to the last tarball.
    pub copy_seconds: f64,
}

/// A file with damaged pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// As in the tarball: `base/5/1259`.
    pub path: String,
    /// Numbers of 8 KiB blocks from the beginning of the file; a bounded sample when many.
    pub blocks: Vec<u64>,
    pub damaged_blocks: u64,
}

/// The claim of a backup id by a run that has begun: what `started.json` holds.
#[derive(Clone, Debug, PartialEq)]
pub struct StartedRecord {
    pub tool: String,
    pub name: Option<String>,
    pub method: BackupMethod,
    pub started: Timestamp,
    /// With the process id, tells this run from any other that starts in the same instant.
    pub host: String,
    pub process: u32,
    /// The snapshots that the run is going to create, in the form of the `snapshot` room.
    pub snapshots: Option<Value>,
}

/// Which cluster a WAL archive belongs to: what `archive.json` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveIdentity {
    pub system_identifier: SystemIdentifier,
    /// The timeline of the first segment archived here.
    pub first_timeline: TimelineId,
    pub segment_size: SegmentSize,
}
