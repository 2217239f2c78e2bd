//! Object locks: asked of every object first, in parallel, so that a backup goes as a whole or
//! stays as a whole, and again just before it goes. Barman asks batch by batch and deletes the
//! unlocked ones.

use crate::catalog::{BackupId, Catalog};
use crate::flow::Limits;
use crate::retention::{RetentionError, Selection};
use crate::store::{ObjectKey, ObjectLock, StoreError};
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;

/// HEAD requests in flight, whatever `--jobs` says.
const REQUESTS_AT_ONCE: usize = 32;

/// Takes the backups with a locked object out of the selection and notes why.
pub async fn spare_locked(
    catalog: &Catalog,
    selection: &mut Selection<'_>,
    limits: &Limits,
    now: Timestamp,
) -> Result<(), RetentionError> {
    if !catalog.store().tells_locks() {
        tracing::warn!("this kind of store is not asked for object locks");
        return Ok(());
    }
    let mut unlocked = Vec::new();
    for doomed in std::mem::take(&mut selection.doomed) {
        let keys = doomed.objects().iter().map(|entry| entry.key.clone()).collect();
        match locked(catalog, doomed.id(), keys, limits, now).await? {
            None => unlocked.push(doomed),
            Some(locked) => selection.hindrances.push(locked),
        }
    }
    selection.doomed = unlocked;
    Ok(())
}

/// Why the objects of a backup cannot go: the first that is locked.
pub async fn locked(
    catalog: &Catalog,
    id: &BackupId,
    keys: Vec<ObjectKey>,
    limits: &Limits,
    now: Timestamp,
) -> Result<Option<RetentionError>, RetentionError> {
    let found = first_lock(catalog, keys, limits, now).await.map_err(store_error)?;
    Ok(found.map(|(key, lock)| RetentionError::Locked {
        id: id.clone(),
        object: catalog.store().url_of(&key),
        lock: match lock {
            ObjectLock::LegalHold => "by a legal hold".into(),
            ObjectLock::RetainedUntil(until) => format!("until {until}"),
        },
    }))
}

async fn first_lock(
    catalog: &Catalog,
    keys: Vec<ObjectKey>,
    limits: &Limits,
    now: Timestamp,
) -> Result<Option<(ObjectKey, ObjectLock)>, StoreError> {
    let mut locks = stream::iter(keys)
        .map(|key| async move {
            let lock = catalog.store().lock_of(&key, now).await?;
            Ok::<_, StoreError>(lock.map(|lock| (key, lock)))
        })
        .buffered(limits.jobs.get().max(REQUESTS_AT_ONCE));
    while let Some(lock) = locks.try_next().await? {
        if lock.is_some() {
            return Ok(lock);
        }
    }
    Ok(None)
}

fn store_error(error: StoreError) -> RetentionError {
    RetentionError::Catalog(error.into())
}
