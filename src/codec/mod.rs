//! Compression: names, suffixes and levels; whole buffers, block streams and decoders.
//!
//! No threads of its own: blocks are compressed on `flow::WorkerPool` by who owns the stream.

mod block;
mod compression;
mod decode;
mod error;
mod lz4_high;
mod whole;

pub use block::{
    BLOCK_BYTES, BlockEncoder, BlockStream, EncodedBlock, SerialStream, TarballCodec, TarballStream,
};
pub use compression::{Compression, CompressionLevel};
pub use decode::decoder;
pub use error::CodecError;
pub use whole::{compress, compress_from};
