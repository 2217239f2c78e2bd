//! `global/pg_control`: the identity and build of a cluster.
//!
//! Source: `ControlFileData` and `CheckPoint`, PostgreSQL src/include/catalog/pg_control.h,
//! versions 10 to 18, as laid out by the 64-bit ABIs (8-byte alignment). A later version is read
//! where its checksum proves that the fields lie where they always lay around `floatFormat`.

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
    /// 0: pages carry no checksums; 1: `pg_checksum_page` of every page. Versions to come have
    /// numbers for clusters that are being changed from one to the other.
    pub data_checksum_version: u32,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlFileError {
    #[error("the control file has {bytes} bytes, which is too short")]
    Short { bytes: usize },
    #[error("the control file has version {version}, whose format cannot be read")]
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
#[derive(Clone, Copy)]
struct Layout {
    checkpoint_copy: usize,
    float_format: usize,
    crc: usize,
}

/// The newest `PG_CONTROL_VERSION` whose fields are known, that of PostgreSQL 18.
const NEWEST_KNOWN: u32 = 1800;

/// Versions that may still come: the number is made of the major version's.
const PLAUSIBLE: std::ops::RangeInclusive<u32> = 1002..=9999;

/// What PostgreSQL keeps the fields within, so that they are written at once.
/// Source: `PG_CONTROL_MAX_SAFE_SIZE`.
const FIELDS_BYTES_MAX: usize = 512;

/// From `minRecoveryPoint` to `floatFormat`: the same in all versions.
const MIN_RECOVERY_POINT_BEFORE: usize = 72;

/// What `floatFormat` holds on every machine that shares our idea of a double.
/// Source: `FLOATFORMAT_VALUE`.
const FLOAT_FORMAT: f64 = 1234567.0;

impl ControlFile {
    /// Parses the whole file (PostgreSQL pads it to 8 KiB; the padding may be missing).
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let version = u32_at(bytes, 8)?;
        let layout = Layout::of(version, bytes)?;
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
            min_recovery_point: Lsn::new(u64_at(
                bytes,
                layout.float_format - MIN_RECOVERY_POINT_BEFORE,
            )?),
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
        self.data_checksum_version == 1
    }

    /// Whether the file is of a PostgreSQL that came after this program: what was read of it is
    /// what its checksum and its own fields make plausible.
    pub fn is_of_later_version(&self) -> bool {
        self.control_version > NEWEST_KNOWN
    }
}

impl Layout {
    fn of(version: u32, bytes: &[u8]) -> Result<Self, ControlFileError> {
        // 10 still has prevCheckPoint before the checkpoint copy; up to 11 the copy is
        // 8 bytes shorter (32-bit nextXid); from 12 on max_wal_senders follows; 17 has put
        // wal_level where the copy was padded; 18 has default_char_signedness before the nonce.
        let (checkpoint_copy, float_format, crc) = match version {
            1002 => (48, 208, 288),
            1100 => (40, 200, 280),
            1201 | 1300 | 1700 => (40, 208, 288),
            1800 => (40, 208, 292),
            _ if PLAUSIBLE.contains(&version.swap_bytes()) => {
                return Err(ControlFileError::ByteOrder);
            }
            _ if version > NEWEST_KNOWN && PLAUSIBLE.contains(&version) => {
                let found = Self::found_in(bytes);
                return found.ok_or(ControlFileError::UnknownVersion { version });
            }
            _ => return Err(ControlFileError::UnknownVersion { version }),
        };
        Ok(Self { checkpoint_copy, float_format, crc })
    }

    /// Looks for the two landmarks of a format that is not known: the constant of `floatFormat`,
    /// and behind it the checksum of everything before. What lies around the constant has not
    /// moved since PostgreSQL 8, and the checkpoint begins where it does since 11.
    fn found_in(bytes: &[u8]) -> Option<Self> {
        let fields = &bytes[..bytes.len().min(FIELDS_BYTES_MAX)];
        let constant = FLOAT_FORMAT.to_bits().to_ne_bytes();
        let checkpoint_copy = 40;
        let float_format = (checkpoint_copy + MIN_RECOVERY_POINT_BEFORE..fields.len())
            .step_by(8)
            .find(|at| fields[*at..].starts_with(&constant))?;
        // The checksum lies behind data_checksum_version.
        let crc = (float_format + 48..fields.len()).step_by(4).find(|at| {
            u32_at(fields, *at).is_ok_and(|stored| crc32c::crc32c(&fields[..*at]) == stored)
        })?;
        let page_bytes = u32_at(fields, float_format + 8).ok()?;
        let plausible = page_bytes.is_power_of_two() && (1 << 10..=1 << 15).contains(&page_bytes);
        plausible.then_some(Self { checkpoint_copy, float_format, crc })
    }
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
            // What the next one may look like: 64-bit MultiXactOffset, one more field.
            1901 => (40, 216, 308),
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
    fn the_fields_of_every_version_from_10_to_18_are_found_and_of_a_later_one() {
        for version in [1002, 1100, 1201, 1300, 1700, 1800, 1901] {
            let control = ControlFile::parse(&control_file(version)).expect("parses");
            assert_eq!(control.control_version, version);
            assert_eq!(control.system_identifier.to_string(), "7710407064033732751");
            assert_eq!(control.checkpoint.to_string(), "0/1500060");
            assert_eq!(control.redo.to_string(), "0/1500028");
            assert_eq!(control.timeline.number(), 7);
            assert_eq!(control.page_bytes, 8192);
            assert_eq!(control.wal_segment_size.bytes(), 1 << 20);
            assert!(control.has_data_checksums());
            assert_eq!(control.is_of_later_version(), version > 1800);
            assert_eq!(control.tablespace_version_directory(15), "PG_15_202209061");
        }
    }

    /// The first 300 bytes of `pg_control` after `initdb --data-checksums --wal-segsize=1`, and
    /// what `pg_controldata` of the same version said of them. 10 to 14 are tested above, on
    /// bytes laid out as their headers say.
    #[test]
    fn what_postgresql_15_to_18_wrote_is_read() {
        for (major, control_version, catalog_version, identifier, checkpoint) in [
            (15, 1300, 202_209_061, 7_713_255_827_821_428_178, "0/841540"),
            (16, 1300, 202_307_071, 7_713_255_836_555_943_395, "0/7C2DB0"),
            (17, 1700, 202_406_281, 7_713_255_769_316_781_434, "0/849810"),
            (18, 1800, 202_506_291, 7_713_255_842_851_560_952, "0/7ED440"),
        ] {
            let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pg_control");
            let bytes = std::fs::read(format!("{fixtures}/{major}")).expect("fixture");
            let control = ControlFile::parse(&bytes).expect("parses");
            assert_eq!(control.control_version, control_version, "{major}");
            assert_eq!(control.catalog_version, catalog_version, "{major}");
            assert_eq!(control.system_identifier.number(), identifier, "{major}");
            assert_eq!(control.checkpoint.to_string(), checkpoint, "{major}");
            assert_eq!(control.redo, control.checkpoint, "{major}: it was shut down");
            assert_eq!(control.timeline.number(), 1, "{major}");
            assert_eq!(control.min_recovery_point.bytes(), 0, "{major}");
            assert_eq!(control.page_bytes, 8192, "{major}");
            assert_eq!(control.relation_segment_pages, 131_072, "{major}");
            assert_eq!(control.wal_segment_size.bytes(), 1 << 20, "{major}");
            assert!(control.has_data_checksums() && !control.is_of_later_version(), "{major}");
            // The checksum stands where it stands: no byte before it may change.
            let mut damaged = bytes;
            damaged[287] ^= 1;
            assert!(ControlFile::parse(&damaged).is_err(), "{major}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = control_file(1300);
        bytes[100] ^= 1;
        assert!(matches!(ControlFile::parse(&bytes), Err(ControlFileError::Checksum { .. })));
        // Without a known place for it, no checksum that fits is no format that can be read.
        let mut bytes = control_file(1901);
        bytes[100] ^= 1;
        let unknown = ControlFileError::UnknownVersion { version: 1901 };
        assert_eq!(ControlFile::parse(&bytes), Err(unknown));
    }

    #[test]
    fn other_versions_and_the_other_byte_order_are_named() {
        let mut bytes = control_file(1300);
        bytes[8..12].copy_from_slice(&942u32.to_ne_bytes());
        assert_eq!(
            ControlFile::parse(&bytes),
            Err(ControlFileError::UnknownVersion { version: 942 })
        );
        assert_eq!(
            ControlFileError::UnknownVersion { version: 942 }.to_string(),
            "the control file has version 942, whose format cannot be read"
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
