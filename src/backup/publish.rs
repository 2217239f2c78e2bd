//! The last steps of a backup, in their order: is everything there that the record names, then
//! the record; and the other way round where it failed.
//!
//! Crash points: before `backup.json` nothing looks like a backup; between it and `backup.info` it
//! is complete and not listed. A failed run takes the record away before the first tarball, so that
//! what is listed as DONE is whole at any moment.

use crate::backup::BackupError;
use crate::catalog::{BackupId, BackupRecord, Catalog, CatalogError, TarballName};
use crate::flow::Cancel;
use crate::store::{Effect, ListEntry, ObjectKey, WrittenObject};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// How often a record is published whose fate is not known: each time what is there is compared.
const ATTEMPTS_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// Key of the record's part that tells what the manifest is.
const MANIFEST: &str = "backup_manifest";

/// Publishes the record of a complete backup. `verbatim` is a `backup.info` that is not ours.
///
/// `manifest` becomes part of the record, so that damage to it is noticed too.
pub async fn publish(
    catalog: &Catalog,
    record: &mut BackupRecord,
    manifest: &WrittenObject,
    verbatim: Option<Bytes>,
) -> Result<(), BackupError> {
    let WrittenObject { bytes, sha256 } = manifest;
    let told = json!({ "stored_bytes": bytes, "sha256": sha256 });
    record.other.insert(MANIFEST.into(), told);
    check_stored(catalog, record, manifest).await?;
    publish_record(catalog, record, verbatim).await
}

/// How long what a failed run has stored may be removed, and how long its record may be written,
/// after the command was told to stop.
const REMOVE_MAX: Duration = Duration::from_secs(8);
const RECORD_MAX: Duration = Duration::from_secs(12);

/// Takes away what a failed run has stored.
pub async fn remove_in_time(catalog: &Catalog, id: &BackupId, cancel: &Cancel) {
    if cancel.bounded(REMOVE_MAX, remove_objects(catalog, id)).await.is_none() {
        tracing::warn!(backup_id = %id, "no time to delete the objects of the failed backup");
    }
}

/// Writes the record of a run that ended, also while the command stops: what has begun to be
/// published must not be left to chance.
pub async fn publish_in_time(
    published: impl Future<Output = Result<(), BackupError>>,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    cancel.bounded(RECORD_MAX, published).await.unwrap_or(Err(BackupError::Cancelled))
}

/// Publishes a record; what may have happened is looked at before it counts as a failure.
pub async fn publish_record(
    catalog: &Catalog,
    record: &BackupRecord,
    verbatim: Option<Bytes>,
) -> Result<(), BackupError> {
    let mut attempt = 1;
    loop {
        let published = match &verbatim {
            None => catalog.publish(record).await,
            Some(info) => catalog.publish_verbatim(record, info.clone()).await,
        };
        match published {
            // It may be there: the next attempt compares before it gives up.
            Err(CatalogError::Store(error))
                if error.effect == Effect::MayHaveHappened && attempt < ATTEMPTS_MAX =>
            {
                tracing::warn!(%error, "the record of the backup may be written, looking again");
                tokio::time::sleep(PAUSE * attempt).await;
                attempt += 1;
            }
            published => return published.map_err(BackupError::Catalog),
        }
    }
}

/// Looks once more for all that was stored, with its size: tarballs, their indexes, the manifest.
async fn check_stored(
    catalog: &Catalog,
    record: &BackupRecord,
    manifest: &WrittenObject,
) -> Result<(), BackupError> {
    let layout = catalog.layout();
    let object = |name: &str| layout.backup_object(&record.id, name);
    let mut expected = vec![(object(MANIFEST), manifest.bytes)];
    for tarball in &record.tarballs {
        expected.push((object(&tarball.name), tarball.stored_bytes));
        let name = TarballName::parse(&tarball.name);
        if let (Some(index), Some(name)) = (&tarball.index, name) {
            expected.push((object(&name.index_name()), index.stored_bytes));
        }
    }
    let folder = layout.backup(&record.id);
    let listed: Vec<ListEntry> =
        catalog.store().list(&folder).try_collect().await.map_err(BackupError::Store)?;
    let listed: BTreeMap<ObjectKey, u64> =
        listed.into_iter().map(|entry| (entry.key, entry.bytes)).collect();
    match expected.into_iter().find(|(key, bytes)| listed.get(key) != Some(bytes)) {
        None => Ok(()),
        Some((key, written)) => {
            let found = listed.get(&key).copied();
            let object = catalog.store().url_of(&key);
            Err(BackupError::ObjectLost { object, written, found })
        }
    }
}

/// Deletes what a failed run has stored, but not the claim of its id. Where that is refused
/// (a locked bucket) the next delete sweeps it.
///
/// The record goes first; where it stays, everything does.
pub async fn remove_objects(catalog: &Catalog, id: &BackupId) {
    let folder = catalog.layout().backup(id);
    let listed: Result<Vec<ListEntry>, _> = catalog.store().list(&folder).try_collect().await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(backup_id = %id, %error, "could not look for objects of the failed backup");
            return;
        }
    };
    let is_record = |key: &ObjectKey| matches!(key.file_name(), "backup.info" | "backup.json");
    let keys = listed.into_iter().map(|entry| entry.key);
    let (mut records, others): (Vec<_>, Vec<_>) =
        keys.filter(|key| key.file_name() != "started.json").partition(is_record);
    // backup.info, which both tools list by, before backup.json.
    records.sort();
    let ordered = records.into_iter().map(|key| vec![key]).chain([others]);
    for keys in ordered {
        let mut all_gone = true;
        for (key, answer) in catalog.store().delete(keys).await {
            if let Err(error) = answer {
                tracing::warn!(object = %key, %error, "could not delete object of the failed backup");
                all_gone = false;
            }
        }
        if !all_gone {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backup::BackupError;
    use crate::backup::publish::{publish, remove_objects};
    use crate::catalog::{
        BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatus, Catalog, IndexRecord,
        Layout, ServerName, TarballRecord,
    };
    use crate::store::{ObjectKey, PutMode, PutOptions, Store, WrittenObject};
    use futures::stream::TryStreamExt;

    const ID: &str = "20261120T120000";
    const NAMES: [&str; 3] = ["data.tar", "index/data.tar.jsonl.zst", "backup_manifest"];

    fn catalog() -> Catalog {
        let server = ServerName::parse("main").expect("server name");
        Catalog::new(Store::memory(), Layout::new("p", &server).expect("layout"))
    }

    async fn put(catalog: &Catalog, name: &str, text: &'static str) {
        let key = ObjectKey::parse(&format!("p/main/base/{ID}/{name}")).expect("key");
        let (store, options) = (catalog.store(), PutOptions::default());
        store.put(&key, text.into(), PutMode::Overwrite, &options).await.expect("memory");
    }

    async fn names(catalog: &Catalog) -> Vec<String> {
        let entries: Vec<_> = catalog.store().list("p").try_collect().await.expect("memory");
        let mut names: Vec<String> =
            entries.iter().map(|entry| entry.key.file_name().to_string()).collect();
        names.sort();
        names
    }

    /// A record of one tarball; every object has three bytes.
    fn record() -> (BackupRecord, WrittenObject) {
        let tarball = TarballRecord {
            name: "data.tar".into(),
            stored_bytes: 3,
            raw_bytes: 3,
            members: 1,
            sha256: String::new(),
            index: Some(IndexRecord { stored_bytes: 3, sha256: String::new() }),
        };
        let info = BackupInfo { status: Some(BackupStatus::Done), ..BackupInfo::default() };
        let record = BackupRecord {
            id: BackupId::parse(ID).expect("id"),
            tool: "barman-cloud 0.1.0".into(),
            method: BackupMethod::Files,
            info,
            compression: None,
            tarballs: vec![tarball],
            statistics: None,
            damaged_files: Vec::new(),
            warnings: Vec::new(),
            other: serde_json::Map::new(),
        };
        (record, WrittenObject { bytes: 3, sha256: "ab".into() })
    }

    #[tokio::test]
    async fn a_backup_of_which_any_object_is_lost_or_cut_is_not_published() {
        for lost in NAMES {
            let catalog = catalog();
            let (mut record, manifest) = record();
            for name in NAMES.into_iter().filter(|name| *name != lost) {
                put(&catalog, name, "abc").await;
            }
            let error = publish(&catalog, &mut record, &manifest, None).await.expect_err(lost);
            assert!(matches!(error, BackupError::ObjectLost { found: None, .. }), "{error}");
            put(&catalog, lost, "ab").await;
            let error = publish(&catalog, &mut record, &manifest, None).await.expect_err(lost);
            assert_eq!(
                error.to_string(),
                format!(
                    "object \"memory:/p/main/base/{ID}/{lost}\" was stored with 3 bytes and has 2"
                )
            );
            assert!(!names(&catalog).await.contains(&"backup.json".to_string()));
            put(&catalog, lost, "abc").await;
            publish(&catalog, &mut record, &manifest, None).await.expect("whole");
            assert!(names(&catalog).await.contains(&"backup.info".to_string()));
        }
    }

    #[tokio::test]
    async fn the_record_names_the_manifest_with_its_digest() {
        let catalog = catalog();
        let (mut record, manifest) = record();
        for name in NAMES {
            put(&catalog, name, "abc").await;
        }
        publish(&catalog, &mut record, &manifest, None).await.expect("whole");
        let found = catalog.find(&record.id, jiff::Timestamp::UNIX_EPOCH).await.expect("reads");
        let other = found.and_then(|backup| backup.record).expect("ours").other;
        assert_eq!(other["backup_manifest"]["sha256"], "ab");
    }

    #[tokio::test]
    async fn a_failed_backup_keeps_its_claim_and_nothing_else() {
        let catalog = catalog();
        for name in ["backup.info", "backup.json", "started.json"].into_iter().chain(NAMES) {
            put(&catalog, name, "abc").await;
        }
        remove_objects(&catalog, &BackupId::parse(ID).expect("id")).await;
        assert_eq!(names(&catalog).await, ["started.json"]);
    }
}
