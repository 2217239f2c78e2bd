//! The one bounded pool of threads that compress, decompress and checksum.
//!
//! Any thread takes any tarball's block, so one huge file keeps all cores as busy as many
//! small ones. Submitting blocks while the queue is full: that is the back-pressure.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use tokio::sync::oneshot;

type Task = Box<dyn FnOnce() + Send>;

/// Threads that run tasks in the order of submission, `workers` at a time.
#[derive(Clone, Debug)]
pub struct WorkerPool {
    queue: SyncSender<Task>,
}

/// The result of a submitted task, in the future.
#[derive(Debug)]
pub struct Pending<T> {
    answer: oneshot::Receiver<T>,
}

/// The task panicked; the panic's message went to stderr when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread panicked")]
pub struct WorkerGone;

impl WorkerPool {
    /// Starts `workers` threads; they end when the last clone of the pool is dropped.
    pub fn new(workers: NonZeroUsize) -> Self {
        let (queue, tasks) = sync_channel::<Task>(workers.get());
        let tasks = Arc::new(Mutex::new(tasks));
        for index in 0..workers.get() {
            let tasks = Arc::clone(&tasks);
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(&tasks))
                .expect("the system can start a thread");
        }
        Self { queue }
    }

    /// Hands over `work`; waits (on the calling thread) while all workers are busy and the
    /// queue is full.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pending<T> {
        let (sender, answer) = oneshot::channel();
        let task = Box::new(move || {
            // A caller that gave up has dropped its end; its result is not wanted any more.
            let _ = sender.send(work());
        });
        self.queue.send(task).expect("workers live as long as the pool");
        Pending { answer }
    }
}

impl<T> Pending<T> {
    pub async fn join(self) -> Result<T, WorkerGone> {
        self.answer.await.map_err(|_| WorkerGone)
    }

    /// Waits on the calling thread, which must not be one of the async runtime.
    pub fn join_blocking(self) -> Result<T, WorkerGone> {
        self.answer.blocking_recv().map_err(|_| WorkerGone)
    }
}

fn run(tasks: &Mutex<Receiver<Task>>) {
    loop {
        let task = {
            let Ok(tasks) = tasks.lock() else { return };
            tasks.recv()
        };
        let Ok(task) = task else { return };
        // A panic costs its own task (the answer channel closes), not the pool.
        let _ = catch_unwind(AssertUnwindSafe(task));
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::{WorkerGone, WorkerPool};
    use std::num::NonZeroUsize;

    fn pool() -> WorkerPool {
        WorkerPool::new(NonZeroUsize::new(2).expect("2"))
    }

    #[test]
    fn answers_come_back_to_who_asked() {
        let pool = pool();
        let pending: Vec<_> = (0..100u32).map(|n| pool.submit(move || n * n)).collect();
        for (n, answer) in (0..100u32).zip(pending) {
            assert_eq!(answer.join_blocking(), Ok(n * n));
        }
    }

    #[test]
    fn a_panicking_task_is_reported_and_the_pool_lives_on() {
        let pool = pool();
        let gone = pool.submit(|| -> u32 { std::panic::resume_unwind(Box::new("on purpose")) });
        assert_eq!(gone.join_blocking(), Err(WorkerGone));
        assert_eq!(pool.submit(|| 7).join_blocking(), Ok(7));
    }
}
