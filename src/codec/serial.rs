//! Compressed streams whose encoder keeps its state from block to block: bzip2 and zstd.
//!
//! zstd's own workers compress jobs of [`ZSTD_JOB_BYTES`] that share nothing, within one frame,
//! so each job can be entered alone; where it lies is found by walking the frame's blocks
//! (`zstd_jobs`). bzip2 can only be read from its beginning.

use crate::codec::zstd_jobs::{JobWalk, ZSTD_JOB_BYTES};
use crate::codec::{BlockMark, CodecError, Compression, TarballCodec};
use std::io::{self, Write};
use std::mem;

/// The most that a zstd block of ours holds; with the splitter off every job is cut the same
/// way, which is how its end is found again.
pub const ZSTD_BLOCK_BYTES: u32 = 64 << 10;

/// What has become ready of a stream.
#[derive(Debug, Default)]
pub struct Encoded {
    /// May be empty.
    pub bytes: Vec<u8>,
    /// Blocks that are complete with these bytes, in order.
    pub marks: Vec<BlockMark>,
}

/// A stream whose blocks depend on each other.
pub struct SerialStream {
    compression: Compression,
    encoder: SerialEncoder,
}

enum SerialEncoder {
    Bzip2(bzip2::write::BzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>, JobWalk),
}

impl std::fmt::Debug for SerialStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SerialStream").field(&self.compression).finish()
    }
}

impl SerialStream {
    pub fn new(codec: TarballCodec, workers: u32) -> Result<Self, CodecError> {
        let (compression, encoder) = match codec.compression {
            Some(Compression::Bzip2) => {
                let level = u32::try_from(codec.level).unwrap_or(9).clamp(1, 9);
                let level = bzip2::Compression::new(level);
                let encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
                (Compression::Bzip2, SerialEncoder::Bzip2(encoder))
            }
            Some(Compression::Zstd) => {
                let encoder = zstd_encoder(codec.level, workers)
                    .map_err(|error| CodecError::compress(Compression::Zstd, error))?;
                (Compression::Zstd, SerialEncoder::Zstd(encoder, JobWalk::default()))
            }
            other => {
                let compression = other.unwrap_or(Compression::Xz);
                let reason = io::Error::other("tarballs do not use it");
                return Err(CodecError::compress(compression, reason));
            }
        };
        Ok(Self { compression, encoder })
    }

    /// Compresses `raw`; gives what has become ready, which may be nothing.
    pub fn encode(&mut self, raw: &[u8]) -> Result<Encoded, CodecError> {
        let failed = |error| CodecError::compress(self.compression, error);
        match &mut self.encoder {
            SerialEncoder::Bzip2(encoder) => {
                encoder.write_all(raw).map_err(failed)?;
                Ok(Encoded { bytes: mem::take(encoder.get_mut()), marks: Vec::new() })
            }
            SerialEncoder::Zstd(encoder, walk) => {
                walk.take_raw(raw);
                encoder.write_all(raw).map_err(failed)?;
                let bytes = mem::take(encoder.get_mut());
                let marks = walk.take_stored(&bytes);
                Ok(Encoded { bytes, marks })
            }
        }
    }

    /// Ends the stream; gives the rest.
    pub fn finish(self) -> Result<Encoded, CodecError> {
        let failed = |error| CodecError::compress(self.compression, error);
        match self.encoder {
            SerialEncoder::Bzip2(encoder) => {
                Ok(Encoded { bytes: encoder.finish().map_err(failed)?, marks: Vec::new() })
            }
            SerialEncoder::Zstd(encoder, mut walk) => {
                let bytes = encoder.finish().map_err(failed)?;
                let mut marks = walk.take_stored(&bytes);
                marks.extend(walk.finish());
                Ok(Encoded { bytes, marks })
            }
        }
    }
}

/// One frame of jobs that share nothing, so that each can be decoded alone later.
fn zstd_encoder(
    level: i32,
    workers: u32,
) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    use zstd_safe::{CParameter, ParamSwitch};
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    encoder.set_parameter(CParameter::NbWorkers(workers.max(1)))?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB_BYTES))?;
    encoder.set_parameter(CParameter::OverlapSizeLog(1))?;
    encoder.set_parameter(CParameter::MaxBlockSize(ZSTD_BLOCK_BYTES))?;
    encoder.set_parameter(CParameter::UseBlockSplitter(ParamSwitch::Disable))?;
    // No checksum of the whole content: it would be computed in sequence, and every job has one
    // in the index, the object one in the record.
    encoder.set_parameter(CParameter::ChecksumFlag(false))?;
    Ok(encoder)
}
