//! Checksums of relation pages.
//!
//! Source: `pg_checksum_page`, PostgreSQL src/include/storage/checksum_impl.h, and the
//! page header, src/include/storage/bufpage.h.

use crate::wal::Lsn;

/// Bytes of a page as PostgreSQL is built everywhere (`BLCKSZ`); clusters with another
/// size say so in `pg_control`.
pub const PAGE_BYTES: usize = 8192;

/// What one page of a relation turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    Valid,
    /// Not used yet (`PageIsNew`); it has no checksum.
    New,
    /// Changed after the backup began: it may have been read half written, and replay
    /// brings it back in full.
    Replayed,
    Invalid {
        stored: u16,
        computed: u16,
    },
}

/// Parallel sums of the checksum; fixed by the format. Source: `N_SUMS`.
const SUMS: usize = 32;
const SUM_BYTES: usize = SUMS * 4;
const FNV_PRIME: u32 = 16_777_619;

/// Source: `checksumBaseOffsets`.
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Offsets in the page header: `pd_lsn`, `pd_checksum`, `pd_upper`.
const CHECKSUM_AT: usize = 8;
const UPPER_AT: usize = 14;

/// Judges the page that lies at `block_number` of its fork, as `pg_basebackup` does:
/// pages that are new or whose LSN is not before `start` are not checked.
///
/// A page that fails may have been read while PostgreSQL wrote it: read it once more
/// before reporting it.
/// Source: `sendFile`, PostgreSQL src/backend/backup/basebackup.c.
pub fn verify_page(page: &[u8], block_number: u32, start: Lsn) -> PageVerdict {
    if u16_at(page, UPPER_AT) == 0 {
        return PageVerdict::New;
    }
    if page_lsn(page) >= start {
        return PageVerdict::Replayed;
    }
    let stored = u16_at(page, CHECKSUM_AT);
    let computed = page_checksum(page, block_number);
    if stored == computed { PageVerdict::Valid } else { PageVerdict::Invalid { stored, computed } }
}

/// The checksum that belongs into the header of `page` at `block_number`.
///
/// `page` is a whole number of 128-byte rows (every page size is); the stored checksum
/// does not take part.
pub fn page_checksum(page: &[u8], block_number: u32) -> u16 {
    debug_assert_eq!(page.len() % SUM_BYTES, 0);
    let mut sums = BASE_OFFSETS;
    let (rows, _) = page.as_chunks::<SUM_BYTES>();
    let (first, rest) = rows.split_first().expect("a page has at least one row");
    let mut header = *first;
    header[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
    mix(&mut sums, &header);
    for row in rest {
        mix(&mut sums, row);
    }
    for _ in 0..2 {
        mix(&mut sums, &[0; SUM_BYTES]);
    }
    let folded = sums.into_iter().fold(0, |folded, sum| folded ^ sum) ^ block_number;
    // Never 0: that means "no checksum".
    u16::try_from(folded % 65_535 + 1).expect("at most 65535")
}

/// One round of all sums; independent lanes, so the compiler makes vectors of them.
#[inline(always)]
fn mix(sums: &mut [u32; SUMS], row: &[u8; SUM_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_ne_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// `pd_lsn`: the high half first, each half in the machine's order.
fn page_lsn(page: &[u8]) -> Lsn {
    Lsn::new(u64::from(u32_at(page, 0)) << 32 | u64::from(u32_at(page, 4)))
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

#[cfg(test)]
mod tests {
    use crate::pgdata::page::BASE_OFFSETS;
    use crate::pgdata::{PAGE_BYTES, PageVerdict, page_checksum, verify_page};
    use crate::wal::Lsn;
    use proptest::prelude::{any, prop_assert_eq, prop_assert_ne, proptest};

    /// The format's definition, word by word, to hold the fast form against.
    fn naive(page: &[u8], block_number: u32) -> u16 {
        let word = |at: usize| {
            let mut bytes = [page[at], page[at + 1], page[at + 2], page[at + 3]];
            if at == 8 {
                bytes[..2].fill(0);
            }
            u32::from_ne_bytes(bytes)
        };
        let step = |sum: u32, word: u32| {
            let mixed = sum ^ word;
            mixed.wrapping_mul(16_777_619) ^ (mixed >> 17)
        };
        let mut folded = block_number;
        for (lane, base) in BASE_OFFSETS.into_iter().enumerate() {
            let mut sum = base;
            for row in 0..page.len() / 128 {
                sum = step(sum, word(row * 128 + lane * 4));
            }
            folded ^= step(step(sum, 0), 0);
        }
        u16::try_from(folded % 65_535 + 1).expect("16 bits")
    }

    fn page_with(lsn: Lsn, upper: u16, block_number: u32) -> Vec<u8> {
        let mut page = vec![7; PAGE_BYTES];
        let half = |bits: u64| u32::try_from(bits).expect("32 bits").to_ne_bytes();
        page[..4].copy_from_slice(&half(lsn.bytes() >> 32));
        page[4..8].copy_from_slice(&half(lsn.bytes() & 0xFFFF_FFFF));
        page[14..16].copy_from_slice(&upper.to_ne_bytes());
        let sum = page_checksum(&page, block_number);
        page[8..10].copy_from_slice(&sum.to_ne_bytes());
        page
    }

    #[test]
    fn pages_before_the_start_are_checked_and_later_or_new_ones_are_not() {
        let start = Lsn::new(1 << 33);
        let mut page = page_with(Lsn::new((1 << 33) - 1), 8000, 3);
        assert_eq!(verify_page(&page, 3, start), PageVerdict::Valid);
        assert!(matches!(verify_page(&page, 4, start), PageVerdict::Invalid { .. }));
        page[5000] ^= 4;
        assert!(matches!(verify_page(&page, 3, start), PageVerdict::Invalid { .. }));
        let mut replayed = page_with(start, 8000, 3);
        replayed[5000] ^= 4;
        assert_eq!(verify_page(&replayed, 3, start), PageVerdict::Replayed);
        assert_eq!(verify_page(&vec![0; PAGE_BYTES], 3, start), PageVerdict::New);
    }

    proptest! {
        #[test]
        fn the_fast_checksum_is_the_defined_one(
            page in proptest::collection::vec(any::<u8>(), PAGE_BYTES),
            block_number in any::<u32>(),
        ) {
            prop_assert_eq!(page_checksum(&page, block_number), naive(&page, block_number));
        }

        #[test]
        fn every_changed_byte_is_noticed(at in 16..PAGE_BYTES, change in 1u8..) {
            let mut page = page_with(Lsn::new(5), 8000, 9);
            let before = page_checksum(&page, 9);
            page[at] ^= change;
            prop_assert_ne!(page_checksum(&page, 9), before);
        }
    }
}
