//! How much happens at once: limits, cancellation, memory permits, the worker pool, backoff.
//!
//! Everything that queues, waits or retries takes its bound from [`Limits`].

mod backoff;
mod buffers;
mod cancel;
mod gauge;
mod pace;
mod pool;
mod token;

pub use backoff::{Backoff, RetryLimits};
pub use buffers::Buffers;
pub use cancel::{Cancel, Cancelled};
pub use gauge::{MemoryBudget, MemoryPermit};
pub use pace::Pace;
pub use pool::{Pending, WorkerGone, WorkerPool};
pub use token::random_token;

use std::num::NonZeroUsize;

/// The bounds of one command.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tarballs, parts or ranges in progress at once.
    pub jobs: NonZeroUsize,
    /// Threads that compress, decompress and checksum.
    pub workers: NonZeroUsize,
    /// Bytes of buffers that may exist at once.
    pub memory_max_bytes: u64,
    /// Bytes per second to the store; `None` is unlimited.
    pub bandwidth_max: Option<u64>,
    pub retry: RetryLimits,
}
