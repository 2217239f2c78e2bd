//! One object from the store, by several ranged reads at once, in order.
//!
//! ```text
//! ranges 0 1 2 3 …  → up to `in_flight` reads, each with a permit for its bytes
//!                   → handed on in order; the permit lives as long as the bytes
//! ```
//!
//! Permits are taken in the order of the ranges, so the range that everyone waits for never
//! waits behind a later one. What the store cuts off is resumed by the store itself; a range
//! that comes back short all the same is an error here.

use crate::flow::{Cancel, MemoryBudget, MemoryPermit, Pace};
use crate::monitor::{Metric, Monitor};
use crate::restore::stage::{StageEnd, Stopped};
use crate::restore::{PlannedObject, RestoreError};
use crate::store::{ObjectKey, Store};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Consecutive bytes of an object; they count against the memory budget until dropped.
#[derive(Debug)]
pub struct Chunk {
    pub parts: Vec<Bytes>,
    _permit: MemoryPermit,
}

/// How much is read at once.
#[derive(Clone, Debug)]
pub struct DownloadBounds {
    /// Bytes of one ranged read.
    pub range_bytes: u64,
    /// Ranges of one object in flight or waiting to be taken.
    pub in_flight: usize,
    /// Shared by all objects that are read at once.
    pub budget: MemoryBudget,
    pub pace: Option<Pace>,
}

/// Everything that a download needs besides its object.
#[derive(Clone)]
pub struct Downloads {
    pub store: Store,
    pub bounds: DownloadBounds,
    pub monitor: Arc<dyn Monitor>,
    pub stop: Cancel,
}

impl Downloads {
    /// Reads `object` and hands its chunks, in order, to every one of `receivers`.
    ///
    /// Ends as [`Stopped`] when a receiver is gone or the work is stopped.
    pub async fn run(
        &self,
        object: &PlannedObject,
        receivers: &[mpsc::Sender<Arc<Chunk>>],
    ) -> Result<(), StageEnd> {
        let chunks = stream::iter(ranges(object.bytes, self.bounds.range_bytes))
            .then(|range| self.begin(object, range))
            .buffered(self.bounds.in_flight);
        let mut chunks = std::pin::pin!(chunks);
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = self.stop.cancelled() => return Err(Stopped.into()),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            let chunk = Arc::new(chunk?);
            for receiver in receivers {
                tokio::select! {
                    sent = receiver.send(Arc::clone(&chunk)) => sent.map_err(|_| Stopped)?,
                    () = self.stop.cancelled() => return Err(Stopped.into()),
                }
            }
        }
    }

    /// Starts the read of one range as soon as there is memory for it. As a task of its own it
    /// goes on while the receivers are busy.
    async fn begin(&self, object: &PlannedObject, range: Range<u64>) -> Reading {
        let bytes = range.end - range.start;
        let permit = self.bounds.budget.take(bytes).await;
        if let Some(pace) = &self.bounds.pace {
            pace.send(bytes).await;
        }
        let (store, monitor) = (self.store.clone(), Arc::clone(&self.monitor));
        let object = object.clone();
        Reading(tokio::spawn(async move {
            let parts = read_range(&store, &object, range, &*monitor).await?;
            Ok(Chunk { parts, _permit: permit })
        }))
    }
}

/// A read in flight; dropping it ends it.
struct Reading(JoinHandle<Result<Chunk, RestoreError>>);

impl Future for Reading {
    type Output = Result<Chunk, RestoreError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| joined.unwrap_or(Err(RestoreError::Worker(crate::flow::WorkerGone))))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_range(
    store: &Store,
    object: &PlannedObject,
    range: Range<u64>,
    monitor: &dyn Monitor,
) -> Result<Vec<Bytes>, RestoreError> {
    let expected = range.end - range.start;
    let opened = store.get_stream(&object.key, Some(range)).await.map_err(RestoreError::Store)?;
    let Some((meta, mut stream)) = opened else {
        return Err(RestoreError::MissingObject { object: store.url_of(&object.key) });
    };
    if meta.bytes != object.bytes {
        return Err(size_mismatch(store, &object.key, object.bytes, meta.bytes));
    }
    let (mut parts, mut received) = (Vec::new(), 0);
    while let Some(part) = stream.try_next().await.map_err(RestoreError::Store)? {
        let bytes = u64::try_from(part.len()).unwrap_or(u64::MAX);
        received += bytes;
        monitor.add(Metric::StoredBytes, bytes);
        parts.push(part);
    }
    match received == expected {
        true => Ok(parts),
        false => Err(size_mismatch(store, &object.key, expected, received)),
    }
}

fn size_mismatch(store: &Store, key: &ObjectKey, expected: u64, found: u64) -> RestoreError {
    RestoreError::SizeMismatch { object: store.url_of(key), expected, found }
}

/// `0..bytes` in pieces of `range_bytes`, the last one shorter; nothing for an empty object.
fn ranges(bytes: u64, range_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let range = start..bytes.min(start + range_bytes);
        start = range.end;
        (!range.is_empty()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::write;
    use crate::flow::{Cancel, Limits, MemoryBudget};
    use crate::monitor::Silent;
    use crate::restore::download::{Chunk, DownloadBounds, Downloads};
    use crate::restore::stage::StageEnd;
    use crate::restore::{PlannedObject, RestoreError, apply};
    use crate::store::{ObjectKey, Store};
    use std::sync::Arc;
    use tokio::sync::mpsc;

    const MEMORY: u64 = 64 << 10;

    async fn scene(bytes: usize) -> (Downloads, PlannedObject, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect();
        let store = Store::memory();
        write(&store, "object", content.clone()).await;
        let key = ObjectKey::parse("object").expect("key");
        let bounds = DownloadBounds {
            range_bytes: 10_000,
            in_flight: 5,
            budget: MemoryBudget::new(MEMORY),
            pace: None,
        };
        let stop = Cancel::new();
        let downloads = Downloads { store, bounds, monitor: Arc::new(Silent), stop };
        (downloads, PlannedObject { key, bytes: u64::try_from(bytes).expect("small") }, content)
    }

    async fn collect(mut chunks: mpsc::Receiver<Arc<Chunk>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            tokio::task::yield_now().await;
            bytes.extend(chunk.parts.iter().flat_map(|part| part.to_vec()));
        }
        bytes
    }

    #[tokio::test]
    async fn every_receiver_gets_all_bytes_in_order_within_the_memory() {
        for bytes in [0, 1, 9_999, 10_000, 10_001, 1_000_000] {
            let (downloads, object, content) = scene(bytes).await;
            let (one, first) = mpsc::channel(1);
            let (two, second) = mpsc::channel(1);
            let receivers = [one, two];
            let running = async {
                downloads.run(&object, &receivers).await.expect("whole");
                drop(receivers);
            };
            let ((), first, second) = tokio::join!(running, collect(first), collect(second));
            assert!(first == content && second == content, "{bytes}");
            assert!(downloads.bounds.budget.peak_bytes() <= MEMORY);
        }
    }

    #[tokio::test]
    async fn many_downloads_share_little_memory_without_waiting_for_ever() {
        let (downloads, object, content) = scene(300_000).await;
        let one = || async {
            let (sender, chunks) = mpsc::channel(1);
            let receivers = [sender];
            let running = async {
                downloads.run(&object, &receivers).await.expect("whole");
                drop(receivers);
            };
            tokio::join!(running, collect(chunks)).1
        };
        let all = futures::future::join_all((0..20).map(|_| one())).await;
        assert!(all.iter().all(|bytes| *bytes == content));
        assert!(downloads.bounds.budget.peak_bytes() <= MEMORY);
    }

    #[tokio::test]
    async fn an_object_of_another_size_is_an_error() {
        let (downloads, mut object, _) = scene(100_000).await;
        object.bytes = 99_999;
        let (sender, _chunks) = mpsc::channel(1);
        let end = downloads.run(&object, &[sender]).await;
        assert!(matches!(end, Err(StageEnd::Failed(RestoreError::SizeMismatch { .. }))));
    }

    #[tokio::test]
    async fn it_ends_when_nobody_receives_and_when_it_is_told_to() {
        let (downloads, object, _) = scene(100_000).await;
        let (sender, chunks) = mpsc::channel(1);
        drop(chunks);
        assert!(matches!(downloads.run(&object, &[sender]).await, Err(StageEnd::Stopped)));
        let (sender, _chunks) = mpsc::channel(1);
        downloads.stop.cancel();
        assert!(matches!(downloads.run(&object, &[sender]).await, Err(StageEnd::Stopped)));
    }

    #[test]
    fn bounds_leave_every_job_its_share() {
        for (jobs, memory) in [(1, 512 << 20), (4, 512 << 20), (32, 64 << 20), (2, 1 << 20)] {
            let limits = Limits {
                jobs: std::num::NonZeroUsize::new(jobs).expect("jobs"),
                memory_max_bytes: memory,
                ..crate::catalog::fixtures::limits()
            };
            let bounds = apply::download_bounds(&limits);
            assert!(bounds.in_flight >= 2);
            let least = u64::try_from(jobs).expect("small") * bounds.range_bytes;
            assert!(least <= memory, "{jobs} jobs of {} bytes", bounds.range_bytes);
        }
    }
}
