//! What can go wrong between plain and compressed bytes.

use crate::codec::Compression;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The plain bytes could not be read; the codec did nothing wrong.
    #[error("could not read the bytes to compress")]
    Source(#[source] io::Error),
    #[error("could not compress with {compression}")]
    Compress { compression: Compression, source: io::Error },
    #[error("could not start to decompress {compression}")]
    Decompress { compression: Compression, source: io::Error },
}

impl CodecError {
    pub(crate) fn compress(compression: Compression, source: io::Error) -> Self {
        Self::Compress { compression, source }
    }
}
