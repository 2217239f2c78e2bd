//! `backup.json`: our record of one backup (design §2).
//!
//! Plain JSON values and RFC 3339 times in UTC. Keys of a newer version are kept; a higher
//! `format` is refused, because what it means is not known.

use crate::catalog::format::FormatError;
use crate::catalog::format::time;
use crate::catalog::{
    BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatistics, BackupStatus, DamagedFile,
    Tablespace, TarballRecord,
};
use crate::codec::Compression;
use crate::wal::{Lsn, SegmentSize, TimelineId};
use jiff::Zoned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format this version writes, and the highest it reads.
const FORMAT: u64 = 1;

#[derive(Serialize, Deserialize)]
struct BackupJson {
    format: u64,
    tool: String,
    backup_id: String,
    backup_name: Option<String>,
    method: BackupMethod,
    status: String,
    error: Option<String>,
    server_name: Option<String>,
    systemid: Option<String>,
    version: Option<u32>,
    timeline: Option<u32>,
    begin_time: Option<String>,
    begin_xlog: Option<String>,
    begin_wal: Option<String>,
    begin_offset: Option<u64>,
    end_time: Option<String>,
    end_xlog: Option<String>,
    end_wal: Option<String>,
    end_offset: Option<u64>,
    xlog_segment_size: Option<u64>,
    backup_label: Option<String>,
    pgdata: Option<String>,
    config_file: Option<String>,
    hba_file: Option<String>,
    ident_file: Option<String>,
    included_files: Option<Vec<String>>,
    data_checksums: Option<String>,
    summarize_wal: Option<String>,
    cluster_size: Option<u64>,
    size: Option<u64>,
    deduplicated_size: Option<u64>,
    mode: Option<String>,
    compression: Option<String>,
    encryption: Option<String>,
    parent_backup_id: Option<String>,
    children_backup_ids: Option<Vec<String>>,
    tablespaces: Option<Vec<TablespaceJson>>,
    #[serde(default)]
    tarballs: Vec<TarballRecord>,
    statistics: Option<BackupStatistics>,
    copy_stats: Option<Value>,
    #[serde(default)]
    damaged_files: Vec<DamagedFile>,
    #[serde(default)]
    warnings: Vec<String>,
    snapshots_info: Option<Value>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct TablespaceJson {
    name: String,
    oid: u32,
    location: String,
}

/// Reads a `backup.json`.
pub fn parse(text: &[u8]) -> Result<BackupRecord, FormatError> {
    let format = serde_json::from_slice::<Value>(text)
        .map_err(|error| FormatError::new(error.to_string()))?
        .get("format")
        .and_then(Value::as_u64);
    match format {
        Some(1..=FORMAT) => {}
        Some(newer) => {
            return Err(FormatError::new(format!(
                "it has format {newer}, this version reads up to {FORMAT}"
            )));
        }
        None => return Err(FormatError::new("it has no \"format\"")),
    }
    let json: BackupJson =
        serde_json::from_slice(text).map_err(|error| FormatError::new(error.to_string()))?;
    record_of(json)
}

/// Writes the record; the same record always gives the same bytes.
pub fn print(record: &BackupRecord) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(&json_of(record))
        .expect("a struct of texts, numbers and JSON values is always JSON");
    text.push(b'\n');
    text
}

fn record_of(json: BackupJson) -> Result<BackupRecord, FormatError> {
    let compression = json.compression.as_deref().map(compression).transpose()?;
    let info = BackupInfo {
        backup_label: json.backup_label,
        backup_name: json.backup_name,
        begin_offset: json.begin_offset,
        begin_time: json.begin_time.as_deref().map(time::parse).transpose()?,
        begin_wal: json.begin_wal,
        begin_xlog: json.begin_xlog.as_deref().map(lsn).transpose()?,
        children_backup_ids: json.children_backup_ids,
        cluster_size: json.cluster_size,
        compression: None,
        config_file: json.config_file,
        copy_stats: json.copy_stats,
        data_checksums: json.data_checksums,
        deduplicated_size: json.deduplicated_size,
        encryption: json.encryption,
        end_offset: json.end_offset,
        end_time: json.end_time.as_deref().map(time::parse).transpose()?,
        end_wal: json.end_wal,
        end_xlog: json.end_xlog.as_deref().map(lsn).transpose()?,
        error: json.error,
        hba_file: json.hba_file,
        ident_file: json.ident_file,
        included_files: json.included_files,
        mode: json.mode,
        parent_backup_id: json.parent_backup_id,
        pgdata: json.pgdata,
        server_name: json.server_name,
        size: json.size,
        snapshots_info: json.snapshots_info,
        status: Some(status(&json.status)?),
        summarize_wal: json.summarize_wal,
        systemid: json.systemid,
        tablespaces: json.tablespaces.map(|list| list.into_iter().map(tablespace_of).collect()),
        timeline: json.timeline.map(timeline).transpose()?,
        version: json.version,
        xlog_segment_size: json.xlog_segment_size.map(segment_size).transpose()?,
    };
    Ok(BackupRecord {
        id: BackupId::parse(&json.backup_id)
            .map_err(|error| FormatError::new(error.to_string()))?,
        tool: json.tool,
        method: json.method,
        info,
        compression,
        tarballs: json.tarballs,
        statistics: json.statistics,
        damaged_files: json.damaged_files,
        warnings: json.warnings,
        other: json.other,
    })
}

fn json_of(record: &BackupRecord) -> BackupJson {
    let info = record.info.clone();
    let time = |time: &Option<Zoned>| time.as_ref().map(|time| time::rfc3339(time.timestamp()));
    BackupJson {
        format: FORMAT,
        tool: record.tool.clone(),
        backup_id: record.id.to_string(),
        backup_name: info.backup_name,
        method: record.method,
        status: record.info.status().to_string(),
        error: info.error,
        server_name: info.server_name,
        systemid: info.systemid,
        version: info.version,
        timeline: info.timeline.map(TimelineId::number),
        begin_time: time(&info.begin_time),
        begin_xlog: info.begin_xlog.map(|lsn| lsn.to_string()),
        begin_wal: info.begin_wal,
        begin_offset: info.begin_offset,
        end_time: time(&info.end_time),
        end_xlog: info.end_xlog.map(|lsn| lsn.to_string()),
        end_wal: info.end_wal,
        end_offset: info.end_offset,
        xlog_segment_size: info.xlog_segment_size.map(|size| u64::from(size.bytes())),
        backup_label: info.backup_label,
        pgdata: info.pgdata,
        config_file: info.config_file,
        hba_file: info.hba_file,
        ident_file: info.ident_file,
        included_files: info.included_files,
        data_checksums: info.data_checksums,
        summarize_wal: info.summarize_wal,
        cluster_size: info.cluster_size,
        size: info.size,
        deduplicated_size: info.deduplicated_size,
        mode: info.mode,
        compression: record.compression.map(|compression| compression.name().to_string()),
        encryption: info.encryption,
        parent_backup_id: info.parent_backup_id,
        children_backup_ids: info.children_backup_ids,
        tablespaces: info.tablespaces.map(|list| list.into_iter().map(tablespace_json).collect()),
        tarballs: record.tarballs.clone(),
        statistics: record.statistics.clone(),
        copy_stats: info.copy_stats,
        damaged_files: record.damaged_files.clone(),
        warnings: record.warnings.clone(),
        snapshots_info: info.snapshots_info,
        other: record.other.clone(),
    }
}

fn tablespace_of(json: TablespaceJson) -> Tablespace {
    Tablespace { name: json.name, oid: json.oid, location: json.location }
}

fn tablespace_json(tablespace: Tablespace) -> TablespaceJson {
    TablespaceJson { name: tablespace.name, oid: tablespace.oid, location: tablespace.location }
}

fn compression(name: &str) -> Result<Compression, FormatError> {
    Compression::from_name(name)
        .ok_or_else(|| FormatError::new(format!("\"{name}\" is not a known compression")))
}

fn status(text: &str) -> Result<BackupStatus, FormatError> {
    BackupStatus::parse(text)
        .ok_or_else(|| FormatError::new(format!("\"{text}\" is not the status of a backup")))
}

fn lsn(text: &str) -> Result<Lsn, FormatError> {
    text.parse().map_err(|_| FormatError::new(format!("\"{text}\" is not a log sequence number")))
}

fn timeline(number: u32) -> Result<TimelineId, FormatError> {
    TimelineId::new(number).map_err(|error| FormatError::new(error.to_string()))
}

fn segment_size(bytes: u64) -> Result<SegmentSize, FormatError> {
    SegmentSize::new(bytes).map_err(|error| FormatError::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::catalog::format::{backup_info, backup_json, time};
    use crate::catalog::{
        BackupId, BackupMethod, BackupRecord, BackupStatistics, DamagedFile, TarballRecord,
    };
    use crate::codec::Compression;
    use serde_json::{Map, json};

    fn record() -> BackupRecord {
        let text = include_str!(
            "../../../tests/fixtures/barman-3.19.1/contract/pg15/main/base/20261120T235852/backup.info"
        );
        BackupRecord {
            id: BackupId::parse("20261120T235852").expect("id"),
            tool: "barman-cloud 0.1.0".into(),
            method: BackupMethod::Files,
            info: backup_info::parse(text).expect("fixture"),
            compression: Some(Compression::Zstd),
            tarballs: vec![TarballRecord {
                name: "data.tar.zst".into(),
                stored_bytes: 10,
                raw_bytes: 20,
                members: 3,
                sha256: "ab".into(),
                index: None,
            }],
            statistics: Some(BackupStatistics {
                files: 3,
                raw_bytes: 20,
                stored_bytes: 10,
                jobs: 2,
                total_seconds: 1.5,
                copy_seconds: 0.25,
            }),
            damaged_files: vec![DamagedFile {
                path: "base/5/1259".into(),
                blocks: vec![7],
                damaged_blocks: 1,
            }],
            warnings: vec!["skipped symbolic link \"x\"".into()],
            other: Map::new(),
        }
    }

    /// Times are kept as instants: the offset they were read with does not return.
    fn in_utc(mut record: BackupRecord) -> BackupRecord {
        record.info.begin_time = record.info.begin_time.as_ref().map(time::in_utc);
        record.info.end_time = record.info.end_time.as_ref().map(time::in_utc);
        record
    }

    #[test]
    fn records_round_trip() {
        let record = record();
        let mut read = backup_json::parse(&backup_json::print(&record)).expect("readable");
        // UTC by name and a zero offset print alike but are different zones.
        read = in_utc(read);
        assert_eq!(read, in_utc(record));
    }

    #[test]
    fn values_are_plain_json_with_times_in_utc() {
        let text = String::from_utf8(backup_json::print(&record())).expect("utf-8");
        for line in [
            "\"format\": 1,",
            "\"begin_time\": \"2026-11-20T23:58:52.132515Z\",",
            "\"begin_xlog\": \"0/1500028\",",
            "\"systemid\": \"7710407064033732751\",",
            "\"compression\": \"zstd\",",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn no_digit_of_a_duration_is_lost() {
        let mut record = record();
        for nanoseconds in 0..1000u32 {
            let seconds = f64::from(nanoseconds) * 1.000_7e-3;
            record.info.copy_stats = Some(json!({ "copy_time": seconds }));
            let read = backup_json::parse(&backup_json::print(&record)).expect("readable");
            assert_eq!(read.info.copy_stats, record.info.copy_stats);
        }
    }

    #[test]
    fn unknown_keys_are_kept() {
        let mut value: serde_json::Value =
            serde_json::from_slice(&backup_json::print(&record())).expect("json");
        value["from_the_future"] = json!({"a": [1, 2.5, null]});
        let text = serde_json::to_vec(&value).expect("json");
        let read = backup_json::parse(&text).expect("readable");
        assert_eq!(read.other["from_the_future"], json!({"a": [1, 2.5, null]}));
        let again = backup_json::print(&read);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&again).expect("json"), value);
    }

    #[test]
    fn missing_keys_are_null_and_a_newer_format_is_refused() {
        let minimal = json!({
            "format": 1, "tool": "x", "backup_id": "20261120T235852",
            "method": "files", "status": "FAILED",
        });
        assert!(backup_json::parse(minimal.to_string().as_bytes()).is_ok());
        let newer = json!({"format": 2});
        assert_eq!(
            backup_json::parse(newer.to_string().as_bytes()).expect_err("newer").to_string(),
            "it has format 2, this version reads up to 1"
        );
        assert!(backup_json::parse(b"{").is_err());
        assert!(backup_json::parse(b"{}").is_err());
    }
}
