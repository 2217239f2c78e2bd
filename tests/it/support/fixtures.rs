//! What Barman 3.19.1 wrote, put where a test wants it; and WAL segments made of it.

use crate::support::stores::{PREFIX, StoreUnderTest};
use std::fs;
use std::path::PathBuf;

/// The server name of the fixtures' backups.
pub const SERVER: &str = "main";
/// The oldest and the newest of them.
pub const OLDEST: &str = "20261120T235832";
pub const NEWEST: &str = "20261121T000057";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1/contract")
}

/// Puts everything that Barman wrote for one server into a store.
pub fn put_backups(store: &StoreUnderTest) {
    let root = folder().join("pg15");
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("fixtures").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let below = path.strip_prefix(&root).expect("below").display().to_string();
                store.put(&format!("{PREFIX}/{below}"), fs::read(&path).expect("read"));
            }
        }
    }
}

/// The name of the segment with this number, on timeline 1, 1 MiB each.
pub fn segment_name(number: u32) -> String {
    format!("00000001{:08X}{:08X}", number >> 12, number & 0xfff)
}

/// A segment of the fixtures' cluster, moved to another place in the WAL: its long page header
/// says which.
pub fn segment(number: u32) -> Vec<u8> {
    let name = "00000001000000000000001A";
    let file = folder().join("walcomp/plain/wals/0000000100000000").join(name);
    let mut bytes = fs::read(file).expect("fixture");
    // `xlp_pageaddr` of XLogPageHeaderData, PostgreSQL src/include/access/xlog_internal.h.
    bytes[8..16].copy_from_slice(&(u64::from(number) << 20).to_le_bytes());
    // No two are alike.
    bytes[500_000..500_004].copy_from_slice(&number.to_le_bytes());
    bytes
}
