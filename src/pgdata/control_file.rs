//! `global/pg_control`: the identity and build of a cluster.
//!
//! Source: `ControlFileData` and `CheckPoint`, PostgreSQL src/include/catalog/pg_control.h,
//! versions 10 to 18, as laid out by the 64-bit ABIs (8-byte alignment).

use crate::wal::{Lsn, SegmentSize, TimelineId};
use std::fmt;

/// The number that `initdb` gives a cluster and that all its copies share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemIdentifier(u64);

/// What the tool needs of `pg_control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    pub system_identifier: SystemIdentifier,
    pub control_version: u32,
    pub catalog_version: u32,
    /// Start of the latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    pub timeline: TimelineId,
    /// How far a standby or a restored backup must replay; zero on a primary.
    pub min_recovery_point: Lsn,
    pub page_bytes: u32,
    /// Pages in one file of a relation: 131072 unless PostgreSQL was built otherwise.
    pub relation_segment_pages: u32,
    pub wal_segment_size: SegmentSize,
    /// 0: pages carry no checksums; 1: `pg_checksum_page` of every page.
    pub data_checksum_version: u32,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlFileError {
    #[error("the control file has {bytes} bytes, which is too short")]
    Short { bytes: usize },
    #[error("the control file has version {version}, which belongs to no PostgreSQL from 10 to 18")]
    UnknownVersion { version: u32 },
    #[error("the control file was written on a machine with the other byte order")]
    ByteOrder,
    #[error(
        "the checksum of the control file is wrong (stored {stored:08x}, computed {computed:08x})"
    )]
    Checksum { stored: u32, computed: u32 },
    #[error("field {field} of the control file is {value}, which is impossible")]
    Impossible { field: &'static str, value: u64 },
}

/// Where the versions differ, in bytes from the start of the file.
struct Layout {
    checkpoint_copy: usize,
    min_recovery_point: usize,
    float_format: usize,
    crc: usize,
}

/// What `floatFormat` holds on every machine that shares our idea of a double.
/// Source: `FLOATFORMAT_VALUE`.
const FLOAT_FORMAT: f64 = 1234567.0;

impl ControlFile {
    /// Parses the whole file (PostgreSQL pads it to 8 KiB; the padding may be missing).
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let version = u32_at(bytes, 8)?;
        let layout = Layout::of(version)?;
        let stored = u32_at(bytes, layout.crc)?;
        let computed = crc32c::crc32c(&bytes[..layout.crc]);
        if stored != computed {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        let float_format = u64_at(bytes, layout.float_format)?;
        if float_format != FLOAT_FORMAT.to_bits() {
            return Err(ControlFileError::Impossible { field: "floatFormat", value: float_format });
        }
        let timeline = u32_at(bytes, layout.checkpoint_copy + 8)?;
        let segment_bytes = u32_at(bytes, layout.float_format + 20)?;
        let impossible =
            |field, value: u32| ControlFileError::Impossible { field, value: u64::from(value) };
        Ok(Self {
            system_identifier: SystemIdentifier(u64_at(bytes, 0)?),
            control_version: version,
            catalog_version: u32_at(bytes, 12)?,
            checkpoint: Lsn::new(u64_at(bytes, 32)?),
            redo: Lsn::new(u64_at(bytes, layout.checkpoint_copy)?),
            timeline: TimelineId::new(timeline)
                .map_err(|_| impossible("ThisTimeLineID", timeline))?,
            min_recovery_point: Lsn::new(u64_at(bytes, layout.min_recovery_point)?),
            page_bytes: u32_at(bytes, layout.float_format + 8)?,
            relation_segment_pages: u32_at(bytes, layout.float_format + 12)?,
            wal_segment_size: SegmentSize::new(u64::from(segment_bytes))
                .map_err(|_| impossible("xlog_seg_size", segment_bytes))?,
            data_checksum_version: u32_at(bytes, layout.float_format + 44)?,
        })
    }

    /// The one directory below a tablespace's location that belongs to this cluster:
    /// `PG_15_202209061`.
    ///
    /// Source: `TABLESPACE_VERSION_DIRECTORY`, PostgreSQL src/include/common/relpath.h.
    pub fn tablespace_version_directory(&self, major: u32) -> String {
        format!("PG_{major}_{}", self.catalog_version)
    }

    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

impl Layout {
    fn of(version: u32) -> Result<Self, ControlFileError> {
        // 10 still has prevCheckPoint before the checkpoint copy; up to 11 the copy is
        // 8 bytes shorter (32-bit nextXid); from 12 on max_wal_senders follows; 18 has
        // default_char_signedness before the nonce.
        let (checkpoint_copy, min_recovery_point, float_format) = match version {
            1002 => (48, 136, 208),
            1100 => (40, 128, 200),
            1201 | 1300 | 1800 => (40, 136, 208),
            _ if known(version.swap_bytes()) => return Err(ControlFileError::ByteOrder),
            _ => return Err(ControlFileError::UnknownVersion { version }),
        };
        let crc = float_format + if version >= 1800 { 84 } else { 80 };
        Ok(Self { checkpoint_copy, min_recovery_point, float_format, crc })
    }
}

fn known(version: u32) -> bool {
    matches!(version, 1002 | 1100 | 1201 | 1300 | 1800)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ControlFileError> {
    field_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ControlFileError> {
    field_at(bytes, at).map(u64::from_ne_bytes)
}

fn field_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ControlFileError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(ControlFileError::Short { bytes: bytes.len() })
}

impl SystemIdentifier {
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::{ControlFile, ControlFileError};
    use proptest::prelude::{any, proptest};

    /// A control file as `version` lays it out, with the fields that are read set apart.
    fn control_file(version: u32) -> Vec<u8> {
        let (copy, float_format, crc) = match version {
            1002 => (48, 208, 288),
            1100 => (40, 200, 280),
            1800 => (40, 208, 292),
            _ => (40, 208, 288),
        };
        let mut bytes = vec![0; 8192];
        let mut put32 =
            |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put32(8, version);
        put32(12, 202_209_061);
        put32(copy + 8, 7);
        put32(float_format + 8, 8192);
        put32(float_format + 12, 131_072);
        put32(float_format + 20, 1 << 20);
        put32(float_format + 44, 1);
        let mut put64 =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        put64(0, 7_710_407_064_033_732_751);
        put64(32, 0x0150_0060);
        put64(copy, 0x0150_0028);
        put64(float_format, 1234567.0f64.to_bits());
        let sum = crc32c::crc32c(&bytes[..crc]).to_ne_bytes();
        bytes[crc..crc + 4].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn the_fields_of_every_version_from_10_to_18_are_found() {
        for version in [1002, 1100, 1201, 1300, 1800] {
            let control = ControlFile::parse(&control_file(version)).expect("parses");
            assert_eq!(control.control_version, version);
            assert_eq!(control.system_identifier.to_string(), "7710407064033732751");
            assert_eq!(control.checkpoint.to_string(), "0/1500060");
            assert_eq!(control.redo.to_string(), "0/1500028");
            assert_eq!(control.timeline.number(), 7);
            assert_eq!(control.page_bytes, 8192);
            assert_eq!(control.wal_segment_size.bytes(), 1 << 20);
            assert!(control.has_data_checksums());
            assert_eq!(control.tablespace_version_directory(15), "PG_15_202209061");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = control_file(1300);
        bytes[100] ^= 1;
        assert!(matches!(ControlFile::parse(&bytes), Err(ControlFileError::Checksum { .. })));
    }

    #[test]
    fn other_versions_and_the_other_byte_order_are_named() {
        let mut bytes = control_file(1300);
        bytes[8..12].copy_from_slice(&942u32.to_ne_bytes());
        assert_eq!(
            ControlFile::parse(&bytes),
            Err(ControlFileError::UnknownVersion { version: 942 })
        );
        bytes[8..12].copy_from_slice(&1300u32.swap_bytes().to_ne_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::ByteOrder));
        assert_eq!(ControlFile::parse(&[]), Err(ControlFileError::Short { bytes: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
