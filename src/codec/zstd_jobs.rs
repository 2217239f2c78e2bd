//! Where the independent jobs of a zstd frame lie: found by walking the frame's blocks.
//!
//! ```text
//! frame header │ block block … block │ block block … block │ … │ last block │ checksum
//!              └───── one job ───────┘ each block: 3 bytes of header, then its content
//! ```
//!
//! Source: RFC 8878 §3.1.1. Every job holds [`ZSTD_JOB_BYTES`] in blocks of
//! [`ZSTD_BLOCK_BYTES`](crate::codec::serial::ZSTD_BLOCK_BYTES), so counting blocks tells where
//! one ends; the last one may be shorter. Should the library ever cut differently, the jobs do
//! not add up: then there are marks with wrong checksums, which no reader accepts, and the
//! stream is still a whole one.

use crate::codec::BlockMark;
use crate::codec::serial::ZSTD_BLOCK_BYTES;
use std::collections::VecDeque;

/// Raw bytes of one independent zstd job.
pub const ZSTD_JOB_BYTES: u32 = 2 << 20;

const BLOCKS_PER_JOB: u32 = ZSTD_JOB_BYTES / ZSTD_BLOCK_BYTES;

/// Follows a frame while it is written.
#[derive(Debug, Default)]
pub struct JobWalk {
    raw: RawJobs,
    stored: StoredJobs,
}

/// The plain side: a checksum for each job.
#[derive(Debug, Default)]
struct RawJobs {
    checksums: VecDeque<u32>,
    current: crc32fast::Hasher,
    /// Bytes of the current job so far.
    filled: usize,
}

/// The compressed side: where jobs begin and end.
#[derive(Debug, Default)]
struct StoredJobs {
    next: Next,
    /// Of what was taken so far.
    offset: u64,
    job_begin: u64,
    /// Blocks of the current job so far.
    blocks: u32,
    jobs: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// So many bytes of the frame header are known, and these are the first of them.
    FrameHeader {
        known: usize,
        descriptor: u8,
    },
    BlockHeader {
        known: usize,
        bytes: [u8; 3],
    },
    Content {
        left: u64,
        last: bool,
    },
    /// The frame's checksum, or nothing.
    Checksum,
}

impl Default for Next {
    fn default() -> Self {
        Self::FrameHeader { known: 0, descriptor: 0 }
    }
}

impl JobWalk {
    /// Takes the plain bytes of the stream, in order.
    pub fn take_raw(&mut self, mut bytes: &[u8]) {
        let job = usize::try_from(ZSTD_JOB_BYTES).expect("a job fits the memory");
        while !bytes.is_empty() {
            let taken = bytes.len().min(job - self.raw.filled);
            self.raw.current.update(&bytes[..taken]);
            self.raw.filled += taken;
            bytes = &bytes[taken..];
            if self.raw.filled == job {
                self.raw.end_job();
            }
        }
    }

    /// Takes the compressed bytes of the stream, in order; gives the jobs that are complete.
    pub fn take_stored(&mut self, bytes: &[u8]) -> Vec<BlockMark> {
        let mut marks = Vec::new();
        for (begin, end) in self.stored.take(bytes) {
            let Some(crc32) = self.raw.checksums.pop_front() else { continue };
            marks.push(self.mark(begin, end, crc32));
        }
        marks
    }

    /// The last job, once the stream has ended; `None` when it was a full one or empty.
    pub fn finish(mut self) -> Option<BlockMark> {
        if self.raw.filled == 0 {
            return None;
        }
        self.raw.end_job();
        let crc32 = self.raw.checksums.pop_front()?;
        let (begin, end) = self.stored.rest()?;
        Some(self.mark(begin, end, crc32))
    }

    fn mark(&mut self, begin: u64, end: u64, crc32: u32) -> BlockMark {
        let raw_offset = self.stored.jobs * u64::from(ZSTD_JOB_BYTES);
        self.stored.jobs += 1;
        BlockMark { raw_offset, stored_offset: begin, stored_bytes: end - begin, crc32 }
    }
}

impl RawJobs {
    fn end_job(&mut self) {
        self.checksums.push_back(std::mem::take(&mut self.current).finalize());
        self.filled = 0;
    }
}

impl StoredJobs {
    /// Gives begin and end of each job that is full.
    fn take(&mut self, mut bytes: &[u8]) -> Vec<(u64, u64)> {
        let mut jobs = Vec::new();
        while let Some(byte) = bytes.first().copied() {
            let mut taken = 1;
            self.next = match self.next {
                Next::FrameHeader { known, descriptor } => {
                    let descriptor = if known == 4 { byte } else { descriptor };
                    match known + 1 {
                        known if known > 4 && known == frame_header_bytes(descriptor) => {
                            self.job_begin = self.offset + 1;
                            Next::BlockHeader { known: 0, bytes: [0; 3] }
                        }
                        known => Next::FrameHeader { known, descriptor },
                    }
                }
                Next::BlockHeader { known, bytes: mut header } => {
                    header[known] = byte;
                    match known {
                        2 => content_of(header),
                        _ => Next::BlockHeader { known: known + 1, bytes: header },
                    }
                }
                Next::Content { left, last } => {
                    let here = left.min(count(bytes.len()));
                    taken = usize::try_from(here).unwrap_or(bytes.len());
                    Next::Content { left: left - here, last }
                }
                Next::Checksum => return jobs,
            };
            self.offset += count(taken);
            bytes = &bytes[taken..];
            if let Next::Content { left: 0, last } = self.next {
                jobs.extend(self.end_block(last));
            }
        }
        jobs
    }

    fn end_block(&mut self, last: bool) -> Option<(u64, u64)> {
        self.next =
            if last { Next::Checksum } else { Next::BlockHeader { known: 0, bytes: [0; 3] } };
        self.blocks += 1;
        (self.blocks == BLOCKS_PER_JOB).then(|| {
            self.blocks = 0;
            (std::mem::replace(&mut self.job_begin, self.offset), self.offset)
        })
    }

    /// What lies behind the last full job, without the frame's checksum.
    fn rest(&self) -> Option<(u64, u64)> {
        (self.blocks > 0).then_some((self.job_begin, self.offset))
    }
}

/// Bytes of a frame header with this descriptor (RFC 8878 §3.1.1.1.1).
fn frame_header_bytes(descriptor: u8) -> usize {
    let single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    4 + 1 + window + dictionary + content_size
}

/// What follows a block header (RFC 8878 §3.1.1.2).
fn content_of(header: [u8; 3]) -> Next {
    let block = BlockHeader::parse(header);
    Next::Content { left: block.content_bytes, last: block.last }
}

/// The three bytes before each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub last: bool,
    /// Bytes that follow in the frame.
    pub content_bytes: u64,
}

impl BlockHeader {
    pub fn parse([low, middle, high]: [u8; 3]) -> Self {
        let value = u32::from_le_bytes([low, middle, high, 0]);
        // A run-length block states the size of its run, and holds one byte.
        let content_bytes = if value >> 1 & 3 == 1 { 1 } else { u64::from(value >> 3) };
        Self { last: value & 1 == 1, content_bytes }
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits 64 bits")
}
