//! Is this content what the name of a WAL file promises? One check for both ways: what may be
//! archived is what may be delivered.
//!
//! | Name | Content |
//! | --- | --- |
//! | segment, `.partial` | begins with a long page header that names its position, its timeline or an older one, and a segment size that is the file's |
//! | `.history` | parses, and names at least one switch |
//! | `.backup` | is not empty |
//!
//! A `.partial` has the full size: PostgreSQL renames the preallocated file, and `pg_receivewal`
//! pads it. The magic number does not decide, so that versions to come are archived.

use crate::wal::{
    HistoryError, Lsn, SegmentSize, TimelineHistory, WalFileKind, WalFileName, WalPageHeader,
    WalSegment,
};

/// A history file has one line per ancestor; one above this is none, whatever its name says.
const HISTORY_BYTES_MAX: usize = 1 << 20;

/// How a file contradicts its name or its own header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalFileFault {
    #[error("it is empty")]
    Empty,
    #[error("it does not begin like a WAL segment")]
    NoHeader,
    #[error("it holds {bytes} bytes instead of {expected}")]
    Size { bytes: u64, expected: u64 },
    #[error("no segment of {size} has this name")]
    Name { size: SegmentSize },
    #[error("it holds the segment that begins at {found}, not {expected}")]
    Position { found: Lsn, expected: Lsn },
    #[error("it was written on timeline {found}")]
    Timeline { found: u32 },
    #[error("it is no timeline history: {0}")]
    History(HistoryError),
    #[error("it is no timeline history: it names no timeline")]
    NoSwitch,
    #[error("it is no timeline history: it holds {bytes} bytes")]
    HistorySize { bytes: u64 },
}

/// Takes the plain content of a WAL file in order and says in the end whether it is one.
///
/// Memory: the page header, or a history file's text up to 1 MiB.
#[derive(Clone, Debug)]
pub struct WalFileCheck {
    name: WalFileName,
    first: Vec<u8>,
    first_max: usize,
    bytes: u64,
}

impl WalFileCheck {
    pub fn new(name: &WalFileName) -> Self {
        let first_max = match name.kind() {
            WalFileKind::Segment | WalFileKind::Partial => WalPageHeader::BYTES,
            WalFileKind::History => HISTORY_BYTES_MAX,
            WalFileKind::BackupHistory => 0,
        };
        Self { name: name.clone(), first: Vec::new(), first_max, bytes: 0 }
    }

    /// The bytes that follow those taken so far.
    pub fn take(&mut self, bytes: &[u8]) {
        let missing = self.first_max - self.first.len();
        self.first.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.bytes += u64::try_from(bytes.len()).expect("a buffer's size fits 64 bits");
    }

    /// The segment's header, once its bytes were taken; `None` for files that have none.
    pub fn header(&self) -> Option<WalPageHeader> {
        match self.name.kind() {
            WalFileKind::Segment | WalFileKind::Partial => WalPageHeader::parse(&self.first),
            WalFileKind::History | WalFileKind::BackupHistory => None,
        }
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The verdict on all that was taken.
    pub fn finish(&self) -> Result<(), WalFileFault> {
        self.finish_with(self.bytes)
    }

    /// The verdict on a file of `bytes` whose beginning alone was taken: enough for a segment.
    pub fn finish_with(&self, bytes: u64) -> Result<(), WalFileFault> {
        if bytes == 0 {
            return Err(WalFileFault::Empty);
        }
        match self.name.kind() {
            WalFileKind::Segment | WalFileKind::Partial => self.check_segment(bytes),
            WalFileKind::History => self.check_history(bytes),
            WalFileKind::BackupHistory => Ok(()),
        }
    }

    fn check_segment(&self, bytes: u64) -> Result<(), WalFileFault> {
        let header = self.header().ok_or(WalFileFault::NoHeader)?;
        let size = header.segment_size;
        let expected = u64::from(size.bytes());
        if bytes != expected {
            return Err(WalFileFault::Size { bytes, expected });
        }
        let segment = self.name.segment_name().and_then(|name| WalSegment::from_name(name, size));
        let expected = segment.ok_or(WalFileFault::Name { size })?.start(size);
        if header.address != expected {
            return Err(WalFileFault::Position { found: header.address, expected });
        }
        // Older where a timeline begins in the middle of the segment: the pages before it are
        // copied from its parent. Source: XLogFileCopy, PostgreSQL src/backend/access/transam/xlog.c.
        if !(1..=self.name.timeline().number()).contains(&header.timeline) {
            return Err(WalFileFault::Timeline { found: header.timeline });
        }
        Ok(())
    }

    fn check_history(&self, bytes: u64) -> Result<(), WalFileFault> {
        if u64::try_from(self.first.len()) != Ok(bytes) {
            return Err(WalFileFault::HistorySize { bytes });
        }
        // The reason of a switch may hold a restore point's name in any encoding.
        let text = String::from_utf8_lossy(&self.first);
        let history = TimelineHistory::parse(self.name.timeline(), &text);
        match history.map_err(WalFileFault::History)?.switches() {
            [] => Err(WalFileFault::NoSwitch),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{WalFileCheck, WalFileFault, WalFileName};
    use proptest::prelude::{any, proptest};

    const SIZE: u32 = 1 << 20;

    /// The header of segment 2 of PostgreSQL with this magic number, on timeline 3.
    fn header(magic: u16) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(magic.to_ne_bytes());
        page.extend(2u16.to_ne_bytes());
        page.extend(3u32.to_ne_bytes());
        page.extend((2 * u64::from(SIZE)).to_ne_bytes());
        page.extend([0; 8]);
        page.extend(7_710_407_064_033_732_751u64.to_ne_bytes());
        page.extend(SIZE.to_ne_bytes());
        page.extend(8192u32.to_ne_bytes());
        page
    }

    fn verdict(name: &str, parts: &[&[u8]]) -> Result<(), WalFileFault> {
        let mut check = WalFileCheck::new(&WalFileName::parse(name).expect(name));
        parts.iter().for_each(|part| check.take(part));
        check.finish()
    }

    fn segment(name: &str, header: &[u8], bytes: u32) -> Result<(), WalFileFault> {
        let rest = vec![0; usize::try_from(bytes).expect("fits") - header.len()];
        let (one, other) = header.split_at(header.len() / 3);
        verdict(name, &[one, other, &rest])
    }

    #[test]
    fn segments_of_every_major_version_pass_complete_and_partial() {
        let magics =
            [0xD097, 0xD098, 0xD101, 0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118, 0xD11F];
        for magic in magics {
            for name in ["000000030000000000000002", "000000030000000000000002.partial"] {
                assert_eq!(segment(name, &header(magic), SIZE), Ok(()), "{magic:x} {name}");
            }
        }
        // The first segment of a timeline begins with pages of its parent.
        assert_eq!(segment("000000070000000000000002", &header(0xD110), SIZE), Ok(()));
    }

    #[test]
    fn a_segment_that_contradicts_its_name_or_size_is_refused_complete_and_partial() {
        for suffix in ["", ".partial"] {
            let check = |name: &str, header: &[u8], bytes| {
                segment(&format!("{name}{suffix}"), header, bytes).expect_err(name)
            };
            let (right, header) = ("000000030000000000000002", header(0xD118));
            assert_eq!(verdict(&format!("{right}{suffix}"), &[]), Err(WalFileFault::Empty));
            let short = check(right, &header, SIZE - 1);
            let (bytes, expected) = (u64::from(SIZE) - 1, u64::from(SIZE));
            assert_eq!(short, WalFileFault::Size { bytes, expected });
            assert!(matches!(check(right, &header, SIZE + 1), WalFileFault::Size { .. }));
            let other = check("000000030000000000000003", &header, SIZE);
            assert!(matches!(other, WalFileFault::Position { .. }), "{other}");
            let older = check("000000020000000000000002", &header, SIZE);
            assert_eq!(older, WalFileFault::Timeline { found: 3 });
            let beyond = check("000000030000000000001002", &header, SIZE);
            assert!(matches!(beyond, WalFileFault::Name { .. }), "{beyond}");
            for content in [&[0; 40][..], b"<html>not found</html>", b"\x1f\x8b\x08"] {
                assert_eq!(check(right, content, SIZE), WalFileFault::NoHeader);
            }
        }
    }

    #[test]
    fn history_files_parse_and_backup_history_files_hold_something() {
        let history = |text: &[u8]| verdict("00000003.history", &[text]);
        assert_eq!(history(b"1\t0/1B7F8B0\tno recovery target specified\n"), Ok(()));
        assert_eq!(history(b"1\t0/1B7F8B0\tat restore point \"\xE9t\xE9\"\n"), Ok(()));
        assert_eq!(history(b""), Err(WalFileFault::Empty));
        assert_eq!(history(b"# nothing\n"), Err(WalFileFault::NoSwitch));
        let faults = [&b"<html>not found</html>"[..], b"3\t0/1B7F8B0\tx\n", b"1\t0/1\n1\t0/2\n"];
        for text in faults {
            assert!(matches!(history(text), Err(WalFileFault::History(_))));
        }
        let large = vec![b'\n'; (1 << 20) + 1];
        assert!(matches!(history(&large), Err(WalFileFault::HistorySize { .. })));
        let name = "000000010000000000000019.00000028.backup";
        assert_eq!(verdict(name, &[b"START WAL LOCATION: 0/1900028\n"]), Ok(()));
        assert_eq!(verdict(name, &[]), Err(WalFileFault::Empty));
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_verdict_without_panic(bytes in any::<Vec<u8>>()) {
            for name in ["000000030000000000000002", "00000003.history"] {
                let _ = verdict(name, &[&bytes, &bytes]);
            }
        }
    }
}
