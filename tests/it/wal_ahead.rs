//! What outlives one call, as processes: the companion of recovery, and receipts of archiving.

use crate::support::commands::Commands;
use crate::support::process::Outcome;
use crate::support::scratch::{give_tree_to_postgres, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const SERVER: &str = "main";
const SEGMENT_BYTES: u32 = 1 << 20;
/// Far more than the companion takes to end, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder as a store, and segments that are ready to be archived.
struct World {
    ours: Commands,
    store: StoreUnderTest,
    folder: TempDir,
}

impl World {
    fn with_segments(segments: u64) -> Self {
        let folder = scratch();
        let status = folder.path().join("pg_wal/archive_status");
        fs::create_dir_all(&status).expect("create");
        for number in 1..=segments {
            fs::write(folder.path().join("pg_wal").join(name(number)), segment(number))
                .expect("write");
            fs::write(status.join(format!("{}.ready", name(number))), "").expect("write");
        }
        give_tree_to_postgres(folder.path());
        let store = StoreUnderTest::open(StoreKind::File).expect("always there");
        Self { ours: Commands::ours(), store, folder }
    }

    fn archive(&self, number: u64, options: &[&str]) -> Outcome {
        let path = self.folder.path().join("pg_wal").join(name(number)).display().to_string();
        let spool = self.spool();
        let options = [&["--zstd", "--spool-dir", &spool], options].concat();
        self.ours.run("barman-cloud-wal-archive", &self.store, &options, &[SERVER, &path])
    }

    fn restore(&self, number: u64, parallel: &str) -> Outcome {
        let (destination, spool) = (self.destination().display().to_string(), self.spool());
        let options = ["-p", parallel, "--spool-dir", &spool];
        let name = name(number);
        let _ = fs::remove_file(self.destination());
        let words = [SERVER, &name, &destination];
        self.ours.run("barman-cloud-wal-restore", &self.store, &options, &words)
    }

    fn destination(&self) -> PathBuf {
        self.folder.path().join("RECOVERYXLOG")
    }

    fn spool(&self) -> String {
        self.folder.path().join("spool").display().to_string()
    }

    fn restored_is(&self, number: u64) {
        assert!(fs::read(self.destination()).expect("restored") == segment(number), "{number}");
    }

    /// Names in the spool that begin as segments do.
    fn spooled(&self) -> usize {
        files_below(&self.folder.path().join("spool"))
            .iter()
            .filter(|file| file.starts_with("0000"))
            .count()
    }

    /// Takes the store away.
    fn lose_the_store(&self) {
        let bucket = Path::new(&self.store.bucket);
        fs::rename(bucket, bucket.with_extension("gone")).expect("rename");
    }

    fn companions(&self) -> Vec<Pid> {
        let (spool, mut found) = (self.spool(), Vec::new());
        for process in fs::read_dir("/proc").expect("/proc").flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("--look-ahead") && line.contains(&spool) {
                let id = process.file_name().to_string_lossy().parse().ok();
                found.extend(id.and_then(Pid::from_raw));
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let bucket = Path::new(&self.store.bucket);
        let _ = fs::remove_dir_all(bucket.with_extension("gone"));
    }
}

fn name(number: u64) -> String {
    format!("00000001{:08X}{number:08X}", 0)
}

/// A segment of 1 MiB with the header of PostgreSQL 15.
fn segment(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_ne_bytes());
    bytes.extend(2u16.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend((number * u64::from(SEGMENT_BYTES)).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(7_388_000_000_000_000_001u64.to_ne_bytes());
    bytes.extend(SEGMENT_BYTES.to_ne_bytes());
    bytes.extend(8192u32.to_ne_bytes());
    let filler = u8::try_from(number % 251).expect("a byte");
    bytes.resize(usize::try_from(SEGMENT_BYTES).expect("fits"), filler);
    bytes
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn parallel_restores_are_served_by_a_companion_that_ends_by_itself() {
    let world = World::with_segments(9);
    for number in 1..=9 {
        world.archive(number, &[]).exits(0);
    }
    // The end of its output is waited for: the companion does not hold it open.
    world.restore(1, "5").exits(0);
    world.restored_is(1);
    wait_until("four segments in the spool", PATIENCE, || world.spooled() == 4);
    world.lose_the_store();
    for number in 2..=5 {
        world.restore(number, "5").exits(0);
        world.restored_is(number);
    }
    let outcome = world.restore(6, "5");
    assert!(!outcome.status.success(), "{outcome}");
    wait_until("the companion's end", PATIENCE, || world.companions().is_empty());
    let left = files_below(&world.folder.path().join("spool"));
    assert!(left.iter().all(|file| ["position", "suffix"].contains(&file.as_str())), "{left:?}");
}

#[test]
fn restores_go_on_whatever_becomes_of_the_companion() {
    let world = World::with_segments(20);
    for number in 1..=20 {
        world.archive(number, &[]).exits(0);
    }
    for number in 1..=20 {
        world.restore(number, "6").exits(0);
        world.restored_is(number);
        for companion in world.companions() {
            let signal = if number % 2 == 0 { Signal::KILL } else { Signal::TERM };
            // It may have ended by itself in this moment.
            let _ = kill_process(companion, signal);
        }
    }
    wait_until("the companion's end", PATIENCE, || world.companions().is_empty());
}

#[test]
fn jobs_archive_what_is_ready_and_later_calls_need_no_store() {
    let world = World::with_segments(6);
    world.archive(1, &["--jobs", "4"]).exits(0);
    let archived = world.store.keys_below("main/wals/0000000100000000");
    let expected: Vec<String> = (1..=4).map(|number| format!("{}.zst", name(number))).collect();
    assert_eq!(archived, expected);
    world.lose_the_store();
    for number in 2..=4 {
        world.archive(number, &["--jobs", "4"]).exits(0);
    }
    let outcome = world.archive(5, &["--jobs", "4"]);
    assert!(!outcome.status.success(), "{outcome}");
    let left = files_below(&world.folder.path().join("spool"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_receipt_does_not_acknowledge_a_segment_that_was_changed() {
    let world = World::with_segments(3);
    world.archive(1, &["--jobs", "3"]).exits(0);
    let mut changed = segment(2);
    changed[500_000] ^= 1;
    fs::write(world.folder.path().join("pg_wal").join(name(2)), changed).expect("write");
    let outcome = world.archive(2, &["--jobs", "3"]);
    outcome.exits(1).says("already holds other content");
    world.archive(3, &["--jobs", "3"]).exits(0);
}
