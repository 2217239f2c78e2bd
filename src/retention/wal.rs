//! Which WAL files a deletion makes obsolete, found in the archive.

use crate::catalog::{Backup, Catalog, CatalogError, CatalogListing, WalObject};
use crate::flow::{Cancel, Limits};
use crate::retention::clusters::ByTime;
use crate::retention::needs::is_running;
use crate::retention::steps::Steps;
use crate::retention::{RetentionError, Selection};
use crate::store::ObjectKey;
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The WAL files that go, by the step that makes them obsolete; notes in the selection why some
/// stay.
///
/// Folders from which none can go are not listed: a nightly run reads some of the archive's
/// folders and not all of its files.
pub async fn obsolete(
    catalog: &Catalog,
    listing: &CatalogListing,
    selection: &mut Selection<'_>,
    limits: &Limits,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<BTreeMap<usize, Vec<ObjectKey>>, RetentionError> {
    tell_what_holds(listing, now);
    let top = listing.top.clone();
    let backups: Vec<Backup> = listing.backups.iter().chain(&listing.begun).cloned().collect();
    if catalog.holds_several_clusters(&backups).await? {
        let by_time = ByTime::new(listing, &selection.doomed, now);
        return by_step(catalog.wals(), |file| by_time.obsolete_since(file), cancel).await;
    }
    let histories = catalog.histories(&top.files, limits).await?;
    let mut steps = Steps::new(listing, &selection.doomed, histories, now);
    let mut folders = top.folders;
    folders.retain(|folder| folder.log().is_none_or(|log| steps.may_take_from(log)));
    let files = stream::iter(top.files).map(Ok).chain(catalog.wals_in(folders)).boxed();
    let found = by_step(files, |file| steps.obsolete_since(&file.name), cancel).await?;
    selection.hindrances.extend(steps.unknown());
    Ok(found)
}

async fn by_step(
    mut files: stream::BoxStream<'_, Result<WalObject, CatalogError>>,
    mut obsolete_since: impl FnMut(&WalObject) -> Option<usize>,
    cancel: &Cancel,
) -> Result<BTreeMap<usize, Vec<ObjectKey>>, RetentionError> {
    let mut obsolete: BTreeMap<usize, Vec<ObjectKey>> = BTreeMap::new();
    while let Some(file) = files.try_next().await? {
        cancel.check()?;
        if let Some(step) = obsolete_since(&file) {
            obsolete.entry(step).or_default().push(file.key);
        }
    }
    Ok(obsolete)
}

fn tell_what_holds(listing: &CatalogListing, now: Timestamp) {
    for running in listing.backups.iter().filter(|backup| is_running(backup, now)) {
        if running.begin_segment().is_none() {
            tracing::info!(
                backup_id = %running.id,
                "a running backup has not told where it begins: all WAL stays this time"
            );
        }
    }
}
