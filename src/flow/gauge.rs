//! The memory budget: buffers exist only while they hold a permit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts permits in units of 4 KiB, so that a budget fits a semaphore.
const UNIT_BYTES: u64 = 4096;

/// A shared bound on the bytes of buffers in flight.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
    held: Arc<AtomicU64>,
    peak: Arc<AtomicU64>,
}

/// Bytes taken from a [`MemoryBudget`]; given back when dropped.
#[derive(Debug)]
pub struct MemoryPermit {
    _permit: OwnedSemaphorePermit,
    bytes: u64,
    held: Arc<AtomicU64>,
}

impl MemoryBudget {
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from((bytes / UNIT_BYTES).max(1)).unwrap_or(u32::MAX >> 3);
        let permits = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(permits)),
            units,
            held: Arc::default(),
            peak: Arc::default(),
        }
    }

    /// Waits until `bytes` are free. A request above the whole budget waits for all of it,
    /// so that one oversized buffer can pass alone instead of never.
    pub async fn take(&self, bytes: u64) -> MemoryPermit {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        let permit = Arc::clone(&self.semaphore)
            .acquire_many_owned(units)
            .await
            .expect("the semaphore is never closed");
        let now = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        MemoryPermit { _permit: permit, bytes, held: Arc::clone(&self.held) }
    }

    /// The most bytes that were out at once: what a memory promise is tested on.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::MemoryBudget;

    #[tokio::test]
    async fn the_peak_never_exceeds_the_budget() {
        let budget = MemoryBudget::new(1 << 20);
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    let _permit = budget.take(300 << 10).await;
                    tokio::task::yield_now().await;
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("task");
        }
        assert!(budget.peak_bytes() <= 1 << 20, "{}", budget.peak_bytes());
    }

    #[tokio::test]
    async fn an_oversized_buffer_passes_alone() {
        let budget = MemoryBudget::new(8192);
        drop(budget.take(1 << 20).await);
        drop(budget.take(4096).await);
    }
}
