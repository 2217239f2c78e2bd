//! Large files, written past the page cache in aligned pieces.
//!
//! A restored cluster rarely fits the memory, so keeping it in the page cache buys nothing: the
//! kernel copies every byte, finds a page for it, and writes it out later. Direct writes cost a
//! fifth of the processor time and leave nothing to be synced but metadata. File systems that
//! know no direct writes get ordinary ones; so do short files, where the disk's latency would
//! be paid for each.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// What memory addresses, file offsets and lengths of direct writes are multiples of: the
/// largest sector of any common disk.
const ALIGNMENT: usize = 4096;
/// Shorter files are written through the page cache.
const DIRECT_BYTES_MIN: u64 = 1 << 20;

/// Memory for one direct write.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl AlignedBuffer {
    /// Bytes per buffer.
    pub const BYTES: usize = 1 << 20;

    pub fn new() -> Self {
        let memory = vec![0; Self::BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start, filled: 0 }
    }

    /// What is not filled yet.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.filled..self.start + Self::BYTES]
    }

    /// Counts so many bytes of the room as filled.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(Self::BYTES);
    }

    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// A new file that is written in any order, from any thread.
#[derive(Debug)]
pub struct BulkFile {
    file: File,
    direct: AtomicBool,
}

impl BulkFile {
    /// `bytes` is what the file will hold.
    pub fn new(file: File, bytes: u64) -> Self {
        let direct = bytes >= DIRECT_BYTES_MIN && set_direct(&file, true).is_ok();
        Self { file, direct: AtomicBool::new(direct) }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes a whole buffer. Offsets are multiples of [`AlignedBuffer::BYTES`]; only the last
    /// buffer of a file may be short.
    pub fn write_at(&self, buffer: &AlignedBuffer, offset: u64) -> io::Result<()> {
        let bytes = buffer.filled();
        let whole = match self.direct.load(Ordering::Relaxed) {
            true => bytes.len() - bytes.len() % ALIGNMENT,
            false => 0,
        };
        let mut written = 0;
        while written < whole {
            match self.file.write_at(&bytes[written..whole], offset + length(written)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // What was written short of a sector cannot be gone on with directly.
                Ok(more) if more % ALIGNMENT != 0 => {
                    written += more;
                    break;
                }
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems take the flag and refuse the write.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) => return Err(error),
            }
        }
        if written < bytes.len() {
            if self.direct.swap(false, Ordering::Relaxed) {
                set_direct(&self.file, false)?;
            }
            self.file.write_all_at(&bytes[written..], offset + length(written))?;
        }
        Ok(())
    }
}

fn set_direct(file: &File, direct: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits 64 bits")
}

#[cfg(test)]
mod tests {
    use crate::disk::{AlignedBuffer, BulkFile};
    use std::fs::File;
    use std::path::Path;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n % 251).to_le_bytes()[0]).collect()
    }

    /// Writes the pieces from the last to the first.
    fn written(path: &Path, content: &[u8]) -> Vec<u8> {
        let size = u64::try_from(content.len()).expect("small");
        let file = BulkFile::new(File::create_new(path).expect("create"), size);
        let pieces: Vec<_> = content.chunks(AlignedBuffer::BYTES).enumerate().collect();
        let mut buffer = AlignedBuffer::new();
        for (number, piece) in pieces.into_iter().rev() {
            buffer.clear();
            buffer.room()[..piece.len()].copy_from_slice(piece);
            buffer.advance(piece.len());
            let offset = u64::try_from(number * AlignedBuffer::BYTES).expect("small");
            file.write_at(&buffer, offset).expect("written");
        }
        std::fs::read(path).expect("read")
    }

    #[test]
    fn files_of_every_length_hold_what_was_written_in_any_order() {
        // One on a disk, one where direct writes may be unknown.
        for folder in [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")] {
            let Ok(folder) = folder else { continue };
            for bytes in [0, 1, 511, 4096, 8192 + 3, 1 << 20, (1 << 20) + 8192, (5 << 20) + 777] {
                let content = content(bytes);
                let found = written(&folder.path().join(bytes.to_string()), &content);
                assert!(found == content, "{bytes} bytes below {}", folder.path().display());
            }
        }
    }
}
