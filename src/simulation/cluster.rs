//! A cluster as the commands see one: a data directory, WAL that appears in it, timelines.

use crate::wal::{Lsn, SegmentSize, TimelineId, WalFileName, WalSegment};
use jiff::Timestamp;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The smallest that PostgreSQL takes.
pub const SEGMENT_BYTES: u64 = 1 << 20;

/// A primary of PostgreSQL 15 whose rows are numbers in files.
pub struct Cluster {
    directory: TempDir,
    pub system_identifier: u64,
    pub timeline: u32,
    /// The segment that is written now.
    pub current: u64,
    /// The history file of the timeline, as far as it has one.
    pub history: String,
    /// Tells two clusters apart that were one.
    nonce: u64,
    version: u64,
    /// Where the running backup began.
    backup: Option<Lsn>,
    pub now: Timestamp,
}

/// What a backup took, by path.
pub type Content = Vec<(String, Vec<u8>)>;

pub fn size() -> SegmentSize {
    SegmentSize::new(SEGMENT_BYTES).expect("a power of two")
}

pub fn segment_name(timeline: u32, number: u64) -> String {
    let timeline = TimelineId::new(timeline).expect("not zero");
    WalSegment { timeline, number }.name(size())
}

impl Cluster {
    pub fn new(system_identifier: u64, nonce: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let mut cluster = Self {
            directory: directory.expect("a temporary directory"),
            system_identifier,
            timeline: 1,
            current: 2,
            history: String::new(),
            nonce,
            version: 0,
            backup: None,
            now: Timestamp::UNIX_EPOCH,
        };
        for folder in ["global", "base/5", "pg_wal/archive_status", "pg_tblspc"] {
            fs::create_dir_all(cluster.data().join(folder)).expect("a folder");
        }
        cluster.write("PG_VERSION", b"15\n");
        for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            cluster.write(name, b"# nothing\n");
        }
        cluster.write("global/pg_control", &control_file(system_identifier));
        cluster.change();
        cluster
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, path: &str, content: &[u8]) {
        fs::write(self.data().join(path), content).expect("a file");
    }

    /// New rows: no two states of any cluster of a world are the same.
    pub fn change(&mut self) {
        self.version += 1;
        for file in 0..3u64 {
            let mut content = Vec::new();
            for word in [self.system_identifier, self.nonce, self.version, file] {
                content.extend(word.to_le_bytes());
            }
            content.resize(8192 * (1 + usize::try_from(file).expect("small")), 7);
            self.write(&format!("base/5/{}", 16_384 + file), &content);
        }
    }

    /// The files that a backup taken now must bring back.
    pub fn content(&self) -> Content {
        let names =
            ["PG_VERSION", "base/5/16384", "base/5/16385", "base/5/16386", "global/pg_control"];
        let read = |name: &str| fs::read(self.data().join(name)).expect(name);
        names.iter().map(|name| ((*name).to_string(), read(name))).collect()
    }

    /// Completes the current segment and hands it to the archiver.
    pub fn switch(&mut self) {
        let name = segment_name(self.timeline, self.current);
        self.write(&format!("pg_wal/{name}"), &self.segment());
        self.ready(&name);
        self.current += 1;
    }

    fn ready(&self, name: &str) {
        self.write(&format!("pg_wal/archive_status/{name}.ready"), b"");
    }

    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(SEGMENT_BYTES).expect("fits"));
        bytes.extend(0xD110u16.to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend(self.timeline.to_ne_bytes());
        bytes.extend((self.current * SEGMENT_BYTES).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.system_identifier.to_ne_bytes());
        bytes.extend(u32::try_from(SEGMENT_BYTES).expect("fits").to_ne_bytes());
        bytes.extend(8192u32.to_ne_bytes());
        bytes.extend(self.nonce.to_ne_bytes());
        bytes.extend(self.version.to_ne_bytes());
        bytes.resize(usize::try_from(SEGMENT_BYTES).expect("fits"), 0);
        bytes
    }

    /// The file that the archiver takes next: histories first, then in order.
    pub fn next_ready(&self) -> Option<String> {
        let entries = fs::read_dir(self.data().join("pg_wal/archive_status")).expect("the marks");
        let names = entries.map(|entry| entry.expect("a mark").file_name().into_string());
        names
            .filter_map(|name| Some(name.ok()?.strip_suffix(".ready")?.to_string()))
            .min_by_key(|name| (!name.ends_with(".history"), name.clone()))
    }

    pub fn wal_path(&self, name: &str) -> PathBuf {
        self.data().join("pg_wal").join(name)
    }

    pub fn archived(&self, name: &str) {
        let mark = |state| self.data().join(format!("pg_wal/archive_status/{name}.{state}"));
        fs::rename(mark("ready"), mark("done")).expect("the mark of the file that was archived");
    }

    /// Recovers to the middle of segment `at` on `timeline` and goes on as a new timeline,
    /// with an empty `pg_wal`, as a restored cluster has it.
    pub fn promote(&mut self, ancestry: &str, timeline: u32, at: u64, nonce: u64) -> String {
        fs::remove_dir_all(self.data().join("pg_wal")).expect("pg_wal");
        fs::create_dir_all(self.data().join("pg_wal/archive_status")).expect("pg_wal");
        let lsn = Lsn::new(at * SEGMENT_BYTES + 0x80);
        self.history = format!("{ancestry}\t{lsn}\tno recovery target specified\n");
        (self.timeline, self.current, self.nonce) = (timeline, at, nonce);
        self.change();
        let name = WalFileName::of_history(TimelineId::new(timeline).expect("not zero"));
        self.write(&format!("pg_wal/{name}"), self.history.as_bytes());
        self.ready(name.as_str());
        name.to_string()
    }

    pub fn start_backup(&mut self) -> Lsn {
        let begin = Lsn::new(self.current * SEGMENT_BYTES + 0x28);
        self.backup = Some(begin);
        begin
    }

    /// The label and the end of the backup that runs, in a segment that is switched then.
    pub fn stop_backup(&mut self) -> (Lsn, String) {
        let begin = self.backup.take().expect("a backup runs");
        let end = Lsn::new(self.current * SEGMENT_BYTES + 0x138);
        self.switch();
        let first = segment_name(self.timeline, begin.bytes() / SEGMENT_BYTES);
        let label = format!(
            "START WAL LOCATION: {begin} (file {first})\nCHECKPOINT LOCATION: {begin}\n\
             BACKUP METHOD: streamed\nBACKUP FROM: primary\n\
             START TIME: 2026-11-20 12:00:00 UTC\nLABEL: simulated\nSTART TIMELINE: {}\n",
            self.timeline
        );
        (end, label)
    }
}

/// As PostgreSQL 15 lays it out; source: `pgdata::control_file`.
fn control_file(system_identifier: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &system_identifier.to_ne_bytes());
    put(8, &1300u32.to_ne_bytes());
    put(12, &202_209_061u32.to_ne_bytes());
    put(32, &(2 * SEGMENT_BYTES + 0x60).to_ne_bytes());
    put(40, &(2 * SEGMENT_BYTES + 0x28).to_ne_bytes());
    put(48, &1u32.to_ne_bytes());
    put(208, &1_234_567.0f64.to_bits().to_ne_bytes());
    put(216, &8192u32.to_ne_bytes());
    put(220, &131_072u32.to_ne_bytes());
    put(228, &u32::try_from(SEGMENT_BYTES).expect("fits").to_ne_bytes());
    let sum = crc32c::crc32c(&bytes[..288]).to_ne_bytes();
    bytes[288..292].copy_from_slice(&sum);
    bytes
}
