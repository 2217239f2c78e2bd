//! Receipts: the archive holds this file, with this very content.
//!
//! Written for a file only after the store has taken it, believed only for a file that still has
//! the size, the time and the checksum that are on it, used once, and for an hour at most. So a
//! receipt can be lost at any time (then the store is asked), but never be wrong.

use crate::disk::Spool;
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::source::Source;
use std::io::{self, Read, Write};
use tracing::debug;

/// A receipt is one short line.
const TEXT_BYTES_MAX: u64 = 256;
const COPY_BYTES: usize = 256 << 10;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    bytes: u64,
    modified: (i64, i64),
    crc32c: u32,
}

impl Version {
    /// Reads the whole file: not for a thread of the runtime.
    pub fn of(source: &Source) -> io::Result<Self> {
        let modified = source.modified()?;
        let (mut reader, mut buffer) = (source.reader(), vec![0; COPY_BYTES]);
        let mut crc32c = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { bytes: source.bytes(), modified, crc32c })
    }

    fn text(&self) -> String {
        let (seconds, nanoseconds) = self.modified;
        format!("archived {} {seconds} {nanoseconds} {:08x}\n", self.bytes, self.crc32c)
    }
}

/// Writes the receipt for a file that the store has taken, if it is still the version that was
/// sent. The spool must have been prepared.
pub fn write(spool: &Spool, source: &Source, sent: &Version) -> Result<(), WalArchiveError> {
    let unchanged = source.modified().is_ok_and(|modified| modified == sent.modified);
    if !unchanged {
        debug!(wal = %source.name(), "no receipt: the file was written to meanwhile");
        return Ok(());
    }
    let mut writer = spool.put(source.name().as_str()).map_err(WalArchiveError::Spool)?;
    let written = writer.write_all(sent.text().as_bytes());
    written.map_err(|error| WalArchiveError::Spool(writer.write_error(error)))?;
    // A receipt that a crash takes costs one question to the store.
    writer.finish_unsynced().map_err(WalArchiveError::Spool)
}

/// Whether there is a receipt for this very file; it is used up. Reads the whole file if so.
pub fn redeem(spool: &Spool, source: &Source) -> Result<bool, WalArchiveError> {
    let taken = spool.take(source.name().as_str()).map_err(WalArchiveError::Spool)?;
    let Some(mut receipt) = taken else { return Ok(false) };
    let mut text = String::new();
    let read = receipt.reader().map_err(WalArchiveError::Spool)?;
    if read.take(TEXT_BYTES_MAX).read_to_string(&mut text).is_err() {
        return Ok(false);
    }
    let version = Version::of(source).map_err(|error| source.failed(error))?;
    let right = text == version.text();
    if !right {
        debug!(wal = %source.name(), "the receipt is for another version of the file");
    }
    Ok(right)
}
