//! One backup as it lies in the bucket.

use crate::catalog::{
    BackupId, BackupInfo, BackupRecord, BackupStatus, Keep, KeepTarget, StartedRecord,
};
use crate::store::ListEntry;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A backup that is listed: finished, failed, or running.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    pub id: BackupId,
    /// The shared facts, from `backup.json` where there is one, else from `backup.info`.
    /// `end_time` is absent unless the backup is DONE.
    pub info: BackupInfo,
    /// Present for our own backups that ended.
    pub record: Option<BackupRecord>,
    /// Present for our own backups that run (or were killed not long ago).
    pub started: Option<StartedRecord>,
    /// Everything in the backup's folder, sorted by key.
    pub objects: Vec<ListEntry>,
    pub keep: Option<Keep>,
}

/// A backup whose `backup.json` or `backup.info` cannot be understood.
#[derive(Clone, Debug, PartialEq)]
pub struct UnreadableBackup {
    pub id: BackupId,
    /// URL of the malformed object.
    pub object: String,
    pub reason: String,
    pub objects: Vec<ListEntry>,
    pub keep: Option<Keep>,
}

/// A folder that is no backup (any more): what Barman leaves of ours when it deletes, and what
/// a killed run leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Leftover {
    pub id: BackupId,
    pub objects: Vec<ListEntry>,
    pub keep: Option<Keep>,
}

impl Backup {
    pub fn status(&self) -> BackupStatus {
        self.info.status()
    }

    pub fn is_done(&self) -> bool {
        self.status() == BackupStatus::Done
    }

    pub fn name(&self) -> Option<&str> {
        self.info.backup_name.as_deref()
    }

    pub fn kept(&self) -> Option<KeepTarget> {
        self.keep.as_ref().map(Keep::target)
    }

    /// When the backup began. Ids of Barman are local times of its host: for order across
    /// hosts this is the truth, the id only a fallback.
    pub fn began(&self) -> Timestamp {
        match (&self.info.begin_time, &self.started) {
            (Some(time), _) => time.timestamp(),
            (None, Some(started)) => started.started,
            (None, None) => time_of(&self.id),
        }
    }

    /// The segment recovery starts from: `begin_wal`, or computed from `begin_xlog`. `None`
    /// when the backup does not tell.
    pub fn begin_segment(&self) -> Option<WalSegment> {
        segment(&self.info, self.info.begin_wal.as_deref(), self.info.begin_xlog)
    }

    /// The last segment the backup needs to be consistent.
    pub fn end_segment(&self) -> Option<WalSegment> {
        let from_name = self.info.end_wal.as_deref();
        let before = |lsn: Lsn| {
            let size = self.info.segment_size();
            Some(WalSegment::before(self.info.timeline?, lsn, size))
        };
        from_name
            .and_then(|name| WalSegment::from_name(name, self.info.segment_size()))
            .or_else(|| self.info.end_xlog.and_then(before))
    }
}

fn segment(info: &BackupInfo, name: Option<&str>, lsn: Option<Lsn>) -> Option<WalSegment> {
    let size: SegmentSize = info.segment_size();
    let timeline: Option<TimelineId> = info.timeline;
    name.and_then(|name| WalSegment::from_name(name, size))
        .or_else(|| Some(WalSegment::containing(timeline?, lsn?, size)))
}

/// The instant an id names, taken as UTC.
pub(crate) fn time_of(id: &BackupId) -> Timestamp {
    DateTime::strptime("%Y%m%dT%H%M%S", id.as_str())
        .ok()
        .and_then(|time| time.to_zoned(TimeZone::UTC).ok())
        .map_or(Timestamp::UNIX_EPOCH, |time| time.timestamp())
}
