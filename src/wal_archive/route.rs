//! Which segments recovery will ask for next, and under which names.
//!
//! Recovery goes through the log by position, not by name: it crosses from one 4 GiB log into the
//! next, and where a timeline was left it looks for the child's segment first. Pure.

use crate::wal::{SegmentSize, TimelineHistory, TimelineId, WalSegment};

/// The way of a recovery, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub size: SegmentSize,
    /// Of the timeline that recovery goes to, when it has asked for it.
    pub history: Option<TimelineHistory>,
}

impl Route {
    /// The segments that may serve as `number` once `from` was replayed, in the order in which
    /// recovery asks for them.
    ///
    /// Source: `XLogFileReadAnyTLI`, PostgreSQL src/backend/access/transam/xlogrecovery.c: the
    /// newest timeline that had begun by then, and never one older than that of the last segment.
    pub fn candidates(&self, from: WalSegment, number: u64) -> Vec<WalSegment> {
        let begun = |(timeline, first): (TimelineId, u64)| {
            let serves = timeline >= from.timeline && first <= number;
            serves.then_some(WalSegment { timeline, number })
        };
        match &self.history {
            Some(history) if leads_through(history, from.timeline) => {
                self.timelines(history).into_iter().rev().filter_map(begun).collect()
            }
            _ => vec![WalSegment { number, ..from }],
        }
    }

    /// The timelines on the way, oldest first, each with its first segment.
    fn timelines(&self, history: &TimelineHistory) -> Vec<(TimelineId, u64)> {
        let segment = |timeline, at| WalSegment::containing(timeline, at, self.size).number;
        let mut first = 0;
        let mut timelines = Vec::new();
        for switch in history.switches() {
            timelines.push((switch.parent, first));
            first = segment(switch.parent, switch.at);
        }
        timelines.push((history.timeline(), first));
        timelines
    }
}

fn leads_through(history: &TimelineHistory, timeline: TimelineId) -> bool {
    history.timeline() == timeline || history.left_at(timeline).is_some()
}

#[cfg(test)]
mod tests {
    use crate::wal::{SegmentSize, TimelineHistory, TimelineId, WalSegment};
    use crate::wal_archive::route::Route;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    fn segment(timeline_number: u32, number: u64) -> WalSegment {
        WalSegment { timeline: timeline(timeline_number), number }
    }

    fn candidates(history: Option<(u32, &str)>, from: WalSegment, number: u64) -> Vec<String> {
        let history = history
            .map(|(target, text)| TimelineHistory::parse(timeline(target), text).expect("history"));
        let route = Route { size: SegmentSize::DEFAULT, history };
        let found = route.candidates(from, number).into_iter();
        found.map(|segment| segment.name(SegmentSize::DEFAULT)).collect()
    }

    #[test]
    fn without_a_history_the_timeline_goes_on_into_the_next_log() {
        let found = candidates(None, segment(2, 0x1FF), 0x200);
        assert_eq!(found, ["000000020000000200000000"]);
    }

    #[test]
    fn a_timeline_that_was_left_is_crossed_where_it_was_left() {
        // Left in the middle of segment 3.
        let history = Some((2, "1\t0/3800000\tno recovery target specified\n"));
        let from = segment(1, 1);
        assert_eq!(candidates(history, from, 2), ["000000010000000000000002"]);
        let both = ["000000020000000000000003", "000000010000000000000003"];
        assert_eq!(candidates(history, from, 3), both);
        assert_eq!(candidates(history, segment(2, 3), 4), ["000000020000000000000004"]);
    }

    #[test]
    fn of_several_timelines_the_newest_that_had_begun_comes_first() {
        let history = Some((5, "1\t0/2000000\tx\n3\t0/4000000\tx\n"));
        let found = |number| candidates(history, segment(1, 1), number);
        assert_eq!(found(2), ["000000030000000000000002", "000000010000000000000002"]);
        assert_eq!(found(3), ["000000030000000000000003", "000000010000000000000003"]);
        assert_eq!(found(4)[0], "000000050000000000000004");
    }

    #[test]
    fn a_history_of_another_branch_is_no_guide() {
        let history = Some((3, "1\t0/2000000\tx\n"));
        assert_eq!(candidates(history, segment(2, 4), 5), ["000000020000000000000005"]);
    }
}
