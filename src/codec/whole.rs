//! One buffer or file into one compressed buffer: what WAL files are stored as.
//!
//! Formats are those of contract §5.1: one gzip member, one bzip2 stream, one xz stream with
//! CRC-64, snappy framing, one zstd frame and one lz4 frame, the last two with the content size
//! in the frame header. gzip, snappy and lz4 are made of blocks (`file_blocks`); zstd and xz
//! split the file by themselves among the threads they are given, always in the same places.
//! Memory: the compressed output, 128 KiB, and the codec's own window for each thread.

use crate::codec::block::BLOCK_BYTES;
use crate::codec::file_blocks::FileBlocks;
use crate::codec::{CodecError, Compression};
use lzma_rust2::{XzOptions, XzWriterMt};
use std::io::{self, Read, Write};
use std::num::{NonZeroU32, NonZeroU64};
use zstd_safe::CParameter;

/// Bytes read at a time.
const COPY_BYTES: usize = 128 << 10;

/// What one thread of zstd takes at a time; the next one begins with the end of it in view, so
/// that hardly anything is lost.
const ZSTD_JOB_BYTES: u32 = 1 << 20;

/// What one thread of xz takes at a time; never less than its dictionary.
const XZ_BLOCK_BYTES: NonZeroU64 = NonZeroU64::new(4 << 20).expect("not zero");

/// Compresses a whole buffer on the calling thread. `level` is the algorithm's own number,
/// clamped to its range.
pub fn compress(compression: Compression, level: i32, input: &[u8]) -> Result<Vec<u8>, CodecError> {
    let bytes = u64::try_from(input.len()).expect("a buffer's size fits 64 bits");
    if let Some(mut blocks) = FileBlocks::new(compression, level, bytes)? {
        let encoder = blocks.encoder();
        let mut stored = blocks.header()?;
        for block in input.chunks(BLOCK_BYTES) {
            stored.extend(blocks.join(encoder.encode(block)?));
        }
        stored.extend(blocks.trailer());
        return Ok(stored);
    }
    compress_from(compression, level, NonZeroU32::MIN, &mut { input }, bytes)
}

/// Compresses all that `source` gives, which must be exactly `bytes` bytes, by an algorithm that
/// does not work in [`FileBlocks`].
///
/// A source of another length is an error: a file that changed while it was read must not
/// become a well-formed object.
pub fn compress_from(
    compression: Compression,
    level: i32,
    threads: NonZeroU32,
    source: &mut dyn Read,
    bytes: u64,
) -> Result<Vec<u8>, CodecError> {
    let failed = |source| CodecError::Compress { compression, source };
    match compression {
        Compression::Bzip2 => {
            let level = bzip2::Compression::new(positive(level, 1, 9));
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Xz => {
            let mut options = XzOptions::with_preset(positive(level, 0, 9));
            options.set_block_size(Some(XZ_BLOCK_BYTES));
            let encoder = XzWriterMt::new(Vec::new(), options, threads.get());
            let mut encoder = encoder.map_err(failed)?;
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Zstd => {
            let mut encoder = zstd_encoder(level, threads, bytes).map_err(failed)?;
            pump(compression, source, bytes, &mut encoder)?;
            encoder.finish().map_err(failed)
        }
        Compression::Gzip | Compression::Snappy | Compression::Lz4 => {
            Err(failed(io::Error::other("it works in blocks")))
        }
    }
}

fn zstd_encoder(
    level: i32,
    threads: NonZeroU32,
    bytes: u64,
) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level.clamp(-22, 22))?;
    encoder.set_pledged_src_size(Some(bytes))?;
    encoder.include_contentsize(true)?;
    encoder.include_checksum(true)?;
    encoder.set_parameter(CParameter::NbWorkers(threads.get()))?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB_BYTES))?;
    Ok(encoder)
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
    use std::num::NonZeroU32;

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
        for compression in [Compression::Bzip2, Compression::Xz, Compression::Zstd] {
            for bytes in [99, 101] {
                let source = &mut &[0u8; 100][..];
                let answer = compress_from(compression, 3, NonZeroU32::MIN, source, bytes);
                assert!(matches!(answer, Err(CodecError::Source(_))), "{compression}");
            }
        }
    }

    #[test]
    fn the_stored_form_does_not_depend_on_the_number_of_threads() {
        let raw = rows().repeat(40);
        let bytes = u64::try_from(raw.len()).expect("fits");
        for compression in [Compression::Xz, Compression::Zstd] {
            let [one, three] = [1, 3].map(|threads| {
                let threads = NonZeroU32::new(threads).expect("not zero");
                compress_from(compression, 1, threads, &mut &raw[..], bytes).expect("compresses")
            });
            assert!(one == three, "{compression}");
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
