//! Which backups are to go. Pure.

use crate::catalog::{
    Backup, BackupId, BackupSelector, CatalogListing, Keep, SelectError, UnreadableBackup,
};
use crate::retention::{RetentionError, RetentionPolicy};
use crate::store::ListEntry;
use jiff::Timestamp;

/// What is asked to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteTarget {
    Backup(BackupSelector),
    Policy(RetentionPolicy),
}

/// A backup that is to go, readable or not.
#[derive(Clone, Copy, Debug)]
pub enum Doomed<'a> {
    Backup(&'a Backup),
    Unreadable(&'a UnreadableBackup),
}

impl<'a> Doomed<'a> {
    pub fn id(&self) -> &'a BackupId {
        match self {
            Self::Backup(backup) => &backup.id,
            Self::Unreadable(unreadable) => &unreadable.id,
        }
    }

    pub fn objects(&self) -> &'a [ListEntry] {
        match self {
            Self::Backup(backup) => &backup.objects,
            Self::Unreadable(unreadable) => &unreadable.objects,
        }
    }

    pub fn readable(&self) -> Option<&'a Backup> {
        match self {
            Self::Backup(backup) => Some(backup),
            Self::Unreadable(_) => None,
        }
    }

    fn keep(&self) -> Option<&'a Keep> {
        match self {
            Self::Backup(backup) => backup.keep.as_ref(),
            Self::Unreadable(unreadable) => unreadable.keep.as_ref(),
        }
    }
}

/// The backups that are to go, oldest first, and those that should but cannot.
#[derive(Debug, Default)]
pub struct Selection<'a> {
    pub doomed: Vec<Doomed<'a>>,
    pub hindrances: Vec<RetentionError>,
    /// The id that was asked for and stands for no backup.
    pub absent: Option<BackupId>,
}

/// Why a selector picks nothing that could be deleted.
#[derive(Debug)]
pub enum Unselected {
    Selector(SelectError),
    Refused(RetentionError),
}

/// Picks by policy: what is obsolete.
pub fn by_policy(
    listing: &CatalogListing,
    policy: RetentionPolicy,
    minimum_redundancy: u32,
    now: Timestamp,
) -> Selection<'_> {
    let counts = |backup: &Backup| listing.is_on_line(backup);
    let ids = policy.obsolete(&listing.done_newest_first(), counts, minimum_redundancy, now);
    let doomed = ids.iter().filter_map(|id| listing.get(id)).map(Doomed::Backup).collect();
    Selection { doomed, ..Selection::default() }
}

/// Picks one backup; nothing when an id stands for none, which is what the caller wanted.
///
/// Minimum redundancy counts DONE backups only: Barman counts failed ones too, and so lets the
/// last good one go.
pub fn by_selector<'a>(
    listing: &'a CatalogListing,
    selector: &BackupSelector,
    minimum_redundancy: u32,
) -> Result<Selection<'a>, Unselected> {
    let id = listing.resolve(selector).map_err(Unselected::Selector)?;
    let unreadable = || listing.unreadable.iter().find(|unreadable| unreadable.id == id);
    let doomed = match (listing.get(&id), unreadable()) {
        (Some(backup), _) => Doomed::Backup(backup),
        (None, Some(unreadable)) => Doomed::Unreadable(unreadable),
        (None, None) => {
            // One whose deletion was begun is finished in any case.
            let begun = listing.begun.iter().any(|backup| backup.id == id);
            return Ok(Selection { absent: (!begun).then_some(id), ..Selection::default() });
        }
    };
    let refusals = [
        kept(&doomed),
        redundancy(listing, &doomed, minimum_redundancy),
        has_child(listing, &doomed),
    ];
    match refusals.into_iter().flatten().next() {
        Some(refusal) => Err(Unselected::Refused(refusal)),
        None => Ok(Selection { doomed: vec![doomed], ..Selection::default() }),
    }
}

/// Adds the backups whose deletion was begun, which nothing holds but a keep.
pub fn add_begun<'a>(listing: &'a CatalogListing, selection: &mut Selection<'a>) {
    let begun = listing.begun.iter().filter(|backup| backup.keep.is_none());
    selection.doomed.extend(begun.map(Doomed::Backup));
    let age = |doomed: &Doomed<'_>| match doomed.readable() {
        Some(backup) => (backup.began(), backup.id.clone()),
        None => (Timestamp::MAX, doomed.id().clone()),
    };
    selection.doomed.sort_by_cached_key(age);
}

fn kept(doomed: &Doomed<'_>) -> Option<RetentionError> {
    let keep = doomed.keep()?.as_str().to_string();
    Some(RetentionError::Kept { id: doomed.id().clone(), keep })
}

fn redundancy(
    listing: &CatalogListing,
    doomed: &Doomed<'_>,
    minimum: u32,
) -> Option<RetentionError> {
    let done = listing.backups.iter().filter(|backup| listing.is_on_line(backup)).count();
    let counts = doomed.readable().is_some_and(|backup| listing.is_on_line(backup));
    let too_few = usize::try_from(minimum).is_ok_and(|minimum| minimum >= done);
    (minimum > 0 && counts && too_few).then(|| RetentionError::MinimumRedundancy {
        id: doomed.id().clone(),
        done,
        minimum,
    })
}

fn has_child(listing: &CatalogListing, doomed: &Doomed<'_>) -> Option<RetentionError> {
    let id = doomed.id();
    let child = listing.backups.iter().find(|backup| {
        backup.is_done() && backup.info.parent_backup_id.as_deref() == Some(id.as_str())
    })?;
    Some(RetentionError::HasChild { id: id.clone(), child: child.id.clone() })
}
