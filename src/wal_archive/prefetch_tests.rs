//! Recovery and its companion on one spool: what is delivered, when the store is asked, and what
//! kills at any moment leave.

use crate::codec::{Compression, CompressionLevel};
use crate::disk::Spool;
use crate::flow::{Cancel, Limits, RetryLimits};
use crate::monitor::Silent;
use crate::store::Store;
use crate::wal::WalFileName;
use crate::wal_archive::fixtures::{OURS, World, files_below, limits, name, push_options, segment};
use crate::wal_archive::{FetchOptions, FetchOutcome, PushOptions, fetch, look_ahead, push};
use std::future::poll_fn;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

async fn archive(world: &World, name: &str, content: &[u8], compression: Compression) {
    let path = world.file(name, content);
    let compression = Some((compression, CompressionLevel::Low));
    let options = PushOptions { compression, ..push_options() };
    push(&path, &world.catalog, &options, &limits(), &Silent, &Cancel::new()).await.expect("push");
    std::fs::remove_file(path).expect("remove");
}

async fn archive_segments(world: &World, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let content = segment(OURS, number, 0);
        archive(world, &name(number), &content, Compression::Lz4).await;
    }
}

async fn fetched(
    world: &World,
    name: &str,
    destination: &Path,
    options: &FetchOptions,
) -> FetchOutcome {
    let name = WalFileName::parse(name).expect("name");
    let cancel = Cancel::new();
    let fetched =
        fetch(&name, destination, &world.catalog, options, &limits(), &Silent, &cancel).await;
    fetched.expect("fetch")
}

/// Asks for a segment and holds what came against what was archived.
async fn replayed(world: &World, number: u64, options: &FetchOptions) {
    let destination = world.path("out");
    let outcome = fetched(world, &name(number), &destination, options).await;
    assert_eq!(outcome, FetchOutcome::Delivered, "{number}");
    assert!(std::fs::read(&destination).expect("read") == segment(OURS, number, 0), "{number}");
}

/// The same files with an archive that holds nothing.
fn without_its_store(world: World) -> World {
    World { directory: world.directory, ..World::new() }
}

fn spool_of(world: &World) -> Spool {
    let options = world.spool_options();
    Spool::new(&options.directory, &options.scope)
}

/// Segments in the spool and on their way into it.
fn spooled(world: &World) -> Vec<String> {
    let mut names = files_below(&world.path("spool"));
    names.retain(|name| !["history", "position", "suffix"].contains(&name.as_str()));
    names
}

#[tokio::test]
async fn what_follows_is_delivered_from_the_spool_across_logs_without_the_store() {
    let world = World::new();
    let first = 4094;
    archive_segments(&world, first..first + 4).await;
    let options = world.fetch_options(3);
    replayed(&world, first, &options).await;
    world.look_ahead(3).await;
    let world = without_its_store(world);
    for number in [first + 1, first + 2] {
        replayed(&world, number, &options).await;
    }
    let outcome = fetched(&world, &name(first + 3), &world.path("out"), &options).await;
    assert_eq!(outcome, FetchOutcome::NotThere);
    assert!(spooled(&world).is_empty());
}

#[tokio::test]
async fn a_fetch_never_waits_for_what_follows() {
    let (store, requests) = Store::recording();
    let world = World::over(store);
    archive_segments(&world, 1..9).await;
    let options = world.fetch_options(8);
    replayed(&world, 1, &options).await;
    requests.take();
    replayed(&world, 2, &options).await;
    let folder = "p/main/wals/0000000100000000";
    assert_eq!(requests.take(), [format!("GET {folder}/{}.lz4", name(2))]);
}

#[tokio::test]
async fn a_companion_is_started_when_the_spool_runs_low_and_nobody_tends_it() {
    let world = World::new();
    archive_segments(&world, 1..12).await;
    let options = world.fetch_options(5);
    replayed(&world, 1, &options).await;
    assert_eq!(world.companion.take(), 1);
    world.look_ahead(5).await;
    // Four are there, then three, then two: half of the spool is enough.
    for number in [2, 3] {
        replayed(&world, number, &options).await;
        assert_eq!(world.companion.take(), 0, "{number}");
    }
    replayed(&world, 4, &options).await;
    assert_eq!(world.companion.take(), 1);
    let lock = spool_of(&world).lock().expect("lock").expect("free");
    replayed(&world, 5, &options).await;
    assert_eq!(world.companion.take(), 0);
    drop(lock);
    for requested in ["00000002.history", &name(99)] {
        fetched(&world, requested, &world.path("out"), &options).await;
        assert_eq!(world.companion.take(), 0, "{requested}");
    }
}

#[tokio::test]
async fn the_look_ahead_crosses_a_timeline_switch_by_the_history_that_recovery_fetched() {
    let world = World::new();
    archive_segments(&world, 1..6).await;
    // Left in the middle of segment 3; the old primary went on for two segments.
    let history = b"1\t0/380000\tno recovery target specified\n";
    archive(&world, "00000002.history", history, Compression::Gzip).await;
    let on_two = |number| name(number).replacen('1', "2", 1);
    for number in 3..5 {
        let content = segment(OURS, number, 7);
        archive(&world, &on_two(number), &content, Compression::Zstd).await;
    }
    let options = world.fetch_options(4);
    let destination = world.path("out");
    fetched(&world, "00000002.history", &destination, &options).await;
    replayed(&world, 1, &options).await;
    world.look_ahead(4).await;
    let world = without_its_store(world);
    replayed(&world, 2, &options).await;
    for number in [3, 4] {
        let outcome = fetched(&world, &on_two(number), &destination, &options).await;
        assert_eq!(outcome, FetchOutcome::Delivered, "{number}");
        assert!(std::fs::read(&destination).expect("read") == segment(OURS, number, 7));
    }
}

#[tokio::test]
async fn the_spool_holds_no_more_than_was_asked_for() {
    let world = World::new();
    archive_segments(&world, 1..12).await;
    for (number, parallel) in [(1, 6), (4, 3), (2, 4), (9, 2)] {
        let options = world.fetch_options(parallel);
        replayed(&world, number, &options).await;
        world.look_ahead(parallel).await;
        let held = u64::try_from(spooled(&world).len()).expect("few");
        assert!(held < parallel, "{parallel}: {:?}", spooled(&world));
    }
}

#[tokio::test]
async fn a_segment_that_is_just_arriving_is_waited_for_instead_of_fetched_twice() {
    let (store, requests) = Store::recording();
    let world = World::over(store);
    archive_segments(&world, 1..3).await;
    let spool = spool_of(&world);
    spool.prepare().expect("prepare");
    let lock = spool.lock().expect("lock").expect("free");
    let mut writer = spool.put(&name(2)).expect("put");
    requests.take();
    let options = world.fetch_options(3);
    let arrives = async {
        for chunk in segment(OURS, 2, 0).chunks(100_000) {
            writer.write_all(chunk).expect("write");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        writer.finish().expect("finish");
    };
    tokio::join!(replayed(&world, 2, &options), arrives);
    assert!(requests.take().is_empty());
    drop(lock);
}

#[tokio::test]
async fn what_a_killed_companion_left_is_neither_waited_for_nor_kept() {
    let world = World::new();
    archive_segments(&world, 1..5).await;
    let spool = spool_of(&world);
    spool.prepare().expect("prepare");
    for number in [2, 3, 9] {
        let mut writer = spool.put(&name(number)).expect("put");
        writer.write_all(b"half a segment").expect("write");
        std::mem::forget(writer);
    }
    let options = world.fetch_options(4);
    replayed(&world, 2, &options).await;
    world.look_ahead(4).await;
    assert_eq!(spool.arriving(&name(9)), None);
    replayed(&world, 3, &options).await;
}

#[tokio::test]
async fn two_companions_on_one_spool_fetch_nothing_twice() {
    let (store, requests) = Store::recording();
    let world = World::over(store);
    archive_segments(&world, 1..5).await;
    replayed(&world, 1, &world.fetch_options(4)).await;
    requests.take();
    tokio::join!(world.look_ahead(4), world.look_ahead(4));
    let mut gets = requests.take();
    gets.retain(|request| request.starts_with("GET"));
    assert_eq!(gets.len(), 3, "{gets:?}");
}

/// The model of a replay is the archive itself: each segment comes whole and right, whenever the
/// companion is killed, and whatever it left.
#[tokio::test]
async fn kills_of_the_companion_at_any_moment_cost_time_and_nothing_else() {
    let world = World::new();
    let segments = 40;
    archive_segments(&world, 0..segments).await;
    let options = world.fetch_options(5);
    let (spool, cancel) = (world.spool_options(), Cancel::new());
    let (ahead, limits) = (NonZeroU64::new(4).expect("4"), limits());
    for number in 0..segments {
        replayed(&world, number, &options).await;
        // A kill: the future is dropped between two steps, its locks and threads with it.
        let mut companion = pin!(look_ahead(&world.catalog, &spool, ahead, &limits, &cancel));
        let mut steps = (number * 7) % 23;
        poll_fn(|context| {
            steps = steps.saturating_sub(1);
            match companion.as_mut().poll(context) {
                Poll::Pending if steps > 0 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
    world.look_ahead(5).await;
    let left = spooled(&world);
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

#[tokio::test]
async fn sixteen_fetches_at_once_on_one_spool_all_get_their_own() {
    let world = World::new();
    for number in 0..20 {
        archive(&world, &name(number), &segment(OURS, number, 0), Compression::Zstd).await;
    }
    // Twice the same sixteen: the second round finds some in the spool, some taken.
    for _ in 0..2 {
        let fetches = (0..16u64).map(|number| {
            let (catalog, options) = (world.catalog.clone(), world.fetch_options(4));
            let destination = world.path(&format!("{}.tmp", name(number)));
            let name = WalFileName::parse(&name(number)).expect("name");
            tokio::spawn(async move {
                let cancel = Cancel::new();
                fetch(&name, &destination, &catalog, &options, &limits(), &Silent, &cancel).await
            })
        });
        for outcome in futures::future::join_all(fetches).await {
            assert_eq!(outcome.expect("task").expect("fetch"), FetchOutcome::Delivered);
        }
        for number in 0..16 {
            let destination = world.path(&format!("{}.tmp", name(number)));
            assert_eq!(std::fs::read(&destination).expect("read"), segment(OURS, number, 0));
            std::fs::remove_file(destination).expect("remove");
        }
    }
    let left = files_below(world.directory.path());
    assert!(left.iter().all(|file| !file.starts_with('.')), "{left:?}");
    assert!(left.len() <= 9, "{left:?}");
}

/// What is left of it: the deadline of `limits` is how long recovery may stand still.
async fn companion_of(world: &World, parallel: u64, patience: Duration, cancel: &Cancel) {
    let segments = NonZeroU64::new(parallel - 1).expect("more than one");
    let retry = RetryLimits { deadline: patience, ..limits().retry };
    let limits = Limits { retry, ..limits() };
    let spool = world.spool_options();
    look_ahead(&world.catalog, &spool, segments, &limits, cancel).await.expect("look ahead");
}

#[tokio::test]
async fn a_companion_leaves_nothing_when_recovery_does_not_go_on_or_it_is_told_to_stop() {
    for told_to_stop in [false, true] {
        let world = World::new();
        archive_segments(&world, 1..9).await;
        replayed(&world, 1, &world.fetch_options(8)).await;
        let cancel = Cancel::new();
        let patience = Duration::from_secs(if told_to_stop { 60 } else { 3 });
        let stop = async {
            while spool_of(&world).names().len() < 7 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if told_to_stop {
                cancel.cancel();
            }
        };
        tokio::join!(companion_of(&world, 8, patience, &cancel), stop);
        assert!(spooled(&world).is_empty(), "{:?}", spooled(&world));
    }
}

#[tokio::test]
async fn a_companion_that_rests_goes_on_with_recovery() {
    let world = World::new();
    archive_segments(&world, 1..12).await;
    let options = world.fetch_options(4);
    replayed(&world, 1, &options).await;
    let (cancel, spool) = (Cancel::new(), spool_of(&world));
    let filled = async |number: u64| {
        while !spool.holds(&name(number)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let recovery = async {
        filled(4).await;
        // Longer than it looks for more.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        for number in 2..9 {
            replayed(&world, number, &options).await;
            filled(number + 3).await;
        }
        cancel.cancel();
    };
    tokio::join!(companion_of(&world, 4, Duration::from_secs(60), &cancel), recovery);
    assert!(spooled(&world).is_empty(), "{:?}", spooled(&world));
}

#[tokio::test]
async fn what_a_killed_companion_left_is_removed_by_the_next_call_that_looks_not_ahead() {
    let world = World::new();
    archive_segments(&world, 1..6).await;
    replayed(&world, 1, &world.fetch_options(4)).await;
    world.look_ahead(4).await;
    assert_eq!(spooled(&world).len(), 3);
    // While one lives, its segments are its own.
    let lock = spool_of(&world).lock().expect("lock").expect("free");
    replayed(&world, 5, &world.fetch_options(0)).await;
    assert_eq!(spooled(&world).len(), 3);
    drop(lock);
    replayed(&world, 5, &world.fetch_options(0)).await;
    assert!(spooled(&world).is_empty(), "{:?}", spooled(&world));
}
