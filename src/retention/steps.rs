//! The deletions one after another, and what WAL is needed after each. Pure.
//!
//! Cost: each backup is looked at once, whatever the number of deletions; each WAL file costs a
//! search among the places where what is needed begins or ends.

use crate::catalog::{
    Backup, BackupId, Branch, CatalogListing, KeepTarget, Line, WalLog, newest_timeline,
};
use crate::retention::RetentionError;
use crate::retention::needs::{Histories, Place, Position, WalNeeds, is_recoverable, is_running};
use crate::retention::select::Doomed;
use crate::wal::{SegmentSize, TimelineId, WalFileName};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The deletions so far, and what is needed after each: step 0 is before the first.
pub struct Steps {
    histories: Histories,
    needs: Vec<WalNeeds>,
    /// Whether, at the step, no older backup stays: then all obsolete WAL goes, whoever left it
    /// behind; else only what the step itself makes obsolete.
    sweeps: Vec<bool>,
    /// Where on its timeline a file may be needed otherwise than the one before it; sorted.
    borders: Vec<Position>,
    /// What is decided, by timeline and number of borders passed.
    decided: BTreeMap<(TimelineId, usize), Option<usize>>,
}

/// The backups that stay at a step, as far as their WAL goes.
struct Stays<'a> {
    listing: &'a CatalogListing,
    now: Timestamp,
    needs: WalNeeds,
    /// Of the backups that may be recovered to any later time.
    oldest_begin: Option<Timestamp>,
    lowest_id: Option<&'a BackupId>,
    /// What the cluster writes now, and what that descends from.
    line: Option<Line>,
    /// Whether a backup is among them that tells from where on the line is needed.
    line_is_told: bool,
}

impl Steps {
    /// Follows the deletion of `doomed`, oldest first.
    pub fn new(
        listing: &CatalogListing,
        doomed: &[Doomed<'_>],
        histories: Histories,
        now: Timestamp,
    ) -> Self {
        let mut stays = Stays::after_all(listing, doomed, &histories, now);
        // From the last to the first: what is needed only grows on the way back.
        let mut steps = Vec::new();
        for doomed in doomed.iter().rev() {
            steps.push((stays.needs_without(doomed), !stays.any_older(doomed)));
            stays.add_doomed(doomed);
        }
        steps.push((stays.needs_of_all(), false));
        steps.reverse();
        let (needs, sweeps): (Vec<WalNeeds>, Vec<bool>) = steps.into_iter().unzip();
        let mut borders: Vec<Position> = needs.iter().flat_map(WalNeeds::borders).collect();
        borders.sort_unstable();
        borders.dedup();
        Self { histories, needs, sweeps, borders, decided: BTreeMap::new() }
    }

    /// The step that makes the file obsolete; `None` when it stays.
    pub fn obsolete_since(&mut self, name: &WalFileName) -> Option<usize> {
        let place = Place::of(name)?;
        let passed = self.borders.partition_point(|border| *border <= place.position());
        let stretch = (place.timeline(), passed);
        match self.decided.get(&stretch) {
            Some(step) => *step,
            None => {
                let step = self.decide(place);
                self.decided.insert(stretch, step);
                step
            }
        }
    }

    /// The same for one place, without looking at what was decided about its neighbours.
    pub fn decide(&self, place: Place) -> Option<usize> {
        let held = |step: usize| self.needs[step].hold_all(place, place, &self.histories);
        if held(self.needs.len() - 1) {
            return None;
        }
        (1..self.needs.len()).find(|&step| !held(step) && (self.sweeps[step] || held(step - 1)))
    }

    /// Whether any step can make a file of this log obsolete. A no is certain, a yes is not.
    pub fn may_take_from(&self, log: WalLog) -> bool {
        let (first, last) = (Place::first_of(log), Place::last_of(log));
        let holds_all = |step: usize| self.needs[step].hold_all(first, last, &self.histories);
        let holds_none = |step: usize| self.needs[step].hold_none(first, last, &self.histories);
        let takes = |step: usize| !holds_all(step) && (self.sweeps[step] || !holds_none(step - 1));
        !holds_all(self.needs.len() - 1) && (1..self.needs.len()).any(takes)
    }

    /// Why WAL stays that may be obsolete, if so.
    pub fn unknown(&self) -> Option<RetentionError> {
        let ids: Vec<String> = self.needs.last()?.unknown.iter().map(BackupId::to_string).collect();
        let asked = self.needs.len() > 1;
        (asked && !ids.is_empty()).then_some(RetentionError::WalUnknown { ids })
    }
}

impl<'a> Stays<'a> {
    /// What is left when all that is `doomed` is gone.
    fn after_all(
        listing: &'a CatalogListing,
        doomed: &[Doomed<'_>],
        histories: &Histories,
        now: Timestamp,
    ) -> Self {
        let gone: BTreeSet<&BackupId> = doomed.iter().map(Doomed::id).collect();
        let newest = newest_timeline(&listing.top, &listing.backups);
        let mut stays = Self {
            listing,
            now,
            needs: WalNeeds::default(),
            oldest_begin: None,
            lowest_id: None,
            line: newest.map(|newest| Line::to(newest, histories)),
            line_is_told: false,
        };
        // What is whole but for its entry will be listed again.
        let all = listing.backups.iter().chain(&listing.unlisted);
        for backup in all.filter(|backup| !gone.contains(&backup.id)) {
            stays.add(backup);
        }
        let unreadable = listing.unreadable.iter();
        stays.needs.everything |= unreadable.map(|backup| &backup.id).any(|id| !gone.contains(id));
        stays
    }

    fn add(&mut self, backup: &'a Backup) {
        if is_running(backup, self.now) {
            self.needs.add_running(backup);
        } else if is_recoverable(backup) || backup.kept().is_some() {
            self.needs.add(backup);
        }
        if is_recoverable(backup) {
            let began = backup.began();
            self.oldest_begin = Some(self.oldest_begin.map_or(began, |oldest| oldest.min(began)));
            let lowest = self.lowest_id.unwrap_or(&backup.id);
            self.lowest_id = Some(lowest.min(&backup.id));
        }
        self.line_is_told |= self.tells_line(backup);
    }

    /// Whether the line can be recovered from the backup: then WAL from before it is not needed.
    fn tells_line(&self, backup: &Backup) -> bool {
        let on_line = |line: &Line| line.branch_of(backup) == Branch::OnLine;
        backup.is_done()
            && backup.kept() != Some(KeepTarget::Standalone)
            && self.line.as_ref().is_some_and(on_line)
    }

    fn add_doomed(&mut self, doomed: &Doomed<'a>) {
        match doomed {
            Doomed::Backup(backup) => self.add(backup),
            Doomed::Unreadable(_) => self.needs.everything = true,
        }
    }

    /// What these backups need, just after `gone` went.
    fn needs_without(&self, gone: &Doomed<'_>) -> WalNeeds {
        let mut needs = self.needs.clone();
        let mut told = self.line_is_told;
        // Without any backup the archive is of no use, but it may be the beginning of one that is
        // not in this catalog: like Barman, leave what came after the last backup began.
        if self.oldest_begin.is_none() {
            match gone {
                Doomed::Backup(backup) => {
                    needs.add_all_from(backup);
                    told |= self.tells_line(backup);
                }
                Doomed::Unreadable(_) => needs.everything = true,
            }
        }
        self.with_line(needs, told)
    }

    fn needs_of_all(&self) -> WalNeeds {
        self.with_line(self.needs.clone(), self.line_is_told)
    }

    fn with_line(&self, mut needs: WalNeeds, told: bool) -> WalNeeds {
        if let Some(line) = self.line.as_ref().filter(|_| !told) {
            let sizes = self.listing.backups.iter().map(|backup| backup.info.segment_size());
            // Where a segment ends later in the names, more is held.
            let smallest = sizes.min_by_key(|size| size.bytes()).unwrap_or(SegmentSize::DEFAULT);
            needs.add_open_line(line, smallest);
        }
        needs
    }

    /// Whether a backup is among these that began earlier and may be recovered to any later time.
    fn any_older(&self, gone: &Doomed<'_>) -> bool {
        match gone {
            Doomed::Backup(gone) => self.oldest_begin.is_some_and(|oldest| oldest < gone.began()),
            Doomed::Unreadable(gone) => self.lowest_id.is_some_and(|lowest| *lowest < gone.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::{
        Backup, BackupId, BackupInfo, BackupStatus, CatalogListing, Keep, KeepTarget, Line,
        UnreadableBackup,
    };
    use crate::retention::needs::{Histories, Place, WalNeeds, is_recoverable, is_running};
    use crate::retention::select::Doomed;
    use crate::retention::steps::Steps;
    use crate::wal::{SegmentSize, TimelineId, WalFileName, WalSegment};
    use jiff::Timestamp;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const NOW: Timestamp = Timestamp::constant(1_795_227_000, 0);
    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    fn id(number: usize) -> BackupId {
        BackupId::parse(&format!("202601{:02}T000000", number + 1)).expect("id")
    }

    fn backup(number: usize, kind: u8, tli: u32, segment: u64) -> Backup {
        let name = WalSegment { timeline: timeline(tli), number: segment }.name(SIZE);
        let status = match kind {
            0 => BackupStatus::Failed,
            1 => BackupStatus::Started,
            _ => BackupStatus::Done,
        };
        Backup {
            id: id(number),
            info: BackupInfo {
                status: Some(status),
                timeline: Some(timeline(tli)),
                begin_wal: Some(name.clone()),
                end_wal: Some(name),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: (kind == 2).then(|| Keep::new(KeepTarget::Standalone)),
        }
    }

    /// What is needed when `gone` has gone, from the beginning. Without history files only the
    /// newest timeline itself is known to be on the line, or the first when there is no other.
    fn needs(listing: &CatalogListing, gone: &[Doomed<'_>]) -> WalNeeds {
        let stays = |id: &BackupId| !gone.iter().any(|gone| gone.id() == id);
        let left = || listing.backups.iter().filter(|backup| stays(&backup.id));
        let newest = listing.backups.iter().filter_map(|backup| backup.info.timeline).max();
        let tells = |backup: &Backup| {
            backup.is_done() && backup.keep.is_none() && backup.info.timeline == newest
        };
        let mut needs = WalNeeds::default();
        for backup in left() {
            if is_running(backup, NOW) {
                needs.add_running(backup);
            } else if is_recoverable(backup) || backup.kept().is_some() {
                needs.add(backup);
            }
        }
        needs.everything |= listing.unreadable.iter().any(|unreadable| stays(&unreadable.id));
        let mut told = left().any(tells);
        if !left().any(is_recoverable) {
            match gone.last() {
                Some(Doomed::Backup(backup)) => {
                    needs.add_all_from(backup);
                    told |= tells(backup);
                }
                Some(Doomed::Unreadable(_)) => needs.everything = true,
                None => {}
            }
        }
        if let Some(newest) = newest.filter(|_| !told) {
            needs.add_open_line(&Line::to(newest, &Histories::new()), SIZE);
        }
        needs
    }

    fn sweeps(listing: &CatalogListing, gone: &[Doomed<'_>]) -> bool {
        let Some(last) = gone.last() else { return false };
        let older = |backup: &Backup| match last.readable() {
            Some(last) => backup.began() < last.began(),
            None => backup.id < *last.id(),
        };
        !listing.backups.iter().any(|backup| {
            !gone.iter().any(|gone| *gone.id() == backup.id)
                && is_recoverable(backup)
                && older(backup)
        })
    }

    fn naive(listing: &CatalogListing, doomed: &[Doomed<'_>], name: &WalFileName) -> Option<usize> {
        let held = |step: usize| needs(listing, &doomed[..step]).hold(name, &Histories::new());
        if held(doomed.len()) {
            return None;
        }
        (1..=doomed.len())
            .find(|&step| !held(step) && (sweeps(listing, &doomed[..step]) || held(step - 1)))
    }

    proptest! {
        #[test]
        fn each_file_goes_with_the_deletion_that_the_naive_model_says(
            backups in proptest::collection::vec((0u8..8, 1u32..4, 0u64..600, any::<bool>()), 1..7),
            unreadable in any::<Option<bool>>(),
        ) {
            let backup = |(number, (kind, tli, segment, _)): (usize, &(u8, u32, u64, bool))| {
                backup(number, *kind, *tli, *segment)
            };
            let broken = unreadable.map(|_| UnreadableBackup {
                id: id(3),
                object: String::new(),
                reason: String::new(),
                objects: Vec::new(),
                keep: None,
            });
            let mut listing = CatalogListing {
                backups: backups.iter().enumerate().map(backup).collect(),
                unreadable: broken.into_iter().collect(),
                ..CatalogListing::default()
            };
            if unreadable.is_some() {
                listing.backups.retain(|backup| backup.id != id(3));
            }
            let goes = |backup: &&Backup| {
                let number = (0..7).find(|number| id(*number) == backup.id).unwrap_or(0);
                backups[number].3
            };
            let mut doomed: Vec<Doomed<'_>> =
                listing.backups.iter().filter(goes).map(Doomed::Backup).collect();
            if unreadable == Some(true) {
                doomed.extend(listing.unreadable.iter().map(Doomed::Unreadable));
                doomed.sort_by_key(|doomed| doomed.id().clone());
            }
            let mut steps = Steps::new(&listing, &doomed, Histories::new(), NOW);
            for (tli, number) in (1..4).flat_map(|tli| (0..610).map(move |number| (tli, number))) {
                let segment = WalSegment { timeline: timeline(tli), number };
                let name = WalFileName::of_segment(segment, SIZE);
                let step = steps.obsolete_since(&name);
                let place = Place::of(&name).expect("a segment");
                prop_assert_eq!(step, steps.decide(place), "{}", name);
                if number % 7 == 0 || backups.iter().any(|backup| backup.2.abs_diff(number) < 2) {
                    prop_assert_eq!(step, naive(&listing, &doomed, &name), "{}", name);
                }
            }
        }
    }
}
