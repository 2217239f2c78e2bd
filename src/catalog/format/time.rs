//! Times as Barman and our JSON write them.

use crate::catalog::format::FormatError;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Parses `YYYY-MM-DD hh:mm:ss[.ffffff]+hh:mm`, with a blank or a `T`; a time without offset is
/// taken as UTC. The offset is kept.
pub fn parse(text: &str) -> Result<Zoned, FormatError> {
    let refused = || FormatError::new(format!("\"{text}\" is not a time"));
    let pieces = Pieces::parse(text).map_err(|_| refused())?;
    let time = pieces.time().ok_or_else(refused)?;
    let offset = pieces.to_numeric_offset().unwrap_or(Offset::UTC);
    pieces.date().to_datetime(time).to_zoned(offset.to_time_zone()).map_err(|_| refused())
}

/// As Python prints a time with a zone: microseconds only when there are some.
pub fn python(time: &Zoned) -> String {
    with_separator(time, ' ')
}

/// As Python's ISO form: `2026-11-20T23:58:32.762548+00:00`.
pub fn python_iso(time: &Zoned) -> String {
    with_separator(time, 'T')
}

/// RFC 3339 in UTC, for our own JSON.
pub fn rfc3339(time: Timestamp) -> String {
    time.to_string()
}

pub fn in_utc(time: &Zoned) -> Zoned {
    time.with_time_zone(TimeZone::UTC)
}

fn with_separator(time: &Zoned, separator: char) -> String {
    let microseconds = time.subsec_nanosecond() / 1000;
    let fraction = if microseconds == 0 { String::new() } else { format!(".{microseconds:06}") };
    let (date, clock) = (time.strftime("%Y-%m-%d"), time.strftime("%H:%M:%S"));
    format!("{date}{separator}{clock}{fraction}{}", offset_text(time.offset()))
}

fn offset_text(offset: Offset) -> String {
    let sign = if offset.is_negative() { '-' } else { '+' };
    let seconds = offset.seconds().unsigned_abs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match rest {
        0 => format!("{sign}{hours:02}:{minutes:02}"),
        rest => format!("{sign}{hours:02}:{minutes:02}:{rest:02}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::format::time::{parse, python, python_iso};

    #[test]
    fn times_round_trip_with_their_offset() {
        for text in [
            "2026-11-20 23:58:52.132515+00:00",
            "2026-11-20 23:58:52+05:30",
            "2026-11-20 23:58:52.000001-11:00",
        ] {
            assert_eq!(python(&parse(text).expect(text)), text);
        }
    }

    #[test]
    fn the_iso_form_and_times_without_offset_are_read() {
        let time = parse("2026-11-20T23:58:52Z").expect("iso");
        assert_eq!(python_iso(&time), "2026-11-20T23:58:52+00:00");
        assert_eq!(
            python(&parse("2026-11-20 23:58:52").expect("naive")),
            "2026-11-20 23:58:52+00:00"
        );
        assert!(parse("yesterday").is_err());
        assert!(parse("2026-11-20").is_err());
    }
}
