//! Which backup: by its id or name, or the best one for a recovery target (contract §13.1).

use crate::catalog::{Backup, BackupId, BackupStatus, Catalog, CatalogListing};
use crate::flow::Limits;
use crate::restore::{RestoreError, RestoreOptions, Unfinished};
use crate::wal::{Lsn, TimelineId};
use jiff::Timestamp;

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
    /// That of the highest WAL name in the archive.
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
pub async fn select(
    catalog: &Catalog,
    selection: &RestoreSelection,
    options: &RestoreOptions,
    limits: &Limits,
) -> Result<Backup, RestoreError> {
    let backup = match selection {
        RestoreSelection::Named(text) => {
            catalog.select(text, limits, options.now).await.map_err(RestoreError::Catalog)?
        }
        RestoreSelection::Auto(target) => {
            let timeline = timeline(catalog, target.timeline).await?;
            let listing = catalog.load(limits, options.now).await.map_err(RestoreError::Catalog)?;
            let id = best(&listing, timeline, target.point).ok_or(RestoreError::NoCandidate)?;
            // Loaded whole, so it is in the listing; the clone spares a second read.
            listing.get(&id).cloned().ok_or(RestoreError::NoCandidate)?
        }
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

async fn timeline(
    catalog: &Catalog,
    wanted: TargetTimeline,
) -> Result<Option<TimelineId>, RestoreError> {
    match wanted {
        TargetTimeline::Any => Ok(None),
        TargetTimeline::Number(timeline) => Ok(Some(timeline)),
        TargetTimeline::Current => Err(RestoreError::CurrentTimeline),
        TargetTimeline::Latest => {
            let newest = catalog.newest_timeline().await.map_err(RestoreError::Catalog)?;
            newest.map(Some).ok_or_else(|| RestoreError::EmptyArchive { server: catalog.server() })
        }
    }
}

/// The newest DONE backup on the timeline that ends at or before the point. One that does not
/// tell where it ends is passed over.
fn best(
    listing: &CatalogListing,
    timeline: Option<TimelineId>,
    point: TargetPoint,
) -> Option<BackupId> {
    let fits = |backup: &&Backup| {
        let info = &backup.info;
        let on_timeline = timeline.is_none() || info.timeline == timeline;
        let in_time = match point {
            TargetPoint::EndOfArchive => true,
            TargetPoint::Time(time) => {
                info.end_time.as_ref().is_some_and(|end| end.timestamp() <= time)
            }
            TargetPoint::Lsn(lsn) => info.end_xlog.is_some_and(|end| end <= lsn),
        };
        on_timeline && in_time
    };
    listing.done_newest_first().into_iter().find(fits).map(|backup| backup.id.clone())
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, CatalogListing};
    use crate::restore::TargetPoint;
    use crate::restore::select::best;
    use crate::wal::{Lsn, TimelineId};

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

    fn pick(timeline: Option<u32>, point: TargetPoint) -> Option<String> {
        let timeline = timeline.map(|number| TimelineId::new(number).expect("timeline"));
        best(&listing(), timeline, point).map(|id| id.to_string())
    }

    #[test]
    fn without_a_target_the_newest_done_backup_is_best() {
        assert_eq!(pick(None, TargetPoint::EndOfArchive).as_deref(), Some("20260104T000000"));
        assert_eq!(pick(Some(1), TargetPoint::EndOfArchive).as_deref(), Some("20260102T000000"));
        assert_eq!(pick(Some(3), TargetPoint::EndOfArchive), None);
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
