//! The whole verb on a store in memory: what is restored, refused, resumed.

use crate::catalog::fixtures::{empty_catalog, limits, now, write};
use crate::catalog::{
    BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatus, Catalog, Tablespace,
    TarballName, TarballRecord,
};
use crate::codec;
use crate::flow::{Cancel, Limits};
use crate::monitor::{Metric, Monitor, Phase, Silent};
use crate::pgdata::{ManifestVersion, ManifestWriter, WalRange};
use crate::restore::journal::JOURNAL;
use crate::restore::{
    RestoreError, RestoreOptions, RestoreSelection, RestoreSummary, TablespaceMapping, Unfinished,
    restore,
};
use crate::store::ObjectKey;
use crate::wal::{Lsn, TimelineId};
use sha2::{Digest, Sha256};
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::{EntryType, Header};
use tempfile::TempDir;

pub(crate) const ID: &str = "20261120T235832";
/// Where the WAL of every backup here begins.
const BEGIN: u64 = 0x0200_0028;

/// A manifest of no files, of a backup that begins there.
pub(crate) fn manifest(begin: u64) -> Vec<u8> {
    let writer = ManifestWriter::new(Vec::new(), ManifestVersion::One).expect("memory");
    let timeline = TimelineId::new(1).expect("1");
    let range = WalRange { timeline, begin: Lsn::new(begin), end: Lsn::new(begin + 0x100) };
    writer.finish(&[range]).expect("memory")
}

/// A tarball under construction.
pub(crate) struct Tarball(tar::Builder<Vec<u8>>, u64);

impl Tarball {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()), 0)
    }

    pub(crate) fn add(mut self, kind: EntryType, name: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        let me = fs::metadata("/proc/self").expect("metadata");
        header.set_uid(u64::from(me.uid()));
        header.set_gid(u64::from(me.gid()));
        header.set_mtime(1_000_000_000);
        header.set_size(u64::try_from(content.len()).expect("small"));
        // As it is, so that names which lead out can be written too.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).expect("in memory");
        self.1 += 1;
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, name, 0o600, content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, 0o700, b"")
    }

    pub(crate) fn link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_metadata(&fs::metadata("/proc/self").expect("metadata"));
        header.set_entry_type(kind);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).expect("in memory");
        self.1 += 1;
        self
    }

    /// With the text of the link as it is.
    pub(crate) fn raw_link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_metadata(&fs::metadata("/proc/self").expect("metadata"));
        header.set_entry_type(kind);
        header.set_size(0);
        header.as_mut_bytes()[..100].fill(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).expect("in memory");
        self.1 += 1;
        self
    }

    pub(crate) fn finish(self) -> (Vec<u8>, u64) {
        (self.0.into_inner().expect("in memory"), self.1)
    }
}

/// A data directory that PostgreSQL would recognise from afar.
pub(crate) fn cluster() -> Tarball {
    Tarball::new()
        .directory("./")
        .file("./PG_VERSION", b"15\n")
        .directory("global")
        .directory("base")
        .file("base/1", &[7; 300_000])
        .file("global/pg_control", b"control")
        .file("backup_label", b"START WAL LOCATION: 0/2000028\n")
}

const NOBODY: u32 = 65_534;

/// A backup in memory and a place for it.
pub(crate) struct Scene {
    pub(crate) catalog: Catalog,
    pub(crate) folder: TempDir,
    pub(crate) records: Vec<TarballRecord>,
    tablespaces: Vec<Tablespace>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        // Root takes places of tablespaces only where the data directory's owner could.
        if crate::disk::is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        Self { catalog: empty_catalog(), folder, records: Vec::new(), tablespaces: Vec::new() }
    }

    pub(crate) fn key(&self, name: &str) -> ObjectKey {
        self.catalog.layout().backup_object(&BackupId::parse(ID).expect("id"), name)
    }

    pub(crate) async fn put(&self, name: &str, content: Vec<u8>) {
        write(self.catalog.store(), self.key(name).as_str(), content).await;
    }

    /// Stores a tarball and takes it into the record.
    pub(crate) async fn tarball(mut self, name: &str, tarball: Tarball) -> Self {
        let (raw, members) = tarball.finish();
        let raw_bytes = u64::try_from(raw.len()).expect("small");
        let stored = match TarballName::parse(name).expect(name).compression {
            Some(compression) => codec::compress(compression, 1, &raw).expect("compresses"),
            None => raw,
        };
        self.records.push(TarballRecord {
            name: name.into(),
            stored_bytes: u64::try_from(stored.len()).expect("small"),
            raw_bytes,
            members,
            sha256: Sha256::digest(&stored).iter().map(|byte| format!("{byte:02x}")).collect(),
            index: None,
        });
        self.put(name, stored).await;
        self
    }

    pub(crate) fn tablespace(self, name: &str, oid: u32) -> Self {
        let place = self.place(name);
        self.tablespace_at(name, oid, &place)
    }

    pub(crate) fn tablespace_at(mut self, name: &str, oid: u32, place: &Path) -> Self {
        let location = place.display().to_string();
        self.tablespaces.push(Tablespace { name: name.into(), oid, location });
        self
    }

    pub(crate) async fn publish(self, status: BackupStatus) -> Self {
        let id = BackupId::parse(ID).expect("id");
        let record = BackupRecord {
            id: id.clone(),
            tool: "test".into(),
            method: BackupMethod::Files,
            info: BackupInfo {
                status: Some(status),
                version: Some(150_020),
                begin_xlog: Some(Lsn::new(BEGIN)),
                systemid: Some("7710407064033732751".into()),
                tablespaces: Some(self.tablespaces.clone()),
                ..BackupInfo::default()
            },
            compression: None,
            tarballs: self.records.clone(),
            statistics: None,
            damaged_files: Vec::new(),
            warnings: Vec::new(),
            other: serde_json::Map::new(),
        };
        self.put("backup_manifest", manifest(BEGIN)).await;
        self.catalog.publish(&record).await.expect("published");
        self
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.place("data")
    }

    pub(crate) async fn restore(&self) -> Result<RestoreSummary, RestoreError> {
        self.restore_with(&options(), &limits(), &(Arc::new(Silent) as _), &Cancel::new()).await
    }

    pub(crate) async fn restore_with(
        &self,
        options: &RestoreOptions,
        limits: &Limits,
        monitor: &Arc<dyn Monitor>,
        cancel: &Cancel,
    ) -> Result<RestoreSummary, RestoreError> {
        let named = RestoreSelection::Named(ID.into());
        restore(&self.catalog, &named, &self.target(), options, limits, monitor, cancel).await
    }

    pub(crate) async fn restore_with_tablespace(
        &self,
        name: &str,
        location: &Path,
    ) -> Result<RestoreSummary, RestoreError> {
        let mapping = TablespaceMapping { name: name.into(), location: location.into() };
        let options = RestoreOptions { tablespaces: vec![mapping], ..options() };
        self.restore_with(&options, &limits(), &(Arc::new(Silent) as _), &Cancel::new()).await
    }

    pub(crate) fn starts(&self) -> bool {
        self.target().join("global/pg_control").exists()
    }
}

pub(crate) fn options() -> RestoreOptions {
    RestoreOptions { tablespaces: Vec::new(), unfinished: Unfinished::Refuse, now: now() }
}

pub(crate) async fn simple(tarball: Tarball) -> Scene {
    Scene::new().tarball("data.tar.gz", tarball).await.publish(BackupStatus::Done).await
}

pub(crate) fn content(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .expect("text")
}

#[tokio::test]
async fn a_damaged_manifest_is_noticed() {
    let whole = manifest(BEGIN);
    for at in [0, whole.len() / 2, whole.len() - 10] {
        let scene = simple(cluster()).await;
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        scene.put("backup_manifest", damaged).await;
        let failed = scene.restore().await;
        assert!(matches!(failed, Err(RestoreError::Corrupt { .. })), "{at}");
    }
}

#[tokio::test]
async fn a_restored_directory_is_private_complete_and_without_traces() {
    let scene = simple(cluster()).await;
    let summary = scene.restore().await.expect("restored");
    let target = scene.target();
    assert_eq!(summary.backup_id.as_str(), ID);
    assert_eq!((summary.counts.tarballs, summary.counts.files), (1, 4));
    assert_eq!(content(&target.join("global/pg_control")), "control");
    assert_eq!(content(&target.join("backup_manifest")).into_bytes(), manifest(BEGIN));
    let mode =
        |name: &str| fs::metadata(target.join(name)).expect(name).permissions().mode() & 0o777;
    for name in ["", "base", "pg_wal", "pg_wal/archive_status", "pg_logical/snapshots"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    for name in ["base/1", "backup_label", "backup_manifest", "global/pg_control"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(fs::metadata(target.join("base/1")).expect("file").mtime(), 1_000_000_000);
    let names = fs::read_dir(target.join("global")).expect("global").count();
    assert_eq!((names, target.join(JOURNAL).exists()), (1, false));
}

#[tokio::test]
async fn group_access_of_the_data_directory_is_kept_and_nothing_wider() {
    let tarball = cluster().add(EntryType::Directory, "./", 0o777, b"");
    let scene = simple(tarball).await;
    scene.restore().await.expect("restored");
    let mode = |name: &str| {
        fs::metadata(scene.target().join(name)).expect(name).permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("pg_wal"), mode("backup_label")), (0o750, 0o750, 0o640));
}

#[tokio::test]
async fn tablespaces_get_their_place_and_their_link() {
    let ts = || Tarball::new().directory("PG_15_202209061").file("PG_15_202209061/1", b"row");
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tablespace("two", 16385)
        .tarball("data.tar", cluster().directory("pg_tblspc"))
        .await
        .tarball("16384.tar", ts())
        .await
        .tarball("16385.tar.zst", ts())
        .await
        .publish(BackupStatus::Done)
        .await;
    let elsewhere = scene.place("else/where");
    let mapping = TablespaceMapping { name: "two".into(), location: elsewhere.clone() };
    let options = RestoreOptions { tablespaces: vec![mapping], ..options() };
    let silent: Arc<dyn Monitor> = Arc::new(Silent);
    scene.restore_with(&options, &limits(), &silent, &Cancel::new()).await.expect("restored");
    for (oid, place) in [("16384", scene.place("one")), ("16385", elsewhere)] {
        let link = scene.target().join("pg_tblspc").join(oid);
        assert_eq!(fs::read_link(&link).expect("link"), place);
        assert_eq!(content(&link.join("PG_15_202209061/1")), "row");
        let mode = fs::metadata(&place).expect("place").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[tokio::test]
async fn the_tarball_with_the_highest_number_wins_whichever_is_extracted_first() {
    for jobs in [1, 4] {
        // The largest is extracted first: with one job, that is the one with the newer file.
        let newer = Tarball::new().file("postgresql.conf", b"new").file("base/2", &[1; 900_000]);
        let older = cluster().link(EntryType::Symlink, "postgresql.conf", "/etc/elsewhere");
        let scene = Scene::new()
            .tarball("data.tar", older)
            .await
            .tarball("data_0001.tar", newer)
            .await
            .publish(BackupStatus::Done)
            .await;
        let limits = Limits { jobs: NonZeroUsize::new(jobs).expect("jobs"), ..limits() };
        let silent: Arc<dyn Monitor> = Arc::new(Silent);
        scene.restore_with(&options(), &limits, &silent, &Cancel::new()).await.expect("restored");
        assert_eq!(content(&scene.target().join("postgresql.conf")), "new");
    }
}

#[tokio::test]
async fn an_old_tablespace_map_is_not_restored() {
    let scene = simple(cluster().file("tablespace_map", b"16384 /old\n")).await;
    scene.restore().await.expect("restored");
    assert!(!scene.target().join("tablespace_map").exists());
}

#[tokio::test]
async fn links_are_restored_and_never_followed() {
    let outside = tempfile::tempdir().expect("temp");
    let path = outside.path().display().to_string();
    let harmless = cluster().link(EntryType::Symlink, "postgresql.auto.conf", "/etc/hosts").link(
        EntryType::Link,
        "base/second",
        "base/1",
    );
    let scene = simple(harmless).await;
    scene.restore().await.expect("restored");
    let link = fs::read_link(scene.target().join("postgresql.auto.conf")).expect("link");
    assert_eq!(link, Path::new("/etc/hosts"));
    assert_eq!(fs::metadata(scene.target().join("base/second")).expect("linked").nlink(), 2);

    for tarball in [
        cluster().link(EntryType::Symlink, "out", &path).file("out/evil", b"x"),
        cluster().link(EntryType::Symlink, "out", &path).directory("out/evil"),
        cluster().file("../evil", b"x"),
        cluster().file("/tmp/evil", b"x"),
        cluster().link(EntryType::Symlink, "out", &path).link(EntryType::Link, "in", "out/a"),
    ] {
        let scene = simple(tarball).await;
        let error = scene.restore().await.expect_err("refused");
        assert!(matches!(error, RestoreError::EscapingMember { .. }), "{error}");
        assert!(!scene.starts());
        assert_eq!(fs::read_dir(outside.path()).expect("outside").count(), 0);
        assert!(!scene.place("evil").exists());
    }
}

#[tokio::test]
async fn special_files_are_left_out_and_counted() {
    let scene = simple(cluster().add(EntryType::Fifo, "base/fifo", 0o600, b"")).await;
    assert_eq!(scene.restore().await.expect("restored").counts.skipped, 1);
    assert!(!scene.target().join("base/fifo").exists());
}

#[tokio::test]
async fn a_tarball_that_was_changed_is_noticed_and_the_directory_never_starts() {
    for name in ["data.tar", "data.tar.gz", "data.tar.lz4", "data.tar.zst"] {
        let scene = Scene::new().tarball(name, cluster()).await.publish(BackupStatus::Done).await;
        let key = scene.key(name);
        let stored = scene.catalog.store().get(&key).await.expect("read").expect("there");
        for position in [0, stored.len() / 3, stored.len() / 2, stored.len() - 1] {
            let mut damaged = stored.to_vec();
            damaged[position] ^= 0x10;
            scene.put(name, damaged).await;
            let error = scene.restore().await.expect_err("damaged");
            let noticed =
                matches!(error, RestoreError::Corrupt { .. } | RestoreError::EscapingMember { .. });
            assert!(noticed, "{name} at {position}: {error}");
            assert!(!scene.starts());
        }
    }
}

#[tokio::test]
async fn a_missing_or_shortened_tarball_is_refused_before_anything_is_written() {
    let scene = simple(cluster()).await;
    scene.put("data.tar.gz", vec![0; 10]).await;
    assert!(matches!(scene.restore().await, Err(RestoreError::Tarballs(_))));
    scene.catalog.store().delete(vec![scene.key("data.tar.gz")]).await;
    assert!(matches!(scene.restore().await, Err(RestoreError::Tarballs(_))));
    assert!(!scene.target().exists());
}

#[tokio::test]
async fn a_backup_without_label_or_control_file_is_refused_at_the_end() {
    let without_label = Tarball::new().file("global/pg_control", b"control");
    let without_control = Tarball::new().file("backup_label", b"label");
    for tarball in [without_label, without_control] {
        let scene = simple(tarball).await;
        let error = scene.restore().await.expect_err("incomplete");
        assert!(matches!(error, RestoreError::Incomplete { .. }), "{error}");
        assert!(!scene.starts());
    }
}

#[tokio::test]
async fn a_failed_backup_is_refused_unless_it_is_asked_for() {
    let scene =
        Scene::new().tarball("data.tar", cluster()).await.publish(BackupStatus::Failed).await;
    assert!(matches!(scene.restore().await, Err(RestoreError::NotDone { .. })));
    let options = RestoreOptions { unfinished: Unfinished::Restore, ..options() };
    let silent: Arc<dyn Monitor> = Arc::new(Silent);
    scene.restore_with(&options, &limits(), &silent, &Cancel::new()).await.expect("restored");
    assert!(scene.starts());
}

#[tokio::test]
async fn what_is_not_empty_is_never_touched() {
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tarball("data.tar", cluster())
        .await
        .tarball("16384.tar", Tarball::new().file("PG_15_1/a", b"a"))
        .await
        .publish(BackupStatus::Done)
        .await;
    fs::create_dir(scene.place("one")).expect("mkdir");
    fs::write(scene.place("one/mine"), "x").expect("write");
    assert!(matches!(scene.restore().await, Err(RestoreError::TablespaceNotEmpty { .. })));
    assert!(!scene.target().exists());
    fs::create_dir(scene.target()).expect("mkdir");
    fs::write(scene.target().join("mine"), "x").expect("write");
    assert!(matches!(scene.restore().await, Err(RestoreError::TargetNotEmpty { .. })));
    assert_eq!(fs::read_dir(scene.target()).expect("list").count(), 1);
    fs::remove_dir_all(scene.target()).expect("remove");
    fs::write(scene.target(), "x").expect("write");
    assert!(matches!(scene.restore().await, Err(RestoreError::NotADirectory { .. })));
}

#[tokio::test]
async fn tablespaces_that_overlap_are_refused() {
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tablespace("two", 16385)
        .tarball("data.tar", cluster())
        .await
        .publish(BackupStatus::Done)
        .await;
    for location in [scene.place("one"), scene.place("one/below"), scene.target()] {
        let mapping = TablespaceMapping { name: "two".into(), location };
        let options = RestoreOptions { tablespaces: vec![mapping], ..options() };
        let silent: Arc<dyn Monitor> = Arc::new(Silent);
        let refused = scene.restore_with(&options, &limits(), &silent, &Cancel::new()).await;
        assert!(matches!(refused, Err(RestoreError::TablespaceLocation { .. })));
    }
    assert!(!scene.target().exists());
}

#[tokio::test]
async fn a_backup_that_does_not_fit_is_refused_before_anything_is_written() {
    let mut scene = Scene::new().tarball("data.tar", cluster()).await;
    scene.records[0].raw_bytes = u64::MAX / 2;
    let scene = scene.publish(BackupStatus::Done).await;
    assert!(matches!(scene.restore().await, Err(RestoreError::NoSpace { .. })));
    assert!(!scene.target().exists());
}

/// Two tarballs, of which the smaller, extracted last, is damaged.
pub(crate) async fn interrupted() -> (Scene, Vec<u8>) {
    let second = Tarball::new().file("base/2", b"two");
    let scene = Scene::new()
        .tarball("data.tar", cluster())
        .await
        .tarball("data_0001.tar", second)
        .await
        .publish(BackupStatus::Done)
        .await;
    let key = scene.key("data_0001.tar");
    let whole = scene.catalog.store().get(&key).await.expect("read").expect("there").to_vec();
    let mut damaged = whole.clone();
    damaged[600] ^= 1;
    scene.put("data_0001.tar", damaged).await;
    let limits = Limits { jobs: NonZeroUsize::MIN, ..limits() };
    let silent: Arc<dyn Monitor> = Arc::new(Silent);
    let failed = scene.restore_with(&options(), &limits, &silent, &Cancel::new()).await;
    assert!(matches!(failed, Err(RestoreError::Corrupt { .. })));
    assert!(!scene.starts());
    (scene, whole)
}

#[tokio::test]
async fn the_same_restore_goes_on_after_the_finished_tarballs() {
    let (scene, whole) = interrupted().await;
    scene.put("data_0001.tar", whole).await;
    let summary = scene.restore().await.expect("restored");
    assert_eq!((summary.tarballs_resumed, summary.counts.tarballs), (1, 1));
    assert_eq!(content(&scene.target().join("base/2")), "two");
    assert!(scene.starts() && !scene.target().join(JOURNAL).exists());
    // The result is a cluster now, not a restore to go on with.
    assert!(matches!(scene.restore().await, Err(RestoreError::TargetNotEmpty { .. })));
}

#[tokio::test]
async fn two_restores_into_one_directory_do_not_mix() {
    let scene = simple(cluster()).await;
    fs::create_dir(scene.target()).expect("mkdir");
    let other = crate::disk::ExtractRoot::open(&scene.target()).expect("open");
    assert!(other.lock().expect("lock"));
    assert!(matches!(scene.restore().await, Err(RestoreError::Busy { .. })));
    drop(other);
    scene.restore().await.expect("restored");
}

/// Tells to stop at the first file.
struct StopsAtAFile(Cancel);

impl Monitor for StopsAtAFile {
    fn phase(&self, _: Phase) {}
    fn expect(&self, _: Metric, _: u64) {}
    fn add(&self, metric: Metric, _: u64) {
        if metric == Metric::Files {
            self.0.cancel();
        }
    }
}

#[tokio::test]
async fn a_restore_that_is_told_to_stop_can_be_run_again() {
    let scene = simple(cluster()).await;
    let cancel = Cancel::new();
    let monitor: Arc<dyn Monitor> = Arc::new(StopsAtAFile(cancel.clone()));
    let stopped = scene.restore_with(&options(), &limits(), &monitor, &cancel).await;
    assert!(matches!(stopped, Err(RestoreError::Cancelled)));
    assert!(!scene.starts());
    scene.restore().await.expect("restored");
    assert!(scene.starts());
}
