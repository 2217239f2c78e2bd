//! Batches as PostgreSQL's archiver makes them: one call for each file, in order, again after a
//! failure; with receipts that lie, and calls that die.

use crate::codec::{Compression, CompressionLevel};
use crate::flow::Cancel;
use crate::monitor::Silent;
use crate::store::Store;
use crate::wal::WalFileName;
use crate::wal_archive::fixtures::{
    OURS, THEIRS, World, files_below, limits, name, push_options, segment,
};
use crate::wal_archive::{BatchOptions, PushOptions, PushOutcome, WalArchiveError, push_batch};
use std::fs::{self, File};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// A `pg_wal` whose segments are all ready.
struct Archiver {
    world: World,
    wal: PathBuf,
}

impl Archiver {
    fn over(store: Store, ready: std::ops::Range<u64>) -> Self {
        let world = World::over(store);
        let wal = world.path("pg_wal");
        fs::create_dir_all(wal.join("archive_status")).expect("create");
        let archiver = Self { world, wal };
        for number in ready {
            archiver.ready(number, &segment(OURS, number, 0));
        }
        archiver
    }

    fn ready(&self, number: u64, content: &[u8]) {
        fs::write(self.wal.join(name(number)), content).expect("write");
        fs::write(self.status(number, "ready"), "").expect("write");
    }

    /// PostgreSQL's mark of a file that was archived.
    fn done(&self, number: u64) {
        fs::rename(self.status(number, "ready"), self.status(number, "done")).expect("rename");
    }

    fn status(&self, number: u64, status: &str) -> PathBuf {
        self.wal.join("archive_status").join(format!("{}.{status}", name(number)))
    }

    fn batch(&self, files_max: usize) -> BatchOptions {
        let files_max = NonZeroUsize::new(files_max).expect("not zero");
        BatchOptions { files_max, receipts: self.world.spool_options() }
    }

    async fn call(&self, number: u64, files_max: usize) -> Result<PushOutcome, WalArchiveError> {
        let (options, batch) = (options(), self.batch(files_max));
        let path = self.wal.join(name(number));
        let (catalog, cancel) = (&self.world.catalog, Cancel::new());
        push_batch(&path, catalog, &options, &batch, &limits(), &Silent, &cancel).await
    }

    /// The numbers of the segments that have a receipt.
    fn receipts(&self) -> Vec<u64> {
        let files = files_below(&self.world.path("spool"));
        (0..100)
            .filter(|number| files.iter().any(|file| file.starts_with(&name(*number))))
            .collect()
    }

    async fn stored(&self, number: u64) -> Option<Vec<u8>> {
        let wal = WalFileName::parse(&name(number)).expect("name");
        let key = self.world.catalog.layout().wal(&wal, Some(Compression::Snappy));
        let stored = self.world.catalog.store().get(&key).await.expect("get")?;
        let mut plain = Vec::new();
        std::io::copy(&mut snap::read::FrameDecoder::new(&stored[..]), &mut plain).expect("plain");
        Some(plain)
    }
}

fn options() -> PushOptions {
    let compression = Some((Compression::Snappy, CompressionLevel::Medium));
    PushOptions { compression, ..push_options() }
}

#[tokio::test]
async fn what_is_ready_is_archived_in_one_call_and_acknowledged_without_the_store() {
    let (store, requests) = Store::recording();
    let archiver = Archiver::over(store, 1..7);
    assert_eq!(archiver.call(1, 4).await.expect("push"), PushOutcome::Archived);
    let puts = requests.take().into_iter().filter(|request| request.contains("PUT p/main/wals"));
    assert_eq!(puts.count(), 4);
    assert_eq!(archiver.receipts(), [2, 3, 4]);
    archiver.done(1);
    for number in 2..5 {
        let outcome = archiver.call(number, 4).await.expect("acknowledged");
        assert_eq!(outcome, PushOutcome::AlreadyArchived);
        archiver.done(number);
    }
    assert!(requests.take().is_empty());
    assert!(archiver.receipts().is_empty());
    // Used up: without a receipt the store is asked, and knows it.
    assert_eq!(archiver.call(4, 1).await.expect("again"), PushOutcome::AlreadyArchived);
    assert!(!requests.take().is_empty());
    assert_eq!(archiver.call(5, 4).await.expect("push"), PushOutcome::Archived);
    assert_eq!(archiver.receipts(), [6]);
}

#[tokio::test]
async fn a_receipt_is_not_believed_for_other_content_of_the_same_size_and_time() {
    let archiver = Archiver::over(Store::memory(), 1..3);
    archiver.call(1, 2).await.expect("push");
    let path = archiver.wal.join(name(2));
    let modified = fs::metadata(&path).expect("metadata").modified().expect("time");
    fs::write(&path, segment(OURS, 2, 99)).expect("write");
    File::options().write(true).open(&path).expect("open").set_modified(modified).expect("time");
    let refused = archiver.call(2, 2).await.expect_err("refused");
    assert!(matches!(refused, WalArchiveError::OtherContent { .. }), "{refused}");
}

#[tokio::test]
async fn a_receipt_is_not_believed_for_a_file_that_was_written_again() {
    let (store, requests) = Store::recording();
    let archiver = Archiver::over(store, 1..3);
    archiver.call(1, 2).await.expect("push");
    requests.take();
    let path = archiver.wal.join(name(2));
    let later = fs::metadata(&path).expect("metadata").modified().expect("time");
    let later = later + Duration::from_secs(1);
    File::options().write(true).open(&path).expect("open").set_modified(later).expect("time");
    assert_eq!(archiver.call(2, 1).await.expect("asked"), PushOutcome::AlreadyArchived);
    assert!(!requests.take().is_empty());
}

#[tokio::test]
async fn receipts_that_are_damaged_or_hours_old_are_not_believed() {
    let (store, requests) = Store::recording();
    let archiver = Archiver::over(store, 1..5);
    archiver.call(1, 4).await.expect("push");
    let receipt = |number| {
        let folders = fs::read_dir(archiver.world.path("spool")).expect("spool");
        let folder = folders.map(|entry| entry.expect("entry").path()).next().expect("folder");
        let mut files = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry"));
        let starts =
            |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&name(number));
        files.find(starts).expect("receipt").path()
    };
    fs::write(receipt(2), "archived 1048576 0 0 00000000\n").expect("write");
    fs::write(receipt(3), "").expect("write");
    let old = File::options().write(true).open(receipt(4)).expect("open");
    let modified = old.metadata().expect("metadata").modified().expect("time");
    old.set_modified(modified - Duration::from_secs(7300)).expect("touch");
    for number in 2..5 {
        requests.take();
        archiver.call(number, 1).await.expect("asked");
        assert!(!requests.take().is_empty(), "{number}");
    }
}

#[tokio::test]
async fn another_files_failure_is_not_the_requested_ones() {
    let archiver = Archiver::over(Store::memory(), 1..5);
    archiver.ready(2, &segment(THEIRS, 2, 0));
    archiver.ready(3, b"not a segment of the right size, whose header lies");
    archiver.ready(4, &segment(OURS, 9, 0));
    archiver.call(1, 1).await.expect("push");
    archiver.done(1);
    archiver.ready(5, &segment(OURS, 5, 0));
    assert_eq!(archiver.call(5, 8).await.expect("push"), PushOutcome::Archived);
    assert!(!archiver.receipts().contains(&2) && !archiver.receipts().contains(&4));
    let refused = archiver.call(2, 8).await.expect_err("another cluster");
    assert!(matches!(refused, WalArchiveError::OtherCluster { .. }), "{refused}");
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_does_not_stop_the_archiving() {
    let archiver = Archiver::over(Store::memory(), 1..3);
    archiver.world.file("spool", b"a file where the directory should be");
    for number in [1, 2] {
        assert_eq!(archiver.call(number, 4).await.expect("push"), PushOutcome::Archived);
    }
}

#[tokio::test]
async fn archivers_at_once_on_one_spool_archive_everything_once() {
    let (store, requests) = Store::recording();
    let archiver = Archiver::over(store, 1..9);
    let calls = (1..9).map(|number| archiver.call(number, 4));
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("push");
    }
    for number in 1..9 {
        assert!(archiver.stored(number).await.expect("stored") == segment(OURS, number, 0));
    }
    assert!(!requests.take().is_empty());
}

/// The model is PostgreSQL's: a file that was acknowledged is in the archive, to the byte, whatever
/// died in between; and every file is acknowledged in the end.
#[tokio::test]
async fn calls_that_die_at_any_moment_acknowledge_only_what_is_stored() {
    let segments = 24;
    let archiver = Archiver::over(Store::memory(), 0..segments);
    let mut kills = 0;
    for number in 0..segments {
        let mut steps = number % 2;
        loop {
            let mut call = pin!(archiver.call(number, 5));
            let mut left = steps;
            let answer = poll_fn(|context| match call.as_mut().poll(context) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            });
            if let Some(outcome) = answer.await {
                outcome.expect("push");
                break;
            }
            // The next try lives a little longer.
            (kills, steps) = (kills + 1, steps + 1);
        }
        let stored = archiver.stored(number).await;
        assert!(stored.is_some_and(|stored| stored == segment(OURS, number, 0)), "{number}");
        for receipt in archiver.receipts() {
            assert!(archiver.stored(receipt).await.is_some(), "receipt for {receipt}");
        }
        archiver.done(number);
    }
    assert!(kills > segments / 2, "only {kills} calls died");
}
