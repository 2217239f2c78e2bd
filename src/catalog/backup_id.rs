//! The two names a catalog is made of.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;

/// The id of a backup: `YYYYMMDDThhmmss`, taken in UTC by us, in local time by Barman.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not a backup ID (such as \"20261120T235832\")")]
pub struct BackupIdError {
    text: String,
}

impl BackupId {
    /// Eight digits, `T`, six digits; that is all Barman asks of an id.
    pub fn parse(text: &str) -> Result<Self, BackupIdError> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let well_formed = text.split_once('T').is_some_and(|(date, time)| {
            date.len() == 8 && time.len() == 6 && digits(date) && digits(time)
        });
        if well_formed { Ok(Self(text.into())) } else { Err(BackupIdError { text: text.into() }) }
    }

    /// The id of a backup that starts at `now`, in UTC.
    pub fn at(now: Timestamp) -> Self {
        Self(now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S").to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Barman's folder name of one PostgreSQL server in the bucket. Any text, as Barman allows;
/// slashes nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("server name \"{text}\" cannot be used: {reason}")]
pub struct ServerNameError {
    text: String,
    reason: &'static str,
}

impl ServerName {
    /// Refuses `.` and `..` segments, which no store addresses exactly.
    pub fn parse(text: &str) -> Result<Self, ServerNameError> {
        if text.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(ServerNameError {
                text: text.into(),
                reason: "\".\" and \"..\" are not folder names",
            });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::BackupId;

    #[test]
    fn ids_are_eight_digits_t_six_digits() {
        assert!(BackupId::parse("20261120T235832").is_ok());
        for text in ["", "20261120", "20261120T23583", "20261120t235832", "2026112xT235832"] {
            assert!(BackupId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_taken_in_utc() {
        let now = "2026-11-20T23:58:32.9+00:00".parse().expect("time");
        assert_eq!(BackupId::at(now).as_str(), "20261120T235832");
    }
}
