//! Extracts all tarballs, `jobs` at once, and keeps the journal.
//!
//! Memory: decoded blocks and write buffers have their share of `memory_max_bytes` by their
//! number; the ranges in flight take their permits from the rest of it. Decoders come on top.

use crate::catalog::{Tarball, read_index};
use crate::disk::AlignedBuffer;
use crate::flow::{Cancel, Limits, MemoryBudget, Pace, WorkerPool};
use crate::monitor::{Metric, Monitor, Phase};
use crate::restore::blocks::{
    DECODED_BLOCK_BYTES, IndexedBlocks, block_queue, decode, decode_indexed, is_usable,
};
use crate::restore::download::{DownloadBounds, Downloads};
use crate::restore::extract::{MemberWriter, Targets};
use crate::restore::journal::Journal;
use crate::restore::stage::{ChunkReader, StageEnd, digest, on_thread};
use crate::restore::writes::{BUFFERS, Writes};
use crate::restore::{PlannedObject, RestoreCounts, RestoreError, RestorePlan};
use crate::store::{ObjectKey, Store, hex};
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc;

/// Chunks that wait for the decoder or the digest; each holds its memory permit.
const CHUNKS_WAITING: usize = 2;
/// Ranged reads in flight over all tarballs: a single connection rarely fills a network.
const RANGES_AT_ONCE: usize = 16;
/// A range is long enough to make the request's round trip negligible, and short enough that
/// several fit the memory.
const RANGE_BYTES_MAX: u64 = 8 << 20;
const RANGE_BYTES_MIN: u64 = 256 << 10;
/// An index takes some ten bytes per file; one that is larger than this is not worth its memory.
const INDEX_BYTES_MAX: u64 = 256 << 20;
/// Threads that write: enough to keep a disk busy that takes a millisecond for a megabyte.
const WRITERS: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not zero");

/// One restore's extraction.
pub struct Application {
    pub store: Store,
    pub plan: Arc<RestorePlan>,
    pub targets: Arc<Targets>,
    pub journal: Journal,
    pub monitor: Arc<dyn Monitor>,
    pub cancel: Cancel,
}

/// What the journal hears.
enum Progress {
    /// The tarball of this object name.
    Finished(String),
    /// All of them.
    Complete,
}

/// Bounds of all downloads together: what decoded blocks and writes leave of the memory.
pub fn download_bounds(limits: &Limits) -> DownloadBounds {
    let jobs = limits.jobs.get();
    let in_flight = (RANGES_AT_ONCE / jobs).max(2);
    let per_job = count(blocks_waiting(limits) + 2) * DECODED_BLOCK_BYTES
        + count(BUFFERS * AlignedBuffer::BYTES);
    let jobs = count(jobs);
    // Whatever is asked for, a job needs a few ranges to get on at all.
    let memory = limits
        .memory_max_bytes
        .saturating_sub(jobs.saturating_mul(per_job))
        .max(jobs * 4 * RANGE_BYTES_MIN);
    // A range in flight, one waiting and one being decoded for each job, at the least.
    let share = memory / jobs.saturating_mul(4).max(1);
    DownloadBounds {
        range_bytes: share.clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX),
        in_flight,
        budget: MemoryBudget::new(memory),
        pace: limits.bandwidth_max.map(Pace::new),
    }
}

impl Application {
    /// Extracts what the journal does not call finished. The first failure stops the others,
    /// and is returned when all of them have ended.
    pub async fn run(self, limits: &Limits) -> Result<RestoreCounts, RestoreError> {
        self.monitor.phase(Phase::Extracting);
        // Stops the tarballs alone: the caller's token is not ours to cancel.
        let stop = self.cancel.child();
        let downloads = Downloads {
            store: self.store.clone(),
            bounds: download_bounds(limits),
            monitor: Arc::clone(&self.monitor),
            stop: stop.clone(),
        };
        let machinery = Machinery::new(limits);
        let (finished, finishing) = mpsc::unbounded_channel();
        let keeper = self.keep_journal(finishing);
        let extracting = async {
            let jobs = limits.jobs.get();
            let extracted = self.extract_all(&downloads, &machinery, jobs, &finished, &stop).await;
            if extracted.is_ok() {
                let _ = finished.send(Progress::Complete);
            }
            drop(finished);
            extracted
        };
        let keeping = async { keeper.await.inspect_err(|_| stop.cancel()) };
        let (extracted, kept) = futures::future::join(extracting, keeping).await;
        // The journal first: when its disk is full, the tarballs only say "stopped".
        match (kept, extracted) {
            (Err(error), _) | (Ok(()), Err(StageEnd::Failed(error))) => Err(error),
            (Ok(()), Ok(counts)) => Ok(counts),
            (Ok(()), Err(StageEnd::Stopped)) => Err(RestoreError::Cancelled),
        }
    }

    async fn extract_all(
        &self,
        downloads: &Downloads,
        machinery: &Machinery,
        jobs: usize,
        finished: &mpsc::UnboundedSender<Progress>,
        stop: &Cancel,
    ) -> Result<RestoreCounts, StageEnd> {
        let tarballs = self.plan.tarballs.iter();
        let open = tarballs.filter(|tarball| !self.journal.has_finished(tarball));
        let mut ends = stream::iter(open)
            .map(|tarball| async move {
                if stop.is_cancelled() {
                    return Err(StageEnd::Stopped);
                }
                let counts = self.extract_one(downloads, machinery, tarball).await?;
                Ok((tarball.name.file_name(), counts))
            })
            .buffer_unordered(jobs);
        let (mut sum, mut first_end) = (RestoreCounts::default(), None);
        while let Some(end) = ends.next().await {
            match end {
                Ok((name, counts)) => {
                    self.monitor.add(Metric::Tarballs, 1);
                    sum.add(&counts);
                    // Nobody receives any more when the journal failed; then that is reported.
                    let _ = finished.send(Progress::Finished(name));
                }
                Err(end) => {
                    stop.cancel();
                    // The first real failure; the others are its consequences.
                    if !matches!(first_end, Some(StageEnd::Failed(_))) {
                        first_end = Some(end);
                    }
                }
            }
        }
        first_end.map_or(Ok(sum), Err)
    }

    /// Download, decode, digest and extract one tarball; ends when all four have.
    async fn extract_one(
        &self,
        downloads: &Downloads,
        machinery: &Machinery,
        tarball: &Tarball,
    ) -> Result<RestoreCounts, StageEnd> {
        let object = self.store.url_of(&tarball.key);
        let begun = Instant::now();
        let (monitor, stop) = (Arc::clone(&self.monitor), downloads.stop.clone());
        let targets = Arc::clone(&self.targets);
        let writes = Writes::new(machinery.writers.clone());
        let writer = MemberWriter::new(targets, tarball, object.clone(), monitor, stop, writes)
            .expect("the plan has a place for every tarball");
        let indexed = self.index(tarball).await;
        let (chunks, stored) = mpsc::channel(CHUNKS_WAITING);
        let mut receivers = vec![chunks];
        // With an index every block is compared with its own checksum.
        let digests = tarball.record.is_some() && indexed.is_none();
        let digesting = digests.then(|| {
            let (chunks, copies) = mpsc::channel(CHUNKS_WAITING);
            receivers.push(chunks);
            on_thread("restore-digest", move || digest(copies))
        });
        let stored_object = PlannedObject { key: tarball.key.clone(), bytes: tarball.stored_bytes };
        let downloading = async move {
            let downloaded = downloads.run(&stored_object, &receivers).await;
            drop(receivers);
            downloaded
        };
        let stored = ChunkReader::new(stored, tarball.stored_bytes);
        let unpacking = machinery.unpack(tarball.clone(), object.clone(), indexed, stored, writer);
        let digesting = async { futures::future::OptionFuture::from(digesting).await.transpose() };
        let (downloaded, counts, digest) =
            futures::future::join3(downloading, unpacking, digesting).await;
        let counts = most_telling(downloaded, counts)?;
        if let (Some(record), Some(digest)) = (&tarball.record, digest?)
            && record.sha256 != digest
        {
            let reason = format!("its SHA-256 is {digest}, not the recorded {}", record.sha256);
            return Err(RestoreError::Corrupt { object, reason }.into());
        }
        let (bytes, files) = (counts.cluster_bytes, counts.files);
        tracing::info!(object, bytes, files, elapsed = ?begun.elapsed(), "extracted");
        Ok(counts)
    }

    /// Where the tarball's blocks lie. An index that is missing or damaged costs time and
    /// nothing else.
    async fn index(&self, tarball: &Tarball) -> Option<IndexedBlocks> {
        let record = tarball.record.as_ref()?;
        let expected = record.index.as_ref()?;
        let folder = tarball.key.as_str().strip_suffix(tarball.key.file_name())?;
        let key = ObjectKey::parse(&format!("{folder}{}", tarball.name.index_name())).ok()?;
        let (raw_bytes, compression) = (record.raw_bytes, tarball.name.compression);
        let marks = match self.small_object(&key, expected.stored_bytes).await {
            Err(reason) => Err(reason),
            Ok(stored) if hex(&Sha256::digest(&stored)) != expected.sha256 => {
                Err("its SHA-256 is not the recorded one".into())
            }
            Ok(stored) => read_index(&stored).map_err(|error| error.to_string()),
        };
        let reason = match marks {
            Ok(marks) if is_usable(&marks, raw_bytes, tarball.stored_bytes) => {
                return Some(IndexedBlocks { marks, raw_bytes, compression });
            }
            Ok(_) => "it does not describe this tarball".to_string(),
            Err(reason) => reason,
        };
        tracing::warn!(object = %key, reason, "cannot use the index of a tarball, reading it in sequence");
        None
    }

    /// An index, which must have the recorded size: what is larger is not even begun.
    async fn small_object(&self, key: &ObjectKey, expected: u64) -> Result<Vec<u8>, String> {
        let opened = self.store.get_stream(key, None).await.map_err(|error| error.to_string())?;
        let (meta, mut stream) = opened.ok_or("it is missing")?;
        if meta.bytes != expected || expected > INDEX_BYTES_MAX {
            return Err(format!("it has {} bytes, {expected} were recorded", meta.bytes));
        }
        let mut stored = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(|error| error.to_string())? {
            stored.extend_from_slice(&piece);
        }
        Ok(stored)
    }

    /// Notes each finished tarball once its files are durable; several that finish while the
    /// file system is busy with the last ones share one sync. What finishes last is not noted:
    /// the end of the restore syncs anyway.
    async fn keep_journal(
        &self,
        mut finishing: mpsc::UnboundedReceiver<Progress>,
    ) -> Result<(), RestoreError> {
        let mut journal = self.journal.clone();
        while let Some(progress) = finishing.recv().await {
            let mut waiting = vec![progress];
            while let Ok(progress) = finishing.try_recv() {
                waiting.push(progress);
            }
            let mut names = BTreeSet::new();
            for progress in waiting {
                match progress {
                    Progress::Finished(name) => names.insert(name),
                    Progress::Complete => return Ok(()),
                };
            }
            let targets = Arc::clone(&self.targets);
            // Taken before the sync: a file that is contested later is not durable yet.
            journal.contested = targets.contested().clone();
            journal.finished.extend(names);
            let noted = journal.clone();
            on_thread("restore-journal", move || {
                sync(&targets)?;
                noted.write(&targets.data)
            })
            .await??;
        }
        Ok(())
    }
}

/// Makes every file written so far durable: one request per file system instead of one per file.
pub fn sync(targets: &Targets) -> Result<(), RestoreError> {
    for root in targets.file_systems()? {
        root.sync().map_err(RestoreError::disk(root.path()))?;
    }
    Ok(())
}

/// Threads and queues that all tarballs share.
struct Machinery {
    /// Decodes; as many as there are cores.
    workers: WorkerPool,
    /// Writes; more, since they wait for the disk.
    writers: WorkerPool,
    /// Blocks of one tarball that wait between decoder and extractor.
    blocks_waiting: usize,
}

impl Machinery {
    fn new(limits: &Limits) -> Self {
        Self {
            workers: WorkerPool::new(limits.workers),
            writers: WorkerPool::new(WRITERS),
            blocks_waiting: blocks_waiting(limits),
        }
    }

    /// Decodes and extracts on two threads, beside those of the pools.
    async fn unpack(
        &self,
        tarball: Tarball,
        object: String,
        indexed: Option<IndexedBlocks>,
        stored: ChunkReader,
        writer: MemberWriter,
    ) -> Result<RestoreCounts, StageEnd> {
        let compression = tarball.name.compression;
        if compression.is_none() && indexed.is_none() {
            let cut = stored.cut();
            let extracted =
                on_thread("restore-extract", move || writer.run(stored, &tarball)).await?;
            return extracted.map_err(|end| end.unless(cut.load(Ordering::Relaxed)));
        }
        let (blocks, plain) = block_queue(self.blocks_waiting);
        let cut = plain.cut();
        let workers = self.workers.clone();
        let decoding = on_thread("restore-decode", move || match indexed {
            Some(indexed) => decode_indexed(&object, &indexed, stored, &workers, &blocks),
            None => decode(&object, compression, stored, &blocks),
        });
        let extracting = on_thread("restore-extract", move || writer.run(plain, &tarball));
        let (decoded, extracted) = futures::future::join(decoding, extracting).await;
        let extracted = extracted?.map_err(|end| end.unless(cut.load(Ordering::Relaxed)));
        most_telling(decoded?, extracted)
    }
}

/// Each core has a block to decode and one to come; a quarter of the memory at the most.
fn blocks_waiting(limits: &Limits) -> usize {
    let jobs = limits.jobs.get();
    let wanted = (2 * limits.workers.get()).div_ceil(jobs);
    let share = limits.memory_max_bytes / 4 / DECODED_BLOCK_BYTES;
    let afforded = usize::try_from(share).unwrap_or(usize::MAX) / jobs;
    wanted.min(afforded).max(2)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).expect("a count fits 64 bits")
}

/// The failure that explains the other: upstream's, unless it merely stopped.
fn most_telling<T>(
    upstream: Result<(), StageEnd>,
    downstream: Result<T, StageEnd>,
) -> Result<T, StageEnd> {
    match (upstream, downstream) {
        (Err(StageEnd::Failed(error)), _) => Err(StageEnd::Failed(error)),
        (_, Err(end)) => Err(end),
        (Err(StageEnd::Stopped), Ok(_)) => Err(StageEnd::Stopped),
        (Ok(()), Ok(value)) => Ok(value),
    }
}
