//! From a backup's story to its record: pure, no I/O.

use crate::backup::BackupOptions;
use crate::backup::copy::Carried;
use crate::backup::tally::Noticings;
use crate::catalog::{
    BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatistics, BackupStatus, Tablespace,
    TarballRecord, TarballTarget,
};
use crate::flow::Limits;
use crate::postgres::{ServerFacts, StoppedBackup, TablespaceLocation};
use crate::wal::{Lsn, TimelineId, WalSegment};
use jiff::Zoned;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Who writes records.
pub const TOOL: &str = concat!("barman-cloud ", env!("CARGO_PKG_VERSION"));

/// Barman's name for every server in object-store backups; its clients look it up.
const SERVER_NAME: &str = "cloud";

/// What is known once PostgreSQL is in backup mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    pub lsn: Lsn,
    pub timeline: TimelineId,
    pub time: Zoned,
}

/// How long things took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    pub copy: Duration,
    pub total: Duration,
}

/// The facts that are known before a backup begins.
pub fn facts_before(facts: &ServerFacts, options: &BackupOptions) -> BackupInfo {
    let tablespaces: Vec<_> = facts
        .tablespaces
        .iter()
        .filter_map(|tablespace| match &tablespace.location {
            TablespaceLocation::Absolute(location) => Some(Tablespace {
                name: tablespace.name.clone(),
                oid: tablespace.oid,
                location: location.display().to_string(),
            }),
            TablespaceLocation::InPlace => None,
        })
        .collect();
    BackupInfo {
        backup_name: options.name.clone(),
        cluster_size: facts.cluster_size_bytes,
        config_file: Some(facts.config_file.display().to_string()),
        data_checksums: Some(on_or_off(facts.data_checksums)),
        hba_file: Some(facts.hba_file.display().to_string()),
        ident_file: Some(facts.ident_file.display().to_string()),
        included_files: none_if_empty(
            facts.included_files.iter().map(|path| path.display().to_string()).collect(),
        ),
        pgdata: Some(facts.data_directory.display().to_string()),
        server_name: Some(SERVER_NAME.into()),
        summarize_wal: facts.summarize_wal.map(on_or_off),
        systemid: Some(facts.system_identifier.to_string()),
        tablespaces: none_if_empty(tablespaces),
        version: Some(facts.version.number()),
        xlog_segment_size: Some(facts.wal_segment_size),
        ..BackupInfo::default()
    }
}

/// Adds what the start of the backup told.
pub fn add_begin(info: &mut BackupInfo, begun: &Begun) {
    let size = info.segment_size();
    info.begin_time = Some(begun.time.clone());
    info.begin_xlog = Some(begun.lsn);
    info.begin_offset = Some(begun.lsn.bytes() % u64::from(size.bytes()));
    info.begin_wal = Some(WalSegment::containing(begun.timeline, begun.lsn, size).name(size));
    info.timeline = Some(begun.timeline);
}

/// Adds what the end of the backup told.
pub fn add_end(info: &mut BackupInfo, stopped: &StoppedBackup) {
    let size = info.segment_size();
    info.backup_label = Some(stopped.label.as_str().to_string());
    info.end_time = Some(stopped.end_time.clone());
    info.end_xlog = Some(stopped.end);
    info.end_offset = Some(stopped.end.bytes() % u64::from(size.bytes()));
    info.end_wal = Some(WalSegment::before(stopped.timeline, stopped.end, size).name(size));
    info.status = Some(BackupStatus::Done);
}

/// The record of a backup that was taken.
pub fn done(
    id: BackupId,
    mut info: BackupInfo,
    options: &BackupOptions,
    carried: &[Carried],
    noticed: Noticings,
    limits: &Limits,
    took: Took,
) -> BackupRecord {
    info.copy_stats = Some(copy_stats(carried, limits, took));
    let mut tarballs: Vec<&Carried> = carried.iter().collect();
    tarballs.sort_by_key(|carried| carried.name);
    let tarballs: Vec<TarballRecord> =
        tarballs.into_iter().map(|carried| carried.record.clone()).collect();
    let statistics = BackupStatistics {
        files: noticed.files,
        raw_bytes: tarballs.iter().map(|tarball| tarball.raw_bytes).sum(),
        stored_bytes: tarballs.iter().map(|tarball| tarball.stored_bytes).sum(),
        jobs: u64::try_from(limits.jobs.get()).expect("a count fits 64 bits"),
        total_seconds: took.total.as_secs_f64(),
        copy_seconds: took.copy.as_secs_f64(),
    };
    BackupRecord {
        id,
        tool: TOOL.into(),
        method: BackupMethod::Files,
        info,
        compression: options.compression,
        tarballs,
        statistics: Some(statistics),
        damaged_files: noticed.damaged,
        warnings: noticed.notes,
        other: Map::new(),
    }
}

/// The record of a backup that was not: no end, no tarballs.
pub fn failed(
    id: BackupId,
    info: BackupInfo,
    options: &BackupOptions,
    reason: String,
    noticed: Noticings,
) -> BackupRecord {
    let info = without_end(info, reason);
    BackupRecord {
        id,
        tool: TOOL.into(),
        method: BackupMethod::Files,
        info,
        compression: options.compression,
        tarballs: Vec::new(),
        statistics: None,
        damaged_files: noticed.damaged,
        warnings: noticed.notes,
        other: Map::new(),
    }
}

/// The record of a backup by snapshots that was taken.
pub fn done_snapshot(
    id: BackupId,
    mut info: BackupInfo,
    copy: Duration,
    total: Duration,
) -> BackupRecord {
    info.copy_stats = Some(json!({
        "copy_time": seconds(copy.as_secs_f64()),
        "total_time": seconds(total.as_secs_f64()),
    }));
    without_tarballs(id, info)
}

/// The record of a backup by snapshots that was not taken: it has none.
pub fn failed_snapshot(id: BackupId, info: BackupInfo, reason: String) -> BackupRecord {
    without_tarballs(id, without_end(info, reason))
}

fn without_tarballs(id: BackupId, info: BackupInfo) -> BackupRecord {
    BackupRecord {
        id,
        tool: TOOL.into(),
        method: BackupMethod::Snapshot,
        info,
        compression: None,
        tarballs: Vec::new(),
        statistics: None,
        damaged_files: Vec::new(),
        warnings: Vec::new(),
        other: Map::new(),
    }
}

fn without_end(info: BackupInfo, reason: String) -> BackupInfo {
    BackupInfo {
        status: Some(BackupStatus::Failed),
        error: Some(reason),
        backup_label: None,
        end_time: None,
        end_xlog: None,
        end_offset: None,
        end_wal: None,
        ..info
    }
}

/// Barman's statistics, in its order (contract §7.4). Times are seconds.
fn copy_stats(carried: &[Carried], limits: &Limits, took: Took) -> Value {
    let mut items: Vec<TarballTarget> = carried.iter().map(|carried| carried.name.target).collect();
    items.sort_unstable();
    items.dedup();
    // Barman lists tablespaces before the data directory.
    let data_first = items.first() == Some(&TarballTarget::Data);
    items.rotate_left(usize::from(data_first));
    let per_item = |value: &dyn Fn(TarballTarget) -> Value| {
        items.iter().map(|item| (item_name(*item), value(*item))).collect::<Map<_, _>>()
    };
    let serialized = |item: TarballTarget| -> f64 {
        carried.iter().filter(|c| c.name.target == item).map(|c| c.elapsed.as_secs_f64()).sum()
    };
    let longest = |item: TarballTarget| {
        let times = carried.iter().filter(|c| c.name.target == item).map(|c| c.elapsed);
        times.max().unwrap_or_default().as_secs_f64()
    };
    let total: f64 = items.iter().map(|item| serialized(*item)).sum();
    json!({
        "total_time": seconds(took.total.as_secs_f64()),
        "number_of_workers": limits.jobs.get(),
        "analysis_time": 0,
        "analysis_time_per_item": per_item(&|_| json!(0)),
        "copy_time_per_item": per_item(&|item| json!(seconds(longest(item)))),
        "serialized_copy_time_per_item": per_item(&|item| json!(seconds(serialized(item)))),
        "copy_time": seconds(took.copy.as_secs_f64()),
        "serialized_copy_time": seconds(total),
    })
}

fn item_name(target: TarballTarget) -> String {
    match target {
        TarballTarget::Data => "data".into(),
        TarballTarget::Tablespace(oid) => oid.to_string(),
    }
}

/// Microseconds are what Barman keeps.
fn seconds(exact: f64) -> f64 {
    (exact * 1e6).round() / 1e6
}

fn on_or_off(on: bool) -> String {
    if on { "on".into() } else { "off".into() }
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
