//! Whether a stored `backup_manifest` is what was written: its own checksum, and its WAL ranges.
//!
//! The checksum is the SHA-256 of all bytes before its own line, the last one. Memory: the end
//! of the manifest, since what is the last line shows only when nothing follows.

use crate::wal::Lsn;
use sha2::{Digest, Sha256};

/// Holds the last line and any plausible list of WAL ranges.
const TAIL_BYTES: usize = 16 << 10;
const CHECKSUM_KEY: &[u8] = b"\"Manifest-Checksum\": \"";

/// Takes a manifest piece by piece.
#[derive(Debug, Default)]
pub struct ManifestCheck {
    hash: Sha256,
    tail: Vec<u8>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    #[error("the manifest does not end with its checksum")]
    NoChecksum,
    #[error("the checksum of the manifest is {computed}, not {stored} as it says")]
    Checksum { stored: String, computed: String },
    #[error("the manifest is that of another backup: no WAL range begins at {begin}")]
    OtherBackup { begin: Lsn },
}

impl ManifestCheck {
    pub fn update(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL_BYTES {
            let surely_before = self.tail.len() - TAIL_BYTES;
            self.hash.update(&self.tail[..surely_before]);
            self.tail.drain(..surely_before);
        }
    }

    /// Judges the whole. `begin` is where the backup's WAL begins, where that is known.
    pub fn finish(mut self, begin: Option<Lsn>) -> Result<(), ManifestError> {
        let text = self.tail.strip_suffix(b"\"}\n").ok_or(ManifestError::NoChecksum)?;
        let line = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let stored = text[line..].strip_prefix(CHECKSUM_KEY).ok_or(ManifestError::NoChecksum)?;
        let before = &text[..line];
        self.hash.update(before);
        let computed: String =
            self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if stored != computed.as_bytes() {
            let stored = String::from_utf8_lossy(stored).chars().take(64).collect();
            return Err(ManifestError::Checksum { stored, computed });
        }
        let Some(begin) = begin else { return Ok(()) };
        let range = format!("\"Start-LSN\": \"{begin}\"");
        let found = before.windows(range.len()).any(|window| window == range.as_bytes());
        if found { Ok(()) } else { Err(ManifestError::OtherBackup { begin }) }
    }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::{
        ManifestCheck, ManifestEntry, ManifestError, ManifestVersion, ManifestWriter, WalRange,
    };
    use crate::wal::{Lsn, TimelineId};

    fn manifest(files: u32) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), ManifestVersion::One).expect("memory");
        for number in 0..files {
            let path = format!("base/5/{number}");
            let (path, size_bytes) = (path.as_bytes(), 8192);
            let entry = ManifestEntry { path, size_bytes, modified: 1, crc32c: number };
            writer.add(&entry).expect("memory");
        }
        let timeline = TimelineId::new(1).expect("1");
        let range = WalRange { timeline, begin: Lsn::new(0x28), end: Lsn::new(0x100) };
        writer.finish(&[range]).expect("memory")
    }

    fn check(manifest: &[u8], piece: usize, begin: u64) -> Result<(), ManifestError> {
        let mut check = ManifestCheck::default();
        manifest.chunks(piece).for_each(|piece| check.update(piece));
        check.finish(Some(Lsn::new(begin)))
    }

    #[test]
    fn a_whole_manifest_of_any_size_in_any_pieces_is_right() {
        for files in [0, 1, 3000] {
            for piece in [1, 100, 1 << 20] {
                assert_eq!(check(&manifest(files), piece, 0x28), Ok(()));
            }
        }
    }

    #[test]
    fn one_changed_missing_or_further_byte_is_noticed() {
        for files in [0, 1000] {
            let whole = manifest(files);
            for position in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
                let mut damaged = whole.clone();
                damaged[position] ^= 1;
                assert!(check(&damaged, 4096, 0x28).is_err(), "{position}");
                assert!(check(&whole[..position], 4096, 0x28).is_err(), "{position}");
            }
            let longer = [&whole[..], b"\n"].concat();
            assert_eq!(check(&longer, 4096, 0x28), Err(ManifestError::NoChecksum));
        }
    }

    #[test]
    fn the_manifest_of_another_backup_is_noticed() {
        let begin = Lsn::new(0x30);
        assert_eq!(check(&manifest(3), 100, 0x30), Err(ManifestError::OtherBackup { begin }));
    }
}
