//! Names of the files that PostgreSQL archives.

use crate::wal::{TimelineId, WalSegment};
use std::fmt;

/// A name that PostgreSQL hands to `archive_command` or asks of `restore_command`.
///
/// The text is kept as given; Barman accepts hex digits of either case and so do we.
/// Grammar: eight hex digits and `.history`, or 24 hex digits with nothing, `.partial`
/// or `.` + eight hex digits + `.backup` behind them.
/// Source: `IsXLogFileName` and its neighbours, PostgreSQL src/include/access/xlog_internal.h.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalFileName {
    text: String,
    kind: WalFileKind,
    timeline: TimelineId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileKind {
    Segment,
    Partial,
    History,
    BackupHistory,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not the name of a WAL file")]
pub struct WalFileNameError {
    text: String,
}

impl WalFileName {
    pub fn parse(text: &str) -> Result<Self, WalFileNameError> {
        let refused = || WalFileNameError { text: text.into() };
        let kind = kind_of(text).ok_or_else(refused)?;
        let timeline = u32::from_str_radix(&text[..8], 16)
            .ok()
            .and_then(|number| TimelineId::new(number).ok())
            .ok_or_else(refused)?;
        Ok(Self { text: text.into(), kind, timeline })
    }

    /// The name of a complete segment.
    pub fn of_segment(segment: WalSegment, size: crate::wal::SegmentSize) -> Self {
        Self { text: segment.name(size), kind: WalFileKind::Segment, timeline: segment.timeline }
    }

    /// The name of a timeline's history file.
    pub fn of_history(timeline: TimelineId) -> Self {
        let text = format!("{:08X}.history", timeline.number());
        Self { text, kind: WalFileKind::History, timeline }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn kind(&self) -> WalFileKind {
        self.kind
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The 24 digits of the segment this file belongs to; `None` for a history file.
    pub fn segment_name(&self) -> Option<&str> {
        (self.kind != WalFileKind::History).then(|| &self.text[..24])
    }

    /// The folder of the WAL archive that holds the file: timeline and log in upper case.
    /// `None` for a history file, which lies directly in `wals/`.
    pub fn hash_directory(&self) -> Option<String> {
        self.segment_name().map(|name| name[..16].to_ascii_uppercase())
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn kind_of(text: &str) -> Option<WalFileKind> {
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !text.is_ascii() {
        return None;
    }
    if let Some(timeline) = text.strip_suffix(".history") {
        return (timeline.len() == 8 && hex(timeline)).then_some(WalFileKind::History);
    }
    let (segment, rest) = text.split_at_checked(24)?;
    if !hex(segment) {
        return None;
    }
    match rest {
        "" => Some(WalFileKind::Segment),
        ".partial" => Some(WalFileKind::Partial),
        _ => {
            let offset = rest.strip_prefix('.')?.strip_suffix(".backup")?;
            (offset.len() == 8 && hex(offset)).then_some(WalFileKind::BackupHistory)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{WalFileKind, WalFileName};
    use proptest::prelude::{any, proptest};

    #[test]
    fn the_four_kinds_of_names_are_told_apart() {
        let kind = |text| WalFileName::parse(text).expect(text).kind();
        assert_eq!(kind("0000000100000000000000FE"), WalFileKind::Segment);
        assert_eq!(kind("0000000100000000000000fe.partial"), WalFileKind::Partial);
        assert_eq!(kind("00000002.history"), WalFileKind::History);
        assert_eq!(kind("000000010000000000000019.00000028.backup"), WalFileKind::BackupHistory);
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "RECOVERYXLOG",
            "0000000100000000000000F",
            "0000000100000000000000FEA",
            "0000000100000000000000FE.gz",
            "0000000100000000000000FE.0000028.backup",
            "000000010000000000000019.00000028.backup.partial",
            "0000000g00000000000000FE",
            "00000000.history",
            "1.history",
            "00000000000000000000000é",
        ] {
            assert!(WalFileName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_hash_directory_is_upper_case_and_the_name_is_kept() {
        let name = WalFileName::parse("0000000a000000bc000000fe").expect("segment");
        assert_eq!(name.hash_directory().as_deref(), Some("0000000A000000BC"));
        assert_eq!(name.as_str(), "0000000a000000bc000000fe");
        assert_eq!(WalFileName::parse("00000002.history").expect("history").hash_directory(), None);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = WalFileName::parse(&text);
        }
    }
}
