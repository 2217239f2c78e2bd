//! Deleting backups, and the WAL that no remaining backup needs.
//!
//! ```text
//! catalog ─ select (policy, id) ─ locks ─ needs (which WAL stays) ─ plan ─┬─ printed (--dry-run)
//!                                                                         └─ applied
//! ```
//!
//! Everything is decided before anything is deleted. Where something cannot be told (a backup
//! that cannot be read, a timeline without history) the WAL stays and the command says so.

mod apply;
mod clusters;
mod debris;
mod error;
mod locks;
mod needs;
mod plan;
mod policy;
mod select;
mod snapshots;
mod steps;
mod wal;

pub use apply::{DeleteSummary, apply};
pub use error::RetentionError;
pub use plan::{BackupDeletion, DeletePlan, FolderDeletion, Repair};
pub use policy::{RetentionPolicy, RetentionPolicyError};
pub use select::{DeleteTarget, Selection};
pub use snapshots::SnapshotDeletion;

use crate::catalog::{BackupId, Catalog, CatalogListing, KeepTarget, Leftover, is_being_published};
use crate::flow::{Cancel, Limits};
use crate::retention::plan::{LockRecheck, assemble};
use crate::retention::select::{Unselected, add_begun, by_policy, by_selector};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What a deletion takes into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOptions {
    /// DONE backups that must remain in any case.
    pub minimum_redundancy: u32,
    pub locks: LockCheck,
}

/// Whether objects are asked for locks before anything is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCheck {
    Skip,
    /// A backup with a locked object stays as a whole.
    Check,
}

/// Decides what goes. Deletes nothing.
pub async fn plan(
    catalog: &Catalog,
    target: &DeleteTarget,
    options: &DeleteOptions,
    limits: &Limits,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<DeletePlan, RetentionError> {
    let listing = catalog.load(limits, now).await?;
    let mut selection = select(catalog, &listing, target, options, now)?;
    add_begun(&listing, &mut selection);
    if options.locks == LockCheck::Check {
        locks::spare_locked(catalog, &mut selection, limits, now).await?;
    }
    cancel.check()?;
    let snapshots = snapshots::of_selection(catalog, &mut selection).await?;
    // Locked backups stay, so what WAL is needed can only be told after that check.
    let obsolete = match selection.doomed.is_empty() {
        true => BTreeMap::new(),
        false => wal::obsolete(catalog, &listing, &mut selection, limits, now, cancel).await?,
    };
    selection.hindrances.extend(unjudged(&listing, &selection));
    let left = leftovers(catalog, &listing, &mut selection, options, limits, now).await?;
    let debris = debris::abandoned(catalog, &listing, now).await;
    let mut plan = assemble(selection, left, snapshots, obsolete);
    plan.debris = debris;
    plan.repairs = repairs(&listing, now);
    plan.standalone = standalone(&listing);
    let recheck = || LockRecheck { limits: limits.clone(), now };
    plan.locks = (options.locks == LockCheck::Check).then(recheck);
    Ok(plan)
}

/// What is swept, with the snapshots that may have been left with it. What is kept or locked
/// stays.
async fn leftovers(
    catalog: &Catalog,
    listing: &CatalogListing,
    selection: &mut Selection<'_>,
    options: &DeleteOptions,
    limits: &Limits,
    now: Timestamp,
) -> Result<Vec<(Leftover, SnapshotDeletion)>, RetentionError> {
    let mut left = Vec::new();
    for leftover in &listing.leftovers {
        let id = &leftover.id;
        if leftover.keep.is_some() {
            tracing::warn!(backup_id = %id, "what is left of this backup is kept, and not swept");
            continue;
        }
        if options.locks == LockCheck::Check {
            let keys = leftover.objects.iter().map(|entry| entry.key.clone()).collect();
            if let Some(locked) = locks::locked(catalog, id, keys, limits, now).await? {
                selection.hindrances.push(locked);
                continue;
            }
        }
        match snapshots::of_leftover(catalog, id).await? {
            Ok(deletion) => left.push((leftover.clone(), deletion)),
            Err(reason) => {
                let id = leftover.id.clone();
                selection.hindrances.push(RetentionError::SnapshotRecord { id, reason });
            }
        }
    }
    Ok(left)
}

/// The entries that are written again: of backups that are whole, and of those that were kept
/// while their deletion began.
fn repairs(listing: &CatalogListing, now: Timestamp) -> Vec<Repair> {
    let unlisted = listing.unlisted.iter().filter(|backup| !is_being_published(backup, now));
    let unlisted = unlisted.filter_map(|backup| backup.record.clone());
    let unlisted = unlisted.map(|record| Repair::Unlisted(Box::new(record)));
    let begun = listing.begun.iter().filter(|backup| backup.keep.is_some());
    let mut repairs: Vec<Repair> = unlisted.collect();
    for backup in begun {
        match backup.tarballs() {
            Ok(_) => repairs.push(Repair::Begun(backup.id.clone())),
            Err(reason) => {
                tracing::warn!(backup_id = %backup.id, %reason, "a half-deleted backup is kept");
            }
        }
    }
    repairs
}

fn standalone(listing: &CatalogListing) -> Vec<BackupId> {
    let kept = listing.backups.iter().filter(|b| b.kept() == Some(KeepTarget::Standalone));
    kept.map(|backup| backup.id.clone()).collect()
}

/// Backups that cannot be read and are not to go: each is an error of the command, as with
/// Barman, but after everything that can be done.
fn unjudged(listing: &CatalogListing, selection: &Selection<'_>) -> Vec<RetentionError> {
    let goes = |id: &BackupId| selection.doomed.iter().any(|doomed| doomed.id() == id);
    let stays = listing.unreadable.iter().filter(|unreadable| !goes(&unreadable.id));
    stays
        .map(|unreadable| RetentionError::Unreadable {
            id: unreadable.id.clone(),
            object: unreadable.object.clone(),
            reason: unreadable.reason.clone(),
        })
        .collect()
}

fn select<'a>(
    catalog: &Catalog,
    listing: &'a CatalogListing,
    target: &DeleteTarget,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Selection<'a>, RetentionError> {
    match target {
        DeleteTarget::Policy(policy) => {
            Ok(by_policy(listing, *policy, options.minimum_redundancy, now))
        }
        DeleteTarget::Backup(selector) => by_selector(
            listing,
            selector,
            options.minimum_redundancy,
        )
        .map_err(|error| match error {
            Unselected::Refused(refusal) => refusal,
            Unselected::Selector(error) => catalog.unresolved(&selector.to_string(), error).into(),
        }),
    }
}

#[cfg(test)]
mod broken_tests;
#[cfg(test)]
mod line_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
