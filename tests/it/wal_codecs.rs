//! Barman 3.19.1 reads WAL files of ours, whatever the algorithm and level.

use crate::support::commands::Commands;
use crate::support::scratch::scratch;
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use barman_cloud::codec::{Compression, CompressionLevel, compress};
use std::path::Path;

const NAME: &str = "00000001000000000000001A";
const LEVELS: [CompressionLevel; 4] = [
    CompressionLevel::Number(i32::MIN),
    CompressionLevel::Low,
    CompressionLevel::Medium,
    CompressionLevel::Number(i32::MAX),
];

#[test]
fn barman_reads_our_wal_of_every_algorithm_and_level() {
    let (Some(barman), Some(store)) = (Commands::barman(), StoreUnderTest::open(StoreKind::S3))
    else {
        return;
    };
    let plain = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/barman-3.19.1/contract/walcomp/plain/wals/0000000100000000")
            .join(NAME),
    )
    .expect("fixture");
    // More than one block, the last one shorter.
    let plain = [plain.as_slice(), &plain, b"and a bit"].concat();
    let folder = scratch();
    for compression in Compression::ALL {
        for (index, level) in LEVELS.into_iter().enumerate() {
            let server = format!("{compression}-{index}");
            let stored = compress(compression, level.for_wal(compression), &plain);
            let suffix = compression.suffix();
            let key = format!("{PREFIX}/{server}/wals/0000000100000000/{NAME}.{suffix}");
            store.put(&key, stored.expect("compresses"));
            let destination = folder.path().join(&server);
            let target = destination.to_str().expect("utf-8");
            barman.run("barman-cloud-wal-restore", &store, &[], &[&server, NAME, target]).exits(0);
            assert_eq!(std::fs::read(&destination).expect("restored"), plain, "{server}");
        }
    }
}
