//! Reading the catalog: one recursive LIST below `base/` and one of the top of `wals/`, side by
//! side, then small GETs in parallel.

use crate::catalog::annotations::Elsewhere;
use crate::catalog::backup::time_of;
use crate::catalog::format::{backup_info, backup_json, side_json};
use crate::catalog::tarballs::{lies_in_folder_itself, recorded_tarballs};
use crate::catalog::{
    Backup, BackupId, BackupInfo, BackupMethod, BackupRecord, BackupSelector, BackupStatus,
    CatalogError, CatalogListing, Layout, Leftover, SelectError, StartedRecord, TarballError,
    TarballName, UnreadableBackup,
};
use crate::flow::{Cancel, Limits};
use crate::store::{ListEntry, Store};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

pub const BACKUP_INFO: &str = "backup.info";
pub const BACKUP_JSON: &str = "backup.json";
pub const STARTED_JSON: &str = "started.json";
pub const DELETION_JSON: &str = "deletion.json";
const BACKUP_LABEL: &str = "backup_label";
pub const KEEP: &str = "annotations/keep";

/// How long a run may leave no trace in its folder before it counts as abandoned: longer than
/// the upload of the largest tarball may take.
pub const ABANDONED_AFTER: SignedDuration = SignedDuration::from_hours(48);

/// Between `backup.json` and `backup.info` of one publication lie two requests and their
/// retries; after this long the second is not coming.
const PUBLICATION_MAX: SignedDuration = SignedDuration::from_hours(1);

/// A record has some hundred bytes per tarball; a larger object is none, and not read.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// GETs of small objects in flight, whatever `--jobs` says: they cost nothing but waiting.
const READS_AT_ONCE: usize = 32;

/// The backups, WAL and identity of one server name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Store,
    layout: Layout,
}

/// What the objects in one folder make it.
enum Folder {
    Backup(Box<Backup>),
    Unreadable(Box<UnreadableBackup>),
    /// Its deletion was begun: the mark is there, and the entry is not.
    Begun(Box<Backup>),
    /// Everything is there but `backup.info`.
    Unlisted(Box<Backup>),
    Leftover(Leftover),
    /// Neither a backup nor old enough to be swept.
    Nothing,
}

/// Which of the two records of a backup is read: ours, where it is there.
#[derive(Clone, Copy)]
enum Record {
    Ours,
    Barmans,
}

/// Where a backup's keep may be.
#[derive(Clone, Copy)]
struct KeepPlaces {
    here: bool,
    elsewhere: Elsewhere,
}

impl Catalog {
    pub fn new(store: Store, layout: Layout) -> Self {
        Self { store, layout }
    }

    /// The same catalog for work that ends when `stop` is cancelled; see [`Store::until`].
    pub fn until(&self, stop: &Cancel) -> Self {
        Self { store: self.store.until(stop), layout: self.layout.clone() }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The URL of the server's folder, for people.
    pub fn server(&self) -> String {
        self.layout.root().to_string()
    }

    /// Reads the whole catalog. A malformed backup is reported beside the others; a store that
    /// does not answer is an error, never an empty catalog.
    ///
    /// `now` tells a running backup from an abandoned one.
    pub async fn load(
        &self,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<CatalogListing, CatalogError> {
        let (folders, elsewhere, top) =
            tokio::try_join!(self.folders(), self.keeps_elsewhere(), self.top_for_branches())?;
        let at_once = limits.jobs.get().max(READS_AT_ONCE);
        let mut read = stream::iter(folders)
            .map(|(id, objects)| self.read_folder(id, objects, elsewhere, now))
            .buffered(at_once);
        let mut listing = CatalogListing { top, ..CatalogListing::default() };
        while let Some(folder) = read.try_next().await? {
            match folder {
                Folder::Backup(backup) => listing.backups.push(*backup),
                Folder::Unreadable(unreadable) => listing.unreadable.push(*unreadable),
                Folder::Begun(backup) => listing.begun.push(*backup),
                Folder::Unlisted(backup) => listing.unlisted.push(*backup),
                Folder::Leftover(leftover) => listing.leftovers.push(leftover),
                Folder::Nothing => {}
            }
        }
        self.note_dead_branches(&mut listing, limits).await?;
        Ok(listing)
    }

    /// Reads one backup; `None` when there is none under this id.
    pub async fn find(
        &self,
        id: &BackupId,
        now: Timestamp,
    ) -> Result<Option<Backup>, CatalogError> {
        let objects: Vec<ListEntry> =
            self.store.list(&self.layout.backup(id)).try_collect().await?;
        match self.read_folder(id.clone(), sorted(objects), Elsewhere::Look, now).await? {
            Folder::Backup(backup) => Ok(Some(*backup)),
            Folder::Unreadable(unreadable) => Err(CatalogError::Unreadable {
                id: unreadable.id,
                object: unreadable.object,
                reason: unreadable.reason,
            }),
            Folder::Begun(_) | Folder::Unlisted(_) | Folder::Leftover(_) | Folder::Nothing => {
                Ok(None)
            }
        }
    }

    /// The id that a word of the command line stands for. An id is not looked up.
    pub async fn resolve(
        &self,
        text: &str,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<BackupId, CatalogError> {
        match BackupSelector::parse(text) {
            BackupSelector::Id(id) => Ok(id),
            selector => {
                let listing = self.load(limits, now).await?;
                listing.resolve(&selector).map_err(|error| self.unresolved(text, error))
            }
        }
    }

    /// The backup that a word of the command line stands for; it must be there.
    pub async fn select(
        &self,
        text: &str,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Backup, CatalogError> {
        let (id, found) = match BackupSelector::parse(text) {
            BackupSelector::Id(id) => (id.clone(), self.find(&id, now).await?),
            selector => {
                let listing = self.load(limits, now).await?;
                let id = listing.resolve(&selector);
                let id = id.map_err(|error| self.unresolved(text, error))?;
                let mut backups = listing.backups.into_iter();
                let found = backups.find(|backup| backup.id == id);
                (id, found)
            }
        };
        found.ok_or_else(|| CatalogError::AbsentBackup { id, server: self.server() })
    }

    pub(crate) fn unresolved(&self, text: &str, error: SelectError) -> CatalogError {
        match error {
            SelectError::Unknown => {
                CatalogError::UnknownBackup { text: text.into(), server: self.server() }
            }
            SelectError::Ambiguous(ids) => CatalogError::AmbiguousName {
                name: text.into(),
                ids: ids.iter().map(ToString::to_string).collect(),
            },
        }
    }

    /// Everything below `base/`, by backup id; foreign folders are passed over.
    async fn folders(&self) -> Result<BTreeMap<BackupId, Vec<ListEntry>>, CatalogError> {
        let base = self.layout.base();
        let mut folders: BTreeMap<BackupId, Vec<ListEntry>> = BTreeMap::new();
        let mut entries = self.store.list(&base);
        while let Some(entry) = entries.try_next().await? {
            let relative = entry.key.as_str().strip_prefix(&base).and_then(|r| r.strip_prefix('/'));
            let Some((folder, _)) = relative.and_then(|relative| relative.split_once('/')) else {
                continue;
            };
            if let Ok(id) = BackupId::parse(folder) {
                folders.entry(id).or_default().push(entry);
            }
        }
        Ok(folders.into_iter().map(|(id, objects)| (id, sorted(objects))).collect())
    }

    async fn read_folder(
        &self,
        id: BackupId,
        objects: Vec<ListEntry>,
        elsewhere: Elsewhere,
        now: Timestamp,
    ) -> Result<Folder, CatalogError> {
        let there = |name: &str| {
            let key = self.layout.backup_object(&id, name);
            objects.iter().find(|entry| entry.key == key)
        };
        let keep = KeepPlaces { here: there(KEEP).is_some(), elsewhere };
        if there(BACKUP_INFO).is_some() {
            let ours = there(BACKUP_JSON).is_some();
            let record = if ours { Record::Ours } else { Record::Barmans };
            return self.read_ended(id, objects, record, keep).await;
        }
        if there(DELETION_JSON).is_some() {
            return self.read_begun(id, objects, keep).await;
        }
        if let Some(record) = there(BACKUP_JSON) {
            let since = now.duration_since(record.modified);
            return self.read_unlisted(id, objects, since, keep).await;
        }
        let newest = objects.iter().map(|entry| entry.modified).max();
        let untouched_for =
            newest.map_or(SignedDuration::ZERO, |newest| now.duration_since(newest));
        // Folders without a trace of ours are somebody else's.
        if there(STARTED_JSON).is_none() {
            return Ok(Folder::Nothing);
        }
        if untouched_for <= ABANDONED_AFTER {
            return self.read_started(id, objects).await;
        }
        let keep = self.read_keep(&id, keep.here, keep.elsewhere).await?;
        Ok(Folder::Leftover(Leftover { id, objects, keep }))
    }

    /// A backup with `backup.info`: ended, or one of Barman's that runs. One of the two records is
    /// read, beside the keep.
    async fn read_ended(
        &self,
        id: BackupId,
        objects: Vec<ListEntry>,
        record: Record,
        keep: KeepPlaces,
    ) -> Result<Folder, CatalogError> {
        let name = match record {
            Record::Ours => BACKUP_JSON,
            Record::Barmans => BACKUP_INFO,
        };
        let key = self.layout.backup_object(&id, name);
        if objects.iter().any(|entry| entry.key == key && entry.bytes > RECORD_BYTES_MAX) {
            let keep = self.read_keep(&id, keep.here, keep.elsewhere).await?;
            let (object, reason) =
                (self.store.url_of(&key), "it is too large to be a record".into());
            let unreadable = UnreadableBackup { id, object, reason, objects, keep };
            return Ok(Folder::Unreadable(Box::new(unreadable)));
        }
        let keep = self.read_keep(&id, keep.here, keep.elsewhere);
        let content = async { Ok(self.store.get(&key).await?) };
        let (keep, content) = tokio::try_join!(keep, content)?;
        let Some(content) = content else {
            // Deleted since it was listed.
            return Ok(Folder::Nothing);
        };
        let parsed = match record {
            Record::Ours => {
                parse_record(&id, &content).map(|record| (record.info.clone(), Some(record)))
            }
            Record::Barmans => parse_info(&content).map(|info| (info, None)),
        };
        Ok(match parsed {
            Ok((info, record)) => {
                let started = None;
                let backup = Backup { id, info, record, started, objects, keep };
                Folder::Backup(Box::new(judged(self.looked_at_again(backup).await?)))
            }
            Err(reason) => {
                let object = self.store.url_of(&key);
                Folder::Unreadable(Box::new(UnreadableBackup { id, object, reason, objects, keep }))
            }
        })
    }

    /// The backup with a second listing if it seems incomplete: one of several pages may have
    /// passed the place of a tarball before it was written, and seen the entry after.
    async fn looked_at_again(&self, backup: Backup) -> Result<Backup, CatalogError> {
        if !backup.is_done() || backup.tarballs().is_ok() {
            return Ok(backup);
        }
        let listed = self.store.list(&self.layout.backup(&backup.id)).try_collect().await?;
        Ok(Backup { objects: sorted(listed), ..backup })
    }

    /// A folder whose entry a deletion has removed, so that what it left is nobody's backup. The
    /// mark holds the entry, for what else must go with the backup.
    async fn read_begun(
        &self,
        id: BackupId,
        objects: Vec<ListEntry>,
        keep: KeepPlaces,
    ) -> Result<Folder, CatalogError> {
        let keep = self.read_keep(&id, keep.here, keep.elsewhere);
        let (keep, mark) = tokio::try_join!(keep, self.deletion_mark(&id))?;
        let info = mark.and_then(|mark| parse_info(&mark.backup_info?).ok());
        Ok(match info {
            Some(info) => {
                let (record, started) = (None, None);
                Folder::Begun(Box::new(Backup { id, info, record, started, objects, keep }))
            }
            // Of a backup that could not be read either.
            None => Folder::Leftover(Leftover { id, objects, keep }),
        })
    }

    /// A backup of ours without `backup.info`, so long after its record was written: being
    /// published, cut short between the two, without it by some accident, or deleted by Barman,
    /// which takes the tarballs too. As long as they are all there nobody has deleted it.
    async fn read_unlisted(
        &self,
        id: BackupId,
        objects: Vec<ListEntry>,
        since: SignedDuration,
        keep: KeepPlaces,
    ) -> Result<Folder, CatalogError> {
        let key = self.layout().backup_object(&id, BACKUP_JSON);
        let Some(content) = self.store.get(&key).await? else { return Ok(Folder::Nothing) };
        let keep = self.read_keep(&id, keep.here, keep.elsewhere).await?;
        let record = match parse_record(&id, &content) {
            Ok(record) if is_intact(&record, &objects) => {
                let (info, record, started) = (record.info.clone(), Some(record), None);
                let backup = Backup { id, info, record, started, objects, keep };
                return Ok(Folder::Unlisted(Box::new(backup)));
            }
            record => record,
        };
        let lost = record.as_ref().is_ok_and(|record| {
            let found = recorded_tarballs(&id, &objects, &record.tarballs);
            matches!(found, Err(TarballError::Missing { .. }))
        });
        if !lost && since <= PUBLICATION_MAX {
            return Ok(Folder::Nothing);
        }
        Ok(match record {
            Err(reason) if has_tarballs(&id, &objects) => {
                let object = self.store.url_of(&key);
                Folder::Unreadable(Box::new(UnreadableBackup { id, object, reason, objects, keep }))
            }
            _ => Folder::Leftover(Leftover { id, objects, keep }),
        })
    }

    /// What a run claimed before it began; `None` when there is no claim, or none of ours.
    pub async fn claim_of(&self, id: &BackupId) -> Result<Option<StartedRecord>, CatalogError> {
        let key = self.layout.backup_object(id, STARTED_JSON);
        let content = self.store.get(&key).await?;
        Ok(content.and_then(|content| side_json::parse_started(&content).ok()))
    }

    /// One of ours that runs: `started.json` is its only trace.
    async fn read_started(
        &self,
        id: BackupId,
        objects: Vec<ListEntry>,
    ) -> Result<Folder, CatalogError> {
        let key = self.layout.backup_object(&id, STARTED_JSON);
        let Some(content) = self.store.get(&key).await? else { return Ok(Folder::Nothing) };
        Ok(match side_json::parse_started(&content) {
            Ok(started) => {
                let info = info_of_started(&started);
                let (record, keep) = (None, None);
                Folder::Backup(Box::new(Backup {
                    id,
                    info,
                    record,
                    started: Some(started),
                    objects,
                    keep,
                }))
            }
            Err(error) => Folder::Unreadable(Box::new(UnreadableBackup {
                id,
                object: self.store.url_of(&key),
                reason: error.to_string(),
                objects,
                keep: None,
            })),
        })
    }
}

/// What is recorded as DONE and is not all there is no backup, and must not look like one.
fn judged(mut backup: Backup) -> Backup {
    let incomplete = match backup.is_done() {
        true => backup.tarballs().err(),
        false => None,
    };
    if let Some(reason) = incomplete {
        backup.info.status = Some(BackupStatus::Incomplete);
        backup.info.error = Some(reason.to_string());
    }
    // An end that was not reached must not be published: consumers take it for done.
    if !backup.is_done() {
        backup.info.end_time = None;
    }
    backup
}

/// Whether everything that a DONE backup consists of is there, beside its entry. Of snapshots that
/// is the label, which Barman deletes with them.
fn is_intact(record: &BackupRecord, objects: &[ListEntry]) -> bool {
    let there = |name: &str| objects.iter().any(|entry| entry.key.file_name() == name);
    let complete = || recorded_tarballs(&record.id, objects, &record.tarballs).is_ok();
    record.info.status() == BackupStatus::Done
        && match record.method {
            BackupMethod::Snapshot => there(BACKUP_LABEL),
            BackupMethod::Files | BackupMethod::Stream => !record.tarballs.is_empty() && complete(),
        }
}

fn has_tarballs(id: &BackupId, objects: &[ListEntry]) -> bool {
    let mut in_folder = objects.iter().filter(|entry| lies_in_folder_itself(id, entry));
    in_folder.any(|entry| TarballName::parse(entry.key.file_name()).is_some())
}

fn sorted(mut objects: Vec<ListEntry>) -> Vec<ListEntry> {
    objects.sort_by(|one, other| one.key.cmp(&other.key));
    objects
}

fn parse_record(id: &BackupId, content: &Bytes) -> Result<BackupRecord, String> {
    let record = backup_json::parse(content).map_err(|error| error.to_string())?;
    if record.id == *id {
        Ok(record)
    } else {
        Err(format!("it is the record of backup \"{}\"", record.id))
    }
}

fn parse_info(content: &Bytes) -> Result<BackupInfo, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8 text".to_string())?;
    backup_info::parse(text).map_err(|error| error.to_string())
}

/// What can be told of a backup before PostgreSQL was asked anything.
fn info_of_started(started: &StartedRecord) -> BackupInfo {
    // The key under which `show` prints, and which consumers look for. Backups of snapshots have
    // the server's own name there.
    let snapshots = started.snapshots.as_ref();
    let server_name = snapshots.and_then(|snapshots| snapshots["server_name"].as_str());
    BackupInfo {
        backup_name: started.name.clone(),
        server_name: Some(server_name.unwrap_or("cloud").into()),
        status: Some(BackupStatus::Started),
        ..BackupInfo::default()
    }
}

/// Whether a backup that is whole but for its entry may still be about to get it.
pub fn is_being_published(backup: &Backup, now: Timestamp) -> bool {
    let record = backup.objects.iter().find(|entry| entry.key.file_name() == BACKUP_JSON);
    record.is_some_and(|record| now.duration_since(record.modified) <= PUBLICATION_MAX)
}

/// Whether a backup that has not ended has shown no sign of life for [`ABANDONED_AFTER`].
pub fn is_abandoned(backup: &Backup, now: Timestamp) -> bool {
    let newest = backup.objects.iter().map(|entry| entry.modified).max();
    let sign_of_life = newest.unwrap_or_else(|| time_of(&backup.id));
    let unended = matches!(backup.status(), BackupStatus::Started | BackupStatus::Empty);
    unended && now.duration_since(sign_of_life) > ABANDONED_AFTER
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{self, limits, now, write};
    use crate::catalog::{
        ABANDONED_AFTER, BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatus, Catalog,
        CatalogError, CatalogListing, KeepTarget, Layout, ServerName, is_abandoned,
        is_being_published,
    };
    use crate::store::Store;
    use crate::store::recording::Requests;

    async fn load(catalog: &Catalog) -> CatalogListing {
        catalog.load(&limits(), now()).await.expect("loads")
    }

    fn ids(listing: &CatalogListing) -> Vec<&str> {
        listing.backups.iter().map(|backup| backup.id.as_str()).collect()
    }

    fn id(text: &str) -> BackupId {
        BackupId::parse(text).expect("id")
    }

    #[tokio::test]
    async fn the_backups_of_barman_are_read_with_their_keeps_and_tarballs() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let listing = load(&catalog).await;
        assert_eq!(
            ids(&listing),
            [
                "20261120T235832",
                "20261120T235852",
                "20261120T235911",
                "20261121T000052",
                "20261121T000057"
            ]
        );
        let kept: Vec<_> = listing.backups.iter().map(|backup| backup.kept()).collect();
        assert_eq!(kept, [None, None, Some(KeepTarget::Standalone), None, None]);
        let tarballs = |index: usize| listing.backups[index].tarballs().expect("complete").len();
        assert_eq!((tarballs(0), tarballs(1)), (2, 8));
        assert!(listing.unreadable.is_empty() && listing.leftovers.is_empty());
    }

    #[tokio::test]
    async fn names_shortcuts_and_ids_select_a_backup() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        for (text, found) in [
            ("nightly-gz", "20261120T235832"),
            ("last", "20261121T000057"),
            ("20261120T235911", "20261120T235911"),
        ] {
            let backup = catalog.select(text, &limits(), now()).await.expect(text);
            assert_eq!(backup.id.as_str(), found);
        }
        let unknown = catalog.select("nobody", &limits(), now()).await.expect_err("unknown");
        assert_eq!(
            unknown.to_string(),
            "backup \"nobody\" does not exist for server \"pg15/main\""
        );
        let absent = catalog.select("20200101T000000", &limits(), now()).await.expect_err("absent");
        assert!(matches!(absent, CatalogError::AbsentBackup { .. }));
    }

    #[tokio::test]
    async fn a_malformed_backup_does_not_hide_the_others() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let key = "pg15/main/base/20261120T235852/backup.info";
        write(catalog.store(), key, "status").await;
        let listing = load(&catalog).await;
        assert_eq!(listing.backups.len(), 4);
        assert_eq!(listing.unreadable.len(), 1);
        let error = catalog.find(&id("20261120T235852"), now()).await.expect_err("malformed");
        assert_eq!(
            error.to_string(),
            "cannot read backup \"20261120T235852\": object \"memory:/pg15/main/base/20261120T235852/backup.info\" is malformed: line 1 has no \"=\""
        );
    }

    #[tokio::test]
    async fn a_folder_without_backup_info_is_no_backup_and_is_swept_when_it_is_old() {
        let catalog = fixtures::empty_catalog();
        let folder = "p/main/base/20260101T000000";
        write(catalog.store(), &format!("{folder}/backup.json"), "{}").await;
        write(catalog.store(), &format!("{folder}/index/data.jsonl.zst"), "").await;
        write(catalog.store(), "p/main/base/notes/backup.info", "status=DONE").await;
        let listing = load(&catalog).await;
        assert_eq!(listing, CatalogListing::default());
        let later = now() + ABANDONED_AFTER + ABANDONED_AFTER;
        let listing = catalog.load(&limits(), later).await.expect("loads");
        assert!(listing.backups.is_empty());
        assert_eq!(listing.leftovers.len(), 1);
        assert_eq!(listing.leftovers[0].objects.len(), 2);
        assert_eq!(catalog.find(&id("20260101T000000"), later).await.expect("absent"), None);
    }

    #[tokio::test]
    async fn an_end_that_was_not_reached_is_not_read() {
        let catalog = fixtures::catalog("lab", "sb", "srv").await;
        let key = "sb/srv/base/20261121T000016/backup.info";
        let text = std::fs::read_to_string(fixtures::path("lab").join(key)).expect("fixture");
        write(catalog.store(), key, text.replace("status=DONE", "status=FAILED")).await;
        let listing = load(&catalog).await;
        assert_eq!(listing.backups[0].status(), BackupStatus::Failed);
        assert_eq!(listing.backups[0].info.end_time, None);
    }

    #[tokio::test]
    async fn a_started_backup_of_barman_stays_listed_and_age_reveals_that_it_is_abandoned() {
        let catalog = fixtures::catalog("lab", "kill", "srv").await;
        let later = now() + ABANDONED_AFTER + ABANDONED_AFTER;
        let listing = catalog.load(&limits(), later).await.expect("loads");
        let backup = &listing.backups[0];
        assert_eq!(backup.status(), BackupStatus::Started);
        assert!(is_abandoned(backup, later) && !is_abandoned(backup, now()));
    }

    #[tokio::test]
    async fn an_empty_bucket_is_an_empty_catalog() {
        let catalog = fixtures::empty_catalog();
        assert_eq!(load(&catalog).await, CatalogListing::default());
    }

    /// A backup of ours with one tarball of three bytes, published and then without its entry.
    async fn without_entry(catalog: &Catalog, method: BackupMethod) -> BackupId {
        let id = id("20261120T120000");
        let tarball = crate::catalog::TarballRecord {
            name: "data.tar".into(),
            stored_bytes: 3,
            raw_bytes: 3,
            members: 1,
            sha256: String::new(),
            index: None,
        };
        let snapshot = method == BackupMethod::Snapshot;
        let side = if snapshot { "backup_label" } else { "data.tar" };
        write(catalog.store(), &format!("p/main/base/{id}/{side}"), "abc").await;
        let record = BackupRecord {
            id: id.clone(),
            tool: "test".into(),
            method,
            info: BackupInfo { status: Some(BackupStatus::Done), ..BackupInfo::default() },
            compression: None,
            tarballs: if snapshot { Vec::new() } else { vec![tarball] },
            statistics: None,
            damaged_files: Vec::new(),
            warnings: Vec::new(),
            other: serde_json::Map::new(),
        };
        catalog.publish(&record).await.expect("publishes");
        let entry = catalog.layout().backup_object(&id, "backup.info");
        catalog.delete_one(entry).await.expect("deletes");
        id
    }

    #[tokio::test]
    async fn a_backup_without_its_entry_alone_is_never_swept_and_without_its_data_it_is() {
        let later = now() + ABANDONED_AFTER + ABANDONED_AFTER;
        for (method, proof) in
            [(BackupMethod::Files, "data.tar"), (BackupMethod::Snapshot, "backup_label")]
        {
            let catalog = fixtures::empty_catalog();
            let id = without_entry(&catalog, method).await;
            let listing = catalog.load(&limits(), later).await.expect("loads");
            assert!(listing.backups.is_empty() && listing.leftovers.is_empty());
            assert_eq!(listing.unlisted.len(), 1, "{method:?}");
            // Still being published, as far as its age tells.
            assert!(is_being_published(&load(&catalog).await.unlisted[0], now()));
            assert!(!is_being_published(&listing.unlisted[0], later));
            let key = catalog.layout().backup_object(&id, proof);
            catalog.delete_one(key).await.expect("deletes");
            let listing = catalog.load(&limits(), later).await.expect("loads");
            assert_eq!((listing.unlisted.len(), listing.leftovers.len()), (0, 1), "{method:?}");
        }
    }

    #[tokio::test]
    async fn tarballs_beside_a_record_that_cannot_be_read_are_reported_and_not_swept() {
        let catalog = fixtures::empty_catalog();
        write(catalog.store(), "p/main/base/20260101T000000/backup.json", "{").await;
        write(catalog.store(), "p/main/base/20260101T000000/data.tar", "abc").await;
        let later = now() + ABANDONED_AFTER + ABANDONED_AFTER;
        let listing = catalog.load(&limits(), later).await.expect("loads");
        assert_eq!((listing.unreadable.len(), listing.leftovers.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_backup_that_lost_a_tarball_is_incomplete_and_picked_by_no_shortcut() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let key = "pg15/main/base/20261121T000057/data.tar.gz";
        let there = fixtures::keys(catalog.store()).await;
        let key = there.iter().find(|found| found.starts_with(&key[..key.len() - 3])).expect("one");
        catalog
            .delete_one(crate::store::ObjectKey::parse(key).expect("key"))
            .await
            .expect("deletes");
        let listing = load(&catalog).await;
        let lost = listing.get(&id("20261121T000057")).expect("listed");
        assert_eq!((lost.status(), lost.info.end_time.is_none()), (BackupStatus::Incomplete, true));
        let last = catalog.select("last", &limits(), now()).await.expect("selects");
        assert_eq!(last.id.as_str(), "20261121T000052");
    }

    fn recording() -> (Catalog, Requests) {
        let (store, requests) = Store::recording();
        let server = ServerName::parse("main").expect("server name");
        (Catalog::new(store, Layout::new("p", &server).expect("layout")), requests)
    }

    #[tokio::test]
    async fn a_list_takes_one_listing_and_one_read_for_each_backup() {
        let (catalog, requests) = recording();
        let folder = |day: u32| format!("p/main/base/2026010{day}T000000");
        for day in 1..=4 {
            for name in ["backup.info", "backup_manifest", "data.tar", "data_0001.tar"] {
                write(catalog.store(), &format!("{}/{name}", folder(day)), "status=DONE\n").await;
            }
        }
        // Of a backup of ours only our record is read, of a kept one the keep too.
        write(catalog.store(), &format!("{}/backup.json", folder(2)), "{}").await;
        write(catalog.store(), &format!("{}/annotations/keep", folder(3)), "full").await;
        requests.take();
        let listing = load(&catalog).await;
        assert_eq!((listing.backups.len(), listing.unreadable.len()), (3, 1));
        let expected = [
            format!("GET {}/backup.info", folder(1)),
            format!("GET {}/backup.json", folder(2)),
            format!("GET {}/annotations/keep", folder(3)),
            format!("GET {}/backup.info", folder(3)),
            format!("GET {}/backup.info", folder(4)),
            "LIST p//main/base".to_string(),
            "LIST p/main/base".to_string(),
            // For the history files, which tell what lies on a dead branch.
            "LIST p/main/wals".to_string(),
        ];
        assert_eq!(requests.take(), expected);

        // By id only its own folder is looked at; by shortcut nothing is read twice.
        catalog.select("20260101T000000", &limits(), now()).await.expect("selects");
        let one = [
            "GET p//main/base/20260101T000000/annotations/keep".to_string(),
            format!("GET {}/backup.info", folder(1)),
            format!("LIST {}", folder(1)),
        ];
        assert_eq!(requests.take(), one);
        catalog.select("last", &limits(), now()).await.expect("selects");
        assert_eq!(requests.take(), expected);
    }
}
