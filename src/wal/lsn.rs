//! Log sequence numbers and timeline numbers.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A byte position in the write-ahead log, printed as PostgreSQL prints it (`16/B374D848`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

/// A text that is not a log sequence number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not a log sequence number")]
pub struct LsnError {
    text: String,
}

impl Lsn {
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes since the beginning of the log.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    /// Accepts one to eight hex digits on each side of the slash, as `pg_lsn_in` does.
    fn from_str(text: &str) -> Result<Self, LsnError> {
        let half = |digits: &str| {
            let well_formed = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            well_formed.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| LsnError { text: text.into() })
    }
}

/// A timeline number; zero is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

/// Zero, or a text that is not a timeline number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not a timeline number")]
pub struct TimelineIdError {
    text: String,
}

impl TimelineId {
    pub fn new(number: u32) -> Result<Self, TimelineIdError> {
        NonZeroU32::new(number)
            .map(Self)
            .ok_or_else(|| TimelineIdError { text: number.to_string() })
    }

    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{Lsn, TimelineId};

    #[test]
    fn lsn_text_round_trips() {
        for text in ["0/0", "0/1300028", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_lsns_are_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/123456789", "g/0", "+1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn timeline_zero_is_refused() {
        assert!(TimelineId::new(0).is_err());
        assert_eq!(TimelineId::new(7).expect("7").to_string(), "7");
    }
}
