//! Compression: names, suffixes and levels; whole buffers, block streams and decoders.
//!
//! No threads of its own: blocks are compressed on `flow::WorkerPool` by who owns the stream.

mod compression;

pub use compression::{Compression, CompressionLevel};
