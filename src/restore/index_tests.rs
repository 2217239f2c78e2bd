//! Tarballs with an index: decoded in blocks, each compared with its own checksum.

use crate::catalog::{BackupStatus, IndexRecord, IndexWriter, TarballName, TarballRecord};
use crate::codec::{BLOCK_BYTES, BlockMark, TarballCodec, TarballStream};
use crate::flow::{Cancel, Limits};
use crate::monitor::Silent;
use crate::restore::RestoreError;
use crate::restore::restore_tests::{Scene, Tarball, cluster, options};
use sha2::{Digest, Sha256};
use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;

const NAMES: [&str; 5] =
    ["data.tar", "data.tar.gz", "data.tar.lz4", "data.tar.snappy", "data.tar.zst"];

/// More than a few blocks, which compress somewhat.
fn big_file() -> Vec<u8> {
    let mut state = 7u32;
    let next = move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x1F
    };
    (0..5 * BLOCK_BYTES + 8192).map(next).collect()
}

fn tarball() -> Tarball {
    cluster().file("base/2", &big_file()).file("base/3", b"").file("base/4", &[1; 1000])
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("small")
}

/// As a backup would write it.
pub(crate) fn encode(name: &str, raw: &[u8]) -> (Vec<u8>, Vec<BlockMark>) {
    let compression = TarballName::parse(name).expect(name).compression;
    let (mut stored, mut marks) = (Vec::new(), Vec::new());
    match TarballCodec::new(compression, None).begin(2).expect("stream") {
        TarballStream::Blocks(mut stream) => {
            stored.extend(stream.header().expect("header"));
            for block in raw.chunks(BLOCK_BYTES) {
                let encoded = stream.encoder().encode(block.to_vec()).expect("block");
                let (bytes, mark) = stream.join(encoded.0);
                stored.extend(bytes);
                marks.push(mark);
            }
            stored.extend(stream.trailer());
        }
        TarballStream::Serial(mut stream) => {
            let mut parts: Vec<_> = raw.chunks(BLOCK_BYTES).map(|b| stream.encode(b)).collect();
            parts.push(stream.finish());
            for part in parts {
                let part = part.expect("encoded");
                stored.extend(part.bytes);
                marks.extend(part.marks);
            }
        }
    }
    (stored, marks)
}

async fn indexed(name: &str) -> (Scene, Vec<BlockMark>) {
    let mut scene = Scene::new();
    let (raw, members) = tarball().finish();
    let (stored, marks) = encode(name, &raw);
    let mut index = IndexWriter::new().expect("index");
    marks.iter().for_each(|mark| index.block(*mark).expect("block"));
    let index = index.finish().expect("index");
    scene.records.push(TarballRecord {
        name: name.into(),
        stored_bytes: count(stored.len()),
        raw_bytes: count(raw.len()),
        members,
        sha256: hash(&stored),
        index: Some(IndexRecord { stored_bytes: count(index.len()), sha256: hash(&index) }),
    });
    scene.put(name, stored).await;
    scene.put(&format!("index/{name}.jsonl.zst"), index).await;
    (scene.publish(BackupStatus::Done).await, marks)
}

#[tokio::test]
async fn a_tarball_is_restored_by_its_index_in_every_compression_and_any_memory() {
    for name in NAMES {
        for memory_max_bytes in [1, 64 << 20] {
            let (scene, marks) = indexed(name).await;
            assert!(marks.len() > 2, "{name} has several blocks");
            let limits = Limits {
                jobs: NonZeroUsize::MIN,
                memory_max_bytes,
                ..crate::catalog::fixtures::limits()
            };
            let (monitor, cancel) = (Arc::new(Silent) as _, Cancel::new());
            scene.restore_with(&options(), &limits, &monitor, &cancel).await.expect(name);
            let file = |path: &str| fs::read(scene.target().join(path)).expect(path);
            assert!(file("base/2") == big_file(), "{name}");
            assert_eq!(file("base/3"), b"");
            assert_eq!(file("base/4"), [1; 1000]);
            assert!(scene.starts());
        }
    }
}

#[tokio::test]
async fn one_changed_byte_of_any_block_is_noticed() {
    for name in NAMES {
        let (scene, marks) = indexed(name).await;
        let stored = scene.catalog.store().get(&scene.key(name)).await.expect("read");
        let stored = stored.expect("there");
        for mark in marks {
            let position = usize::try_from(mark.stored_offset + mark.stored_bytes / 2);
            let mut damaged = stored.to_vec();
            damaged[position.expect("small")] ^= 0x04;
            scene.put(name, damaged).await;
            let error = scene.restore().await.expect_err("damaged");
            let told = match &error {
                RestoreError::Corrupt { reason, .. } => reason.contains("block at"),
                _ => false,
            };
            assert!(told, "{name}: {error}");
            assert!(!scene.starts());
        }
    }
}

#[tokio::test]
async fn an_index_that_is_missing_damaged_or_of_another_tarball_costs_only_time() {
    let name = "data.tar.gz";
    let index = format!("index/{name}.jsonl.zst");
    for content in [None, Some(b"damaged".to_vec())] {
        let (scene, _) = indexed(name).await;
        match content {
            Some(content) => scene.put(&index, content).await,
            None => drop(scene.catalog.store().delete(vec![scene.key(&index)]).await),
        }
        scene.restore().await.expect("read in sequence");
        assert!(fs::read(scene.target().join("base/2")).expect("file") == big_file());
    }
}
