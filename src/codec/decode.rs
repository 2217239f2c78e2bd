//! Compressed bytes back to plain ones, as a stream.
//!
//! Accepts what any of the usual tools writes: several gzip members, bzip2 or xz streams, lz4 or
//! zstd frames in a row. Input that ends early, and anything behind the last frame that is not
//! another one, is an error of the reader. One limit of a format: snappy's framing has no end
//! mark, so a stream cut exactly between two chunks looks complete; who knows the size of what
//! was stored must check it.

use crate::codec::{CodecError, Compression};
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Compressed bytes read at a time.
const INPUT_BYTES: usize = 64 << 10;

/// `xz -9` wants 65 MiB to be read; a header may say 4 GiB, which would be taken at once. The other
/// algorithms have bounds of their own, zstd's is 128 MiB.
const XZ_KIBIBYTES_MAX: u32 = 256 << 10;

/// Opens a stream of plain bytes over a stream of compressed ones. Reads nothing yet.
pub fn decoder(
    compression: Compression,
    reader: impl Read + Send + 'static,
) -> Result<Box<dyn Read + Send>, CodecError> {
    let progress = Arc::new(Progress::default());
    let input =
        BufReader::with_capacity(INPUT_BYTES, Input { reader, progress: Arc::clone(&progress) });
    let stream: Box<dyn Read + Send> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
        Compression::Xz => Box::new(XzReader::new_mem_limit(input, true, XZ_KIBIBYTES_MAX)),
        Compression::Snappy => Box::new(snap::read::FrameDecoder::new(input)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::with_buffer(input)
                .map_err(|source| CodecError::Decompress { compression, source })?,
        ),
        Compression::Lz4 => Box::new(Lz4Frames::new(input)),
    };
    Ok(Box::new(NotEmpty { stream, progress }))
}

/// How far the compressed input was read.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
}

struct Input<R> {
    reader: R,
    progress: Arc<Progress>,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let counted = u64::try_from(read).expect("a buffer's size fits 64 bits");
        self.progress.bytes.fetch_add(counted, Ordering::Relaxed);
        Ok(read)
    }
}

/// Several codecs take empty input for an empty stream; an empty object is a damaged one.
struct NotEmpty {
    stream: Box<dyn Read + Send>,
    progress: Arc<Progress>,
}

impl Read for NotEmpty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        if read == 0 && !buffer.is_empty() && self.progress.bytes.load(Ordering::Relaxed) == 0 {
            return Err(ends_early());
        }
        Ok(read)
    }
}

/// lz4 frames in a row. The frame decoder says "no more" both at the end of a frame and when
/// its input ends inside one; the difference is whether it asked for bytes and got none.
struct Lz4Frames<R: Read> {
    frames: FrameDecoder<Watched<R>>,
    ended: Arc<AtomicBool>,
    consumed: Arc<AtomicU64>,
    /// Compressed bytes up to the end of the last complete frame.
    complete: u64,
}

struct Watched<R> {
    reader: R,
    ended: Arc<AtomicBool>,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Lz4Frames<R> {
    fn new(reader: R) -> Self {
        let (ended, consumed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let watched =
            Watched { reader, ended: Arc::clone(&ended), consumed: Arc::clone(&consumed) };
        Self { frames: FrameDecoder::new(watched), ended, consumed, complete: 0 }
    }
}

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = self.frames.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            let consumed = self.consumed.load(Ordering::Relaxed);
            if !self.ended.load(Ordering::Relaxed) {
                self.complete = consumed;
            } else if consumed == self.complete {
                return Ok(0);
            } else {
                return Err(ends_early());
            }
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.ended.store(true, Ordering::Relaxed);
        }
        let counted = u64::try_from(read).expect("a buffer's size fits 64 bits");
        self.consumed.fetch_add(counted, Ordering::Relaxed);
        Ok(read)
    }
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed data ends early")
}

#[cfg(test)]
mod tests {
    use crate::codec::{Compression, compress, decoder};
    use proptest::prelude::{
        Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };
    use std::io::{Cursor, Read};

    fn decode(compression: Compression, stored: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        decoder(compression, Cursor::new(stored)).expect("decoder").read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn an_xz_stream_that_wants_gigabytes_of_memory_is_refused() {
        let mut stored = compress(Compression::Xz, 0, b"content").expect("compressed");
        // The block's header: LZMA2, one byte of properties, which is the size of the dictionary
        // (The .xz File Format 1.2.0, sections 3.1 and 5.3.1).
        let filter = stored.windows(2).position(|pair| pair == [0x21, 1]).expect("a filter");
        let end = 12 + (usize::from(stored[12]) + 1) * 4;
        stored[filter + 2] = 40;
        let checksum = crc32fast::hash(&stored[12..end - 4]);
        stored[end - 4..end].copy_from_slice(&checksum.to_le_bytes());
        let error = decode(Compression::Xz, stored).expect_err("too much");
        assert!(error.to_string().contains("memory"), "{error}");
    }

    /// Runs, repeats and noise: what WAL looks like to a codec.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            (any::<u8>(), 1usize..9000).prop_map(|(byte, length)| vec![byte; length]),
            proptest::collection::vec(any::<u8>(), 0..3000),
            (proptest::collection::vec(any::<u8>(), 1..40), 1usize..200)
                .prop_map(|(phrase, times)| phrase.repeat(times)),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    fn algorithm() -> impl Strategy<Value = Compression> {
        prop_oneof![
            Just(Compression::Gzip),
            Just(Compression::Bzip2),
            Just(Compression::Xz),
            Just(Compression::Snappy),
            Just(Compression::Zstd),
            Just(Compression::Lz4),
        ]
    }

    /// Ends of snappy's chunks, where a cut cannot be seen in the stream itself.
    fn snappy_boundaries(stored: &[u8]) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < stored.len() {
            let length = [stored[at + 1], stored[at + 2], stored[at + 3], 0];
            at += 4 + usize::try_from(u32::from_le_bytes(length)).expect("fits");
            ends.push(at);
        }
        ends
    }

    proptest! {
        #[test]
        fn every_algorithm_and_level_round_trips(
            plain in content(), compression in algorithm(), level in -22i32..=22,
        ) {
            let stored = compress(compression, level, &plain).expect("compresses");
            prop_assert_eq!(decode(compression, stored).expect("decodes"), plain);
        }

        #[test]
        fn a_truncated_stream_is_an_error(
            plain in content(), compression in algorithm(), cut in any::<proptest::sample::Index>(),
        ) {
            let mut stored = compress(compression, 3, &plain).expect("compresses");
            if stored.is_empty() {
                return Ok(());
            }
            let length = cut.index(stored.len());
            if compression == Compression::Snappy && snappy_boundaries(&stored).contains(&length) {
                return Ok(());
            }
            stored.truncate(length);
            prop_assert!(decode(compression, stored).is_err());
        }

        #[test]
        fn streams_in_a_row_are_read_as_one(
            first in content(), second in content(), compression in algorithm(),
        ) {
            let mut stored = compress(compression, 3, &first).expect("compresses");
            stored.extend(compress(compression, 3, &second).expect("compresses"));
            if !stored.is_empty() {
                prop_assert_eq!(decode(compression, stored).expect("decodes"), [first, second].concat());
            }
        }
    }

    #[test]
    fn garbage_behind_the_last_stream_is_an_error() {
        for compression in Compression::ALL {
            for garbage in [&b"garbage"[..], b"\x01", &[0x42; 4096]] {
                let mut stored = compress(compression, 3, &[7; 100_000]).expect("compresses");
                stored.extend_from_slice(garbage);
                assert!(decode(compression, stored).is_err(), "{compression}");
            }
        }
    }

    #[test]
    fn an_empty_object_is_an_error() {
        for compression in Compression::ALL {
            assert!(decode(compression, Vec::new()).is_err(), "{compression}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error() {
        let noise: Vec<u8> = (0..300_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
            .collect();
        for compression in Compression::ALL {
            let mut stored = compress(compression, 3, &noise).expect("compresses");
            let middle = stored.len() / 2;
            stored[middle] ^= 0x40;
            assert!(decode(compression, stored).is_err(), "{compression}");
        }
    }
}
