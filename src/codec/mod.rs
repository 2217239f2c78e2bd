//! Compression: names, suffixes and levels; whole buffers, block streams and decoders.
//!
//! No threads of its own: blocks are compressed on `flow::WorkerPool` by who owns the stream. Only
//! zstd and xz split their work by themselves, among as many threads as they are told.

mod block;
mod block_decode;
mod compression;
mod decode;
mod error;
mod file_blocks;
mod lz4_high;
mod serial;
mod whole;
pub(crate) mod zstd_jobs;

pub use block::{
    BLOCK_BYTES, BlockEncoder, BlockMark, BlockStream, EncodedBlock, TarballCodec, TarballStream,
};
pub use block_decode::BlockDecoder;
pub use compression::{Compression, CompressionLevel};
pub use decode::decoder;
pub use error::CodecError;
pub use file_blocks::{FileBlock, FileBlockEncoder, FileBlocks};
pub use serial::{Encoded, SerialStream};
pub use whole::{compress, compress_from};
