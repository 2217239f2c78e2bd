//! Segments and archives for the tests of this room.

use crate::catalog::{Catalog, Layout, ServerName};
use crate::flow::{Cancel, Limits, RetryLimits};
use crate::store::{ObjectKey, PutMode, PutOptions as StorePutOptions, Store};
use crate::wal_archive::ahead::{Ahead, StartCompanion};
use crate::wal_archive::fetch::{Absence, FetchOptions, PartialSegments, SpoolOptions};
use crate::wal_archive::prefetch::fill;
use crate::wal_archive::push::{OtherContent, PushOptions};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

pub const SEGMENT_BYTES: u32 = 1 << 20;
pub const OURS: u64 = 7_388_000_000_000_000_001;
pub const THEIRS: u64 = 7_301_000_000_000_000_001;

/// A segment of 1 MiB as PostgreSQL 15 would write it, its rest filled from `seed`.
pub fn segment(system_identifier: u64, number: u64, seed: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_ne_bytes());
    bytes.extend(2u16.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend((number * u64::from(SEGMENT_BYTES)).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(system_identifier.to_ne_bytes());
    bytes.extend(SEGMENT_BYTES.to_ne_bytes());
    bytes.extend(8192u32.to_ne_bytes());
    let mut state = seed.wrapping_add(1);
    while bytes.len() < usize::try_from(SEGMENT_BYTES / 4).expect("fits") {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((state >> 20).to_ne_bytes());
    }
    bytes.resize(usize::try_from(SEGMENT_BYTES).expect("fits"), 0);
    bytes
}

/// The name of segment `number` of timeline 1.
pub fn name(number: u64) -> String {
    let per_log = (1u64 << 32) / u64::from(SEGMENT_BYTES);
    format!("00000001{:08X}{:08X}", number / per_log, number % per_log)
}

/// An archive in memory and a directory of files.
pub struct World {
    pub catalog: Catalog,
    pub directory: TempDir,
    pub companion: Arc<CompanionCalls>,
}

/// Counts how often a companion was to be started.
#[derive(Debug, Default)]
pub struct CompanionCalls(AtomicUsize);

impl CompanionCalls {
    /// Since it was last asked.
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl StartCompanion for CompanionCalls {
    fn start(&self) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl World {
    pub fn new() -> Self {
        Self::over(Store::memory())
    }

    pub fn over(store: Store) -> Self {
        let layout = Layout::new("p", &ServerName::parse("main").expect("server"));
        let catalog = Catalog::new(store, layout.expect("layout"));
        let directory = tempfile::tempdir().expect("directory");
        Self { catalog, directory, companion: Arc::default() }
    }

    /// The archive that Barman 3.19.1 wrote with one algorithm (bucket `contract`, `walcomp`).
    pub async fn of_barman(server: &str) -> Self {
        let store = Store::memory();
        let bucket =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1/contract");
        let root = format!("walcomp/{server}/wals");
        for folder in [root.clone(), format!("{root}/0000000100000000")] {
            for entry in std::fs::read_dir(bucket.join(&folder)).expect("fixture") {
                let path = entry.expect("entry").path();
                if path.is_file() {
                    let name = path.file_name().expect("name").to_string_lossy();
                    let key = ObjectKey::parse(&format!("{folder}/{name}")).expect("key");
                    let content = std::fs::read(&path).expect("read").into();
                    let options = StorePutOptions::default();
                    store.put(&key, content, PutMode::Create, &options).await.expect("put");
                }
            }
        }
        let layout = Layout::new("walcomp", &ServerName::parse(server).expect("server"));
        let catalog = Catalog::new(store, layout.expect("layout"));
        let directory = tempfile::tempdir().expect("directory");
        Self { catalog, directory, companion: Arc::default() }
    }

    /// A file in the directory.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("write");
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// With a companion that [`look_ahead`](Self::look_ahead) plays when `parallel` is above 1.
    pub fn fetch_options(&self, parallel: u64) -> FetchOptions {
        let segments = NonZeroU64::new(parallel.saturating_sub(1));
        let ahead = |segments| Ahead { segments, companion: Arc::clone(&self.companion) as _ };
        FetchOptions {
            partial: PartialSegments::Accept,
            absence: Absence::Listed,
            ahead: segments.map(ahead),
            spool: self.spool_options(),
        }
    }

    pub fn spool_options(&self) -> SpoolOptions {
        SpoolOptions { directory: self.path("spool"), scope: "memory: p main".into() }
    }

    /// Plays the companion of `fetch_options(parallel)` until the spool is full, and kills it.
    pub async fn look_ahead(&self, parallel: u64) {
        let segments = NonZeroU64::new(parallel - 1).expect("more than one");
        let (spool, cancel) = (self.spool_options(), Cancel::new());
        fill(&self.catalog, &spool, segments, &limits(), &cancel).await.expect("look ahead");
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Vec<String> {
        use futures::stream::TryStreamExt;
        let listed: Vec<_> = self.catalog.store().list("").try_collect().await.expect("list");
        let mut keys: Vec<_> = listed.into_iter().map(|entry| entry.key.to_string()).collect();
        keys.sort();
        keys
    }
}

pub fn push_options() -> PushOptions {
    PushOptions {
        compression: None,
        tags: Vec::new(),
        history_tags: None,
        other_content: OtherContent::Refuse,
    }
}

pub fn limits() -> Limits {
    let two = NonZeroUsize::new(2).expect("2");
    let retry = RetryLimits {
        attempts_max: 3,
        deadline: Duration::from_secs(10),
        delay_first: Duration::from_millis(1),
        delay_max: Duration::from_millis(2),
    };
    Limits { jobs: two, workers: two, memory_max_bytes: 1 << 26, bandwidth_max: None, retry }
}

/// Files of a directory, hidden ones included, and of those below.
pub fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.file_name().expect("name").to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}
