//! One buffer or file into one compressed buffer: what WAL files are stored as.
//!
//! Formats are those of contract §5.1: one gzip member, one bzip2 stream, one xz stream with
//! CRC-64, snappy framing, one zstd frame and one lz4 frame, the last two with the content size
//! in the frame header. Memory: the compressed output, 128 KiB, and the codec's own window.

use crate::codec::lz4_high;
use crate::codec::{CodecError, Compression};
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use lzma_rust2::{XzOptions, XzWriter};
use std::io::{self, Read, Write};

/// Bytes read at a time.
const COPY_BYTES: usize = 128 << 10;

/// lz4 levels from here on search harder than the fast algorithm does.
/// Source: `LZ4F_compressFrame` of the reference implementation, levels 3 and up are HC.
const LZ4_HIGH_FROM: i32 = 3;

/// The chunk that begins every snappy stream. Source: framing_format.txt of the snappy project.
const SNAPPY_IDENTIFIER: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// Compresses a whole buffer. `level` is the algorithm's own number, clamped to its range.
pub fn compress(compression: Compression, level: i32, input: &[u8]) -> Result<Vec<u8>, CodecError> {
    let bytes = u64::try_from(input.len()).expect("a buffer's size fits 64 bits");
    compress_from(compression, level, &mut { input }, bytes)
}

/// Compresses all that `source` gives, which must be exactly `bytes` bytes.
///
/// A source of another length is an error: a file that changed while it was read must not
/// become a well-formed object.
pub fn compress_from(
    compression: Compression,
    level: i32,
    source: &mut dyn Read,
    bytes: u64,
) -> Result<Vec<u8>, CodecError> {
    let failed = |source| CodecError::Compress { compression, source };
    match compression {
        Compression::Gzip => {
            let level = flate2::Compression::new(positive(level, 1, 9));
            let mut encoder = GzEncoder::new(Vec::new(), level);
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Bzip2 => {
            let level = bzip2::Compression::new(positive(level, 1, 9));
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Xz => {
            let options = XzOptions::with_preset(positive(level, 0, 9));
            let mut encoder = XzWriter::new(Vec::new(), options).map_err(failed)?;
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Snappy => {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            pump(compression, source, bytes, &mut encoder)?;
            let stored = encoder.into_inner().map_err(|error| failed(error.into_error()))?;
            // The encoder writes nothing at all for empty content; the identifier makes it a stream.
            Ok(if stored.is_empty() { SNAPPY_IDENTIFIER.to_vec() } else { stored })
        }
        Compression::Zstd => {
            let mut encoder = zstd_encoder(level, bytes).map_err(failed)?;
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Lz4 if level >= LZ4_HIGH_FROM => {
            let mut encoder = lz4_high::FrameWriter::new(level, bytes);
            pump(compression, source, bytes, &mut encoder)?;
            Ok(encoder.finish())
        }
        Compression::Lz4 => {
            let mut encoder = FrameEncoder::with_frame_info(lz4_frame(bytes), Vec::new());
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(|error| failed(error.into()))
        }
    }
}

fn zstd_encoder(
    level: i32,
    bytes: u64,
) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level.clamp(-22, 22))?;
    encoder.set_pledged_src_size(Some(bytes))?;
    encoder.include_contentsize(true)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn lz4_frame(bytes: u64) -> FrameInfo {
    FrameInfo::new()
        .content_size(Some(bytes))
        .content_checksum(true)
        .block_size(BlockSize::Max4MB)
        .block_mode(BlockMode::Linked)
}

fn pump(
    compression: Compression,
    source: &mut dyn Read,
    bytes: u64,
    encoder: &mut dyn Write,
) -> Result<(), CodecError> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut seen = 0u64;
    let changed = |seen: u64| {
        let text = format!("{seen} bytes came where {bytes} were announced");
        CodecError::Source(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CodecError::Source(error)),
        };
        seen += u64::try_from(read).expect("a buffer's size fits 64 bits");
        if seen > bytes {
            return Err(changed(seen));
        }
        encoder
            .write_all(&buffer[..read])
            .map_err(|source| CodecError::Compress { compression, source })?;
    }
    if seen < bytes { Err(changed(seen)) } else { Ok(()) }
}

fn positive(level: i32, min: u32, max: u32) -> u32 {
    u32::try_from(level).unwrap_or(min).clamp(min, max)
}

#[cfg(test)]
mod tests {
    use crate::codec::{CodecError, Compression, compress, compress_from};

    fn rows() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|row| format!("{row},{},{}\n", row * 7 % 1000, row % 13).into_bytes())
            .collect()
    }

    #[test]
    fn a_higher_level_makes_smaller_objects_where_the_algorithm_has_levels() {
        for (compression, low, high) in [
            (Compression::Gzip, 1, 9),
            (Compression::Xz, 1, 6),
            (Compression::Zstd, -5, 9),
            (Compression::Lz4, 0, 9),
            (Compression::Lz4, 3, 9),
        ] {
            let size = |level| compress(compression, level, &rows()).expect("compresses").len();
            assert!(size(high) < size(low), "{compression}: {} and {}", size(high), size(low));
        }
    }

    #[test]
    fn a_source_of_another_length_than_announced_is_an_error() {
        for compression in Compression::ALL {
            for bytes in [99, 101] {
                let answer = compress_from(compression, 3, &mut &[0u8; 100][..], bytes);
                assert!(matches!(answer, Err(CodecError::Source(_))), "{compression}");
            }
        }
    }

    #[test]
    fn zstd_and_lz4_frames_tell_their_content_size() {
        let stored = compress(Compression::Zstd, 3, &rows()).expect("compresses");
        let told = zstd_safe::get_frame_content_size(&stored).expect("frame").expect("size");
        assert_eq!(told, u64::try_from(rows().len()).expect("fits"));
        for level in [0, 6] {
            let stored = compress(Compression::Lz4, level, &rows()).expect("compresses");
            assert_eq!(stored[4] & 0b1000, 0b1000, "content size flag at level {level}");
            assert_eq!(stored[6..14], told.to_le_bytes());
        }
    }
}
