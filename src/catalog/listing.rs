//! All backups of one server name, and how a word on the command line picks one (contract §9.1).

use crate::catalog::{Backup, BackupId, BackupStatus, Leftover, UnreadableBackup, WalTop};
use std::collections::BTreeSet;
use std::fmt;

/// What one pass over `base/` found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogListing {
    /// Sorted by id, oldest first.
    pub backups: Vec<Backup>,
    pub unreadable: Vec<UnreadableBackup>,
    /// Folders that are no backup, old enough to be swept.
    pub leftovers: Vec<Leftover>,
    /// DONE backups on a branch that the newest timeline does not descend from: recovery from
    /// them cannot follow it.
    pub dead: BTreeSet<BackupId>,
    /// What lay directly in `wals/` meanwhile.
    pub top: WalTop,
}

/// How a backup is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupSelector {
    Id(BackupId),
    Name(String),
    /// `first`, `oldest`
    First,
    /// `last`, `latest`
    Last,
    /// `last-failed`
    LastFailed,
}

/// Why a selector picks nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectError {
    Unknown,
    Ambiguous(Vec<BackupId>),
}

impl BackupSelector {
    /// What is shaped like an id is one; the rest are shortcuts, then names.
    pub fn parse(text: &str) -> Self {
        if let Ok(id) = BackupId::parse(text) {
            return Self::Id(id);
        }
        match text {
            "first" | "oldest" => Self::First,
            "last" | "latest" => Self::Last,
            "last-failed" => Self::LastFailed,
            name => Self::Name(name.into()),
        }
    }
}

impl fmt::Display for BackupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::First => f.write_str("first"),
            Self::Last => f.write_str("last"),
            Self::LastFailed => f.write_str("last-failed"),
        }
    }
}

impl CatalogListing {
    /// Whether the backup is DONE and recovery from it follows the newest timeline, as far as is
    /// known.
    pub fn is_on_line(&self, backup: &Backup) -> bool {
        backup.is_done() && !self.dead.contains(&backup.id)
    }

    pub fn get(&self, id: &BackupId) -> Option<&Backup> {
        self.backups.iter().find(|backup| backup.id == *id)
    }

    /// The id that `selector` stands for. An id stands for itself, there or not. The shortcuts
    /// pick among DONE backups: Barman's `last` can be a failed one, which nobody wants to
    /// restore. `last` is never one of a dead branch, from which the newest timeline cannot be
    /// reached.
    pub fn resolve(&self, selector: &BackupSelector) -> Result<BackupId, SelectError> {
        let done = || self.backups.iter().filter(|backup| backup.is_done());
        let failed =
            || self.backups.iter().filter(|backup| backup.status() == BackupStatus::Failed);
        let found = match selector {
            BackupSelector::Id(id) => return Ok(id.clone()),
            BackupSelector::Name(name) => return self.named(name),
            BackupSelector::First => done().min_by_key(|backup| age(backup)),
            BackupSelector::Last => {
                done().filter(|backup| self.is_on_line(backup)).max_by_key(|backup| age(backup))
            }
            BackupSelector::LastFailed => failed().max_by_key(|backup| age(backup)),
        };
        found.map(|backup| backup.id.clone()).ok_or(SelectError::Unknown)
    }

    /// A failed backup gives way to the one that was taken under its name afterwards.
    fn named(&self, name: &str) -> Result<BackupId, SelectError> {
        let mut named: Vec<&Backup> =
            self.backups.iter().filter(|backup| backup.name() == Some(name)).collect();
        let failed = |backup: &Backup| backup.status() == BackupStatus::Failed;
        if named.iter().any(|backup| !failed(backup)) {
            named.retain(|backup| !failed(backup));
        }
        match named.as_slice() {
            [] => Err(SelectError::Unknown),
            [one] => Ok(one.id.clone()),
            several => {
                let ids = several.iter().map(|backup| backup.id.clone()).collect();
                Err(SelectError::Ambiguous(ids))
            }
        }
    }

    /// DONE backups, newest first: the order in which restore and retention look at them.
    pub fn done_newest_first(&self) -> Vec<&Backup> {
        let mut done: Vec<&Backup> =
            self.backups.iter().filter(|backup| backup.is_done()).collect();
        done.sort_by_key(|backup| std::cmp::Reverse(age(backup)));
        done
    }
}

/// Order by when a backup began; ids alone mislead where Barman wrote them in local time.
fn age(backup: &Backup) -> (jiff::Timestamp, BackupId) {
    (backup.began(), backup.id.clone())
}

#[cfg(test)]
mod tests {
    use crate::catalog::{
        Backup, BackupId, BackupInfo, BackupSelector, BackupStatus, CatalogListing, SelectError,
    };

    fn backup(id: &str, status: BackupStatus, name: Option<&str>) -> Backup {
        Backup {
            id: BackupId::parse(id).expect(id),
            info: BackupInfo {
                status: Some(status),
                backup_name: name.map(Into::into),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: None,
        }
    }

    fn resolve(listing: &CatalogListing, text: &str) -> Result<String, SelectError> {
        listing.resolve(&BackupSelector::parse(text)).map(|id| id.to_string())
    }

    #[test]
    fn shortcuts_pick_done_backups_only() {
        let listing = CatalogListing {
            backups: vec![
                backup("20260101T000000", BackupStatus::Failed, None),
                backup("20260102T000000", BackupStatus::Done, Some("a")),
                backup("20260102T120000", BackupStatus::Done, Some("twice")),
                backup("20260103T000000", BackupStatus::Done, Some("twice")),
                backup("20260104T000000", BackupStatus::Failed, Some("again")),
                backup("20260105T000000", BackupStatus::Started, Some("again")),
                backup("20251231T000000", BackupStatus::Failed, Some("never")),
                backup("20251230T000000", BackupStatus::Failed, Some("twice")),
            ],
            ..CatalogListing::default()
        };
        for (text, id) in [
            ("first", "20260102T000000"),
            ("oldest", "20260102T000000"),
            ("last", "20260103T000000"),
            ("latest", "20260103T000000"),
            ("last-failed", "20260104T000000"),
            ("a", "20260102T000000"),
            ("again", "20260105T000000"),
            ("never", "20251231T000000"),
            ("20300101T000000", "20300101T000000"),
        ] {
            assert_eq!(resolve(&listing, text).as_deref(), Ok(id), "{text}");
        }
        assert_eq!(resolve(&listing, "b"), Err(SelectError::Unknown));
        assert!(
            matches!(resolve(&listing, "twice"), Err(SelectError::Ambiguous(ids)) if ids.len() == 2)
        );
        assert_eq!(resolve(&CatalogListing::default(), "last"), Err(SelectError::Unknown));
    }

    #[test]
    fn order_follows_the_begin_time_where_ids_are_local_times() {
        let mut east = backup("20260101T120000", BackupStatus::Done, None);
        east.info.begin_time =
            Some(crate::catalog::format::time::parse("2026-01-01 12:00:00+10:00").expect("time"));
        let utc = backup("20260101T030000", BackupStatus::Done, None);
        let listing = CatalogListing { backups: vec![utc, east], ..CatalogListing::default() };
        assert_eq!(resolve(&listing, "last").as_deref(), Ok("20260101T030000"));
    }
}
