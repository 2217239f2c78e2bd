//! What a fetch makes of doubt and damage: other copies, spools that are none, archives that may
//! not be there.

use crate::codec::{Compression, compress};
use crate::flow::Cancel;
use crate::monitor::Silent;
use crate::store::{ObjectKey, PutMode, PutOptions, Store};
use crate::wal::WalFileName;
use crate::wal_archive::fixtures::{OURS, World, files_below, limits, name, segment};
use crate::wal_archive::{
    Absence, FetchOptions, FetchOutcome, PartialSegments, WalArchiveError, fetch,
};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const ALL: [Option<Compression>; 7] = [
    None,
    Some(Compression::Gzip),
    Some(Compression::Bzip2),
    Some(Compression::Xz),
    Some(Compression::Snappy),
    Some(Compression::Zstd),
    Some(Compression::Lz4),
];

async fn put(world: &World, key: &str, content: Vec<u8>) {
    let (key, options) = (ObjectKey::parse(key).expect("key"), PutOptions::default());
    let store = world.catalog.store();
    store.put(&key, content.into(), PutMode::Overwrite, &options).await.expect("put");
}

async fn archive(world: &World, name: &str, compression: Option<Compression>, plain: &[u8]) {
    let stored = match compression {
        Some(compression) => compress(compression, 3, plain).expect("compresses"),
        None => plain.to_vec(),
    };
    let name = WalFileName::parse(name).expect("name");
    let key = world.catalog.layout().wal(&name, compression).to_string();
    put(world, &key, stored).await;
}

async fn fetched(
    world: &World,
    name: &str,
    options: &FetchOptions,
) -> Result<FetchOutcome, WalArchiveError> {
    let name = WalFileName::parse(name).expect("name");
    let (destination, cancel) = (world.path("out"), Cancel::new());
    fetch(&name, &destination, &world.catalog, options, &limits(), &Silent, &cancel).await
}

fn delivered(world: &World) -> Vec<u8> {
    std::fs::read(world.path("out")).expect("delivered")
}

#[tokio::test]
async fn a_damaged_copy_is_passed_over_for_a_whole_one_under_another_suffix() {
    let good = segment(OURS, 1, 0);
    for damaged in ALL {
        for whole in ALL.into_iter().filter(|whole| *whole != damaged) {
            let world = World::new();
            archive(&world, &name(1), damaged, &good[..500_000]).await;
            archive(&world, &name(1), whole, &good).await;
            let options = world.fetch_options(0);
            let outcome = fetched(&world, &name(1), &options).await;
            assert_eq!(outcome.expect("fetch"), FetchOutcome::Delivered, "{damaged:?} {whole:?}");
            assert!(delivered(&world) == good, "{damaged:?} {whole:?}");
        }
    }
}

#[tokio::test]
async fn a_partial_segment_never_stands_in_for_a_damaged_complete_one() {
    for damaged in ALL {
        let world = World::new();
        archive(&world, &name(1), damaged, b"<html>").await;
        archive(&world, &format!("{}.partial", name(1)), None, &segment(OURS, 1, 0)).await;
        let outcome = fetched(&world, &name(1), &world.fetch_options(0)).await;
        assert!(matches!(outcome, Err(WalArchiveError::Damaged { .. })), "{damaged:?}");
        assert!(!world.path("out").exists());
    }
}

#[tokio::test]
async fn what_is_no_wal_is_not_delivered_whatever_its_name_and_suffix() {
    let partial = format!("{}.partial", name(1));
    let backup = format!("{}.00000028.backup", name(1));
    let html = b"<html><body>Service Unavailable</body></html>\n".to_vec();
    let good = segment(OURS, 1, 0);
    let mut other_timeline = good.clone();
    other_timeline[4] = 9;
    let no_header = vec![0; good.len()];
    let of_another = segment(OURS, 2, 0);
    let short = good[..good.len() - 1].to_vec();
    let (empty, text) = (vec![], b"no history".to_vec());
    let no_segments = [vec![], html.clone(), no_header, short, of_another, other_timeline];
    let files =
        no_segments.iter().flat_map(|content| [(name(1), content), (partial.clone(), content)]);
    let small = [
        ("00000002.history".to_string(), &empty),
        ("00000002.history".to_string(), &html),
        ("00000002.history".to_string(), &text),
        (backup, &empty),
    ];
    for (name, content) in files.chain(small) {
        for compression in ALL {
            let world = World::new();
            archive(&world, &name, compression, content).await;
            let outcome = fetched(&world, &name, &world.fetch_options(0)).await;
            let about = format!("{name} {compression:?} {} bytes", content.len());
            assert!(
                matches!(outcome, Err(WalArchiveError::Damaged { .. })),
                "{about}: {outcome:?}"
            );
            let left = files_below(world.directory.path());
            assert!(left.iter().all(|file| ["suffix", "position"].contains(&file.as_str())));
        }
    }
}

#[tokio::test]
async fn what_is_no_wal_does_not_come_through_the_spool_either() {
    let world = World::new();
    archive(&world, &name(1), None, &segment(OURS, 1, 0)).await;
    for (number, content) in [(2, b"".to_vec()), (3, b"<html>\n".to_vec()), (4, vec![0; 1 << 20])] {
        archive(&world, &name(number), Some(Compression::Gzip), &content).await;
    }
    let options = world.fetch_options(4);
    fetched(&world, &name(1), &options).await.expect("fetch");
    world.look_ahead(4).await;
    let left = files_below(&world.path("spool"));
    assert!(!left.iter().any(|file| file.starts_with("0000")), "{left:?}");
    for number in 2..5 {
        let outcome = fetched(&world, &name(number), &options).await;
        assert!(matches!(outcome, Err(WalArchiveError::Damaged { .. })), "{number}");
    }
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_costs_speed_only() {
    for spoil in [a_file, open_to_the_world] {
        let world = World::new();
        for number in 1..3 {
            archive(&world, &name(number), None, &segment(OURS, number, 0)).await;
        }
        spoil(&world.path("spool"));
        for number in 1..3 {
            let outcome = fetched(&world, &name(number), &world.fetch_options(2)).await;
            assert_eq!(outcome.expect("fetch"), FetchOutcome::Delivered);
            assert!(delivered(&world) == segment(OURS, number, 0));
        }
        assert_eq!(world.companion.take(), 0, "there is nothing to fill");
    }
}

fn a_file(spool: &Path) {
    std::fs::write(spool, b"a file where the directory should be").expect("write");
}

fn open_to_the_world(spool: &Path) {
    std::fs::create_dir(spool).expect("create");
    std::fs::set_permissions(spool, std::fs::Permissions::from_mode(0o777)).expect("chmod");
}

#[tokio::test]
async fn an_absence_is_believed_only_where_the_servers_folder_is_there() {
    let bucket = tempfile::tempdir().expect("bucket");
    let world = World::over(Store::local(bucket.path()));
    let files = [name(9), "00000002.history".into()];
    for file in &files {
        let outcome = fetched(&world, file, &world.fetch_options(0)).await;
        let error = outcome.expect_err("the file system may not be mounted");
        assert!(matches!(error, WalArchiveError::NoArchive { .. }), "{error}");
        assert!(error.to_string().contains("p/main"), "{error}");
    }
    std::fs::create_dir_all(bucket.path().join("p/main/base")).expect("create");
    for file in &files {
        let outcome = fetched(&world, file, &world.fetch_options(0)).await;
        assert_eq!(outcome.expect("fetch"), FetchOutcome::NotThere);
    }
}

#[tokio::test]
async fn for_archive_recovery_an_absence_is_believed_only_in_an_archive_that_holds_something() {
    let world = World::new();
    let trusting = world.fetch_options(0);
    let careful = FetchOptions { absence: Absence::InUse, ..trusting.clone() };
    put(&world, "p/another/base/20261120T000000/backup.info", b"x".to_vec()).await;
    let outcome = fetched(&world, "00000002.history", &careful).await;
    assert!(matches!(outcome, Err(WalArchiveError::NoArchive { .. })), "{outcome:?}");
    let outcome = fetched(&world, "00000002.history", &trusting).await;
    assert_eq!(outcome.expect("a new standby asks so"), FetchOutcome::NotThere);
    put(&world, "p/main/base/20261120T000000/backup.info", b"x".to_vec()).await;
    let outcome = fetched(&world, "00000002.history", &careful).await;
    assert_eq!(outcome.expect("the end of recovery"), FetchOutcome::NotThere);
    let refuse = FetchOptions { partial: PartialSegments::Refuse, ..careful };
    let outcome = fetched(&world, &format!("{}.partial", name(1)), &refuse).await;
    assert_eq!(outcome.expect("nobody asked the store"), FetchOutcome::NotThere);
}
