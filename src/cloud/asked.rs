//! Waits that a provider asks for (`Retry-After`): honoured, but not without end.
//!
//! Azure asks for as much as five minutes when a subscription is throttled. Less than that is
//! asked in vain, and each request before its time counts against us; but a hostile or broken
//! answer must not hold a backup for ever.

use std::time::Duration;

/// The longest single wait. Source: Azure's "Troubleshooting API throttling errors": windows of
/// up to 30 minutes, of which answers were seen to ask for 302 s.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// All that one call waits because it was asked to.
const ALL_MAX: Duration = Duration::from_secs(1800);

/// So many times a call is put off at most, however short the waits.
const COUNT_MAX: u32 = 60;

/// A provider that asks for no wait at all gets this one.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// What one call has waited so far because it was asked to.
#[derive(Debug, Default)]
pub struct Asked {
    waited: Duration,
    count: u32,
}

impl Asked {
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait now; `None` when it was enough.
    pub fn next(&mut self, wanted: Duration) -> Option<Duration> {
        let wait = wanted.clamp(WAIT_MIN, RETRY_AFTER_MAX);
        if self.count >= COUNT_MAX || self.waited + wait > ALL_MAX {
            return None;
        }
        self.count += 1;
        self.waited += wait;
        Some(wait)
    }

    pub fn waited(&self) -> Duration {
        self.waited
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Asked, RETRY_AFTER_MAX};
    use std::time::Duration;

    #[test]
    fn five_minutes_are_waited_whole_and_an_absurd_wish_is_not() {
        let mut asked = Asked::new();
        assert_eq!(asked.next(Duration::from_secs(302)), Some(Duration::from_secs(302)));
        assert_eq!(asked.next(Duration::from_secs(u64::MAX)), Some(RETRY_AFTER_MAX));
        assert_eq!(asked.next(Duration::from_secs(600)), Some(RETRY_AFTER_MAX));
        assert_eq!(asked.next(Duration::from_secs(600)), None);
        assert_eq!(asked.waited(), Duration::from_secs(1502));
    }

    #[test]
    fn a_provider_that_puts_us_off_for_ever_is_given_up() {
        let mut asked = Asked::new();
        let waits = std::iter::from_fn(|| asked.next(Duration::ZERO)).count();
        assert_eq!(waits, 60);
    }
}
