//! WAL segments and their size.

use crate::wal::{Lsn, TimelineId};
use std::fmt;

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB.
///
/// Source: `IsValidWalSegSize`, PostgreSQL src/include/access/xlog_internal.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{bytes} bytes is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
pub struct SegmentSizeError {
    bytes: u64,
}

impl SegmentSize {
    /// What `initdb` takes when it is not told otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => {
                Ok(Self(size))
            }
            _ => Err(SegmentSizeError { bytes }),
        }
    }

    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Segments in one "log" of 4 GiB, the middle eight digits of a name.
    fn per_log(self) -> u64 {
        (1 << 32) / u64::from(self.0)
    }
}

/// One segment of one timeline; `number` counts segments from the beginning of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegment {
    pub timeline: TimelineId,
    pub number: u64,
}

impl WalSegment {
    /// The segment that holds the byte at `lsn`.
    ///
    /// Source: `XLByteToSeg`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.bytes() / u64::from(size.bytes()) }
    }

    /// The segment that holds the last byte before `lsn`: what a backup that stops at `lsn`
    /// needs, also when it stops on a segment boundary.
    ///
    /// Source: `XLByteToPrevSeg`.
    pub fn before(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        let last_byte = lsn.bytes().saturating_sub(1);
        Self { timeline, number: last_byte / u64::from(size.bytes()) }
    }

    /// The next segment of the same timeline.
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Parses a 24-digit segment name; `None` when it is none or lies past the end of its log.
    pub fn from_name(name: &str, size: SegmentSize) -> Option<Self> {
        if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let field = |range| u32::from_str_radix(&name[range], 16).ok();
        let timeline = TimelineId::new(field(0..8)?).ok()?;
        let (log, within) = (u64::from(field(8..16)?), u64::from(field(16..24)?));
        (within < size.per_log()).then(|| Self { timeline, number: log * size.per_log() + within })
    }

    /// The file name: timeline, log and segment, eight upper-case hex digits each.
    pub fn name(self, size: SegmentSize) -> String {
        let (log, within) = (self.number / size.per_log(), self.number % size.per_log());
        format!("{:08X}{log:08X}{within:08X}", self.timeline.number())
    }

    /// The first byte of the segment.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn::new(self.number * u64::from(size.bytes()))
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    #[test]
    fn only_powers_of_two_between_1_mib_and_1_gib_are_segment_sizes() {
        for bytes in [1 << 20, 16 << 20, 1 << 30] {
            assert!(SegmentSize::new(bytes).is_ok());
        }
        for bytes in [0, 1 << 19, (16 << 20) + 1, 1 << 31, 1 << 40] {
            assert!(SegmentSize::new(bytes).is_err());
        }
    }

    #[test]
    fn names_are_those_postgresql_gives() {
        let small = SegmentSize::new(1 << 20).expect("1 MiB");
        let of = |lsn: &str, size| {
            WalSegment::containing(timeline(1), lsn.parse().expect("lsn"), size).name(size)
        };
        assert_eq!(of("0/1300028", small), "000000010000000000000013");
        assert_eq!(of("1/FE000028", SegmentSize::DEFAULT), "0000000100000001000000FE");
    }

    #[test]
    fn a_backup_that_stops_on_a_boundary_needs_only_the_segment_before() {
        let boundary = Lsn::new(32 << 20);
        let size = SegmentSize::DEFAULT;
        assert_eq!(WalSegment::before(timeline(1), boundary, size).number, 1);
        assert_eq!(WalSegment::containing(timeline(1), boundary, size).number, 2);
    }

    proptest! {
        #[test]
        fn segment_names_round_trip(number in 0u64..(1 << 40), shift in 20u32..=30, tli in 1u32..) {
            let size = SegmentSize::new(1 << shift).expect("in range");
            let segment = WalSegment { timeline: timeline(tli), number: number % (size.per_log() << 32) };
            prop_assert_eq!(WalSegment::from_name(&segment.name(size), size), Some(segment));
        }

        #[test]
        fn names_of_any_text_never_panic(text in any::<String>()) {
            let _ = WalSegment::from_name(&text, SegmentSize::DEFAULT);
        }
    }
}
