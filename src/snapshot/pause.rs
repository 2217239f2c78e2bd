//! Pauses between looks at something that takes its time: growing, bounded, cancellable.

use crate::flow::Cancel;
use crate::snapshot::{Patience, SnapshotError, SnapshotErrorKind};
use std::time::{Duration, Instant};

/// The pauses of one wait.
#[derive(Debug)]
pub struct Pauses {
    begun: Instant,
    patience: Patience,
    cancel: Option<Cancel>,
    next: Duration,
}

/// The first pause; a provider that asks for less gets this.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The longest pause that a provider may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

impl Pauses {
    pub fn new(patience: Patience, cancel: Option<&Cancel>) -> Self {
        let next = PAUSE_FIRST.min(patience.pause_max);
        Self { begun: Instant::now(), patience, cancel: cancel.cloned(), next }
    }

    /// Waits before the next look, as long as the provider `asked` for if it did. `what` says
    /// what is waited for: `deletion of snapshot "x"`.
    pub async fn rest(&mut self, what: &str, asked: Option<Duration>) -> Result<(), SnapshotError> {
        let waited = self.begun.elapsed();
        if waited >= self.patience.timeout {
            let message = format!("{what} was not complete after {} s", waited.as_secs());
            return Err(SnapshotError::new(SnapshotErrorKind::TimedOut, message));
        }
        let pause = asked.map_or(self.next, |asked| asked.clamp(PAUSE_FIRST, RETRY_AFTER_MAX));
        // The last look is at the deadline, not a pause before it.
        let pause = pause.min(self.patience.timeout.saturating_sub(waited));
        self.next = (self.next * 3 / 2).min(self.patience.pause_max);
        let Some(cancel) = &self.cancel else {
            tokio::time::sleep(pause).await;
            return Ok(());
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = cancel.cancelled() => Err(crate::flow::Cancelled.into()),
        }
    }
}
