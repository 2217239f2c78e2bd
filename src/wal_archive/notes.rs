//! What calls of one recovery tell each other: short texts in the spool.
//!
//! | Note | Says |
//! | --- | --- |
//! | `suffix` | the suffix that was fetched last |
//! | `position` | the segment that recovery asked for last, and the segment size |
//! | `history` | the timeline history that recovery fetched last |
//!
//! They are hints: a missing, stale or damaged one costs time, never correctness.

use crate::codec::Compression;
use crate::disk::{DiskError, Spool};
use crate::wal::{SegmentSize, TimelineHistory, TimelineId, WalFileName, WalSegment};
use crate::wal_archive::locate::Suffix;
use crate::wal_archive::route::Route;

const SUFFIX: &str = "suffix";
const POSITION: &str = "position";
const HISTORY: &str = "history";

/// Where recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: WalSegment,
    pub size: SegmentSize,
}

impl Position {
    pub fn name(&self) -> WalFileName {
        WalFileName::of_segment(self.segment, self.size)
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, bytes) = text.split_once(' ')?;
        let size = SegmentSize::new(bytes.parse().ok()?).ok()?;
        Some(Self { segment: WalSegment::from_name(name, size)?, size })
    }
}

pub fn suffix(spool: &Spool) -> Option<Suffix> {
    let note = spool.note(SUFFIX)?;
    if note.is_empty() { Some(None) } else { Compression::from_suffix(&note).map(Some) }
}

pub fn set_suffix(spool: &Spool, suffix: Suffix) -> Result<(), DiskError> {
    spool.set_note(SUFFIX, suffix.map_or("", Compression::suffix))
}

pub fn position(spool: &Spool) -> Option<Position> {
    Position::parse(&spool.note(POSITION)?)
}

pub fn set_position(spool: &Spool, position: &Position) -> Result<(), DiskError> {
    spool.set_note(POSITION, &format!("{} {}", position.name(), position.size.bytes()))
}

/// Keeps the content of a timeline's history file.
pub fn set_history(spool: &Spool, timeline: TimelineId, text: &str) -> Result<(), DiskError> {
    spool.set_note(HISTORY, &format!("{}\n{text}", timeline.number()))
}

/// The way from a position on, as far as it is known.
pub fn route(spool: &Spool, size: SegmentSize) -> Route {
    let history = spool.note(HISTORY).and_then(|note| {
        let (timeline, text) = note.split_once('\n')?;
        let timeline = TimelineId::new(timeline.parse().ok()?).ok()?;
        TimelineHistory::parse(timeline, text).ok()
    });
    Route { size, history }
}

#[cfg(test)]
mod tests {
    use crate::disk::Spool;
    use crate::wal::{SegmentSize, TimelineId, WalSegment};
    use crate::wal_archive::notes::{self, Position};

    #[test]
    fn notes_come_back_and_nonsense_is_none() {
        let base = tempfile::tempdir().expect("base");
        let spool = Spool::new(base.path(), "scope");
        assert_eq!(notes::position(&spool), None);
        spool.prepare().expect("prepare");
        let timeline = TimelineId::new(2).expect("2");
        let size = SegmentSize::new(1 << 20).expect("1 MiB");
        let position = Position { segment: WalSegment { timeline, number: 5000 }, size };
        notes::set_position(&spool, &position).expect("note");
        assert_eq!(notes::position(&spool), Some(position));
        notes::set_history(&spool, timeline, "1\t0/3000000\tx\n").expect("note");
        let history = notes::route(&spool, size).history.expect("history");
        assert_eq!((history.timeline(), history.switches().len()), (timeline, 1));
        for text in ["", "x 1", "000000020000000000000001 17", "000000020000000000000001"] {
            spool.set_note("position", text).expect("note");
            assert_eq!(notes::position(&spool), None, "{text}");
        }
        spool.set_note("history", "2\nnonsense").expect("note");
        assert_eq!(notes::route(&spool, size).history, None);
    }
}
