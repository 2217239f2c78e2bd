//! One token that tells every waiting loop to stop.

use tokio_util::sync::CancellationToken;

/// Cloned into everything that waits; cancelled once, by a signal.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
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
        Self { token: self.token.child_token() }
    }

    pub fn cancel(&self) {
        self.token.cancel();
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
}
