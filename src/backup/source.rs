//! Reading one file of a live cluster: exactly as many bytes as its header promises.
//!
//! A file may shrink, grow or vanish while it is read. What is cut or padded here is made
//! whole by WAL replay: PostgreSQL's own base backup does the same (`sendFile`, PostgreSQL
//! src/backend/backup/basebackup.c). Checksums are taken over what goes into the tarball.

use crate::pgdata::{PAGE_BYTES, PageVerdict, verify_page};
use crate::wal::Lsn;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The most bytes per read call: what is read is still in the cache when it is looked at.
const READ_BYTES: usize = 256 << 10;

/// Which pages of a relation are checked, and against what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCheck {
    /// Number of the file's first page within its relation fork.
    pub first_page: u32,
    /// Pages changed after the backup began are not checked: replay rewrites them.
    pub begun_at: Lsn,
}

/// Numbers of damaged blocks that are kept per file.
const DAMAGED_BLOCKS_KEPT: usize = 100;

/// What was noticed while a file was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// CRC-32C over the bytes given out.
    pub crc32c: u32,
    /// Zero bytes given out because the file had become shorter.
    pub padded_bytes: u64,
    /// Pages whose checksum did not match, also when read again.
    pub damaged_blocks: u64,
    /// The first of them, counted from the beginning of the file.
    pub first_damaged: Vec<u64>,
}

/// A file as a stream of exactly `bytes`.
pub struct SourceFile<'a> {
    file: &'a File,
    left: u64,
    offset: u64,
    /// A page that did not fit what the caller had room for.
    buffer: Vec<u8>,
    taken: usize,
    check: Option<PageCheck>,
    ended: bool,
    noticed: Noticed,
}

impl<'a> SourceFile<'a> {
    /// `buffer` is scratch memory, used again from file to file.
    pub fn new(file: &'a File, bytes: u64, check: Option<PageCheck>, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        // A file that is no whole number of pages is being extended or is no relation.
        let check = check.filter(|_| bytes.is_multiple_of(count(PAGE_BYTES)));
        Self {
            file,
            left: bytes,
            offset: 0,
            buffer,
            taken: 0,
            check,
            ended: false,
            noticed: Noticed::default(),
        }
    }

    /// What was noticed, and the scratch memory back.
    pub fn finish(self) -> (Noticed, Vec<u8>) {
        (self.noticed, self.buffer)
    }

    /// Fills all of `out` from the file, with zeros behind its end, and looks at it.
    fn fill(&mut self, out: &mut [u8]) -> io::Result<()> {
        let wanted = out.len();
        let mut got = 0;
        while got < wanted && !self.ended {
            let position = self.offset + count(got);
            match self.file.read_at(&mut out[got..], position) {
                Ok(0) => self.ended = true,
                Ok(bytes) => got += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out[got..].fill(0);
        self.noticed.padded_bytes += count(wanted - got);
        if let Some(check) = self.check {
            self.check_pages(check, &mut out[..got]);
        }
        self.noticed.crc32c = crc32c::crc32c_append(self.noticed.crc32c, out);
        self.offset += count(wanted);
        self.left -= count(wanted);
        Ok(())
    }

    /// Checks whole pages; one that does not match is read again, since PostgreSQL may have
    /// been in the middle of writing it.
    fn check_pages(&mut self, check: PageCheck, out: &mut [u8]) {
        let first = self.offset / count(PAGE_BYTES);
        for (index, page) in (0u64..).zip(out.chunks_exact_mut(PAGE_BYTES)) {
            let number = u32::try_from(u64::from(check.first_page) + first + index);
            let Ok(number) = number else { return };
            if !is_damaged(page, number, check.begun_at) {
                continue;
            }
            let position = (first + index) * count(PAGE_BYTES);
            let mut again = vec![0; PAGE_BYTES];
            let reread = self.file.read_exact_at(&mut again, position).is_ok();
            if reread && !is_damaged(&again, number, check.begun_at) {
                page.copy_from_slice(&again);
            } else if reread {
                self.noticed.damaged_blocks += 1;
                if self.noticed.first_damaged.len() < DAMAGED_BLOCKS_KEPT {
                    self.noticed.first_damaged.push(first + index);
                }
            }
        }
    }
}

impl Read for SourceFile<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            if self.left == 0 || out.is_empty() {
                return Ok(0);
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let whole = out.len().min(READ_BYTES);
            // Straight into the caller's memory, in whole pages: their checksums are looked at.
            let direct = if left <= whole { left } else { whole - whole % PAGE_BYTES };
            if direct > 0 {
                self.fill(&mut out[..direct])?;
                return Ok(direct);
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(PAGE_BYTES.min(left), 0);
            let filled = self.fill(&mut buffer);
            (self.buffer, self.taken) = (buffer, 0);
            filled?;
        }
        let given = out.len().min(self.buffer.len() - self.taken);
        out[..given].copy_from_slice(&self.buffer[self.taken..self.taken + given]);
        self.taken += given;
        Ok(given)
    }
}

fn is_damaged(page: &[u8], number: u32, begun_at: Lsn) -> bool {
    matches!(verify_page(page, number, begun_at), PageVerdict::Invalid { .. })
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits 64 bits")
}

#[cfg(test)]
mod tests {
    use crate::backup::source::SourceFile;
    use std::fs::{File, write};
    use std::io::Read;

    #[test]
    fn a_file_that_shrank_is_padded_and_one_that_grew_is_cut() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        write(&path, b"content").expect("write");
        let file = File::open(&path).expect("open");
        for (promised, expected, padded) in
            [(10u64, &b"content\0\0\0"[..], 3), (7, &b"content"[..], 0), (4, &b"cont"[..], 0)]
        {
            let mut source = SourceFile::new(&file, promised, None, Vec::new());
            let mut content = Vec::new();
            source.read_to_end(&mut content).expect("read");
            let (noticed, _) = source.finish();
            assert_eq!(content, expected);
            assert_eq!(noticed.padded_bytes, padded);
            assert_eq!(noticed.crc32c, crc32c::crc32c(expected));
        }
    }
}
