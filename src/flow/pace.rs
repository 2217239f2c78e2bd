//! A bandwidth limit: everyone who sends takes turns on one clock.

use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Spreads bytes over time, so that all senders together stay under a rate.
#[derive(Clone, Debug)]
pub struct Pace {
    bytes_per_second: u64,
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl Pace {
    /// `bytes_per_second` of zero is taken as one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Arc::default() }
    }

    /// Waits for this sender's turn and books `bytes` on the clock.
    ///
    /// The first bytes pass at once; what follows waits until they are paid for.
    pub async fn send(&self, bytes: u64) {
        let wait_until = {
            let mut free_at = self.free_at.lock().await;
            let now = Instant::now();
            let turn = free_at.map_or(now, |at| at.max(now));
            let cost =
                Duration::from_micros(bytes.saturating_mul(1_000_000) / self.bytes_per_second);
            *free_at = Some(turn + cost);
            turn
        };
        tokio::time::sleep_until(wait_until.into()).await;
    }
}
