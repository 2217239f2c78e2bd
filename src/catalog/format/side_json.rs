//! `started.json`, `deletion.json` and `archive.json` (design §2). Unknown keys are passed over.

use crate::catalog::format::FormatError;
use crate::catalog::format::time;
use crate::catalog::{
    Adoption, ArchiveEra, ArchiveIdentity, ArchiveRecord, BackupMethod, DeletionMark, StartedRecord,
};
use crate::pgdata::SystemIdentifier;
use crate::wal::{SegmentSize, TimelineId};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const FORMAT: u64 = 1;

#[derive(Serialize, Deserialize)]
struct StartedJson {
    format: u64,
    tool: String,
    backup_name: Option<String>,
    method: BackupMethod,
    started: String,
    host: String,
    process: u32,
    /// Makes the claims of two processes differ, whatever their hosts are called.
    #[serde(default)]
    claim: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshots: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct DeletionJson {
    format: u64,
    backup_info: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ArchiveJson {
    format: u64,
    #[serde(flatten)]
    present: EraJson,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<EraJson>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// One cluster of an archive.
#[derive(Serialize, Deserialize)]
struct EraJson {
    /// A text, because JSON readers lose digits of numbers above 2^53.
    systemid: String,
    first_timeline: u32,
    segment_size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adopted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adopted_lsn: Option<String>,
}

pub fn print_started(started: &StartedRecord, claim: &str) -> Vec<u8> {
    line(&StartedJson {
        format: FORMAT,
        tool: started.tool.clone(),
        backup_name: started.name.clone(),
        method: started.method,
        started: time::rfc3339(started.started),
        host: started.host.clone(),
        process: started.process,
        claim: claim.into(),
        snapshots: started.snapshots.clone(),
    })
}

pub fn parse_started(text: &[u8]) -> Result<StartedRecord, FormatError> {
    let json: StartedJson = parse(text)?;
    let refused = |_| FormatError::new(format!("\"{}\" is not a time", json.started));
    Ok(StartedRecord {
        started: json.started.parse::<Timestamp>().map_err(refused)?,
        tool: json.tool,
        name: json.backup_name,
        method: json.method,
        host: json.host,
        process: json.process,
        snapshots: json.snapshots,
    })
}

pub fn print_deletion(mark: &DeletionMark) -> Vec<u8> {
    // An entry that is no text could not be read before either.
    let text = mark.backup_info.as_ref().and_then(|text| std::str::from_utf8(text).ok());
    line(&DeletionJson { format: FORMAT, backup_info: text.map(Into::into) })
}

pub fn parse_deletion(text: &[u8]) -> Result<DeletionMark, FormatError> {
    let json: DeletionJson = parse(text)?;
    Ok(DeletionMark { backup_info: json.backup_info.map(Into::into) })
}

pub fn print_archive(identity: &ArchiveIdentity) -> Vec<u8> {
    let present = ArchiveEra { identity: *identity, adoption: None };
    print_archive_record(&ArchiveRecord { present, earlier: Vec::new(), other: Map::new() })
}

pub fn parse_archive(text: &[u8]) -> Result<ArchiveIdentity, FormatError> {
    era(&parse::<ArchiveJson>(text)?.present).map(|era| era.identity)
}

pub fn print_archive_record(record: &ArchiveRecord) -> Vec<u8> {
    line(&ArchiveJson {
        format: FORMAT,
        present: era_json(&record.present),
        earlier: record.earlier.iter().map(era_json).collect(),
        other: record.other.clone(),
    })
}

pub fn parse_archive_record(text: &[u8]) -> Result<ArchiveRecord, FormatError> {
    let json: ArchiveJson = parse(text)?;
    Ok(ArchiveRecord {
        present: era(&json.present)?,
        earlier: json.earlier.iter().map(era).collect::<Result<_, _>>()?,
        other: json.other,
    })
}

fn era_json(era: &ArchiveEra) -> EraJson {
    let ArchiveEra { identity, adoption } = era;
    EraJson {
        systemid: identity.system_identifier.to_string(),
        first_timeline: identity.first_timeline.number(),
        segment_size: u64::from(identity.segment_size.bytes()),
        adopted: adoption.map(|adoption| time::rfc3339(adoption.at)),
        adopted_lsn: adoption.map(|adoption| adoption.from.to_string()),
    }
}

fn era(json: &EraJson) -> Result<ArchiveEra, FormatError> {
    let number: u64 = json.systemid.parse().map_err(|_| {
        FormatError::new(format!("\"{}\" is not a system identifier", json.systemid))
    })?;
    let wrong = |error: &dyn std::error::Error| FormatError::new(error.to_string());
    let adoption = match (&json.adopted, &json.adopted_lsn) {
        (Some(at), Some(from)) => Some(Adoption {
            at: at.parse().map_err(|_| FormatError::new(format!("\"{at}\" is not a time")))?,
            from: from.parse().map_err(|error| wrong(&error))?,
        }),
        _ => None,
    };
    let identity = ArchiveIdentity {
        system_identifier: SystemIdentifier::new(number),
        first_timeline: TimelineId::new(json.first_timeline).map_err(|error| wrong(&error))?,
        segment_size: SegmentSize::new(json.segment_size).map_err(|error| wrong(&error))?,
    };
    Ok(ArchiveEra { identity, adoption })
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(text).map_err(|error| FormatError::new(error.to_string()))
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("a struct of texts and numbers is always JSON");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use crate::catalog::format::side_json::{
        parse_archive, parse_started, print_archive, print_started,
    };
    use crate::catalog::{ArchiveIdentity, BackupMethod, StartedRecord};
    use crate::pgdata::SystemIdentifier;
    use crate::wal::{SegmentSize, TimelineId};

    #[test]
    fn the_claim_of_an_id_round_trips() {
        let started = StartedRecord {
            tool: "barman-cloud 0.1.0".into(),
            name: Some("nightly".into()),
            method: BackupMethod::Files,
            started: "2026-11-20T23:58:32.123456789Z".parse().expect("time"),
            host: "db1".into(),
            process: 4711,
            snapshots: Some(serde_json::json!({"provider": "aws"})),
        };
        assert_eq!(parse_started(&print_started(&started, "a1")), Ok(started));
        assert!(parse_started(b"{}").is_err());
    }

    #[test]
    fn the_identity_of_an_archive_round_trips() {
        let identity = ArchiveIdentity {
            system_identifier: SystemIdentifier::new(7710407064033732751),
            first_timeline: TimelineId::new(3).expect("3"),
            segment_size: SegmentSize::DEFAULT,
        };
        let text = print_archive(&identity);
        assert_eq!(
            String::from_utf8(text.clone()).expect("utf-8"),
            "{\"format\":1,\"systemid\":\"7710407064033732751\",\"first_timeline\":3,\"segment_size\":16777216}\n"
        );
        assert_eq!(parse_archive(&text), Ok(identity));
    }
}
