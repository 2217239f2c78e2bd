//! Timeline history files: which timeline branched off which one, and where.

use crate::wal::{Lsn, TimelineId};

/// Where one timeline was left for its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    pub parent: TimelineId,
    /// First position that belongs to the child.
    pub at: Lsn,
}

/// The ancestry of one timeline, oldest switch first.
///
/// Source: `readTimeLineHistory`, PostgreSQL src/backend/access/transam/timeline.c.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HistoryError {
    #[error("line {line} of the timeline history file is malformed: \"{text}\"")]
    Malformed { line: usize, text: String },
    #[error("timelines in the history file are not in increasing order at line {line}")]
    Disorder { line: usize },
}

impl TimelineHistory {
    /// The history of a timeline that branched off nothing.
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, switches: Vec::new() }
    }

    /// Parses the history file of `timeline`; `#` starts a comment, empty lines are skipped.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let trimmed = line.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let malformed =
                || HistoryError::Malformed { line: line_number, text: line.to_string() };
            let switch = parse_switch(trimmed).ok_or_else(malformed)?;
            if switches.last().is_some_and(|previous| previous.parent >= switch.parent)
                || switch.parent >= timeline
            {
                return Err(HistoryError::Disorder { line: line_number });
            }
            switches.push(switch);
        }
        Ok(Self { timeline, switches })
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Oldest first.
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// The end of `ancestor` on the way to this timeline, excluded; `None` when this timeline
    /// does not descend from it (or is it).
    pub fn left_at(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.switches.iter().find(|switch| switch.parent == ancestor).map(|switch| switch.at)
    }
}

fn parse_switch(line: &str) -> Option<TimelineSwitch> {
    let mut words = line.split_ascii_whitespace();
    let parent = TimelineId::new(words.next()?.parse().ok()?).ok()?;
    let at = words.next()?.parse().ok()?;
    Some(TimelineSwitch { parent, at })
}

#[cfg(test)]
mod tests {
    use crate::wal::{TimelineHistory, TimelineId};

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    #[test]
    fn a_history_file_gives_the_switches_in_order() {
        let text =
            "# comment\n1\t0/1B7F8B0\tno recovery target specified\n\n2\t0/3000000\tat time\n";
        let history = TimelineHistory::parse(timeline(3), text).expect("parses");
        assert_eq!(history.switches().len(), 2);
        assert_eq!(history.left_at(timeline(1)).expect("ancestor").to_string(), "0/1B7F8B0");
        assert_eq!(history.left_at(timeline(3)), None);
    }

    #[test]
    fn disorder_and_nonsense_are_refused() {
        assert!(TimelineHistory::parse(timeline(3), "2 0/1\n1 0/2\n").is_err());
        assert!(TimelineHistory::parse(timeline(2), "2 0/1\n").is_err());
        assert!(TimelineHistory::parse(timeline(2), "one 0/1\n").is_err());
        assert!(TimelineHistory::parse(timeline(2), "1\n").is_err());
    }
}
