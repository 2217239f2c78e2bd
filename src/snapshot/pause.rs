//! Pauses between looks at something that takes its time: growing, bounded, cancellable, and
//! told in the log when they add up.

use crate::cloud::{ApiError, RETRY_AFTER_MAX};
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
    tell_at: Duration,
    refusals: u32,
}

/// After this long the operator is told what is waited for, and again after each such time.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The first pause; a provider that asks for less gets this.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

impl Pauses {
    pub fn new(patience: Patience, cancel: Option<&Cancel>) -> Self {
        let next = PAUSE_FIRST.min(patience.pause_max);
        Self {
            begun: Instant::now(),
            patience,
            cancel: cancel.cloned(),
            next,
            tell_at: TELL_EVERY,
            refusals: 0,
        }
    }

    /// Waits before the next look, as long as the provider `asked` for if it did. `what` says
    /// what is waited for: `deletion of snapshot "x"`.
    pub async fn rest(&mut self, what: &str, asked: Option<Duration>) -> Result<(), SnapshotError> {
        let waited = self.begun.elapsed();
        if waited >= self.patience.timeout {
            return Err(late(what, waited));
        }
        if waited >= self.tell_at {
            self.tell_at = waited + TELL_EVERY;
            tracing::info!(waited_seconds = waited.as_secs(), "waiting for the {what}");
        }
        self.pause(waited, asked).await
    }

    /// The same after a refusal that is known to pass. It is told at once: whoever watches
    /// should know what holds him up.
    pub async fn rest_after(
        &mut self,
        what: &str,
        refusal: &ApiError,
    ) -> Result<(), SnapshotError> {
        let waited = self.begun.elapsed();
        if waited >= self.patience.timeout {
            let late = late(what, waited);
            let message = format!("{}: {refusal}", late.message);
            return Err(SnapshotError { message, ..late });
        }
        if self.refusals == 0 || waited >= self.tell_at {
            self.tell_at = waited + TELL_EVERY;
            tracing::warn!(reason = %refusal, "the {what} has to wait");
        }
        self.refusals += 1;
        self.pause(waited, None).await
    }

    async fn pause(
        &mut self,
        waited: Duration,
        asked: Option<Duration>,
    ) -> Result<(), SnapshotError> {
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

fn late(what: &str, waited: Duration) -> SnapshotError {
    let message = format!("{what} was not complete after {} s", waited.as_secs());
    SnapshotError::new(SnapshotErrorKind::TimedOut, message)
}
