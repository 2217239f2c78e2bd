//! Waiting between attempts: exponential, jittered, and bounded by a deadline.

use rand_seed::jitter;
use std::time::{Duration, Instant};

/// How long one request may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    pub attempts_max: u32,
    pub deadline: Duration,
    pub delay_first: Duration,
    pub delay_max: Duration,
}

impl RetryLimits {
    /// For whole commands: long enough for a failover of the store, short enough that
    /// PostgreSQL's own retry of `archive_command` is not starved. Time alone ends it: a number of
    /// quick failures says nothing about the next second.
    pub const PATIENT: Self = Self {
        attempts_max: u32::MAX,
        deadline: Duration::from_secs(180),
        delay_first: Duration::from_millis(100),
        delay_max: Duration::from_secs(15),
    };

    /// For `restore_command`: recovery waits meanwhile, and a standby could stream instead. The
    /// deadline alone ends it: quick refusals are no reason to end a recovery sooner.
    pub const RECOVERY: Self =
        Self { attempts_max: u32::MAX, deadline: Duration::from_secs(60), ..Self::PATIENT };
}

/// The state of one request's attempts.
#[derive(Debug)]
pub struct Backoff {
    limits: RetryLimits,
    begun: Instant,
    attempts: u32,
}

impl Backoff {
    pub fn new(limits: RetryLimits) -> Self {
        Self { limits, begun: Instant::now(), attempts: 1 }
    }

    /// How long to wait before the next attempt; `None` when there shall be none.
    ///
    /// `retry_after` is what the store asked for; it is honoured up to the deadline.
    pub fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        if self.attempts >= self.limits.attempts_max {
            return None;
        }
        let doublings = self.attempts.saturating_sub(1).min(16);
        let ceiling = (self.limits.delay_first * 2u32.pow(doublings)).min(self.limits.delay_max);
        let delay = retry_after.unwrap_or_else(|| ceiling.mul_f64(0.5 + 0.5 * jitter()));
        self.attempts += 1;
        (self.begun.elapsed() + delay < self.limits.deadline).then_some(delay)
    }

    /// The same where `asked` has been waited on somebody else's wish, which does not count
    /// against the deadline.
    pub fn next_delay_besides(&mut self, asked: Duration) -> Option<Duration> {
        let deadline = self.limits.deadline.saturating_add(asked);
        let mut patient = Self {
            limits: RetryLimits { deadline, ..self.limits },
            begun: self.begun,
            attempts: self.attempts,
        };
        let delay = patient.next_delay(None);
        self.attempts = patient.attempts;
        delay
    }

    /// Attempts made, and the time since the first one began.
    pub fn spent(&self) -> (u32, Duration) {
        (self.attempts, self.begun.elapsed())
    }
}

mod rand_seed {
    use std::hash::{BuildHasher, RandomState};

    /// A number from 0 to 1 that differs between processes and calls: enough to keep
    /// a thousand archivers from retrying in step, without a dependency.
    pub fn jitter() -> f64 {
        let bits = RandomState::new().hash_one(0u8) >> 32;
        f64::from(u32::try_from(bits).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::{Backoff, RetryLimits};
    use std::time::Duration;

    const LIMITS: RetryLimits = RetryLimits {
        attempts_max: 5,
        deadline: Duration::from_secs(60),
        delay_first: Duration::from_millis(100),
        delay_max: Duration::from_millis(300),
    };

    #[test]
    fn delays_grow_stay_under_the_maximum_and_end() {
        let mut backoff = Backoff::new(LIMITS);
        let delays: Vec<_> = std::iter::from_fn(|| backoff.next_delay(None)).collect();
        assert_eq!(delays.len(), 4);
        assert!(delays[0] >= Duration::from_millis(50) && delays[0] <= Duration::from_millis(100));
        assert!(delays.iter().all(|delay| *delay <= LIMITS.delay_max));
    }

    #[test]
    fn time_alone_ends_the_patience_of_a_command() {
        for limits in [RetryLimits::PATIENT, RetryLimits::RECOVERY] {
            let mut backoff = Backoff::new(limits);
            assert!((0..1000).all(|_| backoff.next_delay(None).is_some()));
            assert_eq!(backoff.next_delay(Some(limits.deadline)), None);
        }
    }

    #[test]
    fn what_the_store_asks_for_is_honoured_up_to_the_deadline() {
        let mut backoff = Backoff::new(LIMITS);
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(61))), None);
    }
}
