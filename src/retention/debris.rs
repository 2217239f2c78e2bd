//! What killed runs leave and no listing shows: temporary files of a folder, unfinished uploads.

use crate::catalog::{ABANDONED_AFTER, Catalog, CatalogListing};
use crate::retention::needs::is_running;
use crate::store::Debris;
use jiff::Timestamp;

/// What was left so long ago that nobody works on it any more, and in no running backup's folder.
///
/// A store that may not be asked does not fail the command: the rest of the plan is sound.
pub async fn abandoned(catalog: &Catalog, listing: &CatalogListing, now: Timestamp) -> Vec<Debris> {
    let mut debris = match catalog.store().debris(catalog.layout().root()).await {
        Ok(debris) => debris,
        Err(error) => {
            tracing::info!(%error, "cannot look for unfinished uploads of killed runs");
            return Vec::new();
        }
    };
    let running = listing.backups.iter().filter(|backup| is_running(backup, now));
    let busy: Vec<String> =
        running.map(|backup| format!("{}/", catalog.layout().backup(&backup.id))).collect();
    debris.retain(|debris| {
        now.duration_since(debris.since) > ABANDONED_AFTER
            && !busy.iter().any(|folder| debris.key.starts_with(folder.as_str()))
    });
    debris.sort_by(|one, other| one.key.cmp(&other.key));
    debris
}
