//! Whole files in blocks that any thread may compress: gzip, snappy and lz4.
//!
//! ```text
//! file → blocks of BLOCK_BYTES → encode (any thread) → joined in order → one member or frame
//! ```
//!
//! What comes out does not depend on the number of threads. An lz4 frame tells its content size,
//! as Barman's do, and has a checksum for each block, because one for the whole content would
//! have to be computed in sequence.
//! Format: lz4_Frame_format.md of the lz4 project, version 1.6.

use crate::codec::block::{BlockEncoder, BlockStream, EncodedBlock, TarballCodec, TarballStream};
use crate::codec::{CodecError, Compression, lz4_high};
use std::hash::Hasher;
use std::io;
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184D_2204;
/// Version 1, independent blocks, block checksums and content size present.
const FLAGS: u8 = 0b0111_1000;
/// Blocks of at most 1 MiB.
const BLOCK_DESCRIPTOR: u8 = 6 << 4;
const STORED_RAW: u32 = 1 << 31;

/// lz4 levels from here on search harder than the fast algorithm does.
/// Source: `LZ4F_compressFrame` of the reference implementation, levels 3 and up are HC.
const HIGH_FROM: i32 = 3;

/// Joins the blocks of one file, in order.
#[derive(Debug)]
pub struct FileBlocks {
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Blocks(BlockStream),
    Lz4 { level: i32, bytes: u64 },
}

/// Compresses blocks, on any thread.
#[derive(Clone, Debug)]
pub struct FileBlockEncoder {
    encoder: Encoder,
}

#[derive(Clone, Debug)]
enum Encoder {
    Blocks(BlockEncoder),
    Lz4 { level: i32 },
}

/// One compressed block.
#[derive(Debug)]
pub enum FileBlock {
    Encoded(EncodedBlock),
    Framed(Vec<u8>),
}

impl FileBlocks {
    /// Begins a file of `bytes` bytes; `None` when the algorithm does not work in blocks.
    pub fn new(
        compression: Compression,
        level: i32,
        bytes: u64,
    ) -> Result<Option<Self>, CodecError> {
        let stream = match compression {
            Compression::Lz4 => Stream::Lz4 { level, bytes },
            Compression::Gzip | Compression::Snappy => {
                let codec = TarballCodec::new(Some(compression), Some(level));
                match codec.begin(1)? {
                    TarballStream::Blocks(blocks) => Stream::Blocks(blocks),
                    TarballStream::Serial(_) => return Ok(None),
                }
            }
            Compression::Bzip2 | Compression::Xz | Compression::Zstd => return Ok(None),
        };
        Ok(Some(Self { stream }))
    }

    pub fn encoder(&self) -> FileBlockEncoder {
        let encoder = match &self.stream {
            Stream::Blocks(blocks) => Encoder::Blocks(blocks.encoder()),
            Stream::Lz4 { level, .. } => Encoder::Lz4 { level: *level },
        };
        FileBlockEncoder { encoder }
    }

    /// What precedes the first block.
    pub fn header(&mut self) -> Result<Vec<u8>, CodecError> {
        match &mut self.stream {
            Stream::Blocks(blocks) => blocks.header(),
            Stream::Lz4 { bytes, .. } => Ok(lz4_header(*bytes)),
        }
    }

    /// Takes the next block, in the file's order, and gives its bytes.
    pub fn join(&mut self, block: FileBlock) -> Vec<u8> {
        match (&mut self.stream, block) {
            (Stream::Blocks(blocks), FileBlock::Encoded(block)) => blocks.join(block).0,
            (_, FileBlock::Framed(bytes)) => bytes,
            (Stream::Lz4 { .. }, FileBlock::Encoded(_)) => {
                unreachable!("an lz4 encoder frames its blocks")
            }
        }
    }

    /// What follows the last block.
    pub fn trailer(self) -> Vec<u8> {
        match self.stream {
            Stream::Blocks(blocks) => blocks.trailer(),
            Stream::Lz4 { .. } => vec![0; 4],
        }
    }
}

impl FileBlockEncoder {
    /// Compresses one block of at most [`BLOCK_BYTES`](crate::codec::BLOCK_BYTES).
    pub fn encode(&self, raw: &[u8]) -> Result<FileBlock, CodecError> {
        match &self.encoder {
            Encoder::Blocks(encoder) => encoder.compress(raw).map(FileBlock::Encoded),
            Encoder::Lz4 { level } => lz4_block(raw, *level).map(FileBlock::Framed),
        }
    }
}

fn lz4_header(bytes: u64) -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    let descriptor = header.len();
    header.extend([FLAGS, BLOCK_DESCRIPTOR]);
    header.extend(bytes.to_le_bytes());
    let checksum = checksum(&header[descriptor..]).to_le_bytes()[1];
    header.push(checksum);
    header
}

/// A data block: its size, with the high bit set when it is stored as it is, and its checksum.
fn lz4_block(raw: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
    let mut block = vec![0; 4];
    if level >= HIGH_FROM {
        lz4_high::compress_block(raw, level, &mut block);
    } else {
        block.resize(4 + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
        let written = lz4_flex::block::compress_into(raw, &mut block[4..]);
        let written = written
            .map_err(|error| CodecError::compress(Compression::Lz4, io::Error::other(error)))?;
        block.truncate(4 + written);
    }
    let mut raw_flag = 0;
    if block.len() - 4 >= raw.len() {
        block.truncate(4);
        block.extend_from_slice(raw);
        raw_flag = STORED_RAW;
    }
    let size = u32::try_from(block.len() - 4).expect("a block is at most 1 MiB");
    block[..4].copy_from_slice(&(size | raw_flag).to_le_bytes());
    let checksum = checksum(&block[4..]);
    block.extend(checksum.to_le_bytes());
    block.shrink_to_fit();
    Ok(block)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = XxHash32::with_seed(0);
    hasher.write(bytes);
    hasher.finish_32()
}

#[cfg(test)]
mod tests {
    use crate::codec::{BLOCK_BYTES, Compression, FileBlocks, decoder};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::io::Read;

    fn stored(compression: Compression, level: i32, raw: &[u8], block_bytes: usize) -> Vec<u8> {
        let bytes = u64::try_from(raw.len()).expect("fits");
        let mut blocks =
            FileBlocks::new(compression, level, bytes).expect("begins").expect("blocks");
        let encoder = blocks.encoder();
        let mut out = blocks.header().expect("header");
        for block in raw.chunks(block_bytes) {
            out.extend(blocks.join(encoder.encode(block).expect("encodes")));
        }
        out.extend(blocks.trailer());
        out
    }

    proptest! {
        #[test]
        fn joined_blocks_of_any_size_are_one_stream(
            raw in proptest::collection::vec(any::<u8>(), 0..5000),
            repeats in 1usize..40,
            block_bytes in 1usize..9000,
            level in 0i32..=9,
        ) {
            let raw = raw.repeat(repeats);
            for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
                let stored = stored(compression, level, &raw, block_bytes);
                let mut plain = Vec::new();
                let reader = decoder(compression, std::io::Cursor::new(stored)).expect("decoder");
                { reader }.read_to_end(&mut plain).expect("reads");
                prop_assert_eq!(&plain, &raw);
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_an_lz4_frame_is_noticed() {
        let raw: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        let good = stored(Compression::Lz4, 6, &raw, BLOCK_BYTES);
        for at in [20, good.len() / 2, good.len() - 6] {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            let mut reader =
                decoder(Compression::Lz4, std::io::Cursor::new(damaged)).expect("decoder");
            assert!(reader.read_to_end(&mut Vec::new()).is_err(), "{at}");
        }
    }
}
