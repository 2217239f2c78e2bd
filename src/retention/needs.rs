//! Which WAL the backups that stay need. Pure.
//!
//! Barman compares file names as texts and guesses about timelines. Here every WAL file is
//! needed unless it is proven that no backup can be recovered with it:
//!
//! - on a backup's own timeline, all before its first segment is not needed;
//! - a lower timeline never is: a timeline's number is higher than those it descends from, and
//!   a backup needs no WAL from before its own beginning;
//! - a higher timeline is not needed when its history file shows that it branched off before
//!   the backup began, or descends from elsewhere; without history file it is needed.
//!
//! - what the cluster writes now is needed, backup or not: after a recovery to before the last
//!   backup no backup may be on the newest timeline, and the next one, which may be running, on
//!   this host or on a standby that is late, needs what is there (see `add_open_line`).
//!
//! History files are never deleted: they are small and tell what everything else is.

use crate::catalog::{Backup, BackupId, BackupStatus, KeepTarget, Line, WalLog};
use crate::wal::{
    Lsn, SegmentSize, TimelineHistory, TimelineId, WalFileKind, WalFileName, WalSegment,
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The history files of an archive, by timeline.
pub type Histories = BTreeMap<TimelineId, TimelineHistory>;

/// What must not be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalNeeds {
    /// Backups that do not tell what they need: then everything is needed.
    pub unknown: Vec<BackupId>,
    /// Nothing can be told about what is needed.
    pub everything: bool,
    /// From where on recovery must remain possible, the earliest per timeline.
    begins: BTreeMap<TimelineId, Begin>,
    /// What makes a standalone backup consistent.
    ranges: Vec<Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    position: Position,
    lsn: Lsn,
}

/// The sixteen digits behind the timeline in a WAL file's name: their order is that of the log,
/// whatever the segment size.
pub type Position = u64;

/// Where a WAL file lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    timeline: TimelineId,
    position: Position,
}

/// First and last segment, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    begin: (TimelineId, Position),
    end: (TimelineId, Position),
}

impl WalNeeds {
    /// Whether the file must stay, as far as `histories` tell.
    #[cfg(test)]
    pub fn hold(&self, name: &WalFileName, histories: &Histories) -> bool {
        Place::of(name).is_none_or(|place| self.hold_all(place, place, histories))
    }

    /// Whether every file from `first` to `last`, of one timeline, must stay, as far as
    /// `histories` tell. A yes is certain, a no only when both are the same place.
    pub fn hold_all(&self, first: Place, last: Place, histories: &Histories) -> bool {
        self.everything
            || !self.unknown.is_empty()
            || self.ranges.iter().any(|range| range.contains(first) && range.contains(last))
            || self.begins.iter().any(|(own, begin)| begin.needs(*own, first, histories))
    }

    /// Whether no file from `first` to `last`, of one timeline, must stay. A yes is certain.
    pub fn hold_none(&self, first: Place, last: Place, histories: &Histories) -> bool {
        !self.everything
            && self.unknown.is_empty()
            && !self.ranges.iter().any(|range| range.touches(first, last))
            && !self.begins.iter().any(|(own, begin)| begin.needs(*own, last, histories))
    }

    /// Where files begin or cease to be needed: between two of these, on one timeline, either all
    /// are or none.
    pub fn borders(&self) -> impl Iterator<Item = Position> {
        let begins = self.begins.values().map(|begin| begin.position);
        let ranges = self.ranges.iter();
        begins.chain(ranges.flat_map(|range| [range.begin.1, range.end.1.saturating_add(1)]))
    }

    /// Everything a backup may be recovered with; a standalone keep needs only what makes it
    /// consistent.
    pub fn add(&mut self, backup: &Backup) {
        let standalone = backup.kept() == Some(KeepTarget::Standalone);
        match (backup.begin_segment(), backup.end_segment()) {
            (Some(begin), Some(end)) if standalone => {
                let at =
                    |segment: WalSegment| (segment.timeline, segment_position(backup, segment));
                self.ranges.push(Range { begin: at(begin), end: at(end) });
            }
            (Some(begin), _) => self.add_from(backup, begin),
            (None, _) => self.unknown.push(backup.id.clone()),
        }
    }

    /// What a running backup needs. Ours have not told PostgreSQL's position yet, and what their
    /// clock says does not tell it either: a standby begins a backup at its last restart point,
    /// hours before the newest segment and perhaps on the timeline before.
    pub fn add_running(&mut self, running: &Backup) {
        match running.begin_segment() {
            Some(_) => self.add(running),
            None => self.everything = true,
        }
    }

    /// Everything on the newest timeline, and on those that it descends from up to where it left
    /// them. For a line from which no DONE backup can be recovered: nothing tells yet from where
    /// on it is needed.
    pub fn add_open_line(&mut self, line: &Line, size: SegmentSize) {
        let all = |timeline, end| Range { begin: (timeline, 0), end: (timeline, end) };
        self.ranges.push(all(line.timeline(), Position::MAX));
        for switch in line.switches() {
            let last = WalSegment::containing(switch.parent, switch.at, size);
            let name = WalFileName::of_segment(last, size);
            self.ranges.push(all(switch.parent, position(&name).unwrap_or(Position::MAX)));
        }
    }

    /// Everything from a backup's beginning on, keep or not; all when it does not tell.
    pub fn add_all_from(&mut self, backup: &Backup) {
        match backup.begin_segment() {
            Some(begin) => self.add_from(backup, begin),
            None => self.everything = true,
        }
    }

    fn add_from(&mut self, backup: &Backup, begin: WalSegment) {
        let start = begin.start(backup.info.segment_size());
        let new = Begin {
            position: segment_position(backup, begin),
            lsn: backup.info.begin_xlog.unwrap_or(start),
        };
        let earliest = self.begins.entry(begin.timeline).or_insert(new);
        earliest.position = earliest.position.min(new.position);
        earliest.lsn = earliest.lsn.min(new.lsn);
    }
}

impl Begin {
    /// Whether a backup that began here on timeline `own` may be recovered with the file at
    /// `place`; if so, then with every later one of the same timeline too.
    fn needs(&self, own: TimelineId, place: Place, histories: &Histories) -> bool {
        if place.timeline <= own {
            return place.timeline == own && place.position >= self.position;
        }
        match histories.get(&place.timeline) {
            Some(history) => history.left_at(own).is_some_and(|left_at| left_at >= self.lsn),
            None => true,
        }
    }
}

impl Range {
    fn contains(&self, place: Place) -> bool {
        self.touches(place, place)
    }

    /// Whether any file from `first` to `last`, of one timeline, is in it.
    fn touches(&self, first: Place, last: Place) -> bool {
        (self.begin.0..=self.end.0).contains(&first.timeline)
            && self.begin.1 <= last.position
            && first.position <= self.end.1
    }
}

impl Place {
    /// `None` for a history file, which lies nowhere and always stays.
    pub fn of(name: &WalFileName) -> Option<Self> {
        Some(Self { timeline: name.timeline(), position: position(name)? })
    }

    pub fn timeline(self) -> TimelineId {
        self.timeline
    }

    pub fn position(self) -> Position {
        self.position
    }

    pub fn first_of(log: WalLog) -> Self {
        Self { timeline: log.timeline, position: Position::from(log.number) << 32 }
    }

    pub fn last_of(log: WalLog) -> Self {
        let first = Self::first_of(log);
        Self { position: first.position | Position::from(u32::MAX), ..first }
    }
}

/// Whether the backup can be recovered to any later time as long as its WAL is there. One that
/// has lost a tarball may get it back, from a bucket with versions or from a copy.
pub fn is_recoverable(backup: &Backup) -> bool {
    use BackupStatus::{Done, Incomplete, Syncing, WaitingForWals};
    let ended = matches!(backup.status(), Done | WaitingForWals | Syncing | Incomplete);
    ended && backup.kept() != Some(KeepTarget::Standalone)
}

/// Whether the backup is being taken, as far as its age tells.
pub fn is_running(backup: &Backup, now: Timestamp) -> bool {
    matches!(backup.status(), BackupStatus::Started | BackupStatus::Empty)
        && !crate::catalog::is_abandoned(backup, now)
}

fn position(name: &WalFileName) -> Option<Position> {
    match name.kind() {
        WalFileKind::History => None,
        _ => u64::from_str_radix(name.segment_name()?.get(8..)?, 16).ok(),
    }
}

fn segment_position(backup: &Backup, segment: WalSegment) -> Position {
    let name = WalFileName::of_segment(segment, backup.info.segment_size());
    position(&name).expect("the name of a segment has sixteen digits behind its timeline")
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, Keep, KeepTarget, WalLog};
    use crate::retention::needs::{Histories, Place, WalNeeds};
    use crate::wal::{Lsn, SegmentSize, TimelineHistory, TimelineId, WalFileName, WalSegment};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use std::fmt::Write;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    /// A timeline of the model: its parent and the segment in which it left it.
    #[derive(Clone, Copy, Debug)]
    struct Branch {
        parent: usize,
        left_in: u64,
    }

    fn timeline(index: usize) -> TimelineId {
        TimelineId::new(u32::try_from(index + 1).expect("small")).expect("non-zero")
    }

    /// In the middle of a segment.
    fn middle(segment: u64) -> Lsn {
        Lsn::new(segment * u64::from(SIZE.bytes()) + 8000)
    }

    fn backup(index: usize, begin: u64, end: u64, standalone: bool) -> Backup {
        let segment = |number| WalSegment { timeline: timeline(index), number }.name(SIZE);
        Backup {
            id: BackupId::parse("20260101T000000").expect("id"),
            info: BackupInfo {
                status: Some(BackupStatus::Done),
                timeline: Some(timeline(index)),
                begin_wal: Some(segment(begin)),
                begin_xlog: Some(middle(begin)),
                end_wal: Some(segment(end)),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: standalone.then(|| Keep::new(KeepTarget::Standalone)),
        }
    }

    /// The path from the root to a timeline: each with the segment in which the next left it.
    fn path(branches: &[Branch], mut index: usize) -> Vec<(usize, Option<u64>)> {
        let mut path = vec![(index, None)];
        while index > 0 {
            let branch = branches[index - 1];
            path.push((branch.parent, Some(branch.left_in)));
            index = branch.parent;
        }
        path.reverse();
        path
    }

    fn histories(branches: &[Branch]) -> Histories {
        let history = |index| {
            let mut text = String::new();
            for (ancestor, left_in) in path(branches, index) {
                if let Some(left_in) = left_in {
                    let at = middle(left_in);
                    writeln!(text, "{}\t{at}\tx", timeline(ancestor)).expect("text");
                }
            }
            TimelineHistory::parse(timeline(index), &text).expect("history")
        };
        (1..=branches.len()).map(|index| (timeline(index), history(index))).collect()
    }

    /// Whether recovery from the backup to some timeline's end can read the file: it walks a
    /// path through the backup's timeline, and takes a segment from any timeline on the way.
    fn naive(branches: &[Branch], own: usize, begin: u64, file: (usize, u64)) -> bool {
        (0..=branches.len()).any(|target| {
            let path = path(branches, target);
            let Some(at) = path.iter().position(|(index, _)| *index == own) else { return false };
            let left_before = path[at].1.is_some_and(|left_in| left_in < begin);
            let on_the_way = path[at..].iter().any(|(index, _)| *index == file.0);
            !left_before && on_the_way && (file.0 != own || file.1 >= begin)
        })
    }

    proptest! {
        #[test]
        fn wal_is_needed_exactly_when_recovery_could_read_it(
            branches in proptest::collection::vec((any::<usize>(), 1u64..30), 0..5),
            backups in proptest::collection::vec(
                (any::<usize>(), 1u64..30, 0u64..4, any::<bool>()), 0..4),
        ) {
            let branches: Vec<Branch> = branches
                .iter()
                .enumerate()
                .map(|(index, (parent, left_in))| Branch { parent: parent % (index + 1), left_in: *left_in })
                .collect();
            let timelines = branches.len() + 1;
            let mut needs = WalNeeds::default();
            for (index, begin, length, standalone) in &backups {
                needs.add(&backup(index % timelines, *begin, begin + length, *standalone));
            }
            let histories = histories(&branches);
            for index in 0..timelines {
                for number in 0..35 {
                    let needed = backups.iter().any(|(own, begin, length, standalone)| {
                        let own = own % timelines;
                        if *standalone {
                            index == own && (*begin..=begin + length).contains(&number)
                        } else {
                            naive(&branches, own, *begin, (index, number))
                        }
                    });
                    let segment = WalSegment { timeline: timeline(index), number };
                    let name = WalFileName::of_segment(segment, SIZE);
                    prop_assert_eq!(needs.hold(&name, &histories), needed, "{}", name);
                    let log = WalLog::of(&name).expect("a segment");
                    let (first, last) = (Place::first_of(log), Place::last_of(log));
                    prop_assert!(needed || !needs.hold_all(first, last, &histories), "{}", name);
                    prop_assert!(!needed || !needs.hold_none(first, last, &histories), "{}", name);
                    // Whatever is not known about a timeline only ever holds more.
                    if needed {
                        prop_assert_eq!(needs.hold(&name, &Histories::new()), true);
                    }
                }
            }
        }
    }

    #[test]
    fn labels_and_partial_segments_go_with_their_segment_and_history_files_never() {
        let mut needs = WalNeeds::default();
        needs.add(&backup(0, 5, 6, false));
        let hold =
            |name: &str| needs.hold(&WalFileName::parse(name).expect(name), &Histories::new());
        assert!(!hold("000000010000000000000004.partial"));
        assert!(!hold("000000010000000000000004.00000028.backup"));
        assert!(hold("000000010000000000000005.partial"));
        assert!(hold("000000010000000000000005.00000028.backup"));
        assert!(hold("00000001.history"));
    }
}
