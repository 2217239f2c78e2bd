//! The facts about one backup, as both tools share them.

use crate::wal::{Lsn, SegmentSize, TimelineId};
use jiff::Zoned;
use std::fmt;

/// What has become of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackupStatus {
    Empty,
    Started,
    Failed,
    WaitingForWals,
    Done,
    Syncing,
    /// Recorded as DONE, but not all of its tarballs are there with their sizes: never written,
    /// found out on reading.
    Incomplete,
}

impl BackupStatus {
    pub const ALL: [Self; 6] =
        [Self::Empty, Self::Started, Self::Failed, Self::WaitingForWals, Self::Done, Self::Syncing];

    /// Barman's word, as written in `backup.info`. What is incomplete has failed, in the words that
    /// its readers know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::Started => "STARTED",
            Self::Failed | Self::Incomplete => "FAILED",
            Self::WaitingForWals => "WAITING_FOR_WALS",
            Self::Done => "DONE",
            Self::Syncing => "SYNCING",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tablespace with a location of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    pub name: String,
    pub oid: u32,
    pub location: String,
}

/// The facts of `backup.info` (contract §7.2), each absent when the file does not tell.
///
/// Times keep the offset they were written with, because listings print them unconverted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupInfo {
    pub backup_label: Option<String>,
    pub backup_name: Option<String>,
    pub begin_offset: Option<u64>,
    pub begin_time: Option<Zoned>,
    pub begin_wal: Option<String>,
    pub begin_xlog: Option<Lsn>,
    pub children_backup_ids: Option<Vec<String>>,
    /// Bytes.
    pub cluster_size: Option<u64>,
    pub compression: Option<String>,
    pub config_file: Option<String>,
    /// Seconds and counts by Barman's names, in their order (contract §7.4).
    pub copy_stats: Option<serde_json::Value>,
    pub data_checksums: Option<String>,
    pub deduplicated_size: Option<u64>,
    pub encryption: Option<String>,
    pub end_offset: Option<u64>,
    pub end_time: Option<Zoned>,
    pub end_wal: Option<String>,
    pub end_xlog: Option<Lsn>,
    pub error: Option<String>,
    pub hba_file: Option<String>,
    pub ident_file: Option<String>,
    pub included_files: Option<Vec<String>>,
    pub mode: Option<String>,
    pub parent_backup_id: Option<String>,
    pub pgdata: Option<String>,
    /// `cloud` for object-store backups, whatever the server name in the bucket.
    pub server_name: Option<String>,
    pub size: Option<u64>,
    pub snapshots_info: Option<serde_json::Value>,
    /// Absent means `EMPTY`.
    pub status: Option<BackupStatus>,
    pub summarize_wal: Option<String>,
    pub systemid: Option<String>,
    /// `None` and empty are the same: written as `None`.
    pub tablespaces: Option<Vec<Tablespace>>,
    pub timeline: Option<TimelineId>,
    /// `server_version_num`, 150020 for 15.20.
    pub version: Option<u32>,
    /// Absent means 16 MiB.
    pub xlog_segment_size: Option<SegmentSize>,
}

impl BackupInfo {
    pub fn status(&self) -> BackupStatus {
        self.status.unwrap_or(BackupStatus::Empty)
    }

    pub fn segment_size(&self) -> SegmentSize {
        self.xlog_segment_size.unwrap_or(SegmentSize::DEFAULT)
    }
}
