//! Decoded blocks of one tarball, in order: from one decoder, or from all cores at once.
//!
//! ```text
//! without an index:  stored bytes → one decoder ──────────────┐
//! with one:          stored bytes → cut → worker pool (any) ──┴→ blocks in order → reader
//! ```
//!
//! Order is kept by the queue: it carries the promises of blocks. Memory: the blocks that wait
//! in the queue, each with its compressed form while it is being decoded.

use crate::codec::{self, BlockDecoder, BlockMark, Compression};
use crate::flow::{Buffers, Pending, WorkerPool};
use crate::restore::RestoreError;
use crate::restore::stage::{ChunkReader, StageEnd, Stopped};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;

/// Bytes of the blocks of a single decoder.
pub const BLOCK_BYTES: usize = 1 << 20;

/// The longest block that we write (zstd's jobs); an index that tells of longer ones is not
/// believed.
pub const DECODED_BLOCK_BYTES: u64 = 2 << 20;

/// Plain bytes in memory that is used again.
struct Plain {
    /// As long as the longest block so far.
    memory: Vec<u8>,
    filled: usize,
}

/// What the decoder hands on.
enum Block {
    Ready(Plain),
    Decoding(Pending<io::Result<Plain>>),
    End,
}

/// The extractor's end of the queue of blocks.
pub struct BlockReader {
    blocks: blocking::Receiver<Block>,
    buffers: Buffers,
    current: Plain,
    offset: usize,
    ended: bool,
    cut: Arc<AtomicBool>,
}

/// The decoder's end of the queue of blocks.
pub struct BlockWriter {
    blocks: blocking::SyncSender<Block>,
    buffers: Buffers,
}

/// The blocks of one tarball that can be decoded alone.
pub struct IndexedBlocks {
    pub marks: Vec<BlockMark>,
    /// Bytes of the whole tar stream.
    pub raw_bytes: u64,
    pub compression: Option<Compression>,
}

/// The queue between decoder and extractor, with room for `waiting` blocks.
pub fn block_queue(waiting: usize) -> (BlockWriter, BlockReader) {
    let (sender, blocks) = blocking::sync_channel(waiting);
    let buffers = Buffers::new(BLOCK_BYTES, waiting + 2);
    let reader = BlockReader {
        blocks,
        buffers: buffers.clone(),
        current: Plain { memory: Vec::new(), filled: 0 },
        offset: 0,
        ended: false,
        cut: Arc::new(AtomicBool::new(false)),
    };
    (BlockWriter { blocks: sender, buffers }, reader)
}

impl BlockReader {
    /// Set once the queue closed early.
    pub fn cut(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cut)
    }

    fn next(&mut self) -> io::Result<()> {
        let plain = match self.blocks.recv() {
            Ok(Block::Ready(plain)) => plain,
            Ok(Block::Decoding(pending)) => match pending.join_blocking() {
                Ok(decoded) => decoded?,
                Err(gone) => return Err(io::Error::other(gone)),
            },
            Ok(Block::End) => {
                self.ended = true;
                return Ok(());
            }
            Err(_) => {
                self.cut.store(true, Ordering::Relaxed);
                return Err(io::Error::other("the decoder was stopped"));
            }
        };
        let last = std::mem::replace(&mut self.current, plain);
        self.buffers.give(last.memory);
        self.offset = 0;
        Ok(())
    }
}

impl Read for BlockReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.offset == self.current.filled && !self.ended {
            self.next()?;
        }
        let rest = &self.current.memory[self.offset..self.current.filled];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.offset += read;
        Ok(read)
    }
}

impl Plain {
    /// Memory of at least `bytes`, whatever is in it.
    fn take(buffers: &Buffers, bytes: usize) -> Self {
        Self { memory: buffers.take(bytes), filled: bytes }
    }
}

/// Decompresses `stored` in sequence into blocks, to the end of the stream.
pub fn decode(
    object: &str,
    compression: Option<Compression>,
    stored: ChunkReader,
    blocks: &BlockWriter,
) -> Result<(), StageEnd> {
    let cut = stored.cut();
    let damaged = |reason: String| damaged(object, &cut, reason);
    let mut plain: Box<dyn Read> = match compression {
        None => Box::new(stored),
        Some(compression) => {
            codec::decoder(compression, stored).map_err(|error| damaged(error.to_string()))?
        }
    };
    loop {
        let mut block = Plain::take(&blocks.buffers, BLOCK_BYTES);
        block.filled =
            fill(&mut plain, &mut block.memory).map_err(|error| damaged(error.to_string()))?;
        let ended = block.filled < BLOCK_BYTES;
        blocks.blocks.send(Block::Ready(block)).map_err(|_| Stopped)?;
        if ended {
            return blocks.blocks.send(Block::End).map_err(|_| Stopped.into());
        }
    }
}

/// Lets the pool decode the blocks that `indexed` names; each is compared with its checksum.
pub fn decode_indexed(
    object: &str,
    indexed: &IndexedBlocks,
    mut stored: ChunkReader,
    pool: &WorkerPool,
    blocks: &BlockWriter,
) -> Result<(), StageEnd> {
    let cut = stored.cut();
    let stopped = |error: io::Error| damaged(object, &cut, error.to_string());
    let decoder = BlockDecoder::new(indexed.compression);
    // What lies between the blocks (a frame's header) and behind them is nobody's content.
    let mut position = 0;
    let ends = indexed.marks.iter().skip(1).map(|mark| mark.raw_offset);
    for (mark, end) in indexed.marks.iter().zip(ends.chain([indexed.raw_bytes])) {
        skip(&mut stored, mark.stored_offset - position).map_err(stopped)?;
        let mut compressed = vec![0; size(mark.stored_bytes)];
        stored.read_exact(&mut compressed).map_err(stopped)?;
        position = mark.stored_offset + mark.stored_bytes;
        let (decoder, buffers, mark) = (decoder.clone(), blocks.buffers.clone(), *mark);
        let raw_bytes = size(end - mark.raw_offset);
        let pending = pool.submit(move || {
            let mut plain = Plain::take(&buffers, raw_bytes);
            let place = |error: io::Error| {
                io::Error::new(error.kind(), format!("block at {}: {error}", mark.stored_offset))
            };
            decoder.decode(&compressed, &mut plain.memory).map_err(place)?;
            if crc32fast::hash(&plain.memory) != mark.crc32 {
                return Err(place(io::Error::other("its checksum does not match")));
            }
            Ok(plain)
        });
        blocks.blocks.send(Block::Decoding(pending)).map_err(|_| Stopped)?;
    }
    io::copy(&mut stored, &mut io::sink()).map_err(stopped)?;
    blocks.blocks.send(Block::End).map_err(|_| Stopped.into())
}

/// Whether the marks make up a tarball of `raw_bytes` in `stored_bytes`, in blocks that fit the
/// memory.
pub fn is_usable(marks: &[BlockMark], raw_bytes: u64, stored_bytes: u64) -> bool {
    let mut ends = marks.iter().skip(1).map(|mark| mark.raw_offset).chain([raw_bytes]);
    let Some(last) = marks.last() else { return false };
    last.stored_offset.checked_add(last.stored_bytes).is_some_and(|end| end <= stored_bytes)
        && marks.iter().all(|mark| {
            let length = ends.next().and_then(|end| end.checked_sub(mark.raw_offset));
            length.is_some_and(|length| (1..=DECODED_BLOCK_BYTES).contains(&length))
        })
}

/// A complaint about input that was cut off is no damage.
fn damaged(object: &str, cut: &AtomicBool, reason: String) -> StageEnd {
    match cut.load(Ordering::Relaxed) {
        true => StageEnd::Stopped,
        false => RestoreError::Corrupt { object: object.into(), reason }.into(),
    }
}

/// Reads until `buffer` is full or the stream ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn skip(reader: &mut impl Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut reader.take(bytes), &mut io::sink()).map(|_| ())
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a block fits the memory")
}
