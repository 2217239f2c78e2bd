//! Deleting a backup's entry, so that what a broken deletion leaves never looks whole.
//!
//! ```text
//! deletion.json      holds the entry's text            crash: a whole backup, listed as before
//! backup.info goes   from here on in nobody's list     crash: the mark tells, every later delete
//! …everything else…                                    finishes it, whatever its policy
//! deletion.json goes
//! ```
//!
//! The mark is an object of its own because a bucket may forbid to replace one, and because of a
//! backup of Barman nothing else tells which WAL and which snapshots go with it. As long as
//! `backup.info` is there the mark means nothing.

use crate::catalog::format::{backup_info, side_json};
use crate::catalog::handle::{BACKUP_INFO, DELETION_JSON};
use crate::catalog::publish::publishable;
use crate::catalog::{BackupId, BackupRecord, Catalog, CatalogError};
use crate::store::{ObjectKey, PutMode, PutOptions, StoreErrorKind};
use bytes::Bytes;

/// What the mark of a begun deletion holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionMark {
    /// The text of `backup.info`; absent when it was none.
    pub backup_info: Option<Bytes>,
}

/// An entry that was taken away, and can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    id: BackupId,
    backup_info: Bytes,
}

impl Catalog {
    /// Takes a backup out of everybody's list; `None` when it is in none any more. Nothing else
    /// of it may be deleted before.
    ///
    /// An identity that may not write cannot leave the mark. Then the deletion goes on without:
    /// an entry that is gone is worth more than the objects that a crash may leave to nobody.
    pub async fn unlist(&self, id: &BackupId) -> Result<Option<Unlisted>, CatalogError> {
        let key = self.layout().backup_object(id, BACKUP_INFO);
        let Some(backup_info) = self.store().get(&key).await? else { return Ok(None) };
        let mark = DeletionMark { backup_info: Some(backup_info.clone()) };
        let content = Bytes::from(side_json::print_deletion(&mark));
        let mark = self.layout().backup_object(id, DELETION_JSON);
        let options = PutOptions::default();
        match self.store().put(&mark, content, PutMode::Create, &options).await {
            Ok(_) => {}
            Err(error) if error.kind == StoreErrorKind::Denied => {
                tracing::warn!(
                    backup_id = %id,
                    %error,
                    "cannot mark the deletion: if it is interrupted, nobody finishes it"
                );
            }
            Err(error) => return Err(error.into()),
        }
        let unlisted = Unlisted { id: id.clone(), backup_info };
        match self.delete_one(key).await {
            Ok(()) => Ok(Some(unlisted)),
            Err(error) => {
                // It may be gone all the same; then the mark must stay.
                let stored = self.store().head(&self.layout().backup_object(id, BACKUP_INFO)).await;
                if stored.is_ok_and(|stored| stored.is_some()) {
                    self.remove_mark(id).await;
                }
                Err(error)
            }
        }
    }

    /// Puts an entry back of which nothing was deleted.
    pub async fn list_again(&self, unlisted: &Unlisted) -> Result<(), CatalogError> {
        let key = self.layout().backup_object(&unlisted.id, BACKUP_INFO);
        self.write_once(&key, unlisted.backup_info.clone()).await?;
        self.remove_mark(&unlisted.id).await;
        Ok(())
    }

    /// Puts the entry back that the mark of a begun deletion holds.
    pub async fn list_begun(&self, id: &BackupId) -> Result<(), CatalogError> {
        match self.deletion_mark(id).await?.and_then(|mark| mark.backup_info) {
            Some(backup_info) => self.list_again(&Unlisted { id: id.clone(), backup_info }).await,
            None => Ok(()),
        }
    }

    /// Writes the missing `backup.info` of a backup that is otherwise whole.
    pub async fn list_intact(&self, record: &BackupRecord) -> Result<(), CatalogError> {
        let record = publishable(record);
        let content = Bytes::from(backup_info::print(&record.info));
        self.write_once(&self.layout().backup_object(&record.id, BACKUP_INFO), content).await
    }

    /// What the mark of a begun deletion holds; `None` when there is none that can be read.
    pub(crate) async fn deletion_mark(
        &self,
        id: &BackupId,
    ) -> Result<Option<DeletionMark>, CatalogError> {
        let key = self.layout().backup_object(id, DELETION_JSON);
        let content = self.store().get(&key).await?;
        Ok(content.and_then(|content| side_json::parse_deletion(&content).ok()))
    }

    /// A mark beside an entry means nothing: that it stays is no failure.
    pub async fn remove_mark(&self, id: &BackupId) {
        let mark = self.layout().backup_object(id, DELETION_JSON);
        if let Err(error) = self.delete_one(mark).await {
            tracing::debug!(backup_id = %id, %error, "the mark of a deletion stays");
        }
    }

    pub(crate) async fn delete_one(&self, key: ObjectKey) -> Result<(), CatalogError> {
        for (_, answer) in self.store().delete(vec![key]).await {
            answer?;
        }
        Ok(())
    }
}
