//! What makes a backup's WAL confirmed: an archive in memory beside a `pg_wal` made by hand.

use crate::backup::BackupError;
use crate::backup::local_wal::{Archiver, LocalWal};
use crate::backup::wal::{Delay, NeededWal, WalPatience, needed, wait_for_archiver};
use crate::catalog::{Catalog, Layout, ServerName};
use crate::codec::{Compression, compress};
use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::store::{ObjectKey, PutMode, PutOptions, Store};
use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;

const OURS: u64 = 7_388_000_000_000_000_001;
const THEIRS: u64 = 7_301_000_000_000_000_001;
const SEGMENT_BYTES: u32 = 1 << 20;
/// The backup needs the segments 2 and 3.
const NAMES: [&str; 2] = ["000000010000000000000002", "000000010000000000000003"];

/// A segment as PostgreSQL 15 would write it, its rest filled from `seed`.
fn segment(system_identifier: u64, number: u64, seed: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_ne_bytes());
    bytes.extend(2u16.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend((number * u64::from(SEGMENT_BYTES)).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(system_identifier.to_ne_bytes());
    bytes.extend(SEGMENT_BYTES.to_ne_bytes());
    bytes.extend(8192u32.to_ne_bytes());
    let mut state = seed;
    while bytes.len() < 200_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((state >> 20).to_ne_bytes());
    }
    bytes.resize(usize::try_from(SEGMENT_BYTES).expect("fits"), 0);
    bytes
}

/// A server's `pg_wal` and the archive of its server name.
struct World {
    catalog: Catalog,
    wal: TempDir,
}

impl World {
    fn new() -> Self {
        let server = ServerName::parse("main").expect("server");
        let layout = Layout::new("", &server).expect("layout");
        let wal = tempfile::tempdir().expect("folder");
        fs::create_dir(wal.path().join("archive_status")).expect("directory");
        Self { catalog: Catalog::new(Store::memory(), layout), wal }
    }

    /// Segments 2 and 3 are in `pg_wal`, marked so, and in the archive.
    fn archived(mark: &str) -> Self {
        Self::archived_as(mark, "", |plain| plain)
    }

    fn archived_as(mark: &str, suffix: &str, stored: impl Fn(Vec<u8>) -> Vec<u8>) -> Self {
        let world = Self::new();
        (0..2).for_each(|index| world.write(index, mark));
        for (index, name) in NAMES.iter().enumerate() {
            let (name, plain) = (format!("{name}{suffix}"), ours(index));
            futures::executor::block_on(world.put(&name, stored(plain)));
        }
        world
    }

    fn write(&self, index: usize, mark: &str) {
        fs::write(self.file(NAMES[index]), ours(index)).expect("segment");
        if !mark.is_empty() {
            fs::write(self.status(NAMES[index], mark), b"").expect("mark");
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.wal.path().join(name)
    }

    fn status(&self, name: &str, mark: &str) -> PathBuf {
        self.wal.path().join(format!("archive_status/{name}.{mark}"))
    }

    /// What PostgreSQL does with a segment it does not need any more.
    fn recycle(&self, index: usize) {
        fs::remove_file(self.file(NAMES[index])).expect("file");
        for mark in ["done", "ready"] {
            let _ = fs::remove_file(self.status(NAMES[index], mark));
        }
    }

    async fn put(&self, name: &str, content: Vec<u8>) {
        let key = self.key(name);
        let options = PutOptions::default();
        let store = self.catalog.store();
        store.put(&key, content.into(), PutMode::Overwrite, &options).await.expect("put");
    }

    async fn delete(&self, name: &str) {
        for (_, answer) in self.catalog.store().delete(vec![self.key(name)]).await {
            answer.expect("memory");
        }
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::parse(&format!("main/wals/0000000100000000/{name}")).expect("key")
    }

    fn needed(&self, archiver: Archiver) -> NeededWal<'_> {
        let begin: Lsn = "0/200028".parse().expect("lsn");
        let end: Lsn = "0/300100".parse().expect("lsn");
        let size = SegmentSize::new(u64::from(SEGMENT_BYTES)).expect("1 MiB");
        NeededWal {
            catalog: &self.catalog,
            local: LocalWal::new(self.wal.path().into(), archiver),
            segments: needed(TimelineId::new(1).expect("1"), begin, end, size),
            size,
            system_identifier: SystemIdentifier::new(OURS),
            in_recovery: archiver == Archiver::Another,
            archive_timeout: Duration::ZERO,
            archiver_failure: None,
            others: Mutex::default(),
        }
    }

    async fn confirm(&self, archiver: Archiver) -> Result<(), BackupError> {
        let patience = WalPatience { archived: Duration::ZERO, completed: Duration::ZERO };
        self.needed(archiver).confirm(patience, &Cancel::new()).await
    }

    async fn difference(&self, archiver: Archiver) -> String {
        match self.confirm(archiver).await {
            Err(BackupError::WalNotOurs { segment, difference, .. }) => {
                format!("{segment}: {difference}")
            }
            other => panic!("{other:?}"),
        }
    }
}

fn delay_of(error: &BackupError) -> Option<&Delay> {
    match error {
        BackupError::WalMissing { delay, .. } => Some(delay),
        _ => None,
    }
}

fn ours(index: usize) -> Vec<u8> {
    segment(OURS, 2 + u64::try_from(index).expect("small"), 7)
}

#[tokio::test]
async fn the_archiver_is_waited_for_until_it_has_marked_or_recycled_the_segment() {
    let world = World::new();
    let local = LocalWal::new(world.wal.path().into(), Archiver::ThisServer);
    let (cancel, limit) = (Cancel::new(), Duration::from_millis(200));
    let wait = || async {
        let waiting = wait_for_archiver(&local, NAMES[0], &cancel);
        tokio::time::timeout(limit, waiting).await.is_ok()
    };
    assert!(wait().await, "recycled long ago");
    world.write(0, "");
    assert!(!wait().await, "not even marked as ready");
    fs::write(world.status(NAMES[0], "ready"), b"").expect("mark");
    assert!(!wait().await);
    fs::rename(world.status(NAMES[0], "ready"), world.status(NAMES[0], "done")).expect("archived");
    assert!(wait().await);
}

#[tokio::test]
async fn a_backup_is_confirmed_only_when_every_segment_is_archived_whole() {
    let world = World::archived("done");
    world.confirm(Archiver::ThisServer).await.expect("all are there");
    world.delete(NAMES[1]).await;
    world.put(&format!("{}.partial", NAMES[1]), ours(1)).await;
    match world.confirm(Archiver::ThisServer).await {
        Err(BackupError::WalMissing { first, count, .. }) => {
            assert_eq!((first.as_str(), count), (NAMES[1], 1));
        }
        other => panic!("{other:?}"),
    }
    // Across the end of a log.
    let timeline = TimelineId::new(1).expect("1");
    let (begin, end) = ("0/FF000028".parse().expect("lsn"), Lsn::new((4 << 30) + 40));
    let across = needed(timeline, begin, end, SegmentSize::DEFAULT);
    let numbers: Vec<u64> = across.iter().map(|segment| segment.number).collect();
    assert_eq!(numbers, [255, 256]);
}

#[tokio::test]
async fn a_server_that_was_reverted_does_not_take_its_old_segments_for_its_new_ones() {
    // The archiver was refused, or somebody has put something else there since.
    for mark in ["ready", "done"] {
        let world = World::archived(mark);
        world.put(NAMES[1], segment(OURS, 3, 8)).await;
        let difference = world.difference(Archiver::ThisServer).await;
        let expected = format!("{}: it differs from the file in pg_wal at byte 40", NAMES[1]);
        assert_eq!(difference, expected, "{mark}");
    }
    // On a standby too: it has received what the primary should have archived.
    let world = World::archived("done");
    world.put(NAMES[0], segment(OURS, 2, 8)).await;
    assert!(world.difference(Archiver::Another).await.contains("differs"));
}

#[tokio::test]
async fn an_older_segment_that_the_archive_refuses_is_named_instead_of_waiting_for_the_next() {
    let world = World::archived("ready");
    world.delete(NAMES[0]).await;
    world.delete(NAMES[1]).await;
    let older = "000000010000000000000001";
    fs::write(world.file(older), segment(OURS, 1, 7)).expect("segment");
    fs::write(world.status(older, "ready"), b"").expect("mark");
    world.put(older, segment(OURS, 1, 8)).await;
    assert!(world.difference(Archiver::ThisServer).await.starts_with(older));
}

#[tokio::test]
async fn segments_are_the_same_in_every_compression() {
    for compression in Compression::ALL {
        let suffix = format!(".{}", compression.suffix());
        let packed = |plain: Vec<u8>| compress(compression, 1, &plain).expect("compresses");
        let world = World::archived_as("done", &suffix, packed);
        world.confirm(Archiver::ThisServer).await.expect(&suffix);
        let other = compress(compression, 1, &segment(OURS, 2, 8)).expect("compresses");
        world.put(&format!("{}{suffix}", NAMES[0]), other).await;
        assert!(world.difference(Archiver::ThisServer).await.contains("differs"), "{suffix}");
        let html = b"<html>Service Unavailable</html>".to_vec();
        world.put(&format!("{}{suffix}", NAMES[0]), html).await;
        let difference = world.difference(Archiver::ThisServer).await;
        assert!(difference.contains("cannot be decompressed"), "{suffix}: {difference}");
    }
}

#[tokio::test]
async fn what_waits_for_the_archiver_is_archived_when_the_same_bytes_are_there() {
    let world = World::archived("ready");
    world.confirm(Archiver::ThisServer).await.expect("the same");
    // But only its content can tell: without a mark PostgreSQL still writes it.
    fs::remove_file(world.status(NAMES[1], "ready")).expect("mark");
    let error = world.confirm(Archiver::ThisServer).await;
    assert!(matches!(error, Err(BackupError::WalMissing { .. })), "{error:?}");
}

#[tokio::test]
async fn of_recycled_segments_the_stored_header_tells_whose_they_are() {
    for archiver in [Archiver::ThisServer, Archiver::Another] {
        let world = World::archived("done");
        (0..2).for_each(|index| world.recycle(index));
        world.confirm(archiver).await.expect("ours by their headers");
        world.put(NAMES[0], segment(THEIRS, 2, 7)).await;
        let expected = format!("it was written by system identifier {THEIRS}");
        assert!(world.difference(archiver).await.contains(&expected));
        world.put(NAMES[0], segment(OURS, 5, 7)).await;
        assert!(world.difference(archiver).await.contains("it begins at 0/500000"));
        let mut sized = ours(0);
        sized[32..36].copy_from_slice(&(16u32 << 20).to_ne_bytes());
        world.put(NAMES[0], sized).await;
        assert!(world.difference(archiver).await.contains("its segment size is 16777216"));
        world.put(NAMES[0], vec![0; 1 << 20]).await;
        assert!(world.difference(archiver).await.contains("does not begin like a WAL segment"));
    }
}

#[tokio::test]
async fn empty_and_cut_segments_are_none() {
    for content in [Vec::new(), ours(0)[..500_000].to_vec()] {
        let bytes = content.len();
        let world = World::archived("done");
        world.recycle(0);
        world.put(NAMES[0], content).await;
        let difference = world.difference(Archiver::ThisServer).await;
        assert!(difference.contains(&format!("it has {bytes} bytes")), "{difference}");
    }
}

#[tokio::test]
async fn an_idle_primary_is_told_from_an_archiver_that_is_late_and_the_hint_says_what_to_run() {
    let world = World::archived("done");
    world.delete(NAMES[1]).await;
    let late = world.confirm(Archiver::Another).await.expect_err("missing");
    assert_eq!(delay_of(&late), Some(&Delay::Elsewhere), "{late:?}");
    // The standby has not received the end of the last segment.
    fs::remove_file(world.status(NAMES[1], "done")).expect("mark");
    let idle = world.confirm(Archiver::Another).await.expect_err("missing");
    assert_eq!(delay_of(&idle), Some(&Delay::IdlePrimary), "{idle:?}");
    assert!(idle.hint().is_some_and(|hint| hint.contains("SELECT pg_switch_wal();")));
    // What the primary has archived meanwhile is taken, complete here or not.
    world.put(NAMES[1], ours(1)).await;
    world.confirm(Archiver::Another).await.expect("archived");
}

#[tokio::test]
async fn an_idle_primary_is_waited_for_as_long_as_its_archive_timeout_takes() {
    let world = World::archived("done");
    let mut needed = world.needed(Archiver::Another);
    let of_minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let patience = WalPatience { archived: of_minutes(1440), completed: of_minutes(10) };
    for (archive_timeout, idle) in [(0, 10), (5, 10), (60, 65), (1500, 1440)] {
        needed.archive_timeout = of_minutes(archive_timeout);
        assert_eq!(needed.limit(&Delay::IdlePrimary, patience), of_minutes(idle));
        assert_eq!(needed.limit(&Delay::Elsewhere, patience), of_minutes(1440));
    }
}

#[tokio::test]
async fn a_segment_that_is_deleted_while_the_backup_waits_is_noticed_before_it_is_done() {
    let world = World::archived("done");
    let needed = world.needed(Archiver::ThisServer);
    let patience = WalPatience { archived: Duration::ZERO, completed: Duration::ZERO };
    needed.confirm(patience, &Cancel::new()).await.expect("confirmed");
    needed.look_again().await.expect("still there");
    world.put(NAMES[0], Vec::new()).await;
    assert!(matches!(needed.look_again().await, Err(BackupError::WalGone { count: 1, .. })));
    world.delete(NAMES[0]).await;
    match needed.look_again().await {
        Err(BackupError::WalGone { first, count }) => {
            assert_eq!((first.as_str(), count), (NAMES[0], 1));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_that_is_told_to_stop_confirms_nothing() {
    let world = World::archived("done");
    let cancel = Cancel::new();
    cancel.cancel();
    let patience = WalPatience { archived: Duration::ZERO, completed: Duration::ZERO };
    let stopped = world.needed(Archiver::ThisServer).confirm(patience, &cancel).await;
    assert!(matches!(stopped, Err(BackupError::Cancelled)), "{stopped:?}");
}

#[test]
fn segments_are_ordered_as_they_are_replayed() {
    let timeline = TimelineId::new(1).expect("1");
    let segments = needed(timeline, Lsn::new(0), Lsn::new(3 << 24), SegmentSize::DEFAULT);
    let expected: Vec<_> = (0..3).map(|number| WalSegment { timeline, number }).collect();
    assert_eq!(segments, expected);
}
