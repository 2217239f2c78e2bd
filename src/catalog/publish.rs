//! Writing the catalog. Every object is written once, so that locked and write-once buckets
//! work and a reader never sees a backup change.
//!
//! ```text
//! started.json      claims the id (conditional create)
//! …tarballs…        crash here: only started.json tells; its age reveals the abandoned run
//! backup.json       crash after it: no backup.info, so in no list; the next delete finds that
//!                   everything is there and writes it
//! backup.info       the switch: from here on both tools list the backup
//! ```

use crate::catalog::format::{backup_info, backup_json, side_json, time};
use crate::catalog::handle::{BACKUP_INFO, BACKUP_JSON, STARTED_JSON};
use crate::catalog::tarballs::recorded_tarballs;
use crate::catalog::{
    ArchiveIdentity, BackupId, BackupRecord, BackupStatus, Catalog, CatalogError, StartedRecord,
};
use crate::flow::random_token;
use crate::store::{
    ConditionalWrites, ListEntry, ObjectKey, PutMode, PutOptions, PutOutcome, StoreErrorKind,
};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};

/// Seconds tried after the one in which a backup starts. More than this many backups do not
/// start in one minute.
const CLAIMS_MAX: i64 = 60;

impl Catalog {
    /// Claims an id for a backup that starts now: the second of `started`, or the next one
    /// nobody has. Barman's folders count as taken.
    pub async fn claim(&self, started: &StartedRecord) -> Result<BackupId, CatalogError> {
        let candidate = |after: i64| {
            let at = started.started.saturating_add(SignedDuration::from_secs(after));
            BackupId::at(at.unwrap_or(Timestamp::MAX))
        };
        let content = Bytes::from(side_json::print_started(started, &random_token()));
        let dialect = self.conditional_writes().await?;
        for after in 0..CLAIMS_MAX {
            let id = candidate(after);
            if self.store().list(&self.layout().backup(&id)).try_next().await?.is_some() {
                continue;
            }
            let claimed = match dialect.work() {
                true => self.claim_by_condition(&id, &content).await?,
                false => self.claim_alone(&id, &content).await?,
            };
            if claimed {
                return Ok(id);
            }
        }
        Err(CatalogError::NoFreeId { first: candidate(0), last: candidate(CLAIMS_MAX - 1) })
    }

    /// Whether the store gave this id to us and nobody else.
    async fn claim_by_condition(
        &self,
        id: &BackupId,
        content: &Bytes,
    ) -> Result<bool, CatalogError> {
        let key = self.layout().backup_object(id, STARTED_JSON);
        match self.write_once(&key, content.clone()).await {
            Ok(()) => Ok(true),
            Err(CatalogError::WrittenOtherwise { .. }) => Ok(false),
            Err(CatalogError::Store(error)) if error.kind == StoreErrorKind::Stopped => {
                // It may have been written: nobody would ever end this run.
                self.store().take_back(&key, content).await;
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether this id is ours, on a store that cannot refuse to overwrite. Of several that
    /// begin in the same second none may get it; then each takes another one.
    async fn claim_alone(&self, id: &BackupId, content: &Bytes) -> Result<bool, CatalogError> {
        let claims = self.layout().claims(&format!("base/{id}"));
        let Some(claim) = self.store().claim(&claims, &random_token()).await? else {
            self.store().linger().await;
            return Ok(false);
        };
        // Looked at again: whoever claimed before us may be done by now.
        let claimed = async {
            match self.store().list(&self.layout().backup(id)).try_next().await? {
                None => self.claim_by_condition(id, content).await,
                Some(_) => Ok(false),
            }
        }
        .await;
        self.store().withdraw(claim).await;
        claimed
    }

    /// What the store does with writes that must not replace, found out once for this archive.
    ///
    /// Who may write only cannot look it up, and leaves it to the store as ever.
    pub async fn conditional_writes(&self) -> Result<ConditionalWrites, CatalogError> {
        match self.store().learn_conditional_writes(self.layout().root()).await {
            Ok(found) => Ok(found),
            Err(error) if error.kind == StoreErrorKind::Denied => {
                tracing::info!(%error, "cannot find out whether the store refuses to overwrite");
                Ok(ConditionalWrites::Honoured)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates an object that several writers may want to create with different content;
    /// `subject` names what it is, whatever its suffix.
    pub async fn put_new(
        &self,
        key: &ObjectKey,
        content: Bytes,
        options: &PutOptions,
        subject: &str,
    ) -> Result<PutOutcome, CatalogError> {
        if self.conditional_writes().await?.work() {
            return Ok(self.store().put(key, content, PutMode::Create, options).await?);
        }
        let claims = self.layout().claims(subject);
        Ok(self.store().put_alone(key, content, options, &claims).await?)
    }

    /// Writes the record of a backup that ended: `backup.json`, then `backup.info`. Everything
    /// else must be complete and verified. May be repeated with the same record.
    ///
    /// What is called DONE is looked at once more: somebody may have deleted it while it ran.
    pub async fn publish(&self, record: &BackupRecord) -> Result<(), CatalogError> {
        if record.info.status() == BackupStatus::Done {
            let folder = self.layout().backup(&record.id);
            let objects: Vec<ListEntry> = self.store().list(&folder).try_collect().await?;
            recorded_tarballs(&record.id, &objects, &record.tarballs)?;
        }
        let record = publishable(record);
        let (id, layout) = (&record.id, self.layout());
        let json = Bytes::from(backup_json::print(&record));
        self.write_once(&layout.backup_object(id, BACKUP_JSON), json).await?;
        let info = Bytes::from(backup_info::print(&record.info));
        self.write_once(&layout.backup_object(id, BACKUP_INFO), info).await
    }

    /// Writes the record of a backup whose `backup.info` is somebody else's and stays as it is.
    pub async fn publish_verbatim(
        &self,
        record: &BackupRecord,
        backup_info: Bytes,
    ) -> Result<(), CatalogError> {
        let (id, layout) = (&record.id, self.layout());
        let json = Bytes::from(backup_json::print(record));
        self.write_once(&layout.backup_object(id, BACKUP_JSON), json).await?;
        self.write_once(&layout.backup_object(id, BACKUP_INFO), backup_info).await
    }

    /// Whose WAL the archive holds; `None` before the first segment of ours.
    pub async fn identity(&self) -> Result<Option<ArchiveIdentity>, CatalogError> {
        let key = self.layout().archive_json();
        let Some(content) = self.store().get(&key).await? else { return Ok(None) };
        let malformed = |error: crate::catalog::format::FormatError| CatalogError::Malformed {
            object: self.store().url_of(&key),
            reason: error.to_string(),
        };
        side_json::parse_archive(&content).map(Some).map_err(malformed)
    }

    /// Makes the archive that of `ours`, unless it is another cluster's already.
    ///
    /// Fails with [`CatalogError::OtherCluster`] when the system identifiers differ. Returns
    /// what is stored: timeline and segment size are those of the first claim.
    pub async fn claim_identity(
        &self,
        ours: &ArchiveIdentity,
    ) -> Result<ArchiveIdentity, CatalogError> {
        let key = self.layout().archive_json();
        let content = Bytes::from(side_json::print_archive(ours));
        let options = PutOptions::default();
        let outcome = self.put_new(&key, content, &options, "archive.json").await?;
        if outcome == PutOutcome::Written {
            return Ok(*ours);
        }
        match self.identity().await? {
            Some(stored) => self.check_identity(&stored, ours).map(|()| stored),
            None => Err(CatalogError::WrittenOtherwise { object: self.store().url_of(&key) }),
        }
    }

    /// Compares the identity of an archive with that of the cluster at hand.
    pub fn check_identity(
        &self,
        stored: &ArchiveIdentity,
        ours: &ArchiveIdentity,
    ) -> Result<(), CatalogError> {
        if stored.system_identifier == ours.system_identifier {
            return Ok(());
        }
        Err(CatalogError::OtherCluster {
            archive: self.server(),
            stored: stored.system_identifier,
            ours: ours.system_identifier,
        })
    }

    /// Writes an object that must not be there, or be there with this very content: a repeated
    /// run, or our own write whose answer was lost.
    pub(crate) async fn write_once(
        &self,
        key: &ObjectKey,
        content: Bytes,
    ) -> Result<(), CatalogError> {
        let options = PutOptions::default();
        match self.store().put(key, content.clone(), PutMode::Create, &options).await? {
            PutOutcome::Written => Ok(()),
            PutOutcome::AlreadyThere => match self.store().get(key).await? {
                Some(stored) if stored == content => Ok(()),
                _ => Err(CatalogError::WrittenOtherwise { object: self.store().url_of(key) }),
            },
        }
    }
}

/// The record as it is published: times in UTC in both files, and no end that was not reached.
pub(crate) fn publishable(record: &BackupRecord) -> BackupRecord {
    let mut record = record.clone();
    let info = &mut record.info;
    info.begin_time = info.begin_time.as_ref().map(time::in_utc);
    info.end_time = info.end_time.as_ref().map(time::in_utc);
    if info.status() != BackupStatus::Done {
        info.end_time = None;
    }
    record
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{empty_catalog, keys, limits, now, write};
    use crate::catalog::format::time;
    use crate::catalog::{
        ArchiveIdentity, BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatus, Catalog,
        CatalogError, StartedRecord, TarballRecord,
    };
    use crate::pgdata::SystemIdentifier;
    use crate::store::ObjectKey;
    use crate::store::dialects::{Condition, Dialect};
    use crate::wal::{SegmentSize, TimelineId};
    use jiff::Timestamp;
    use std::collections::BTreeSet;

    fn started(at: Timestamp, process: u32) -> StartedRecord {
        StartedRecord {
            tool: "barman-cloud 0.1.0".into(),
            name: Some("nightly".into()),
            method: BackupMethod::Files,
            started: at,
            host: "db1".into(),
            process,
            snapshots: None,
        }
    }

    fn record(id: &BackupId, status: BackupStatus) -> BackupRecord {
        let time = |text| Some(time::parse(text).expect("time"));
        BackupRecord {
            id: id.clone(),
            tool: "barman-cloud 0.1.0".into(),
            method: BackupMethod::Files,
            info: BackupInfo {
                status: Some(status),
                begin_time: time("2026-11-20 12:00:00+02:00"),
                end_time: time("2026-11-20 12:00:09.5+02:00"),
                server_name: Some("cloud".into()),
                ..BackupInfo::default()
            },
            compression: None,
            tarballs: Vec::new(),
            statistics: None,
            damaged_files: Vec::new(),
            warnings: Vec::new(),
            other: serde_json::Map::new(),
        }
    }

    fn identity(system_identifier: u64) -> ArchiveIdentity {
        ArchiveIdentity {
            system_identifier: SystemIdentifier::new(system_identifier),
            first_timeline: TimelineId::new(1).expect("1"),
            segment_size: SegmentSize::DEFAULT,
        }
    }

    #[tokio::test]
    async fn a_clash_of_ids_takes_the_next_second() {
        let catalog = empty_catalog();
        let at: Timestamp = "2026-11-20T23:58:59.7Z".parse().expect("time");
        let claim = |process| {
            let (catalog, started) = (catalog.clone(), started(at, process));
            async move { catalog.claim(&started).await.expect("claims").to_string() }
        };
        assert_eq!(claim(1).await, "20261120T235859");
        write(catalog.store(), "p/main/base/20261120T235900/backup.info", "status=STARTED").await;
        assert_eq!(claim(2).await, "20261120T235901");
    }

    #[tokio::test]
    async fn backups_that_start_at_once_never_share_an_id() {
        let catalog = empty_catalog();
        let at: Timestamp = "2026-11-20T23:58:59Z".parse().expect("time");
        let claims = (0..8).map(|process| {
            let (catalog, started) = (catalog.clone(), started(at, process));
            async move { catalog.claim(&started).await.expect("claims") }
        });
        let ids = futures::future::join_all(claims).await;
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 8);
    }

    #[tokio::test]
    async fn backups_share_no_id_where_the_store_cannot_refuse_to_overwrite() {
        let at: Timestamp = "2026-11-20T23:58:59Z".parse().expect("time");
        for condition in [Condition::Ignored, Condition::Refused] {
            for seed in 0..150 {
                let bucket = Dialect::new(condition, seed);
                let claims = (0..3).map(|_| {
                    let layout = empty_catalog().layout().clone();
                    let catalog = Catalog::new(bucket.open(), layout);
                    // The same host and process id: containers all have process 1.
                    let started = started(at, 1);
                    async move { catalog.claim(&started).await.expect("claims") }
                });
                let ids = futures::future::join_all(claims).await;
                let distinct: BTreeSet<_> = ids.iter().collect();
                assert_eq!(distinct.len(), 3, "seed {seed}, {condition:?}: {ids:?}");
            }
        }
    }

    #[tokio::test]
    async fn two_containers_that_look_alike_do_not_share_an_id() {
        let catalog = empty_catalog();
        let at: Timestamp = "2026-11-20T23:58:59Z".parse().expect("time");
        let started = started(at, 1);
        let claims = (0..4).map(|_| catalog.claim(&started));
        let ids = futures::future::join_all(claims).await;
        let distinct: BTreeSet<_> = ids.iter().flatten().collect();
        assert_eq!(distinct.len(), 4, "{ids:?}");
    }

    #[tokio::test]
    async fn an_archive_has_one_owner_where_the_store_cannot_refuse_to_overwrite() {
        for condition in [Condition::Ignored, Condition::Refused] {
            for seed in 0..300 {
                let bucket = Dialect::new(condition, seed);
                let claims = [7301, 7388, 7301].map(|system| {
                    let layout = empty_catalog().layout().clone();
                    let catalog = Catalog::new(bucket.open(), layout);
                    async move { (system, catalog.claim_identity(&identity(system)).await.is_ok()) }
                });
                let claimed = futures::future::join_all(claims).await;
                let owners: BTreeSet<_> =
                    claimed.iter().filter(|(_, ok)| *ok).map(|(system, _)| *system).collect();
                assert!(owners.len() <= 1, "seed {seed}, {condition:?}: {claimed:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_running_backup_is_listed_as_started_without_times() {
        let catalog = empty_catalog();
        let id = catalog.claim(&started(now(), 1)).await.expect("claims");
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        let backup = &listing.backups[0];
        assert_eq!((&backup.id, backup.status()), (&id, BackupStatus::Started));
        assert_eq!(backup.name(), Some("nightly"));
        assert!(backup.info.begin_time.is_none() && backup.info.end_time.is_none());
    }

    #[tokio::test]
    async fn publication_writes_both_files_once_and_may_be_repeated() {
        let catalog = empty_catalog();
        let id = catalog.claim(&started(now(), 1)).await.expect("claims");
        let mut record = record(&id, BackupStatus::Done);
        catalog.publish(&record).await.expect("publishes");
        catalog.publish(&record).await.expect("again");
        assert_eq!(
            keys(catalog.store()).await,
            ["backup.info", "backup.json", "started.json"]
                .map(|name| format!("p/main/base/{id}/{name}"))
        );
        let backup = catalog.find(&id, now()).await.expect("reads").expect("there");
        let end = backup.info.end_time.as_ref().map(time::python);
        assert_eq!(end.as_deref(), Some("2026-11-20 10:00:09.500000+00:00"));
        assert!(backup.record.is_some());

        record.info.error = Some("other".into());
        let error = catalog.publish(&record).await.expect_err("other content");
        assert!(matches!(error, CatalogError::WrittenOtherwise { .. }));
    }

    #[tokio::test]
    async fn a_backup_that_was_deleted_while_it_ran_is_not_published_as_done() {
        let catalog = empty_catalog();
        let id = BackupId::parse("20261120T120000").expect("id");
        let mut record = record(&id, BackupStatus::Done);
        record.tarballs.push(TarballRecord {
            name: "data.tar".into(),
            stored_bytes: 3,
            raw_bytes: 3,
            members: 1,
            sha256: String::new(),
            index: None,
        });
        let error = catalog.publish(&record).await.expect_err("gone");
        assert!(matches!(error, CatalogError::Incomplete(_)), "{error}");
        assert!(keys(catalog.store()).await.is_empty());
        write(catalog.store(), &format!("p/main/base/{id}/data.tar"), "abc").await;
        catalog.publish(&record).await.expect("publishes");
    }

    #[tokio::test]
    async fn what_barman_deleted_of_ours_is_a_leftover_at_once_and_a_publication_is_not() {
        let catalog = empty_catalog();
        let id = BackupId::parse("20261120T120000").expect("id");
        let mut record = record(&id, BackupStatus::Done);
        let tarball = format!("p/main/base/{id}/data.tar");
        write(catalog.store(), &tarball, "abc").await;
        record.tarballs.push(TarballRecord {
            name: "data.tar".into(),
            stored_bytes: 3,
            raw_bytes: 3,
            members: 1,
            sha256: String::new(),
            index: None,
        });
        catalog.publish(&record).await.expect("publishes");
        let delete = async |key: String| {
            let keys = vec![ObjectKey::parse(&key).expect("key")];
            for (_, answer) in catalog.store().delete(keys).await {
                answer.expect("memory");
            }
        };
        delete(format!("p/main/base/{id}/backup.info")).await;
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        assert!(listing.backups.is_empty() && listing.leftovers.is_empty());
        delete(tarball).await;
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        assert!(listing.backups.is_empty());
        assert_eq!(listing.leftovers.len(), 1);
    }

    #[tokio::test]
    async fn a_failed_backup_is_published_without_an_end() {
        let catalog = empty_catalog();
        let id = BackupId::parse("20261120T120000").expect("id");
        catalog.publish(&record(&id, BackupStatus::Failed)).await.expect("publishes");
        let key = catalog.layout().backup_object(&id, "backup.info");
        let text = catalog.store().get(&key).await.expect("reads").expect("there");
        assert!(String::from_utf8_lossy(&text).contains("\nend_time=None\n"));
    }

    #[tokio::test]
    async fn an_archive_belongs_to_the_first_cluster_that_claims_it() {
        let catalog = empty_catalog();
        assert_eq!(catalog.identity().await.expect("none"), None);
        catalog.claim_identity(&identity(7301)).await.expect("claims");
        let later =
            ArchiveIdentity { first_timeline: TimelineId::new(5).expect("5"), ..identity(7301) };
        assert_eq!(catalog.claim_identity(&later).await.expect("same"), identity(7301));
        let error = catalog.claim_identity(&identity(7388)).await.expect_err("other");
        assert_eq!(
            error.to_string(),
            "archive \"p/main\" belongs to system identifier 7301, this cluster has system identifier 7388"
        );
    }
}
