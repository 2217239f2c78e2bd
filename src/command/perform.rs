//! Running a verb: runtime, signals, limits, `--test`.

use crate::command::exit::{self, Exit};
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::{self, Ended, Threads};
use crate::command::value::ByteSize;
use crate::flow::{Cancel, Limits, RetryLimits};
use jiff::Timestamp;
use std::future::Future;
use std::num::NonZeroUsize;

/// Runs `work` to its end. A failure after a signal exits as the signal says.
pub fn perform<T, F: Future<Output = Result<T, Failure>>>(
    threads: Threads,
    work: impl FnOnce(Cancel) -> F,
) -> Result<T, Failure> {
    let ended = runtime::run(threads, work).map_err(|error| {
        Failure::new(Exit::Other, format!("could not start the runtime: {error}"))
    })?;
    match ended {
        Ended { answer: Err(failure), signal: Some(exit) } => Err(Failure { exit, ..failure }),
        Ended { answer, .. } => answer,
    }
}

/// As [`perform`], for work that may be dropped at any point.
pub fn perform_droppable<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    perform(Threads::One, async |cancel| {
        tokio::select! {
            answer = work => answer,
            () = cancel.cancelled() => {
                Err(Failure::new(Exit::Other, "the command was told to stop"))
            }
        }
    })
}

/// `--test`: can the bucket be reached, and is it there? Nothing is written.
pub fn test(place: &Place) -> Result<Exit, Failure> {
    let store = place.open()?;
    let exists = perform_droppable(async {
        let answer = store.bucket_exists().await;
        answer.map_err(|error| Failure::of_error(exit::of_store_when_testing(&error), &error))
    })?;
    match exists {
        true => Ok(Exit::Success),
        false => {
            Err(Failure::new(Exit::Failed, format!("bucket \"{}\" does not exist", place.url)))
        }
    }
}

/// The limits of commands that move little.
pub fn small_limits() -> Limits {
    of(NonZeroUsize::new(8).expect("8 is not zero"), 64 << 20)
}

/// The limits that `--jobs` and `--max-memory` set, with a worker for each core.
pub fn limits(jobs: u32, max_memory: ByteSize) -> Limits {
    let jobs = usize::try_from(jobs).ok().and_then(NonZeroUsize::new);
    of(jobs.unwrap_or(NonZeroUsize::MIN), max_memory.bytes())
}

fn of(jobs: NonZeroUsize, memory_max_bytes: u64) -> Limits {
    let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let retry = RetryLimits::PATIENT;
    Limits { jobs, workers, memory_max_bytes, bandwidth_max: None, retry }
}

/// The clock, read once per use where a verb takes the time as a parameter.
#[expect(clippy::disallowed_methods, reason = "the command room is where the clock is read")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
