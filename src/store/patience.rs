//! What every operation has in common: it ends at once when the command is told to stop, and a
//! store that cannot answer is asked again.

use crate::cloud::Trace;
use crate::flow::{Backoff, Cancel, Cancelled};
use crate::store::{Effect, ObjectKey, Store, StoreError, StoreErrorKind, StoreOperation};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

impl Store {
    /// The same store for work that ends when `stop` is cancelled: whatever waits for the store
    /// then, or later, fails with [`StoreErrorKind::Stopped`]. Cleaning up needs the store that
    /// this was made of.
    pub fn until(&self, stop: &Cancel) -> Self {
        Self { inner: Arc::clone(&self.inner), stop: stop.clone() }
    }

    /// The same store for cleaning up after work that was stopped.
    pub(crate) fn regardless(&self) -> Self {
        self.until(&Cancel::new())
    }

    /// Runs a request of the library, whose answers are recorded in `trace`.
    pub(crate) async fn follow<T>(
        &self,
        trace: &Trace,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        match self.unless_stopped(trace.follow(request)).await {
            Ok(answer) => answer,
            Err(stopped) => {
                Err(object_store::Error::Generic { store: "store", source: Box::new(stopped) })
            }
        }
    }

    /// Runs anything that waits for others; drops it when the command is told to stop.
    pub(crate) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Cancelled> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Cancelled),
            done = work => Ok(done),
        }
    }

    /// The error of a write that was given up before anything was sent.
    pub(crate) fn stopped(&self, key: &ObjectKey, stopped: &Cancelled) -> StoreError {
        let error = self.error(StoreOperation::Write, key, &Trace::new(), stopped);
        StoreError { effect: Effect::SurelyNot, ..error }
    }

    /// How long to wait before an operation is tried again; `None` when its error is final, the
    /// deadline is near, or the library has tried as often as it may.
    pub(crate) fn worth_another_try(
        &self,
        error: &StoreError,
        trace: &Trace,
        backoff: &mut Backoff,
    ) -> Option<Duration> {
        let tried = trace.spent().0;
        let may = error.kind == StoreErrorKind::Interrupted && tried < self.retry().attempts_max;
        if may { backoff.next_delay(None) } else { None }
    }

    /// Waits before the next try; not longer than until the command is told to stop.
    pub(crate) async fn pause(&self, delay: Duration) {
        let _ = self.unless_stopped(tokio::time::sleep(delay)).await;
    }
}
