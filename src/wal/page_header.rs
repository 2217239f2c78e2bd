//! The long page header that begins each WAL segment: which cluster wrote it, and how.
//!
//! Source: `XLogLongPageHeaderData`, PostgreSQL src/include/access/xlog_internal.h. Numbers are
//! in the byte order of the machine that wrote them; a segment of the other order is not
//! recognised.

use crate::wal::{Lsn, SegmentSize};

/// The header's `xlp_info` flag that says "long".
const XLP_LONG_HEADER: u16 = 0x0002;

/// What the first page of a segment tells about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// `xlp_magic`, different for each major version.
    pub magic: u16,
    /// The timeline of the page: the segment's own or, at the beginning of one, an older one.
    pub timeline: u32,
    /// The position of the segment's first byte.
    pub address: Lsn,
    pub system_identifier: u64,
    pub segment_size: SegmentSize,
    /// `XLOG_BLCKSZ`: 8192 unless PostgreSQL was built otherwise.
    pub page_bytes: u32,
}

impl WalPageHeader {
    /// Bytes needed to parse it.
    pub const BYTES: usize = 40;

    /// Reads the header; `None` when the bytes do not begin like a segment of this machine's
    /// byte order. The magic number alone does not decide, so that versions to come are read.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.get(..Self::BYTES)?.try_into().ok()?;
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| {
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes of forty"))
        };
        let (magic, info, block_size) = (u16_at(0), u16_at(2), u32_at(36));
        let plausible = magic & 0xF000 == 0xD000
            && info & XLP_LONG_HEADER != 0
            && block_size.is_power_of_two()
            && (1 << 10..=1 << 16).contains(&block_size);
        let segment_size = SegmentSize::new(u64::from(u32_at(32))).ok()?;
        plausible.then(|| Self {
            magic,
            timeline: u32_at(4),
            address: Lsn::new(u64_at(8)),
            system_identifier: u64_at(24),
            segment_size,
            page_bytes: block_size,
        })
    }

    /// The major version that writes this magic number; `None` for one not known here.
    ///
    /// Source: `XLOG_PAGE_MAGIC` in the branches of PostgreSQL 9.6 to 18.
    pub fn postgresql_major(&self) -> Option<u32> {
        match self.magic {
            0xD093 => Some(906),
            0xD097 => Some(10),
            0xD098 => Some(11),
            0xD101 => Some(12),
            0xD106 => Some(13),
            0xD10D => Some(14),
            0xD110 => Some(15),
            0xD113 => Some(16),
            0xD116 => Some(17),
            0xD118 => Some(18),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{Lsn, SegmentSize, WalPageHeader};
    use proptest::prelude::{any, proptest};

    /// The first page of a segment as PostgreSQL 15 writes it.
    fn page() -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(0xD110u16.to_ne_bytes());
        page.extend(6u16.to_ne_bytes());
        page.extend(1u32.to_ne_bytes());
        page.extend(0x1A0_0000u64.to_ne_bytes());
        page.extend([0; 8]);
        page.extend(7_710_407_064_033_732_751u64.to_ne_bytes());
        page.extend((1u32 << 20).to_ne_bytes());
        page.extend(8192u32.to_ne_bytes());
        page
    }

    #[test]
    fn the_first_page_tells_cluster_position_and_segment_size() {
        let header = WalPageHeader::parse(&page()).expect("header");
        assert_eq!(header.postgresql_major(), Some(15));
        assert_eq!(header.address, Lsn::new(0x1A0_0000));
        assert_eq!(header.system_identifier, 7_710_407_064_033_732_751);
        assert_eq!(header.segment_size, SegmentSize::new(1 << 20).expect("1 MiB"));
    }

    #[test]
    fn what_does_not_begin_like_a_segment_is_none() {
        let short = &page()[..39];
        let mut no_long_header = page();
        no_long_header[2..4].fill(0);
        let mut odd_size = page();
        odd_size[32] = 1;
        for bytes in [short, &no_long_header, &odd_size, &[0; 8192], b"00000002.history"] {
            assert_eq!(WalPageHeader::parse(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_none_without_panic(bytes in any::<Vec<u8>>()) {
            let _ = WalPageHeader::parse(&bytes);
        }
    }
}
