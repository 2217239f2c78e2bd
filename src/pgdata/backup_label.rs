//! `backup_label`: where recovery of a base backup begins.
//!
//! Source: `build_backup_content` (PostgreSQL 16 src/backend/access/transam/xlogbackup.c,
//! `do_pg_stop_backup` before) writes it, `read_backup_label` reads it.

use crate::wal::{Lsn, TimelineId, WalFileKind, WalFileName};

/// The parsed label together with the text it was parsed from, which is what gets stored:
/// recovery wants PostgreSQL's own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    text: String,
    pub start: Lsn,
    /// The segment that holds `start`; its name carries the timeline on every version.
    pub start_wal: WalFileName,
    pub checkpoint: Lsn,
    /// `streamed` for every backup made while PostgreSQL runs (since 9.1), else `pg_rewound`.
    pub method: String,
    pub from: BackupOrigin,
    /// As PostgreSQL printed it, in its `log_timezone`; not meant to be parsed.
    pub start_time: String,
    pub label: String,
    /// From the `START TIMELINE` line (PostgreSQL 11 and later), else from `start_wal`.
    pub timeline: TimelineId,
}

/// Which side of replication the backup was taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupOrigin {
    Primary,
    Standby,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BackupLabelError {
    #[error("the backup label has no line \"{key}\"")]
    Missing { key: &'static str },
    #[error("the backup label has a malformed line \"{key}: {value}\"")]
    Malformed { key: &'static str, value: String },
    #[error("the backup label says timeline {timeline} but starts in WAL file \"{file}\"")]
    Contradiction { timeline: TimelineId, file: WalFileName },
}

impl BackupLabel {
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let (start, start_wal) = start_location(text)?;
        let checkpoint_key = "CHECKPOINT LOCATION";
        let checkpoint = required(text, checkpoint_key)?;
        let from_key = "BACKUP FROM";
        let from = match required(text, from_key)? {
            "primary" | "master" => BackupOrigin::Primary,
            "standby" => BackupOrigin::Standby,
            other => return Err(malformed(from_key, other)),
        };
        let timeline = start_timeline(text)?.unwrap_or(start_wal.timeline());
        if timeline != start_wal.timeline() {
            return Err(BackupLabelError::Contradiction { timeline, file: start_wal });
        }
        Ok(Self {
            start,
            start_wal,
            checkpoint: checkpoint.parse().map_err(|_| malformed(checkpoint_key, checkpoint))?,
            method: required(text, "BACKUP METHOD")?.into(),
            from,
            start_time: required(text, "START TIME")?.into(),
            label: required(text, "LABEL")?.into(),
            timeline,
            text: text.into(),
        })
    }

    /// The label exactly as PostgreSQL gave it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// `START WAL LOCATION: 0/1500028 (file 000000010000000000000015)`
fn start_location(text: &str) -> Result<(Lsn, WalFileName), BackupLabelError> {
    let key = "START WAL LOCATION";
    let value = required(text, key)?;
    let parts = || {
        let (lsn, file) = value.split_once(" (file ")?;
        let file = WalFileName::parse(file.strip_suffix(')')?).ok()?;
        let is_segment = file.kind() == WalFileKind::Segment;
        is_segment.then_some((lsn.parse().ok()?, file))
    };
    parts().ok_or_else(|| malformed(key, value))
}

fn start_timeline(text: &str) -> Result<Option<TimelineId>, BackupLabelError> {
    let key = "START TIMELINE";
    let parse = |value: &str| {
        let number = value.parse().ok().and_then(|number| TimelineId::new(number).ok());
        number.ok_or_else(|| malformed(key, value))
    };
    line(text, key).map(parse).transpose()
}

fn required<'a>(text: &'a str, key: &'static str) -> Result<&'a str, BackupLabelError> {
    line(text, key).ok_or(BackupLabelError::Missing { key })
}

fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

fn malformed(key: &'static str, value: &str) -> BackupLabelError {
    BackupLabelError::Malformed { key, value: value.into() }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::{BackupLabel, BackupLabelError, BackupOrigin};

    const LABEL: &str = "START WAL LOCATION: 0/1500028 (file 000000010000000000000015)\n\
        CHECKPOINT LOCATION: 0/1500060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: standby\n\
        START TIME: 2026-11-20 23:58:52 UTC\n\
        LABEL: Barman backup cloud 20261120T235852\n\
        START TIMELINE: 1\n";

    #[test]
    fn all_lines_are_read_and_the_text_is_kept() {
        let label = BackupLabel::parse(LABEL).expect("parses");
        assert_eq!(label.start.to_string(), "0/1500028");
        assert_eq!(label.start_wal.as_str(), "000000010000000000000015");
        assert_eq!(label.checkpoint.to_string(), "0/1500060");
        assert_eq!(label.method, "streamed");
        assert_eq!(label.from, BackupOrigin::Standby);
        assert_eq!(label.start_time, "2026-11-20 23:58:52 UTC");
        assert_eq!(label.label, "Barman backup cloud 20261120T235852");
        assert_eq!(label.timeline.number(), 1);
        assert_eq!(label.as_str(), LABEL);
    }

    #[test]
    fn the_timeline_of_postgresql_10_comes_from_the_file_name() {
        let text = LABEL.replace("START TIMELINE: 1\n", "");
        assert_eq!(BackupLabel::parse(&text).expect("parses").timeline.number(), 1);
    }

    /// As `build_backup_content` (before 15 `do_pg_start_backup`) of each version writes them.
    #[test]
    fn labels_of_every_version_are_read() {
        let of_10 = LABEL
            .replace("START TIMELINE: 1\n", "")
            .replace("BACKUP FROM: standby", "BACKUP FROM: master");
        let of_11_to_13 = LABEL.replace("BACKUP FROM: standby", "BACKUP FROM: master");
        let of_14_to_16 = LABEL.replace("BACKUP FROM: standby", "BACKUP FROM: primary");
        let of_17 = format!("{LABEL}INCREMENTAL FROM LSN: 0/1400028\nINCREMENTAL FROM TLI: 1\n");
        // A later one pads the second half of positions with zeros.
        let padded = LABEL.replace("0/15000", "0/015000");
        for text in [of_10, of_11_to_13, of_14_to_16, of_17, padded] {
            let label = BackupLabel::parse(&text).expect(&text);
            assert_eq!(label.start.to_string(), "0/1500028");
            assert_eq!(label.checkpoint.to_string(), "0/1500060");
            assert_eq!(label.timeline.number(), 1);
            assert_eq!(label.as_str(), text);
        }
    }

    #[test]
    fn a_missing_broken_or_contradicting_line_is_named() {
        let missing = BackupLabel::parse(&LABEL.replace("CHECKPOINT", "CHECK"));
        assert_eq!(missing, Err(BackupLabelError::Missing { key: "CHECKPOINT LOCATION" }));
        let broken = BackupLabel::parse(&LABEL.replace("(file 0", "(file x"));
        assert!(matches!(broken, Err(BackupLabelError::Malformed { .. })));
        let other = BackupLabel::parse(&LABEL.replace("TIMELINE: 1", "TIMELINE: 2"));
        assert!(matches!(other, Err(BackupLabelError::Contradiction { .. })));
        assert!(BackupLabel::parse("").is_err());
    }
}
