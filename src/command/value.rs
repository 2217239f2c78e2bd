//! What option values are made of: sizes, tags, names, levels. Pure text to value.
//!
//! The grammars are Barman 3.19.1's (contract §1, §2), quirks included: whoever moves over
//! must not find that an option means something else.

use crate::catalog::BackupId;
use crate::codec::CompressionLevel;
use crate::wal::TimelineId;
use std::fmt;
use std::num::NonZeroU64;

/// Why a value was refused; completes `argument --x: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

fn refused<T>(reason: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(reason.into()))
}

/// A number of bytes, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(NonZeroU64);

impl ByteSize {
    /// Parses bytes, or a number with a unit: `B`, `KB`, `MB` … `YB` in steps of 1024, `KiB`,
    /// `MiB` … in steps of **1000** (Barman has the two the wrong way round). Any case;
    /// fractions only with a prefix; what exceeds 64 bits counts as the largest number.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let Some((number, unit)) = split_unit(text.trim_start()) else {
            return refused(format!("\"{text}\" is not a size (such as \"100MB\")"));
        };
        match bytes_of(number.trim_end(), unit).map(NonZeroU64::new) {
            Some(Some(bytes)) => Ok(Self(bytes)),
            Some(None) => refused(format!("\"{text}\" is smaller than one byte")),
            None => refused(format!("\"{text}\" is not a size (such as \"100MB\")")),
        }
    }

    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

/// A unit as base and power: `KB` is (1024, 1).
type Unit = (u128, usize);

fn split_unit(text: &str) -> Option<(&str, Unit)> {
    let number_end =
        text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.to_ascii_uppercase();
    if unit.is_empty() || unit == "B" {
        return Some((number, (1, 0)));
    }
    let power = "KMGTPEZY".find(unit.get(..1)?)? + 1;
    match unit.get(1..)? {
        "B" => Some((number, (1024, power))),
        "IB" => Some((number, (1000, power))),
        _ => None,
    }
}

/// Whole bytes of a decimal number of `unit`s, rounded down; integers only, so that no size
/// depends on floating point.
fn bytes_of(number: &str, (base, power): Unit) -> Option<u64> {
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = match number.split_once('.') {
        Some(_) if power == 0 => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let unit = (0..power).fold(1u128, |product, _| product * base);
    // Twelve decimals of a yottabyte still fit 128 bits; later ones are below one part in 10¹².
    let fraction = &fraction[..fraction.len().min(12)];
    let decimals = u32::try_from(fraction.len()).ok()?;
    let bytes = value_of_digits(whole)
        .saturating_mul(unit)
        .saturating_add(value_of_digits(fraction).saturating_mul(unit) / 10u128.pow(decimals));
    Some(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn value_of_digits(digits: &str) -> u128 {
    digits
        .bytes()
        .fold(0, |sum, digit| sum.saturating_mul(10).saturating_add(u128::from(digit - b'0')))
}

/// Parses an integer of at least `min`, as Python's `int()` reads one: blanks around it allowed.
fn integer(text: &str, min: i64, max: i64) -> Result<i64, ValueError> {
    match text.trim().parse::<i64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(number) if number < min => refused(format!("{number} is less than {min}")),
        Ok(number) => refused(format!("{number} is more than {max}")),
        Err(_) => refused(format!("\"{text}\" is not an integer")),
    }
}

/// An integer from 1.
pub fn positive(text: &str) -> Result<u32, ValueError> {
    let number = integer(text, 1, i64::from(u32::MAX))?;
    u32::try_from(number).map_err(|_| ValueError(format!("{number} is too large")))
}

/// A timeline: an integer from 1.
pub fn timeline(text: &str) -> Result<TimelineId, ValueError> {
    TimelineId::new(positive(text)?).map_err(|error| ValueError(error.to_string()))
}

/// An integer from 0.
pub fn non_negative(text: &str) -> Result<u32, ValueError> {
    let number = integer(text, 0, i64::from(u32::MAX))?;
    u32::try_from(number).map_err(|_| ValueError(format!("{number} is too large")))
}

/// Any integer; for options whose whole range means something.
pub fn any_integer(text: &str) -> Result<i64, ValueError> {
    integer(text, i64::MIN, i64::MAX)
}

/// `low`, `medium`, `high` in any case, or the algorithm's own number, which may be negative.
pub fn compression_level(text: &str) -> Result<CompressionLevel, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "low" => Ok(CompressionLevel::Low),
        "medium" => Ok(CompressionLevel::Medium),
        "high" => Ok(CompressionLevel::High),
        number => match number.parse() {
            Ok(number) => Ok(CompressionLevel::Number(number)),
            Err(_) => refused(format!(
                "\"{text}\" is neither \"low\", \"medium\", \"high\" nor an integer"
            )),
        },
    }
}

/// A name and value to travel with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

impl Tag {
    /// The word of `--tags`: CSV of exactly two fields, quotes allowed, nothing else checked.
    pub fn parse_csv(text: &str) -> Result<Self, ValueError> {
        match csv_fields(text).as_deref() {
            Some([key, value]) => Ok(Self { key: key.clone(), value: value.clone() }),
            _ => refused(format!("\"{text}\" is not of the form KEY,VALUE")),
        }
    }

    /// The word of `--tag`: split at the first comma and trimmed; only what every store takes.
    pub fn parse_checked(text: &str) -> Result<Self, ValueError> {
        let Some((key, value)) = text.split_once(',') else {
            return refused(format!("\"{text}\" is not of the form KEY,VALUE"));
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || key.len() > 128 {
            return refused(format!("the key of \"{text}\" must have 1 to 128 characters"));
        }
        if value.len() > 256 {
            return refused(format!("the value of key \"{key}\" has more than 256 characters"));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return refused(format!("key \"{key}\" starts with \"aws:\", which is reserved"));
        }
        let allowed = |character: char| {
            character.is_ascii_alphanumeric()
                || character.is_ascii_whitespace()
                || "_.:/=+-@".contains(character)
        };
        match key.chars().chain(value.chars()).find(|character| !allowed(*character)) {
            Some(character) => refused(format!(
                "\"{text}\" contains \"{character}\"; only letters, digits, blanks and _ . : / = + - @ are allowed"
            )),
            None => Ok(Self { key: key.into(), value: value.into() }),
        }
    }
}

impl From<Tag> for (String, String) {
    fn from(tag: Tag) -> Self {
        (tag.key, tag.value)
    }
}

/// The fields of one CSV record; `None` for a line break outside quotes or an open quote.
fn csv_fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut at_start = true;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut()?;
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if at_start => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            '\n' | '\r' if !quoted => return None,
            other => field.push(other),
        }
        at_start = character == ',' && !quoted;
    }
    (!quoted).then_some(fields)
}

/// The name of a backup: any text that no backup identifier could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupName(String);

impl BackupName {
    const RESERVED: [&'static str; 8] =
        ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto"];

    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return refused("a backup name must not be empty");
        }
        if BackupId::parse(text).is_ok() {
            return refused(format!("backup name \"{text}\" has the form of a backup ID"));
        }
        if Self::RESERVED.contains(&text) {
            return refused(format!("backup name \"{text}\" is reserved as a shortcut"));
        }
        Ok(Self(text.into()))
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The word of `--target-tli`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineTarget {
    Timeline(TimelineId),
    Current,
    Latest,
}

impl TimelineTarget {
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "current" => Ok(Self::Current),
            "latest" => Ok(Self::Latest),
            number => match timeline(number) {
                Ok(timeline) => Ok(Self::Timeline(timeline)),
                Err(_) => {
                    refused(format!("\"{text}\" is neither a timeline, \"current\" nor \"latest\""))
                }
            },
        }
    }
}

/// How `list` and `show` print: any word but `console` means JSON, as with Barman.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    Console,
    Json,
}

impl OutputFormat {
    pub fn of(text: &str) -> Self {
        if text == "console" { Self::Console } else { Self::Json }
    }
}

/// Days from 1 to 36500 for which a snapshot shall be locked.
pub fn lock_duration(text: &str) -> Result<u32, ValueError> {
    in_range(text, 1, 36_500)
}

/// Hours from 1 to 72 in which a compliance lock can still be changed.
pub fn lock_cool_off_period(text: &str) -> Result<u32, ValueError> {
    in_range(text, 1, 72)
}

fn in_range(text: &str, min: i64, max: i64) -> Result<u32, ValueError> {
    let number = integer(text, min, max)?;
    u32::try_from(number).map_err(|_| ValueError(format!("{number} is too large")))
}

/// `YYYY-MM-DDThh:mm:ss.sssZ`, the fraction of one to six digits mandatory.
pub fn lock_expiration(text: &str) -> Result<jiff::Timestamp, ValueError> {
    let well_formed = text.strip_suffix('Z').and_then(|time| time.rsplit_once('.')).is_some_and(
        |(_, fraction)| {
            (1..=6).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit())
        },
    );
    match text.parse() {
        Ok(time) if well_formed => Ok(time),
        _ => refused(format!("\"{text}\" is not of the form YYYY-MM-DDThh:mm:ss.sssZ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::CompressionLevel;
    use crate::command::value::{
        BackupName, ByteSize, Tag, TimelineTarget, compression_level, lock_expiration,
        non_negative, positive,
    };
    use crate::wal::TimelineId;

    /// Every line was run through Barman 3.19.1's own check.
    #[test]
    fn sizes_are_read_as_barman_reads_them() {
        for (text, bytes) in [
            ("5", 5),
            ("5B", 5),
            ("5b", 5),
            ("5KB", 5120),
            ("5kb", 5120),
            ("5KiB", 5000),
            ("5kib", 5000),
            ("1.5MB", 1_572_864),
            ("5 MB", 5_242_880),
            (" 5MB", 5_242_880),
            ("+5", 5),
            ("+5KB", 5120),
            (".5KB", 512),
            ("5.KB", 5120),
            ("5MiB", 5_000_000),
            ("100GB", 107_374_182_400),
            ("1.0000000001TB", 1_099_511_627_885),
        ] {
            assert_eq!(ByteSize::parse(text).expect(text).bytes(), bytes, "{text}");
        }
        assert_eq!(ByteSize::parse("1YB").expect("1YB").bytes(), u64::MAX);
    }

    #[test]
    fn sizes_that_barman_refuses_are_refused() {
        for text in [
            "1.5", "1.5B", "5MB ", "0.0001KB", "-5", "infKB", "0", "0KB", "", "B", "K", "5M",
            "1.5.5MB", "5MBB", "0.5B", "nanKB", "KB", "é", "5é", ".KB", "5 é",
        ] {
            assert!(ByteSize::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tags_of_the_greedy_option_are_csv_of_two_fields() {
        for (text, key, value) in [
            ("a,b", "a", "b"),
            ("\"a,b\",c", "a,b", "c"),
            ("\"a\"\"x\",c", "a\"x", "c"),
            ("a,\"b\"c", "a", "bc"),
            (" a , b ", " a ", " b "),
            (",", "", ""),
        ] {
            let tag = Tag::parse_csv(text).expect(text);
            assert_eq!((tag.key.as_str(), tag.value.as_str()), (key, value), "{text}");
        }
        for text in ["a,b,c", "a", "", "a,\nb", "\"a,b"] {
            assert!(Tag::parse_csv(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tags_of_the_repeatable_option_are_checked() {
        let tag = Tag::parse_checked(" a\tx , b ").expect("tag");
        assert_eq!((tag.key.as_str(), tag.value.as_str()), ("a\tx", "b"));
        assert_eq!(Tag::parse_checked("a,").expect("tag").value, "");
        assert!(Tag::parse_checked(&format!("{},{}", "k".repeat(128), "v".repeat(256))).is_ok());
        let long_key = format!("{},v", "k".repeat(129));
        let long_value = format!("k,{}", "v".repeat(257));
        for text in [
            "",
            "a",
            ",b",
            " ,b",
            "aws:x,b",
            "AWS:x,b",
            "a,b$",
            "é,b",
            "a,b,c",
            &long_key,
            &long_value,
        ] {
            assert!(Tag::parse_checked(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn backup_names_cannot_be_taken_for_identifiers() {
        for text in ["", "latest", "auto", "last-full", "20200101T000000", "20209999T999999"] {
            assert!(BackupName::parse(text).is_err(), "{text}");
        }
        for text in ["LATEST", "20200101T00000", "x y", "a/b", " latest", "backup-20260101000000"] {
            assert_eq!(BackupName::parse(text).expect(text).into_string(), text);
        }
    }

    #[test]
    fn numbers_allow_blanks_and_a_plus_and_refuse_what_is_out_of_range() {
        for (text, number) in [("1", 1), (" 1", 1), ("+1", 1), ("10 ", 10)] {
            assert_eq!(positive(text), Ok(number), "{text}");
        }
        for text in ["0", "-1", "x", "1.0", "", "99999999999"] {
            assert!(positive(text).is_err(), "{text}");
        }
        assert_eq!(non_negative("0"), Ok(0));
        assert!(non_negative("-1").is_err());
    }

    #[test]
    fn compression_levels_are_words_in_any_case_or_numbers() {
        assert_eq!(compression_level("HIGH"), Ok(CompressionLevel::High));
        assert_eq!(compression_level("-5"), Ok(CompressionLevel::Number(-5)));
        for text in ["", "0x5", "5 ", "5_0", "-5.5", "x"] {
            assert!(compression_level(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn timeline_targets_are_numbers_or_two_words() {
        assert_eq!(TimelineTarget::parse("latest"), Ok(TimelineTarget::Latest));
        let one = TimelineId::new(1).expect("1");
        assert_eq!(TimelineTarget::parse(" 1"), Ok(TimelineTarget::Timeline(one)));
        for text in ["0", "CURRENT", "Latest", "-1", "x"] {
            assert!(TimelineTarget::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lock_expirations_need_a_fraction() {
        assert!(lock_expiration("2024-01-01T00:00:00.000Z").is_ok());
        for text in
            ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.1234567Z", "2024-13-01T00:00:00.000Z"]
        {
            assert!(lock_expiration(text).is_err(), "{text}");
        }
    }
}
