//! One token that tells every waiting loop to stop, and how long cleaning up after that may take.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Cloned into everything that waits; cancelled once, by a signal.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    /// Cancelled by the second signal: cleaning up must come to an end.
    hurry: CancellationToken,
}

/// The command was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command was told to stop")]
pub struct Cancelled;

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one, or alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), hurry: self.hurry.clone() }
    }

    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Shortens what is still being cleaned up.
    pub fn hasten(&self) {
        self.hurry.cancel();
    }

    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// For loops on threads: an error as soon as the command was told to stop.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// For async loops: completes when the command was told to stop.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Runs what must not be dropped at once when the command is told to stop: from then on it
    /// may take `bound`, after the second signal a fifth of that. `None` when it took longer.
    ///
    /// Without a signal there is no bound here: the work has its own.
    pub async fn bounded<T>(&self, bound: Duration, work: impl Future<Output = T>) -> Option<T> {
        let patience = async {
            self.cancelled().await;
            tokio::time::sleep(bound).await;
        };
        let hurry = async {
            self.hurry.cancelled().await;
            tokio::time::sleep(bound / 5).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = patience => None,
            () = hurry => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::Cancel;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn what_is_cleaned_up_ends_by_itself_or_by_its_bound_or_sooner_by_a_second_signal() {
        let (cancel, never) = (Cancel::new(), std::future::pending::<()>());
        assert_eq!(cancel.bounded(Duration::ZERO, async { 7 }).await, Some(7));
        let child = cancel.child();
        cancel.cancel();
        assert_eq!(child.bounded(Duration::from_millis(1), never).await, None);
        cancel.hasten();
        let begun = Instant::now();
        let never = std::future::pending::<()>();
        assert_eq!(child.bounded(Duration::from_secs(5), never).await, None);
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}
