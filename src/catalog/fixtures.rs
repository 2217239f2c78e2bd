//! For tests: what Barman 3.19.1 wrote, as a store in memory.

use crate::catalog::{Catalog, Layout, ServerName};
use crate::flow::{Limits, RetryLimits};
use crate::store::{ObjectKey, PutMode, PutOptions, Store};
use bytes::Bytes;
use jiff::Timestamp;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The folder of a bucket, or of the printed outputs.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1").join(name)
}

/// A text that Barman printed.
pub fn expected_output(name: &str) -> String {
    std::fs::read_to_string(path("expected-output").join(name)).expect(name)
}

/// A server name of a bucket of the fixtures, alone in a store in memory. Tarballs and segments
/// are there by name but empty: what they hold is not the catalog's business.
pub async fn catalog(bucket: &str, prefix: &str, server: &str) -> Catalog {
    let store = Store::memory();
    let root = path(bucket);
    copy(&root, &root.join(prefix).join(server), &store).await;
    let server = ServerName::parse(server).expect("server name");
    Catalog::new(store, Layout::new(prefix, &server).expect("layout"))
}

/// Server name "main" below prefix "p" of an empty store.
pub fn empty_catalog() -> Catalog {
    let server = ServerName::parse("main").expect("server name");
    Catalog::new(Store::memory(), Layout::new("p", &server).expect("layout"))
}

async fn copy(root: &Path, folder: &Path, store: &Store) {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(root).expect("below the bucket").to_str().expect("utf-8");
            let small = ["backup.info", "keep", ".history"].iter().any(|part| key.contains(part));
            let content = if small { std::fs::read(&path).expect("fixture") } else { Vec::new() };
            write(store, key, content).await;
        }
    }
}

pub async fn write(store: &Store, key: &str, content: impl Into<Bytes>) {
    let key = ObjectKey::parse(key).expect("key");
    store
        .put(&key, content.into(), PutMode::Overwrite, &PutOptions::default())
        .await
        .expect("memory");
}

pub async fn keys(store: &Store) -> Vec<String> {
    use futures::stream::TryStreamExt;
    let mut keys: Vec<String> = store
        .list("")
        .map_ok(|entry| entry.key.as_str().to_string())
        .try_collect()
        .await
        .expect("memory");
    keys.sort();
    keys
}

pub fn limits() -> Limits {
    Limits {
        jobs: NonZeroUsize::new(2).expect("2"),
        workers: NonZeroUsize::new(1).expect("1"),
        memory_max_bytes: 1 << 20,
        bandwidth_max: None,
        retry: RetryLimits::PATIENT,
    }
}

/// Objects in memory carry the time they were written at; tests look back from here.
pub fn now() -> Timestamp {
    Timestamp::try_from(std::time::UNIX_EPOCH + elapsed()).expect("in range")
}

#[allow(clippy::disallowed_methods)]
fn elapsed() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970")
}
