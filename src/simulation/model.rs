//! What must be true of an archive, whatever happened, told without any of the code under test.
//!
//! - no two contents are acknowledged, or lie, under one WAL name;
//! - every backup that is listed as DONE restores to what the cluster was;
//! - every archived segment that recovery from such a backup can need is there;
//! - so is all WAL of the living timeline that no DONE backup of its own has made superfluous;
//! - what was kept stays, and a policy leaves as many backups as it promises.

use crate::simulation::cluster::{Content, segment_name};
use std::collections::{BTreeMap, BTreeSet};

/// A backup as the catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub timeline: u32,
    pub begin: u64,
    pub end: u64,
    pub standalone: bool,
}

#[derive(Default)]
pub struct Model {
    /// Files that were acknowledged, with their contents' sums.
    pub archived: BTreeMap<String, u64>,
    /// For each timeline but the first: where it branched off which.
    pub branches: BTreeMap<u32, (u32, u64)>,
    pub live: u32,
    /// What any backup may have taken.
    pub contents: Vec<Content>,
    /// Kept, as far as that was acknowledged before this round.
    pub kept: BTreeSet<String>,
    /// Those that a standalone keep was ever asked for: what follows their end may be gone.
    pub standalone: BTreeSet<String>,
    /// DONE after the last round.
    pub done: BTreeSet<String>,
}

impl Model {
    pub fn new() -> Self {
        Self { live: 1, ..Self::default() }
    }

    /// Notes that a file was acknowledged; the earlier content when it was another one.
    pub fn acknowledge(&mut self, name: &str, sum: u64) -> Result<(), String> {
        match self.archived.insert(name.into(), sum) {
            Some(earlier) if earlier != sum => {
                Err(format!("two contents of \"{name}\" were acknowledged"))
            }
            _ => Ok(()),
        }
    }

    /// Timelines from `timeline` down to the first, each with the segment in which it is left
    /// (the first one: never).
    fn line(&self, timeline: u32) -> Vec<(u32, u64)> {
        let mut line = vec![(timeline, u64::MAX)];
        let mut at = timeline;
        while let Some((parent, segment)) = self.branches.get(&at) {
            line.push((*parent, *segment));
            at = *parent;
        }
        line
    }

    /// Acknowledged files that recovery from `backup` can need.
    pub fn needed_by(&self, backup: &Listed) -> Vec<&str> {
        let own = |number: u64| {
            let last = if backup.standalone { backup.end } else { u64::MAX };
            backup.begin <= number && number <= last
        };
        let reachable = |timeline: u32| {
            let left = self.line(timeline).into_iter().find(|(of, _)| *of == backup.timeline);
            !backup.standalone && left.is_some_and(|(_, at)| at > backup.end)
        };
        let needed = |timeline: u32, number: u64| match timeline == backup.timeline {
            true => own(number),
            false => reachable(timeline),
        };
        self.segments().filter(|(_, tli, number)| needed(*tli, *number)).map(|all| all.0).collect()
    }

    /// Acknowledged files of the living timeline that no DONE backup on it makes superfluous.
    pub fn needed_live(&self, listed: &[Listed]) -> Vec<&str> {
        let begins = listed.iter().filter(|backup| backup.timeline == self.live);
        let from = begins.map(|backup| backup.begin).max().unwrap_or(0);
        let live = move |(_, timeline, number): &(&str, u32, u64)| {
            *timeline == self.live && *number >= from
        };
        self.segments().filter(live).map(|all| all.0).collect()
    }

    fn segments(&self) -> impl Iterator<Item = (&str, u32, u64)> {
        self.archived.keys().filter_map(|name| {
            let timeline = u32::from_str_radix(name.get(..8)?, 16).ok()?;
            let number = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
            (name.len() == 24).then_some((name.as_str(), timeline, number))
        })
    }

    /// The files between which a backup is consistent.
    pub fn own_wal(backup: &Listed) -> impl Iterator<Item = String> {
        let timeline = backup.timeline;
        (backup.begin..=backup.end).map(move |number| segment_name(timeline, number))
    }
}
