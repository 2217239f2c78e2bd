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
mod error;
mod locks;
mod needs;
mod plan;
mod policy;
mod select;
mod snapshots;
mod steps;

pub use apply::{DeleteSummary, apply};
pub use error::RetentionError;
pub use plan::{BackupDeletion, DeletePlan, FolderDeletion};
pub use policy::{RetentionPolicy, RetentionPolicyError};
pub use select::{DeleteTarget, Selection};
pub use snapshots::SnapshotDeletion;

use crate::catalog::{BackupId, Catalog, CatalogListing, Leftover, WalTop};
use crate::flow::{Cancel, Limits};
use crate::retention::plan::assemble;
use crate::retention::select::{Unselected, by_policy, by_selector};
use crate::retention::steps::Steps;
use crate::store::ObjectKey;
use futures::stream::{self, StreamExt, TryStreamExt};
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
    if options.locks == LockCheck::Check {
        locks::spare_locked(catalog, &mut selection, limits, now).await?;
    }
    cancel.check()?;
    let snapshots = snapshots::of_selection(catalog, &mut selection).await?;
    // Locked backups stay, so what WAL is needed can only be told behind that check.
    let top = match selection.doomed.is_empty() {
        true => WalTop::default(),
        false => catalog.wal_top().await?,
    };
    let histories = catalog.histories(&top.files, limits).await?;
    let mut steps = Steps::new(&listing, &selection.doomed, histories, now);
    let obsolete = obsolete_wal(catalog, &mut steps, top, cancel).await?;
    selection.hindrances.extend(steps.unknown());
    selection.hindrances.extend(unjudged(&listing, &selection));
    let left = leftovers(catalog, &listing, &mut selection).await?;
    Ok(assemble(selection, left, snapshots, obsolete))
}

/// What is swept, with the snapshots that may have been left with it.
async fn leftovers(
    catalog: &Catalog,
    listing: &CatalogListing,
    selection: &mut Selection<'_>,
) -> Result<Vec<(Leftover, SnapshotDeletion)>, RetentionError> {
    let mut left = Vec::new();
    for leftover in &listing.leftovers {
        match snapshots::of_leftover(catalog, &leftover.id).await? {
            Ok(deletion) => left.push((leftover.clone(), deletion)),
            Err(reason) => {
                let id = leftover.id.clone();
                selection.hindrances.push(RetentionError::SnapshotRecord { id, reason });
            }
        }
    }
    Ok(left)
}

/// The WAL files that go, by the step that makes them obsolete. Folders from which none can go
/// are not listed: a nightly run reads some of the archive's folders and not all of its files.
async fn obsolete_wal(
    catalog: &Catalog,
    steps: &mut Steps,
    top: WalTop,
    cancel: &Cancel,
) -> Result<BTreeMap<usize, Vec<ObjectKey>>, RetentionError> {
    let mut folders = top.folders;
    folders.retain(|folder| folder.log().is_none_or(|log| steps.may_take_from(log)));
    let direct = stream::iter(top.files).map(Ok);
    let mut files = direct.chain(catalog.wals_in(folders));
    let mut obsolete: BTreeMap<usize, Vec<ObjectKey>> = BTreeMap::new();
    while let Some(object) = files.try_next().await? {
        cancel.check()?;
        if let Some(step) = steps.obsolete_since(&object.name) {
            obsolete.entry(step).or_default().push(object.key);
        }
    }
    Ok(obsolete)
}

/// Backups that cannot be read and are not to go: each is an error of the command, as with
/// Barman, but behind everything that can be done.
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
mod snapshot_tests;
#[cfg(test)]
mod tests;
