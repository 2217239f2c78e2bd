//! How a verb tells what it has done so far: counts, never sentences.
//!
//! Verbs count through [`Monitor`]; `command` decides whether that becomes a progress bar,
//! a metric or nothing. The names and units of all counts stand here and nowhere else.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Bytes read from PostgreSQL's files (backup), or written to them (restore).
    ClusterBytes,
    /// Bytes sent to the store (backup), or received from it (restore).
    StoredBytes,
    /// Files of the data directory and tablespaces.
    Files,
    /// Tarballs begun and finished.
    Tarballs,
    /// Percent of volume snapshots that are complete, a hundred for each.
    SnapshotPercent,
}

/// A stretch of a verb's story, as shown beside its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for PostgreSQL's start checkpoint.
    StartingBackup,
    CopyingFiles,
    /// Waiting for the cloud to fix the snapshots' point in time.
    CreatingSnapshots,
    /// Waiting for the cloud to copy the snapshots' data; PostgreSQL is not concerned any more.
    WaitingForSnapshots,
    /// Making volumes of snapshots and attaching them.
    CreatingVolumes,
    /// Waiting for PostgreSQL to stop the backup.
    StoppingBackup,
    /// Waiting until the archive holds the WAL that the backup needs.
    WaitingForWal,
    Extracting,
    /// Making restored files durable.
    Syncing,
    Done,
}

/// Receives a verb's counts; implementations must be cheap, they are called per block.
pub trait Monitor: Send + Sync {
    fn phase(&self, phase: Phase);
    /// Announces how much of `metric` the whole verb will count.
    fn expect(&self, metric: Metric, total: u64);
    fn add(&self, metric: Metric, amount: u64);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Monitor for Silent {
    fn phase(&self, _: Phase) {}
    fn expect(&self, _: Metric, _: u64) {}
    fn add(&self, _: Metric, _: u64) {}
}
