//! Which backup: by its id or name, or the best one for a recovery target (contract §13.1).

use crate::catalog::{
    Backup, BackupStatus, Branch, Catalog, CatalogError, CatalogListing, Line, newest_timeline,
    several_clusters,
};
use crate::flow::Limits;
use crate::restore::{RestoreError, RestoreOptions, Unfinished};
use crate::wal::{Lsn, TimelineHistory, TimelineId};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// How the backup is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreSelection {
    /// An id, a name, or a shortcut such as `latest`.
    Named(String),
    /// The newest backup from which the target can be reached.
    Auto(RecoveryTarget),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryTarget {
    pub timeline: TargetTimeline,
    pub point: TargetPoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetTimeline {
    Any,
    Number(TimelineId),
    /// That of the highest WAL name in the archive, from any backup that leads to it.
    Latest,
    /// Means something to a running recovery only; here it is an error.
    Current,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetPoint {
    EndOfArchive,
    Time(Timestamp),
    Lsn(Lsn),
}

/// Finds the backup and refuses one that was never completed, unless told otherwise.
///
/// Ancestry decides: recovery follows the newest timeline unless told otherwise, and from a
/// backup of a branch that this timeline left it cannot. Such a backup is never chosen by itself;
/// who names it is told what it leads to.
pub async fn select(
    catalog: &Catalog,
    selection: &RestoreSelection,
    options: &RestoreOptions,
    limits: &Limits,
) -> Result<Backup, RestoreError> {
    let backup = match selection {
        RestoreSelection::Named(text) => {
            let selected = catalog.select(text, limits, options.now).await;
            let backup = selected.map_err(RestoreError::Catalog)?;
            warn_of_dead_branch(catalog, &backup, limits).await;
            backup
        }
        RestoreSelection::Auto(target) => choose(catalog, target, options, limits).await?,
    };
    if backup.status() == BackupStatus::Incomplete {
        // Says which tarball is missing.
        backup.tarballs().map_err(RestoreError::Tarballs)?;
    }
    if !backup.is_done() && options.unfinished == Unfinished::Refuse {
        let (id, status) = (backup.id.clone(), backup.status());
        return Err(RestoreError::NotDone { id, status });
    }
    Ok(backup)
}

async fn choose(
    catalog: &Catalog,
    target: &RecoveryTarget,
    options: &RestoreOptions,
    limits: &Limits,
) -> Result<Backup, RestoreError> {
    if target.timeline == TargetTimeline::Current {
        return Err(RestoreError::CurrentTimeline);
    }
    let listing = catalog.load(limits, options.now).await.map_err(RestoreError::Catalog)?;
    let timeline = match target.timeline {
        TargetTimeline::Any | TargetTimeline::Current => {
            newest_timeline(&listing.top, &listing.backups)
        }
        TargetTimeline::Number(timeline) => Some(timeline),
        TargetTimeline::Latest => {
            let newest = catalog.newest_timeline().await.map_err(RestoreError::Catalog)?;
            Some(newest.ok_or_else(|| RestoreError::EmptyArchive { server: catalog.server() })?)
        }
    };
    let histories = catalog.histories(&listing.top.files, limits).await;
    let histories = histories.map_err(RestoreError::Catalog)?;
    let line = timeline.map(|timeline| Line::to(timeline, &histories));
    let way = Way { line: line.as_ref(), asked: target.timeline };
    if let Some(backup) = best(&listing, way, target.point) {
        // Loaded whole, so it is in the listing; the clone spares a second read.
        return Ok(backup.clone());
    }
    let nowhere = Way { line: None, asked: TargetTimeline::Any };
    let dead = best(&listing, nowhere, target.point)
        .filter(|backup| line.as_ref().is_some_and(|line| line.branch_of(backup) == Branch::Dead));
    if let Some(dead) = dead {
        tell_where_it_leads(dead, line.as_ref(), &histories);
    }
    Err(RestoreError::NoCandidate)
}

/// Where recovery shall go.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// `None` in an empty archive: then nothing is known of timelines.
    line: Option<&'a Line>,
    asked: TargetTimeline,
}

/// The newest DONE backup on the way that ends at or before the point. One that does not tell
/// where it ends is passed over.
fn best<'a>(listing: &'a CatalogListing, way: Way<'_>, point: TargetPoint) -> Option<&'a Backup> {
    let any = way.asked == TargetTimeline::Any;
    let mixed = several_clusters(&listing.backups);
    let on_way = |backup: &Backup| match way.line {
        None => true,
        // Equal numbers of two clusters are not one timeline: only the number is left.
        Some(line) if mixed => any || backup.info.timeline == Some(line.timeline()),
        Some(line) => match line.branch_of(backup) {
            Branch::OnLine => true,
            Branch::Dead => false,
            // A timeline that was asked for and has no history cannot be reached from another.
            Branch::Unknown => any,
        },
    };
    let fits = |backup: &&Backup| {
        let info = &backup.info;
        let in_time = match point {
            TargetPoint::EndOfArchive => true,
            TargetPoint::Time(time) => {
                info.end_time.as_ref().is_some_and(|end| end.timestamp() <= time)
            }
            TargetPoint::Lsn(lsn) => info.end_xlog.is_some_and(|end| end <= lsn),
        };
        in_time && on_way(backup)
    };
    listing.done_newest_first().into_iter().find(fits)
}

/// Tells who names a backup of a dead branch what can become of it. What cannot be found out
/// does not stand in the way.
async fn warn_of_dead_branch(catalog: &Catalog, backup: &Backup, limits: &Limits) {
    let look = async {
        let top = catalog.wal_top().await?;
        let newest = newest_timeline(&top, std::slice::from_ref(backup));
        if newest.is_none() || newest == backup.info.timeline {
            return Ok(None);
        }
        Ok::<_, CatalogError>(newest.zip(Some(catalog.histories(&top.files, limits).await?)))
    };
    match look.await {
        Ok(Some((newest, histories))) => {
            let line = Line::to(newest, &histories);
            if line.branch_of(backup) == Branch::Dead {
                tell_where_it_leads(backup, Some(&line), &histories);
            }
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "cannot tell whether the backup's branch is dead"),
    }
}

fn tell_where_it_leads(
    backup: &Backup,
    line: Option<&Line>,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) {
    let end = line.map_or(0, |line| line.timeline().number());
    match highest_timeline(backup, histories) {
        Some(reachable) => tracing::warn!(
            backup_id = %backup.id,
            "recovery from this backup cannot reach timeline {end}, which left the backup's branch \
             before its end: set recovery_target_timeline to '{reachable}'"
        ),
        None => tracing::warn!(backup_id = %backup.id, "the backup does not tell its timeline"),
    }
}

/// The highest timeline that recovery from the backup can follow.
fn highest_timeline(
    backup: &Backup,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> Option<TimelineId> {
    let own = backup.info.timeline;
    let reachable =
        |timeline: &TimelineId| Line::to(*timeline, histories).branch_of(backup) == Branch::OnLine;
    histories.keys().copied().filter(reachable).chain(own).max()
}

#[cfg(test)]
mod tests {
    use crate::catalog::Line;
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, CatalogListing};
    use crate::restore::select::{Way, best, highest_timeline};
    use crate::restore::{TargetPoint, TargetTimeline};
    use crate::wal::{Lsn, TimelineHistory, TimelineId};
    use std::collections::BTreeMap;

    fn backup(id: &str, status: BackupStatus, timeline: u32, end: Option<(&str, u64)>) -> Backup {
        let time = |text: &str| {
            let timestamp: jiff::Timestamp = text.parse().expect(text);
            timestamp.to_zoned(jiff::tz::TimeZone::UTC)
        };
        Backup {
            id: BackupId::parse(id).expect(id),
            info: BackupInfo {
                status: Some(status),
                timeline: Some(TimelineId::new(timeline).expect("timeline")),
                end_time: end.map(|(text, _)| time(text)),
                end_xlog: end.map(|(_, lsn)| Lsn::new(lsn)),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: None,
        }
    }

    fn listing() -> CatalogListing {
        use BackupStatus::{Done, Failed, Started};
        CatalogListing {
            backups: vec![
                backup("20260101T000000", Done, 1, Some(("2026-01-01T01:00:00Z", 100))),
                backup("20260102T000000", Done, 1, Some(("2026-01-02T01:00:00Z", 200))),
                backup("20260103T000000", Done, 2, Some(("2026-01-03T01:00:00Z", 300))),
                backup("20260104T000000", Done, 2, None),
                backup("20260105T000000", Failed, 2, Some(("2026-01-05T01:00:00Z", 500))),
                backup("20260106T000000", Started, 2, None),
            ],
            ..CatalogListing::default()
        }
    }

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).expect("timeline")
    }

    /// Timeline 2 left 1 at 0/FA (250), 3 left 2 at 0/12B (299), 4 left 1 at 0/96 (150).
    fn histories() -> BTreeMap<TimelineId, TimelineHistory> {
        let texts = [(2, "1 0/FA"), (3, "1 0/FA\n2 0/12B"), (4, "1 0/96")];
        let parse = |(number, text): (u32, &str)| {
            (tli(number), TimelineHistory::parse(tli(number), text).expect(text))
        };
        texts.into_iter().map(parse).collect()
    }

    fn pick(timeline: Option<u32>, point: TargetPoint) -> Option<String> {
        pick_from(&listing(), timeline, point)
    }

    fn pick_from(
        listing: &CatalogListing,
        timeline: Option<u32>,
        point: TargetPoint,
    ) -> Option<String> {
        let line = Line::to(tli(timeline.unwrap_or(2)), &histories());
        let asked = timeline.map_or(TargetTimeline::Any, |n| TargetTimeline::Number(tli(n)));
        let way = Way { line: Some(&line), asked };
        best(listing, way, point).map(|backup| backup.id.to_string())
    }

    #[test]
    fn without_a_target_the_newest_done_backup_is_best() {
        assert_eq!(pick(None, TargetPoint::EndOfArchive).as_deref(), Some("20260104T000000"));
        assert_eq!(pick(Some(1), TargetPoint::EndOfArchive).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(Some(9), TargetPoint::EndOfArchive), None);
        let empty = Way { line: None, asked: TargetTimeline::Any };
        let listing = listing();
        let best = best(&listing, empty, TargetPoint::EndOfArchive).expect("one");
        assert_eq!(best.id.as_str(), "20260104T000000");
    }

    #[test]
    fn a_backup_of_the_parent_timeline_leads_to_a_timeline_without_backups() {
        // Timeline 3 left 2 before the backup there ended.
        assert_eq!(pick(Some(3), TargetPoint::EndOfArchive).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(Some(4), TargetPoint::EndOfArchive).as_deref(), Some("20260101T000000"));
    }

    #[test]
    fn a_later_backup_of_a_dead_branch_is_never_chosen() {
        use BackupStatus::Done;
        let mut listing = listing();
        let dead = backup("20260107T000000", Done, 1, Some(("2026-01-07T01:00:00Z", 700)));
        listing.backups.push(dead);
        for asked in [None, Some(2), Some(3)] {
            let picked = pick_from(&listing, asked, TargetPoint::EndOfArchive).expect("one");
            assert_ne!(picked, "20260107T000000", "{asked:?}");
        }
        // It is the right one for its own branch.
        let own = pick_from(&listing, Some(1), TargetPoint::EndOfArchive);
        assert_eq!(own.as_deref(), Some("20260107T000000"));
        let highest = |index: usize| {
            highest_timeline(&listing.backups[index], &histories()).map(TimelineId::number)
        };
        assert_eq!((highest(6), highest(0), highest(2)), (Some(1), Some(4), Some(2)));
    }

    #[test]
    fn a_time_needs_a_backup_that_ended_by_then() {
        let at = |text: &str| TargetPoint::Time(text.parse().expect(text));
        assert_eq!(pick(None, at("2026-01-02T01:00:00Z")).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(None, at("2026-01-02T00:59:59Z")).as_deref(), Some("20260101T000000"));
        assert_eq!(pick(None, at("2026-02-01T00:00:00Z")).as_deref(), Some("20260103T000000"));
        assert_eq!(pick(None, at("2025-01-01T00:00:00Z")), None);
    }

    #[test]
    fn an_lsn_needs_a_backup_that_ended_there_or_before() {
        let at = |bytes| TargetPoint::Lsn(Lsn::new(bytes));
        assert_eq!(pick(None, at(299)).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(None, at(300)).as_deref(), Some("20260103T000000"));
        assert_eq!(pick(Some(1), at(300)).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(None, at(99)), None);
    }
}
