//! One name, one content: whatever the suffix, whoever races, wherever it stops.

use crate::codec::{Compression, CompressionLevel};
use crate::flow::Cancel;
use crate::monitor::Silent;
use crate::store::recording::ChangeLimit;
use crate::store::{ObjectKey, PutMode, PutOptions as StorePutOptions, Store};
use crate::wal::WalFileName;
use crate::wal_archive::copies::WalCopy;
use crate::wal_archive::fixtures::{OURS, World, limits, name, push_options, segment};
use crate::wal_archive::push::Push;
use crate::wal_archive::source::Source;
use crate::wal_archive::{
    FetchOutcome, OtherContent, PushOptions, PushOutcome, WalArchiveError, fetch, push,
};
use std::path::Path;

const FOLDER: &str = "p/main/wals/0000000100000000";

async fn pushed(
    world: &World,
    path: &Path,
    options: &PushOptions,
) -> Result<PushOutcome, WalArchiveError> {
    push(path, &world.catalog, options, &limits(), &Silent, &Cancel::new()).await
}

fn with(compression: Option<Compression>) -> PushOptions {
    let compression = compression.map(|it| (it, CompressionLevel::Low));
    PushOptions { compression, ..push_options() }
}

fn overwriting(compression: Option<Compression>) -> PushOptions {
    PushOptions { other_content: OtherContent::Overwrite, ..with(compression) }
}

async fn fetched(world: &World, name: &str) -> Result<Vec<u8>, WalArchiveError> {
    let destination = world.path("delivered");
    let wal = WalFileName::parse(name).expect("name");
    let (options, cancel) = (world.fetch_options(1), Cancel::new());
    let outcome =
        fetch(&wal, &destination, &world.catalog, &options, &limits(), &Silent, &cancel).await?;
    assert_eq!(outcome, FetchOutcome::Delivered);
    Ok(std::fs::read(destination).expect("read"))
}

async fn stored_names(world: &World) -> Vec<String> {
    let keys = world.keys().await.into_iter();
    let names = keys.filter_map(|key| Some(key.strip_prefix(FOLDER)?[1..].to_string()));
    names.collect()
}

#[tokio::test]
async fn allow_overwrite_leaves_one_content_whatever_the_suffixes() {
    let all = || std::iter::once(None).chain(Compression::ALL.into_iter().map(Some));
    let from_each = all().map(|old| (old, Some(Compression::Zstd)));
    let to_each = all().map(|new| (Some(Compression::Gzip), new));
    for (old, new) in from_each.chain(to_each) {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        pushed(&world, &path, &with(old)).await.expect("push");
        let content = segment(OURS, 1, 99);
        let path = world.file(&name(1), &content);
        let outcome = pushed(&world, &path, &overwriting(new)).await.expect("overwrite");
        assert_eq!(outcome, PushOutcome::Overwritten, "{old:?} {new:?}");
        let suffix = new.map_or(String::new(), |it| format!(".{}", it.suffix()));
        assert_eq!(stored_names(&world).await, [format!("{}{suffix}", name(1))]);
        assert!(fetched(&world, &name(1)).await.expect("fetch") == content, "{old:?} {new:?}");
    }
}

/// Stops a replacement after each of its requests: a reader never finds nothing, nor a mixture.
#[tokio::test]
async fn an_overwrite_that_stops_anywhere_leaves_the_old_content_or_the_new() {
    let (old, new) = (segment(OURS, 1, 0), segment(OURS, 1, 99));
    for stop_after in 0..4 {
        let changes = ChangeLimit::default();
        let world = World::over(Store::stopping(&changes));
        let path = world.file(&name(1), &old);
        pushed(&world, &path, &with(Some(Compression::Gzip))).await.expect("push");
        let path = world.file(&name(1), &new);
        changes.set(Some(stop_after));
        let options = overwriting(Some(Compression::Zstd));
        let stopped = pushed(&world, &path, &options).await;
        changes.set(None);
        assert_eq!(stopped.is_ok(), stop_after >= 3, "{stop_after}");
        let found = fetched(&world, &name(1)).await.expect("fetch");
        assert!(found == if stop_after == 0 { old.clone() } else { new.clone() }, "{stop_after}");
        pushed(&world, &path, &options).await.expect("again");
        assert!(fetched(&world, &name(1)).await.expect("fetch") == new);
    }
}

#[tokio::test]
async fn a_copy_that_differs_is_refused_even_beside_one_that_is_the_same() {
    let world = World::new();
    let same = world.file(&name(1), &segment(OURS, 1, 0));
    pushed(&world, &same, &with(Some(Compression::Gzip))).await.expect("push");
    let other = Stray { world: &world, content: segment(OURS, 1, 99) };
    other.put(&format!("{FOLDER}/{}", name(1))).await;
    for compression in [None, Some(Compression::Gzip), Some(Compression::Zstd)] {
        let error = pushed(&world, &same, &with(compression)).await.expect_err("refused");
        assert!(matches!(error, WalArchiveError::OtherContent { .. }), "{error}");
    }
    pushed(&world, &same, &overwriting(Some(Compression::Gzip))).await.expect("overwrite");
    assert_eq!(stored_names(&world).await, [format!("{}.gz", name(1))]);
}

struct Stray<'a> {
    world: &'a World,
    content: Vec<u8>,
}

impl Stray<'_> {
    async fn put(&self, key: &str) {
        let key = ObjectKey::parse(key).expect("key");
        let (store, options) = (self.world.catalog.store(), StorePutOptions::default());
        let content = self.content.clone().into();
        store.put(&key, content, PutMode::Overwrite, &options).await.expect("put");
    }
}

/// Two writers look before either has written: only the look afterwards can tell.
#[tokio::test]
async fn of_two_writers_with_different_suffixes_not_both_succeed() {
    let world = World::new();
    let paths = [(0, "one"), (99, "other")].map(|(seed, folder)| {
        std::fs::create_dir(world.path(folder)).expect("directory");
        world.file(&format!("{folder}/{}", name(1)), &segment(OURS, 1, seed))
    });
    let options = [with(Some(Compression::Gzip)), with(Some(Compression::Zstd))];
    let (limits, cancel) = (limits(), Cancel::new());
    let writers: Vec<Push<'_>> = paths
        .iter()
        .zip(&options)
        .map(|(path, options)| Push {
            source: Source::open(path).expect("source"),
            catalog: &world.catalog,
            options,
            limits: &limits,
            cancel: &cancel,
        })
        .collect();
    let mut looked: Vec<Vec<WalCopy>> = Vec::new();
    for writer in &writers {
        looked.push(writer.copies().await.expect("list"));
    }
    let mut settled = Vec::new();
    for (writer, copies) in writers.iter().zip(looked) {
        assert!(copies.is_empty());
        let stored = writer.stored_form_as(writer.options.compression).await.expect("stored");
        settled.push(writer.settle(stored, copies).await);
    }
    assert!(matches!(settled[0], Ok(PushOutcome::Archived)), "{settled:?}");
    assert!(matches!(settled[1], Err(WalArchiveError::OtherContent { .. })), "{settled:?}");
}

/// A store without conditional writes must not lose what the first look had shown.
#[tokio::test]
async fn what_the_listing_shows_is_never_sent_again() {
    let (store, requests) = Store::recording();
    let world = World::over(store);
    let path = world.file(&name(1), &segment(OURS, 1, 0));
    pushed(&world, &path, &push_options()).await.expect("push");
    requests.take();
    let path = world.file(&name(1), &segment(OURS, 1, 99));
    pushed(&world, &path, &push_options()).await.expect_err("refused");
    assert!(!requests.take().iter().any(|request| request.starts_with("PUT")));
}

#[tokio::test]
async fn every_flipped_bit_of_a_stored_file_is_noticed_on_delivery() {
    let history = b"1\t0/3000000\tno recovery target specified\n".to_vec();
    let files = [(name(1), segment(OURS, 1, 7)), ("00000002.history".into(), history)];
    for (name, content) in files {
        let world = World::new();
        let path = world.file(&name, &content);
        pushed(&world, &path, &push_options()).await.expect("push");
        let key = world.catalog.layout().wal(&WalFileName::parse(&name).expect("name"), None);
        let store = world.catalog.store();
        let noted = store.head(&key).await.expect("head").expect("there").metadata;
        let noted: Vec<_> = noted.into_values().map(|value| ("plainsha256", value)).collect();
        let options = StorePutOptions { metadata: noted, ..StorePutOptions::default() };
        for number in 0..25 {
            let mut damaged = content.clone();
            let at = number * 40_009 % damaged.len();
            damaged[at] ^= 1 << (number % 8);
            store.put(&key, damaged.into(), PutMode::Overwrite, &options).await.expect("put");
            let error = fetched(&world, &name).await.expect_err("damaged");
            assert!(matches!(error, WalArchiveError::Damaged { .. }), "{number}: {error}");
        }
        // Without a digest, as Barman stores it, it is taken as it is.
        let options = StorePutOptions::default();
        store.put(&key, content.clone().into(), PutMode::Overwrite, &options).await.expect("put");
        assert!(fetched(&world, &name).await.expect("fetch") == content);
    }
}

#[tokio::test]
async fn a_timeline_history_of_another_promotion_is_refused_and_both_are_named() {
    let world = World::new();
    let path = world.file("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    pushed(&world, &path, &with(Some(Compression::Gzip))).await.expect("push");
    let path = world.file("00000002.history", b"1\t0/3500000\tno recovery target specified\n");
    for compression in [Some(Compression::Gzip), None] {
        let error = pushed(&world, &path, &with(compression)).await.expect_err("refused");
        let detail = error.detail().expect("detail");
        assert_eq!(
            detail,
            "Two servers were promoted to timeline 2: the stored one at 0/3000000 on timeline 1, \
             this one at 0/3500000 on timeline 1."
        );
        assert!(error.hint().expect("hint").contains("restore_command"));
    }
}

/// Segment 1 up to a place, as a standby leaves it: pages with their positions, then what was in
/// the file before.
fn partial(end: usize, seed: u32, rest: u8) -> Vec<u8> {
    const PAGE: usize = 8192;
    let mut bytes = segment(OURS, 1, seed);
    let last_page = end.div_ceil(PAGE) * PAGE;
    bytes[end..last_page].fill(0);
    bytes[last_page..].fill(rest);
    for page in (0..last_page).step_by(PAGE) {
        let address = (1u64 << 20) + u64::try_from(page).expect("fits");
        bytes[page..page + 2].copy_from_slice(&0xD110u16.to_ne_bytes());
        bytes[page + 8..page + 16].copy_from_slice(&address.to_ne_bytes());
    }
    bytes
}

#[tokio::test]
async fn of_two_partial_segments_of_one_story_the_longer_one_stays() {
    let partial_name = format!("{}.partial", name(1));
    // The same page, the next one, and far behind; recycled files too.
    for (short, long, rest) in [(9000, 9100, 0), (9000, 20_000, 7), (40, 200_000, 0)] {
        for (first, second) in [(short, long), (long, short)] {
            let world = World::new();
            let path = world.file(&partial_name, &partial(first, 0, rest));
            pushed(&world, &path, &with(Some(Compression::Gzip))).await.expect("push");
            let path = world.file(&partial_name, &partial(second, 0, 0));
            for compression in [Some(Compression::Gzip), None] {
                pushed(&world, &path, &with(compression)).await.expect("never blocked");
            }
            let found = fetched(&world, &partial_name).await.expect("fetch");
            let longer =
                if first > second { partial(first, 0, rest) } else { partial(second, 0, 0) };
            assert!(found == longer, "{first} {second}");
            assert_eq!(stored_names(&world).await.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_partial_segment_of_another_story_goes_beside_the_stored_one() {
    let world = World::new();
    let partial_name = format!("{}.partial", name(1));
    let stored = partial(100_000, 0, 0);
    let path = world.file(&partial_name, &stored);
    pushed(&world, &path, &with(Some(Compression::Gzip))).await.expect("push");
    let path = world.file(&partial_name, &partial(150_000, 5, 0));
    let outcome = pushed(&world, &path, &with(Some(Compression::Zstd))).await.expect("push");
    assert_eq!(outcome, PushOutcome::Archived);
    let again = pushed(&world, &path, &with(Some(Compression::Zstd))).await.expect("again");
    assert_eq!(again, PushOutcome::AlreadyArchived);
    let names = stored_names(&world).await;
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(fetched(&world, &partial_name).await.expect("fetch") == stored);
}
