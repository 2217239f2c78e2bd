//! Dividing the memory budget: how big parts are, how many fly, how many blocks wait.
//!
//! ```text
//! memory = jobs × (depth × 2 blocks + one part being gathered) + parts in flight × part
//!        + tails × (depth blocks + one part being gathered)
//!        + zstd only: jobs × (workers + 2) × 2 jobs of 2 MiB
//! ```
//!
//! Independent of the size of the database and of the number of its files.

use crate::codec::{BLOCK_BYTES, Compression};
use crate::flow::Limits;

/// S3's least part, and a floor that keeps requests few on every store.
const PART_BYTES_MIN: u64 = 8 << 20;

/// S3's most parts per object is 10,000; the rest is for tar's own overhead.
const PARTS_MAX: u64 = 9_500;

/// Input and output of one independent zstd job.
const ZSTD_JOB_MEMORY_BYTES: u64 = 4 << 20;

/// Tarballs that are written, but not stored to their end. More would only hold memory: with two,
/// a writer waits for round trips only if tarballs are tiny.
const TAILS_MAX: u64 = 2;

/// The shares of one backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub part_bytes: u64,
    pub parts_in_flight: u64,
    /// Blocks that wait between a tarball's writer and its uploader.
    pub depth: u64,
    /// Tarballs that may be on their way beside those being written.
    pub tails: u64,
    pub zstd_workers: u32,
}

/// Divides `limits.memory_max_bytes`. One part in flight and two blocks per tarball are the
/// least that works, whatever the budget says.
pub fn divide(
    limits: &Limits,
    tarball_bytes_max: u64,
    part_bytes_min: Option<u64>,
    compression: Option<Compression>,
) -> Budget {
    let jobs = count(limits.jobs.get());
    let workers = count(limits.workers.get());
    let part_bytes =
        PART_BYTES_MIN.max(tarball_bytes_max.div_ceil(PARTS_MAX)).max(part_bytes_min.unwrap_or(0));
    let block_bytes = count(BLOCK_BYTES);
    let third = limits.memory_max_bytes / 3;
    let depth = (workers * 2).div_ceil(jobs).min(third / (jobs * 2 * block_bytes)).max(2);
    let zstd_memory = third / jobs / ZSTD_JOB_MEMORY_BYTES;
    let zstd_workers = workers.min(zstd_memory.saturating_sub(2)).max(1);
    let zstd_used = match compression {
        Some(Compression::Zstd) => jobs * (zstd_workers + 2) * ZSTD_JOB_MEMORY_BYTES,
        _ => 0,
    };
    let tails = jobs.min(TAILS_MAX);
    let fixed = jobs * (depth * 2 * block_bytes + part_bytes)
        + tails * (depth * block_bytes + part_bytes)
        + zstd_used;
    let left = limits.memory_max_bytes.saturating_sub(fixed);
    Budget {
        part_bytes,
        parts_in_flight: (left / part_bytes).clamp(1, jobs * 4),
        depth,
        tails,
        zstd_workers: u32::try_from(zstd_workers).unwrap_or(1),
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).expect("a count fits 64 bits")
}

#[cfg(test)]
mod tests {
    use crate::backup::budget::divide;
    use crate::codec::{BLOCK_BYTES, Compression};
    use crate::flow::{Limits, RetryLimits};
    use std::num::NonZeroUsize;

    fn limits(jobs: usize, workers: usize, memory_max_bytes: u64) -> Limits {
        Limits {
            jobs: NonZeroUsize::new(jobs).expect("jobs"),
            workers: NonZeroUsize::new(workers).expect("workers"),
            memory_max_bytes,
            bandwidth_max: None,
            retry: RetryLimits::PATIENT,
        }
    }

    #[test]
    fn eight_jobs_fit_the_default_budget_of_256_mib() {
        for compression in [None, Some(Compression::Gzip), Some(Compression::Zstd)] {
            let budget = divide(&limits(8, 8, 256 << 20), 100 << 30, None, compression);
            let blocks = 8 * budget.depth * 2 * u64::try_from(BLOCK_BYTES).expect("small");
            let parts = (8 + budget.tails + budget.parts_in_flight) * budget.part_bytes;
            let tails = budget.tails * budget.depth * u64::try_from(BLOCK_BYTES).expect("small");
            let zstd = match compression {
                Some(Compression::Zstd) => 8 * (u64::from(budget.zstd_workers) + 2) * (4 << 20),
                _ => 0,
            };
            assert!(blocks + tails + parts + zstd <= 256 << 20, "{budget:?}");
        }
    }

    #[test]
    fn a_tarball_of_the_maximum_size_fits_10_000_parts() {
        for tarball_bytes_max in [1 << 20, 100 << 30, 1 << 40] {
            let budget = divide(&limits(2, 2, 256 << 20), tarball_bytes_max, None, None);
            assert!(tarball_bytes_max.div_ceil(budget.part_bytes) < 10_000);
        }
    }

    #[test]
    fn a_tiny_budget_still_works_and_many_cores_are_fed() {
        let tiny = divide(&limits(4, 4, 1), 100 << 30, None, None);
        assert_eq!((tiny.parts_in_flight, tiny.depth, tiny.zstd_workers), (1, 2, 1));
        assert!(divide(&limits(2, 32, 1 << 30), 100 << 30, None, None).depth * 2 >= 64);
    }
}
