//! Keeps in the bucket: set, read, released (contract §9.2).
//!
//! Barman joins the key of a keep differently from all other keys: through a URL that ends with
//! a slash it lands in `P//S/…`, where a command given the URL without the slash does not look.
//! A keep that is overlooked is a backup lost, so both places are read; written is only `P/S/…`.

use crate::catalog::handle::{BACKUP_INFO, KEEP};
use crate::catalog::{BackupId, BackupStatus, Catalog, CatalogError, Keep, KeepTarget};
use crate::store::{PutMode, PutOptions, StoreError, StoreErrorKind};
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
        let wanted = Keep::new(target);
        self.write_keep(id, target).await?;
        // Only now: between two keeps the backup is never without one.
        self.replace_elsewhere(id, &wanted).await?;
        self.confirm_kept(id, target).await?;
        // A deletion that did not see the keep has taken the entry first.
        let entry = self.layout().backup_object(id, BACKUP_INFO);
        match self.store().head(&entry).await? {
            Some(_) => Ok(()),
            None => Err(CatalogError::AbsentBackup { id: id.clone(), server: self.server() }),
        }
    }

    async fn write_keep(&self, id: &BackupId, target: KeepTarget) -> Result<(), CatalogError> {
        let key = self.layout().backup_object(id, KEEP);
        let content = Bytes::from_static(target.as_str().as_bytes());
        self.store().put(&key, content, PutMode::Overwrite, &PutOptions::default()).await?;
        Ok(())
    }

    /// Removes a keep in the other spelling that says something else than `wanted`.
    ///
    /// One that says the same may stay, and must: on a store for which both spellings name one
    /// object it is the very one just written.
    async fn replace_elsewhere(&self, id: &BackupId, wanted: &Keep) -> Result<(), CatalogError> {
        let Some(key) = self.layout().doubled_keep(id) else { return Ok(()) };
        match self.get_elsewhere(id).await? {
            Some(found) if Keep::parse(&found) != *wanted => self.delete_one(key).await,
            _ => Ok(()),
        }
    }

    /// Reads back what was written, and writes it once more should it be gone: the removal in the
    /// other spelling may have hit it.
    async fn confirm_kept(&self, id: &BackupId, target: KeepTarget) -> Result<(), CatalogError> {
        let wanted = Keep::new(target);
        let key = self.layout().backup_object(id, KEEP);
        if self.store().get(&key).await?.is_none_or(|found| Keep::parse(&found) != wanted) {
            self.write_keep(id, target).await?;
        }
        match self.keep(id).await? {
            Some(found) if found.target() == target => Ok(()),
            found => Err(not_changed(id, target.as_str(), found.as_ref())),
        }
    }

    /// Takes the keep off a backup; without one, or without the backup, nothing happens.
    pub async fn release_keep(&self, id: &BackupId) -> Result<(), CatalogError> {
        self.delete_one(self.layout().backup_object(id, KEEP)).await?;
        if let (Some(_), Some(key)) =
            (self.get_elsewhere(id).await?, self.layout().doubled_keep(id))
        {
            self.delete_one(key).await?;
        }
        match self.keep(id).await? {
            None => Ok(()),
            found => Err(not_changed(id, "nokeep", found.as_ref())),
        }
    }

    /// The keep of a backup that is about to be deleted: where it may not be looked for, that is
    /// an error and not "no keep".
    pub async fn keep_before_deletion(&self, id: &BackupId) -> Result<Option<Keep>, CatalogError> {
        let there = match self.layout().doubled_keep(id) {
            None => None,
            Some(key) => match self.store().get(&key).await {
                Err(error) if error.kind == StoreErrorKind::Refused => None,
                answer => answer.map_err(denied_elsewhere)?,
            },
        };
        let here = self.store().get(&self.layout().backup_object(id, KEEP)).await?;
        Ok(stronger_of(here, there))
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
        Ok(stronger_of(here, there))
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
}

fn stronger_of(here: Option<Bytes>, there: Option<Bytes>) -> Option<Keep> {
    match (here.as_deref().map(Keep::parse), there.as_deref().map(Keep::parse)) {
        (Some(here), Some(there)) => Some(here.stronger(there)),
        (here, there) => here.or(there),
    }
}

fn not_changed(id: &BackupId, wanted: &str, found: Option<&Keep>) -> CatalogError {
    let found = found.map_or("nokeep", Keep::as_str);
    CatalogError::KeepNotChanged { id: id.clone(), wanted: wanted.into(), found: found.into() }
}

/// An identity that is confined to the server's own folder does not see what it may not delete.
fn denied_elsewhere(mut error: StoreError) -> StoreError {
    if error.kind == StoreErrorKind::Denied {
        error.hint = Some(
            "Barman puts keeps there when its URL ends with a slash: allow to list and to read it."
                .into(),
        );
    }
    error
}

/// A store that takes no such keys, and an identity that is confined to the server's own folder.
/// What is only shown may do without; what is deleted may not.
fn cannot_be_there(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Refused | StoreErrorKind::Denied)
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{empty_catalog, limits, now, write};
    use crate::catalog::{BackupId, BackupStatus, Catalog, CatalogError, KeepTarget};
    use crate::store::scripted::Then;
    use crate::store::{ObjectKey, PutMode, PutOptions};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const INFO: &str = "p/main/base/20261120T120000/backup.info";

    async fn catalog(status: &str) -> (Catalog, BackupId) {
        let catalog = empty_catalog();
        write(catalog.store(), INFO, format!("status={status}")).await;
        write(catalog.store(), &INFO.replace("backup.info", "data.tar"), "x").await;
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

    /// A store for which two slashes are one, as where a folder of a file system lies below it.
    fn of_one_spelling(catalog: &Catalog) -> Catalog {
        let store = catalog.store().scripted(|_, name| match name.contains("//") {
            true => Then::GoTo(name.replace("//", "/")),
            false => Then::Go,
        });
        Catalog::new(store, catalog.layout().clone())
    }

    #[tokio::test]
    async fn on_a_store_where_two_slashes_are_one_a_keep_survives_its_own_setting() {
        let (plain, id) = catalog("DONE").await;
        let catalog = of_one_spelling(&plain);
        for target in [KeepTarget::Full, KeepTarget::Standalone, KeepTarget::Full] {
            catalog.set_keep(&id, target, now()).await.expect("sets");
            let kept = plain.keep(&id).await.expect("reads").map(|keep| keep.target());
            assert_eq!(kept, Some(target));
        }
        catalog.release_keep(&id).await.expect("releases");
        assert_eq!(plain.keep(&id).await.expect("reads"), None);
    }

    /// Somebody's clean-up, a lost write, a proxy that answers from its cache.
    #[tokio::test]
    async fn a_keep_that_is_not_there_afterwards_is_no_success() {
        let (plain, id) = catalog("DONE").await;
        let store = plain.store().scripted(|method, name| {
            match method == "PUT" && name.ends_with("annotations/keep") {
                true => Then::GoTo("lost".into()),
                false => Then::Go,
            }
        });
        let losing = Catalog::new(store, plain.layout().clone());
        let error = losing.set_keep(&id, KeepTarget::Full, now()).await.expect_err("lost");
        assert_eq!(
            error.to_string(),
            "could not change the keep of backup \"20261120T120000\": it was to be full, and it is nokeep"
        );
        plain.set_keep(&id, KeepTarget::Full, now()).await.expect("sets");
        let store = plain.store().scripted(|method, name| match (method, name) {
            ("DELETE", _) => Then::GoTo("lost".into()),
            _ => Then::Go,
        });
        let kept = Catalog::new(store, plain.layout().clone());
        let error = kept.release_keep(&id).await.expect_err("still there");
        assert!(matches!(error, CatalogError::KeepNotChanged { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_keep_on_a_backup_that_is_being_deleted_is_no_success() {
        let (plain, id) = catalog("DONE").await;
        let looks = AtomicUsize::new(0);
        let store = plain.store().scripted(move |method, name| {
            let entry = method == "GET" && name.ends_with("backup.info");
            // It is there when the backup is looked up, and gone when the keep is.
            match entry && looks.fetch_add(1, Ordering::SeqCst) > 0 {
                true => Then::GoTo("gone".into()),
                false => Then::Go,
            }
        });
        let racing = Catalog::new(store, plain.layout().clone());
        let error = racing.set_keep(&id, KeepTarget::Full, now()).await.expect_err("gone");
        assert!(matches!(error, CatalogError::AbsentBackup { .. }), "{error}");
    }
}
