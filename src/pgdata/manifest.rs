//! PostgreSQL's `backup_manifest`, written while the files are read.
//!
//! ```text
//! { "PostgreSQL-Backup-Manifest-Version": 2,
//! "System-Identifier": 7710407064033732751,
//! "Files": [
//! { "Path": "base/5/1259", "Size": 8192, "Last-Modified": "…", "Checksum-Algorithm": "CRC32C", "Checksum": "…" },
//! …
//! ],
//! "WAL-Ranges": [
//! { "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
//! ],
//! "Manifest-Checksum": "…"}
//! ```
//!
//! One line per file in any order, each written at once: memory does not grow with the
//! number of files. The manifest checksum is the SHA-256 of all bytes before its own line.
//! Source: PostgreSQL src/backend/backup/backup_manifest.c and the documentation chapter
//! "Backup Manifest Format".

use crate::pgdata::SystemIdentifier;
use crate::wal::{Lsn, TimelineId};
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// The form of the manifest: PostgreSQL refuses one that is newer than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestVersion {
    /// PostgreSQL 13 to 16.
    One,
    /// PostgreSQL 17 and later, which need the identity for incremental backups.
    Two(SystemIdentifier),
}

/// One file of the backup.
#[derive(Clone, Copy, Debug)]
pub struct ManifestEntry<'a> {
    /// Relative to PGDATA, tablespaces through `pg_tblspc/<oid>/`, as the file system
    /// spells it: any bytes.
    pub path: &'a [u8],
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub modified: i64,
    pub crc32c: u32,
}

/// A stretch of WAL that recovery of the backup needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    pub timeline: TimelineId,
    pub begin: Lsn,
    pub end: Lsn,
}

/// Writes a manifest to `W`; without [`ManifestWriter::finish`] it stays visibly cut.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    output: W,
    hash: Sha256,
    line: Vec<u8>,
    files: u64,
}

impl<W: Write> ManifestWriter<W> {
    pub fn new(output: W, version: ManifestVersion) -> io::Result<Self> {
        let mut writer = Self { output, hash: Sha256::new(), line: Vec::new(), files: 0 };
        writer.line.extend_from_slice(match version {
            ManifestVersion::One => b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n",
            ManifestVersion::Two(_) => b"{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n",
        });
        if let ManifestVersion::Two(system_identifier) = version {
            writeln!(writer.line, "\"System-Identifier\": {system_identifier},")?;
        }
        writer.line.extend_from_slice(b"\"Files\": [");
        writer.flush_line()?;
        Ok(writer)
    }

    /// Adds one file. The order does not matter to PostgreSQL; a path must come only once.
    pub fn add(&mut self, entry: &ManifestEntry<'_>) -> io::Result<()> {
        self.separate(self.files == 0);
        self.files += 1;
        let line = &mut self.line;
        match std::str::from_utf8(entry.path) {
            Ok(path) => {
                line.extend_from_slice(b"{ \"Path\": ");
                write_json_string(line, path);
            }
            Err(_) => {
                line.extend_from_slice(b"{ \"Encoded-Path\": \"");
                write_hex(line, entry.path);
                line.push(b'"');
            }
        }
        write!(line, ", \"Size\": {}, \"Last-Modified\": \"", entry.size_bytes)?;
        write_time(line, entry.modified)?;
        line.extend_from_slice(b"\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"");
        // PostgreSQL prints the bytes of the number as they lie in memory, and
        // pg_verifybackup compares them so: this machine's order, never the reader's.
        write_hex(line, &entry.crc32c.to_ne_bytes());
        line.extend_from_slice(b"\" }");
        self.flush_line()
    }

    /// Ends the manifest and gives the output back, not flushed.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        self.line.extend_from_slice(b"\n],\n\"WAL-Ranges\": [");
        for (index, range) in wal_ranges.iter().enumerate() {
            self.separate(index == 0);
            let WalRange { timeline, begin, end } = range;
            write!(
                self.line,
                "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{begin}\", \"End-LSN\": \"{end}\" }}"
            )?;
        }
        self.line.extend_from_slice(b"\n],\n");
        self.flush_line()?;
        self.line.extend_from_slice(b"\"Manifest-Checksum\": \"");
        let checksum = self.hash.finalize_reset();
        write_hex(&mut self.line, &checksum);
        self.line.extend_from_slice(b"\"}\n");
        self.flush_line()?;
        Ok(self.output)
    }

    fn separate(&mut self, is_first: bool) {
        self.line.extend_from_slice(if is_first { b"\n" } else { b",\n" });
    }

    fn flush_line(&mut self) -> io::Result<()> {
        self.hash.update(&self.line);
        self.output.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }
}

/// Source: `escape_json`, PostgreSQL src/backend/utils/adt/json.c.
fn write_json_string(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            0x08 => line.extend_from_slice(b"\\b"),
            0x0C => line.extend_from_slice(b"\\f"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            0..0x20 => {
                line.extend_from_slice(b"\\u00");
                write_hex(line, &[byte]);
            }
            _ => line.push(byte),
        }
    }
    line.push(b'"');
}

fn write_hex(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        line.push(DIGITS[usize::from(byte >> 4)]);
        line.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// `2026-11-20 23:58:52 GMT`.
fn write_time(line: &mut Vec<u8>, seconds: i64) -> io::Result<()> {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    write!(line, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} GMT")
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
///
/// Years are counted from March so that the leap day is the last of its year; 400 years
/// have 146097 days. A date library would cost more than the rest of the line.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let (era, day_of_era) =
        (from_march_0000.div_euclid(146_097), from_march_0000.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use crate::pgdata::manifest::write_time;
    use crate::pgdata::{
        ManifestEntry, ManifestVersion, ManifestWriter, SystemIdentifier, WalRange,
    };
    use crate::wal::{Lsn, TimelineId};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use sha2::{Digest, Sha256};

    fn write(version: ManifestVersion, paths: &[&[u8]]) -> String {
        let mut writer = ManifestWriter::new(Vec::new(), version).expect("memory");
        for path in paths {
            let entry = ManifestEntry {
                path,
                size_bytes: 225,
                modified: 1_795_219_132,
                crc32c: 0xA1F6_D53B,
            };
            writer.add(&entry).expect("memory");
        }
        let range = WalRange {
            timeline: TimelineId::new(1).expect("1"),
            begin: Lsn::new(0x0200_0028),
            end: Lsn::new(0x0200_0100),
        };
        String::from_utf8(writer.finish(&[range]).expect("memory")).expect("ASCII")
    }

    /// The layout is that of a manifest written by pg_basebackup 15 with
    /// `--manifest-checksums=CRC32C`.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_manifest_is_laid_out_as_postgresql_does() {
        let text = write(ManifestVersion::One, &[b"backup_label", b"base/5/1259"]);
        let expected = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\
            \"Files\": [\n\
            { \"Path\": \"backup_label\", \"Size\": 225, \"Last-Modified\": \"2026-11-20 23:58:52 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"3bd5f6a1\" },\n\
            { \"Path\": \"base/5/1259\", \"Size\": 225, \"Last-Modified\": \"2026-11-20 23:58:52 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"3bd5f6a1\" }\n\
            ],\n\
            \"WAL-Ranges\": [\n\
            { \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n\
            ],\n";
        let (body, checksum) = text.split_once("\"Manifest-Checksum\": \"").expect("checksum");
        assert_eq!(body, expected);
        let digest = Sha256::digest(body.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(checksum, format!("{hex}\"}}\n"));
    }

    #[test]
    fn version_2_names_the_system_identifier() {
        let text = write(ManifestVersion::Two(SystemIdentifier::new(42)), &[]);
        assert!(text.starts_with(
            "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 42,\n\"Files\": [\n],\n"
        ));
    }

    #[test]
    fn odd_paths_are_escaped_and_those_outside_utf_8_are_encoded() {
        let text = write(ManifestVersion::One, &[b"a\"b\\c\n\x01\xC3\xA9", b"caf\xE9"]);
        assert!(text.contains(r#"{ "Path": "a\"b\\c\n\u0001é","#), "{text}");
        assert!(text.contains(r#"{ "Encoded-Path": "636166e9","#), "{text}");
    }

    proptest! {
        #[test]
        fn times_are_those_of_the_calendar(seconds in -62_000_000_000i64..250_000_000_000) {
            let mut line = Vec::new();
            write_time(&mut line, seconds).expect("memory");
            let expected = jiff::Timestamp::from_second(seconds).expect("range");
            let expected = expected.strftime("%Y-%m-%d %H:%M:%S GMT").to_string();
            prop_assert_eq!(String::from_utf8(line).expect("ASCII"), expected);
        }

        #[test]
        fn every_manifest_is_json(path in any::<Vec<u8>>()) {
            let text = write(ManifestVersion::One, &[&path]);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let file = &json["Files"][0];
            match std::str::from_utf8(&path) {
                Ok(path) => prop_assert_eq!(&file["Path"], path),
                Err(_) => prop_assert_eq!(file["Encoded-Path"].as_str().map(str::len), Some(2 * path.len())),
            }
        }
    }
}
