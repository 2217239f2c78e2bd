//! Which backups lie on the line that the cluster took, and which on a branch that it left.
//!
//! ```text
//! timeline 1  ──A────┬──B──────C──      A: on the line of timeline 2
//! timeline 2         └─────D──          B, C: on a dead branch; D: on the line
//! ```
//!
//! Recovery follows the newest timeline unless told otherwise. From B it cannot get there: the
//! server dies of "requested timeline 2 is not a child of this server's history". Where it cannot
//! be told (a timeline without history file, a backup that does not say where it ends) nothing is
//! called dead. [`Line`] is pure; the catalog asks for one listing and one history file at most.

use crate::catalog::{Backup, BackupId, Catalog, CatalogError, CatalogListing, WalTop};
use crate::flow::Limits;
use crate::store::StoreErrorKind;
use crate::wal::{TimelineHistory, TimelineId};
use std::collections::{BTreeMap, BTreeSet};

/// A timeline with those that it descends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    timeline: TimelineId,
    /// Absent when it is not known.
    history: Option<TimelineHistory>,
}

/// Where a backup lies, seen from a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// Recovery from it reaches the line's end.
    OnLine,
    /// Recovery from it cannot follow the line.
    Dead,
    /// It cannot be told.
    Unknown,
}

impl Line {
    /// The line that ends in `timeline`, as far as `histories` tell.
    pub fn to(timeline: TimelineId, histories: &BTreeMap<TimelineId, TimelineHistory>) -> Self {
        let history = match timeline.number() {
            1 => Some(TimelineHistory::root(timeline)),
            _ => histories.get(&timeline).cloned(),
        };
        Self { timeline, history }
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Whether recovery along this line can start from the backup: it must have ended before the
    /// line left its timeline.
    ///
    /// Source: the checks of the checkpoint's timeline and of the minimum recovery point in
    /// `StartupXLOG` and `InitWalRecovery`, PostgreSQL src/backend/access/transam.
    pub fn branch_of(&self, backup: &Backup) -> Branch {
        let begin = backup.begin_segment();
        let Some(own) = backup.info.timeline.or(begin.map(|begin| begin.timeline)) else {
            return Branch::Unknown;
        };
        if own == self.timeline {
            return Branch::OnLine;
        }
        if own > self.timeline {
            return Branch::Dead;
        }
        let Some(history) = &self.history else { return Branch::Unknown };
        let Some(left_at) = history.left_at(own) else { return Branch::Dead };
        let begins_at = backup.info.begin_xlog;
        match (backup.info.end_xlog, begins_at) {
            (Some(end), _) if end <= left_at => Branch::OnLine,
            (Some(_), _) => Branch::Dead,
            (None, Some(begin)) if begin > left_at => Branch::Dead,
            (None, _) => Branch::Unknown,
        }
    }
}

/// The highest timeline of the archive's names and of these backups: the one that recovery
/// follows unless told otherwise.
pub fn newest_timeline(top: &WalTop, backups: &[Backup]) -> Option<TimelineId> {
    let files = top.files.iter().map(|file| file.name.timeline());
    let folders = top.folders.iter().filter_map(|folder| Some(folder.log()?.timeline));
    let done = backups.iter().filter(|backup| backup.is_done());
    let own = done.filter_map(|backup| backup.info.timeline);
    files.chain(folders).chain(own).max()
}

/// The DONE backups that recovery along the line cannot start from.
pub fn dead_backups(line: &Line, backups: &[Backup]) -> BTreeSet<BackupId> {
    let done = backups.iter().filter(|backup| backup.is_done());
    let dead = done.filter(|backup| line.branch_of(backup) == Branch::Dead);
    dead.map(|backup| backup.id.clone()).collect()
}

/// Whether the backups were taken of more than one cluster: then timelines with the same number
/// are not the same, and no history file tells whose it is.
pub fn several_clusters(backups: &[Backup]) -> bool {
    let mut identifiers = backups.iter().filter_map(|backup| backup.info.systemid.as_deref());
    let first = identifiers.next();
    identifiers.any(|other| Some(other) != first)
}

impl Catalog {
    /// Notes in the listing which of its backups lie on a dead branch. No request when all lie on
    /// the newest timeline, else a GET of its history file.
    pub(crate) async fn note_dead_branches(
        &self,
        listing: &mut CatalogListing,
        limits: &Limits,
    ) -> Result<(), CatalogError> {
        if let Some(line) = self.current_line(&listing.top, &listing.backups, limits).await? {
            listing.dead = dead_backups(&line, &listing.backups);
        }
        Ok(())
    }

    /// Where a backup lies that was read alone. Two requests.
    pub async fn branch_of(
        &self,
        backup: &Backup,
        limits: &Limits,
    ) -> Result<Branch, CatalogError> {
        let top = self.top_for_branches().await?;
        let line = self.current_line(&top, std::slice::from_ref(backup), limits).await?;
        Ok(line.map_or(Branch::Unknown, |line| line.branch_of(backup)))
    }

    /// The line of the newest timeline; `None` when nothing depends on it, or it cannot be told.
    async fn current_line(
        &self,
        top: &WalTop,
        backups: &[Backup],
        limits: &Limits,
    ) -> Result<Option<Line>, CatalogError> {
        let Some(newest) = newest_timeline(top, backups) else { return Ok(None) };
        let mut done = backups.iter().filter(|backup| backup.is_done());
        if several_clusters(backups) || done.all(|backup| backup.info.timeline == Some(newest)) {
            return Ok(None);
        }
        let of_newest = top.files.iter().filter(|file| file.name.timeline() == newest);
        let of_newest: Vec<_> = of_newest.cloned().collect();
        Ok(Some(Line::to(newest, &self.histories(&of_newest, limits).await?)))
    }

    /// What lies directly in `wals/`; nothing for an identity that may not look there.
    pub(crate) async fn top_for_branches(&self) -> Result<WalTop, CatalogError> {
        match self.wal_top().await {
            Err(CatalogError::Store(error)) if error.kind == StoreErrorKind::Denied => {
                tracing::debug!(%error, "cannot tell which backups lie on a dead branch");
                Ok(WalTop::default())
            }
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::branches::{Branch, Line, several_clusters};
    use crate::catalog::fixtures::{empty_catalog, limits, now, write};
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, Catalog};
    use crate::wal::{Lsn, TimelineHistory, TimelineId};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::collections::BTreeMap;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    fn backup(tli: u32, begin: u64, end: u64) -> Backup {
        Backup {
            id: BackupId::parse("20260101T000000").expect("id"),
            info: BackupInfo {
                status: Some(BackupStatus::Done),
                timeline: Some(timeline(tli)),
                begin_xlog: Some(Lsn::new(begin)),
                end_xlog: Some(Lsn::new(end)),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: None,
        }
    }

    fn histories(texts: &[(u32, &str)]) -> BTreeMap<TimelineId, TimelineHistory> {
        let parsed = texts.iter().map(|(number, text)| {
            let number = timeline(*number);
            (number, TimelineHistory::parse(number, text).expect("history"))
        });
        parsed.collect()
    }

    #[test]
    fn a_backup_that_ended_after_its_timeline_was_left_is_dead() {
        let histories = histories(&[(2, "1\t0/500\tx\n"), (3, "1\t0/900\tx\n")]);
        let to = |number: u32| Line::to(timeline(number), &histories);
        for (line, backup, branch) in [
            (to(2), backup(1, 0x100, 0x500), Branch::OnLine),
            (to(2), backup(1, 0x100, 0x501), Branch::Dead),
            (to(2), backup(2, 0x600, 0x700), Branch::OnLine),
            (to(3), backup(1, 0x600, 0x700), Branch::OnLine),
            // Timeline 3 does not descend from timeline 2.
            (to(3), backup(2, 0x600, 0x700), Branch::Dead),
            // An older line is asked for: what came later is not on it.
            (to(1), backup(2, 0x600, 0x700), Branch::Dead),
            (to(1), backup(1, 0x600, 0x700), Branch::OnLine),
            // Nothing is known of timeline 4.
            (to(4), backup(1, 0x100, 0x200), Branch::Unknown),
            (to(4), backup(4, 0x100, 0x200), Branch::OnLine),
        ] {
            assert_eq!(line.branch_of(&backup), branch, "{line:?} {backup:?}");
        }
        let mut silent = backup(1, 0x100, 0x200);
        silent.info.end_xlog = None;
        assert_eq!(to(2).branch_of(&silent), Branch::Unknown);
        silent.info.begin_xlog = Some(Lsn::new(0x501));
        assert_eq!(to(2).branch_of(&silent), Branch::Dead);
    }

    proptest! {
        /// The model walks from the line's end to its root and looks for the backup on the way.
        #[test]
        fn a_backup_is_on_the_line_exactly_when_the_way_back_passes_it(
            parents in proptest::collection::vec((any::<u32>(), 1u64..100), 0..6),
            target in any::<usize>(),
            own in any::<usize>(),
            begin in 1u64..100,
            length in 0u64..20,
        ) {
            let parents: Vec<(usize, u64)> = parents
                .iter()
                .enumerate()
                .map(|(index, (parent, at))| (usize::try_from(*parent).expect("64 bits") % (index + 1), *at))
                .collect();
            let (target, own) = (target % (parents.len() + 1), own % (parents.len() + 1));
            let number = |index: usize| u32::try_from(index + 1).expect("small");
            // Each timeline with the place in which the one after it on the way left it.
            let way = |mut index: usize| {
                let mut way = vec![(index, u64::MAX)];
                while index > 0 {
                    let (parent, at) = parents[index - 1];
                    way.push((parent, at));
                    index = parent;
                }
                way.reverse();
                way
            };
            let text = |index: usize| -> String {
                let ancestors = way(index).into_iter().filter(|(_, at)| *at != u64::MAX);
                ancestors.map(|(own, at)| format!("{}\t0/{at:X}\tx\n", number(own))).collect()
            };
            let histories: BTreeMap<_, _> = (1..=parents.len())
                .map(|index| {
                    let number = timeline(number(index));
                    (number, TimelineHistory::parse(number, &text(index)).expect("history"))
                })
                .collect();
            let backup = backup(number(own), begin, begin + length);
            let passes = way(target).iter().any(|(on, at)| *on == own && begin + length <= *at);
            let expected = if passes { Branch::OnLine } else { Branch::Dead };
            let line = Line::to(timeline(number(target)), &histories);
            prop_assert_eq!(line.branch_of(&backup), expected);
        }
    }

    async fn put(catalog: &Catalog, day: u32, tli: u32, begin: &str, end: &str, more: &str) {
        let folder = format!("p/main/base/2026010{day}T000000");
        let info = format!(
            "status=DONE\ntimeline={tli}\nbegin_time=2026-01-0{day} 00:00:00+00:00\n\
             begin_xlog=0/{begin}\nend_xlog=0/{end}\n{more}"
        );
        write(catalog.store(), &format!("{folder}/backup.info"), info).await;
        write(catalog.store(), &format!("{folder}/data.tar"), "x").await;
    }

    async fn dead(catalog: &Catalog) -> Vec<String> {
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        listing.dead.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_later_backup_of_a_dead_branch_is_told_and_not_the_last() {
        let catalog = empty_catalog();
        put(&catalog, 1, 1, "1000028", "1000100", "").await;
        put(&catalog, 2, 1, "9000028", "9000100", "").await;
        assert!(dead(&catalog).await.is_empty());
        write(catalog.store(), "p/main/wals/00000002.history", "1\t0/5000000\tx\n").await;
        assert_eq!(dead(&catalog).await, ["20260102T000000"]);
        for word in ["last", "latest"] {
            let last = catalog.select(word, &limits(), now()).await.expect("selects");
            assert_eq!(last.id.as_str(), "20260101T000000", "{word}");
        }
        let asked = catalog.select("20260102T000000", &limits(), now()).await.expect("by id");
        let branch = catalog.branch_of(&asked, &limits()).await.expect("asks");
        assert_eq!(branch, Branch::Dead);
    }

    #[tokio::test]
    async fn of_two_clusters_under_one_name_no_backup_is_called_dead() {
        let catalog = empty_catalog();
        put(&catalog, 1, 2, "1000028", "1000100", "systemid=7301\n").await;
        put(&catalog, 2, 1, "9000028", "9000100", "systemid=7388\n").await;
        write(catalog.store(), "p/main/wals/00000002.history", "1\t0/500000\tx\n").await;
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        assert!(several_clusters(&listing.backups));
        assert!(listing.dead.is_empty());
    }

    #[tokio::test]
    async fn an_unreadable_history_calls_no_backup_dead() {
        let catalog = empty_catalog();
        put(&catalog, 1, 1, "9000028", "9000100", "").await;
        write(catalog.store(), "p/main/wals/00000002.history", "nonsense").await;
        assert!(dead(&catalog).await.is_empty());
    }
}
