//! Where a command's work runs, and what signals do to it.
//!
//! The first SIGTERM or SIGINT cancels the work, which stops waiting and cleans up; the second
//! hastens that, the third ends the process at once. Work that does not end within its bound
//! after a signal is left where it is, as by a crash.

use crate::command::exit::Exit;
use crate::flow::Cancel;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long work may take to end after the first signal: more than all that is cleaned up by a
/// backup may take, each part of which has a bound of its own.
const END_MAX: Duration = Duration::from_secs(45);

/// How many threads the async work gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling one: starts in microseconds, for commands of a few requests.
    One,
    PerCore,
}

/// What became of the work, and the signal that came meanwhile.
#[derive(Debug)]
pub struct Ended<T> {
    pub answer: T,
    /// The exit code of the first signal.
    pub signal: Option<Exit>,
}

/// Runs `work` to its end. It gets a token that the first signal cancels; it must listen.
pub fn run<T, F: Future<Output = T>>(
    threads: Threads,
    work: impl FnOnce(Cancel) -> F,
) -> std::io::Result<Ended<T>> {
    let runtime = build(threads)?;
    let cancel = Cancel::new();
    let first = Arc::new(OnceLock::new());
    let answer = runtime.block_on(async {
        tokio::spawn(listen(handlers()?, cancel.clone(), Arc::clone(&first)));
        std::io::Result::Ok(cancel.clone().bounded(END_MAX, work(cancel)).await)
    })?;
    let Some(answer) = answer else {
        tracing::error!("the command did not end in time after it was told to stop");
        end_now(first.get().copied().unwrap_or(Exit::Other));
    };
    // A thread that still hangs in a system call must not keep the process from ending.
    runtime.shutdown_background();
    Ok(Ended { answer, signal: first.get().copied() })
}

fn build(threads: Threads) -> std::io::Result<Runtime> {
    match threads {
        Threads::One => Builder::new_current_thread().enable_all().build(),
        Threads::PerCore => Builder::new_multi_thread().enable_all().build(),
    }
}

fn handlers() -> std::io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

async fn listen(signals: (Signal, Signal), cancel: Cancel, first: Arc<OnceLock<Exit>>) -> ! {
    let (mut interrupt, mut terminate) = signals;
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        }
    };
    let _ = first.set(next().await);
    cancel.cancel();
    next().await;
    cancel.hasten();
    end_now(next().await)
}

#[expect(clippy::disallowed_methods, reason = "the third signal asks for exactly this")]
fn end_now(exit: Exit) -> ! {
    std::process::exit(i32::from(exit.number()))
}
