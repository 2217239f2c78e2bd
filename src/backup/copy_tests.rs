//! A directory tree through the whole pipeline and back, on a store in memory.

use crate::backup::copy::{Destination, copy};
use crate::backup::plan::{AreaSurvey, cut};
use crate::backup::produce::{Production, RecordFile};
use crate::backup::ship::Freight;
use crate::backup::survey::{Area, survey};
use crate::backup::tally::Tally;
use crate::catalog::{BackupId, Layout, ServerName, TarballTarget};
use crate::codec::{BLOCK_BYTES, Compression, TarballCodec, decoder};
use crate::disk::Accounts;
use crate::flow::{Buffers, Cancel, WorkerPool};
use crate::monitor::Silent;
use crate::pgdata::{FileFilter, ManifestEntry};
use crate::store::{Courier, PutOptions, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Keeps the manifest's lines: path → (size, CRC-32C).
#[derive(Default)]
struct Lines(Mutex<BTreeMap<String, (u64, u32)>>);

impl RecordFile for Lines {
    fn record(&self, entry: &ManifestEntry<'_>) -> io::Result<()> {
        let path = String::from_utf8(entry.path.to_vec()).expect("utf-8");
        let twice = self.0.lock().expect("lock").insert(path, (entry.size_bytes, entry.crc32c));
        assert_eq!(twice, None);
        Ok(())
    }
}

fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0] & 0x3F
        })
        .collect()
}

fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    files.insert("PG_VERSION".to_string(), b"15\n".to_vec());
    for number in 0..300u32 {
        files.insert(format!("base/5/{}", 16384 + number), noise(8192, number));
    }
    files.insert("base/5/20000".into(), noise(3 << 20, 7));
    files.insert("base/5/20000.1".into(), noise((1 << 20) + 5, 8));
    for (path, content) in &files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, content).expect("file");
    }
    for left_out in [
        "pg_wal/000000010000000000000001",
        "base/5/t3_16384",
        "postmaster.pid",
        "base/5/30000",
        "base/5/30000_init",
    ] {
        let path = root.join(left_out);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, b"left out").expect("file");
    }
    files.insert("base/5/30000_init".into(), b"left out".to_vec());
    files
}

fn area(root: &Path) -> Area {
    Area {
        target: TarballTarget::Data,
        root: root.into(),
        manifest_prefix: "".into(),
        filter: FileFilter {
            version_directory: "PG_15_202209061".into(),
            linked_tablespaces: Vec::new(),
            emptied_directories: Vec::new(),
        },
        replaced: Vec::new(),
    }
}

fn destination() -> Destination {
    let server = ServerName::parse("main").expect("server");
    Destination {
        layout: Layout::new("", &server).expect("layout"),
        id: BackupId::parse("20261120T235832").expect("id"),
    }
}

fn production(area: Area, surveyed: AreaSurvey, lines: &Arc<Lines>, cancel: &Cancel) -> Production {
    Production {
        areas: vec![(area, surveyed).into()],
        accounts: Accounts::default(),
        page_checks: None,
        manifest: lines.clone(),
        tally: Arc::default(),
        cancel: cancel.clone(),
        monitor: Arc::new(Silent),
    }
}

fn freight(store: &Store, compression: Option<Compression>, cancel: &Cancel) -> Freight {
    Freight {
        courier: Courier {
            store: store.clone(),
            parts: Arc::new(Semaphore::new(2)),
            part_bytes: 1 << 20,
            pace: None,
            monitor: Arc::new(Silent),
            options: PutOptions::default(),
        },
        codec: TarballCodec::new(compression, None),
        pool: WorkerPool::new(NonZeroUsize::new(2).expect("2")),
        buffers: Buffers::new(BLOCK_BYTES, 8),
        depth: 2,
        tails: 1,
        zstd_workers: 2,
        cancel: cancel.clone(),
    }
}

fn unpack(compression: Option<Compression>, stored: Vec<u8>, into: &mut BTreeMap<String, Vec<u8>>) {
    let reader: Box<dyn Read> = match compression {
        Some(compression) => decoder(compression, Cursor::new(stored)).expect("decoder"),
        None => Box::new(Cursor::new(stored)),
    };
    for entry in tar::Archive::new(reader).entries().expect("entries") {
        let mut entry = entry.expect("entry");
        let path = entry.path().expect("path").display().to_string();
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            assert_eq!(into.insert(path, content), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_whole_from_several_tarballs_in_every_compression() {
    let folder = tempfile::tempdir().expect("folder");
    let expected = tree(folder.path());
    let tarballs = [
        None,
        Some(Compression::Gzip),
        Some(Compression::Lz4),
        Some(Compression::Snappy),
        Some(Compression::Bzip2),
        Some(Compression::Zstd),
    ];
    for compression in tarballs {
        let store = Store::memory();
        let cancel = Cancel::new();
        let area = area(folder.path());
        let surveyed = survey(&area, &Tally::default(), &cancel).expect("survey");
        let jobs = NonZeroUsize::new(2).expect("2");
        let plan = cut(std::slice::from_ref(&surveyed), jobs, 2 << 20, compression);
        assert!(plan.tarballs.len() > 2);
        let lines = Arc::new(Lines::default());
        let production = Arc::new(production(area, surveyed, &lines, &cancel));
        let destination = destination();
        let freight = freight(&store, compression, &cancel);
        let records = copy(&plan, production, &freight, &destination, jobs).await.expect("copied");
        let mut found = BTreeMap::new();
        for record in records.iter().map(|carried| &carried.record) {
            let key = destination.layout.backup_object(&destination.id, &record.name);
            let stored = store.get(&key).await.expect("get").expect("there");
            assert_eq!(u64::try_from(stored.len()).expect("small"), record.stored_bytes);
            unpack(compression, stored.to_vec(), &mut found);
        }
        assert!(found == expected, "{:?}", found.keys().collect::<Vec<_>>());
        let lines = lines.0.lock().expect("lock");
        for (path, content) in &expected {
            let size = u64::try_from(content.len()).expect("small");
            assert_eq!(lines.get(path), Some(&(size, crc32c::crc32c(content))), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_tarball_is_written_while_the_last_ones_parts_are_on_their_way() {
    let folder = tempfile::tempdir().expect("folder");
    tree(folder.path());
    let (store, cancel) = (Store::memory(), Cancel::new());
    let area = area(folder.path());
    let surveyed = survey(&area, &Tally::default(), &cancel).expect("survey");
    let one = NonZeroUsize::MIN;
    let plan = cut(std::slice::from_ref(&surveyed), one, 2 << 20, None);
    let first = plan.tarballs.first().expect("a tarball").pieces.len();
    assert_eq!(first, 1, "the biggest file has a tarball of its own");
    let lines = Arc::new(Lines::default());
    let production = Arc::new(production(area, surveyed, &lines, &cancel));
    let mut freight = freight(&store, None, &cancel);
    freight.depth = 8;
    // No part can be sent until there is a permit.
    let parts = Arc::new(Semaphore::new(0));
    freight.courier.parts = Arc::clone(&parts);
    let destination = destination();
    let copying = async { copy(&plan, production, &freight, &destination, one).await };
    let watching = async {
        let begun = Instant::now();
        while lines.0.lock().expect("lock").len() <= first {
            assert!(begun.elapsed() < Duration::from_secs(60), "the second tarball is not begun");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        parts.add_permits(1);
    };
    let (copied, ()) = tokio::join!(copying, watching);
    assert_eq!(copied.expect("copied").len(), plan.tarballs.len());
}
