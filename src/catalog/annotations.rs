//! Keeps in the bucket: set, read, released (contract §9.2).
//!
//! Barman joins the key of a keep differently from all other keys: through a URL that ends with
//! a slash it lands in `P//S/…`, where a command given the URL without the slash does not look.
//! A keep that is overlooked is a backup lost, so both places are read; written is only `P/S/…`.

use crate::catalog::handle::KEEP;
use crate::catalog::{BackupId, BackupStatus, Catalog, CatalogError, Keep, KeepTarget};
use crate::store::{ObjectKey, PutMode, PutOptions, StoreError, StoreErrorKind};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::Timestamp;

/// Whether keeps may lie in the other spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Nothing,
    Look,
}

impl Catalog {
    /// Puts a keep on a backup, which must be DONE; replaces one that is there.
    pub async fn set_keep(
        &self,
        id: &BackupId,
        target: KeepTarget,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let Some(backup) = self.find(id, now).await? else {
            return Err(CatalogError::AbsentBackup { id: id.clone(), server: self.server() });
        };
        if backup.status() != BackupStatus::Done {
            return Err(CatalogError::NotDone { id: id.clone(), status: backup.status() });
        }
        let key = self.layout().backup_object(id, KEEP);
        let content = Bytes::from_static(target.as_str().as_bytes());
        self.store().put(&key, content, PutMode::Overwrite, &PutOptions::default()).await?;
        // Only now: between two keeps the backup is never without one.
        self.release_elsewhere(id).await
    }

    /// Takes the keep off a backup; without one, or without the backup, nothing happens.
    pub async fn release_keep(&self, id: &BackupId) -> Result<(), CatalogError> {
        self.delete_keep(self.layout().backup_object(id, KEEP)).await?;
        self.release_elsewhere(id).await
    }

    /// The keep of a backup; `None` also when there is no such backup.
    pub async fn keep(&self, id: &BackupId) -> Result<Option<Keep>, CatalogError> {
        self.read_keep(id, true, Elsewhere::Look).await
    }

    /// Reads the keep of a backup, where it was `listed` and in the other spelling.
    pub(crate) async fn read_keep(
        &self,
        id: &BackupId,
        listed: bool,
        elsewhere: Elsewhere,
    ) -> Result<Option<Keep>, CatalogError> {
        let here = match listed {
            true => self.store().get(&self.layout().backup_object(id, KEEP)).await?,
            false => None,
        };
        let there = match elsewhere {
            Elsewhere::Look => self.get_elsewhere(id).await?,
            Elsewhere::Nothing => None,
        };
        let (here, there) = (here.as_deref().map(Keep::parse), there.as_deref().map(Keep::parse));
        Ok(match (here, there) {
            (Some(here), Some(there)) => Some(here.stronger(there)),
            (here, there) => here.or(there),
        })
    }

    /// Asks once for all backups whether the other spelling holds anything.
    ///
    /// Stores cannot list keys with empty segments, but they can tell that there are none; an
    /// error means that there may be some, and each backup is asked for its own.
    pub(crate) async fn keeps_elsewhere(&self) -> Result<Elsewhere, CatalogError> {
        let Some(base) = self.layout().doubled_base() else { return Ok(Elsewhere::Nothing) };
        match self.store().list(&base).try_next().await {
            Ok(None) => Ok(Elsewhere::Nothing),
            Ok(Some(_)) => Ok(Elsewhere::Look),
            Err(error) if cannot_be_there(&error) => Ok(Elsewhere::Nothing),
            Err(_) => Ok(Elsewhere::Look),
        }
    }

    async fn get_elsewhere(&self, id: &BackupId) -> Result<Option<Bytes>, CatalogError> {
        let Some(key) = self.layout().doubled_keep(id) else { return Ok(None) };
        match self.store().get(&key).await {
            Err(error) if cannot_be_there(&error) => Ok(None),
            answer => Ok(answer?),
        }
    }

    async fn release_elsewhere(&self, id: &BackupId) -> Result<(), CatalogError> {
        match (self.get_elsewhere(id).await?, self.layout().doubled_keep(id)) {
            (Some(_), Some(key)) => self.delete_keep(key).await,
            _ => Ok(()),
        }
    }

    async fn delete_keep(&self, key: ObjectKey) -> Result<(), CatalogError> {
        for (_, answer) in self.store().delete(vec![key]).await {
            answer?;
        }
        Ok(())
    }
}

/// A store that takes no such keys, and an identity that is confined to the server's own
/// folder: in both cases nobody keeps backups from there.
fn cannot_be_there(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Refused | StoreErrorKind::Denied)
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{empty_catalog, limits, now, write};
    use crate::catalog::{BackupId, BackupStatus, Catalog, CatalogError, KeepTarget};
    use crate::store::{ObjectKey, PutMode, PutOptions};

    const INFO: &str = "p/main/base/20261120T120000/backup.info";

    async fn catalog(status: &str) -> (Catalog, BackupId) {
        let catalog = empty_catalog();
        write(catalog.store(), INFO, format!("status={status}")).await;
        (catalog, BackupId::parse("20261120T120000").expect("id"))
    }

    async fn keep_elsewhere(catalog: &Catalog, content: &'static str) {
        let key = "p//main/base/20261120T120000/annotations/keep";
        let key = ObjectKey::parse_with_empty_segments(key).expect("key");
        let content = content.as_bytes().into();
        catalog
            .store()
            .put(&key, content, PutMode::Overwrite, &PutOptions::default())
            .await
            .expect("memory");
    }

    async fn target(catalog: &Catalog, id: &BackupId) -> Option<KeepTarget> {
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        let listed = listing.get(id).expect("listed").kept();
        let found = catalog.find(id, now()).await.expect("reads").expect("there").kept();
        let asked = catalog.keep(id).await.expect("reads").map(|keep| keep.target());
        assert_eq!((listed, found), (asked, asked));
        asked
    }

    #[tokio::test]
    async fn keeps_are_set_replaced_and_released() {
        let (catalog, id) = catalog("DONE").await;
        assert_eq!(target(&catalog, &id).await, None);
        catalog.set_keep(&id, KeepTarget::Full, now()).await.expect("sets");
        assert_eq!(target(&catalog, &id).await, Some(KeepTarget::Full));
        catalog.set_keep(&id, KeepTarget::Standalone, now()).await.expect("replaces");
        assert_eq!(target(&catalog, &id).await, Some(KeepTarget::Standalone));
        catalog.release_keep(&id).await.expect("releases");
        catalog.release_keep(&id).await.expect("again");
        assert_eq!(target(&catalog, &id).await, None);
    }

    #[tokio::test]
    async fn only_a_done_backup_that_exists_can_be_kept() {
        let (catalog, id) = catalog("FAILED").await;
        let error = catalog.set_keep(&id, KeepTarget::Full, now()).await.expect_err("failed");
        assert!(matches!(error, CatalogError::NotDone { status: BackupStatus::Failed, .. }));
        let absent = BackupId::parse("20200101T000000").expect("id");
        let error = catalog.set_keep(&absent, KeepTarget::Full, now()).await.expect_err("absent");
        assert!(matches!(error, CatalogError::AbsentBackup { .. }));
        catalog.release_keep(&absent).await.expect("nothing to release");
        assert_eq!(catalog.keep(&absent).await.expect("reads"), None);
    }

    #[tokio::test]
    async fn a_keep_set_through_a_url_with_a_trailing_slash_holds_too() {
        let (catalog, id) = catalog("DONE").await;
        keep_elsewhere(&catalog, "full").await;
        assert_eq!(target(&catalog, &id).await, Some(KeepTarget::Full));
        catalog.release_keep(&id).await.expect("releases");
        assert_eq!(target(&catalog, &id).await, None);
    }

    #[tokio::test]
    async fn of_two_keeps_the_stronger_holds_until_a_new_one_replaces_both() {
        let (catalog, id) = catalog("DONE").await;
        catalog.set_keep(&id, KeepTarget::Standalone, now()).await.expect("sets");
        keep_elsewhere(&catalog, "full").await;
        assert_eq!(target(&catalog, &id).await, Some(KeepTarget::Full));
        catalog.set_keep(&id, KeepTarget::Standalone, now()).await.expect("replaces");
        assert_eq!(target(&catalog, &id).await, Some(KeepTarget::Standalone));
    }
}
