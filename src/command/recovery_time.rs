//! The times that people write on a command line.

use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Forms beyond ISO 8601 that name the month or put the year first; forms that leave open which
/// number is the month are not read.
const FORMS: [&str; 8] = [
    "%a %b %d %H:%M:%S %Y",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M",
    "%b %d %Y %H:%M:%S",
    "%b %d %Y %H:%M",
    "%b %d, %Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
];

/// Reads a time; without an offset or zone it is in `zone`. `None` when it is no time.
pub fn parse(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = text.parse::<Zoned>() {
        return Some(time.timestamp());
    }
    if let Ok(time) = rfc2822::parse(text) {
        return Some(time.timestamp());
    }
    if let Some(time) = civil(text) {
        return in_zone(time, zone);
    }
    // What is left has its zone behind a blank: "… UTC", "… +02", "… Europe/Berlin".
    let (time, zone_text) = text.rsplit_once(' ')?;
    if zone_text.starts_with(['+', '-']) {
        return format!("{}{zone_text}", civil(time.trim())?).parse().ok();
    }
    let zone = match zone_text {
        "UTC" | "GMT" | "Z" => TimeZone::UTC,
        name => TimeZone::get(name).ok()?,
    };
    in_zone(civil(time.trim())?, &zone)
}

fn civil(text: &str) -> Option<DateTime> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    FORMS.iter().find_map(|form| DateTime::strptime(form, text).ok())
}

fn in_zone(time: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use crate::command::recovery_time::parse;
    use jiff::tz::{TimeZone, offset};

    #[test]
    fn times_are_read_in_the_forms_that_people_use() {
        let local = TimeZone::fixed(offset(2));
        for text in [
            "2026-11-20T10:00:00Z",
            "2026-11-20 10:00:00+00",
            "2026-11-20 10:00:00.000000+00:00",
            "2026-11-20 12:00:00+0200",
            "2026-11-20 11:00:00 +01",
            "2026-11-20 10:00:00 UTC",
            "2026-11-20 10:00 GMT",
            "2026-11-20 12:00:00",
            "2026-11-20 12:00",
            "2026-11-20T12:00:00[+02:00]",
            "20261120T120000",
            "2026/11/20 12:00",
            "Fri Nov 20 12:00:00 2026",
            "20 Nov 2026 12:00",
            "Nov 20, 2026 12:00:00",
            "Fri, 20 Nov 2026 10:00:00 +0000",
            " 2026-11-20 12:00:00 ",
        ] {
            let time = parse(text, &local).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(time.to_string(), "2026-11-20T10:00:00Z", "{text}");
        }
        let midnight = parse("2026-11-20", &local).expect("a day");
        assert_eq!(midnight.to_string(), "2026-11-19T22:00:00Z");
    }

    #[test]
    fn what_is_no_time_or_leaves_the_month_open_is_not_read() {
        let local = TimeZone::UTC;
        for text in ["", "yesterday", "11/12/2026 10:00", "2026-13-01 00:00:00", "10:00", "2026"] {
            assert_eq!(parse(text, &local), None, "{text}");
        }
    }
}
