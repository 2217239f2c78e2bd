//! One block of a stream, decoded without those before it.
//!
//! What a [`BlockMark`](crate::codec::BlockMark) points to is: gzip a run of deflate blocks that
//! ends on a byte; lz4 and snappy the frame's own blocks; zstd the blocks of one job, which a
//! frame header of our own and an end mark make a frame again. bzip2 has no such blocks.

use crate::codec::Compression;
use crate::codec::zstd_jobs::BlockHeader;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// A frame that is one segment of a size given in 4 bytes: no window, no checksum (RFC 8878
/// §3.1.1.1).
const ZSTD_FRAME_START: [u8; 5] = [0x28, 0xB5, 0x2F, 0xFD, 0b1010_0000];
/// An empty raw block that is the last (RFC 8878 §3.1.1.2).
const ZSTD_LAST_BLOCK: [u8; 3] = [1, 0, 0];
const SNAPPY_IDENTIFIER: &[u8; 10] = b"\xFF\x06\x00\x00sNaPpY";

/// Decodes blocks, on any thread. Cheap to clone; clones share their scratch memory.
#[derive(Clone, Debug)]
pub struct BlockDecoder {
    compression: Option<Compression>,
    inflaters: Arc<Mutex<Vec<flate2::Decompress>>>,
    zstd: Arc<Mutex<Vec<Zstd>>>,
}

/// A context and the memory where a frame is put together.
struct Zstd {
    context: zstd::bulk::Decompressor<'static>,
    frame: Vec<u8>,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

impl BlockDecoder {
    pub fn new(compression: Option<Compression>) -> Self {
        Self { compression, inflaters: Arc::default(), zstd: Arc::default() }
    }

    /// Whether blocks of this compression can be decoded alone.
    pub fn knows(compression: Option<Compression>) -> bool {
        !matches!(compression, Some(Compression::Bzip2 | Compression::Xz))
    }

    /// Decodes one block into exactly `out`; a block of any other length is an error.
    pub fn decode(&self, stored: &[u8], out: &mut [u8]) -> io::Result<()> {
        match self.compression {
            None if stored.len() == out.len() => {
                out.copy_from_slice(stored);
                Ok(())
            }
            None => Err(other_length()),
            Some(Compression::Gzip) => self.inflate(stored, out),
            Some(Compression::Lz4) => lz4(stored, out),
            Some(Compression::Snappy) => snappy(stored, out),
            Some(Compression::Zstd) => self.zstd(stored, out),
            Some(Compression::Bzip2 | Compression::Xz) => {
                Err(io::Error::other("its blocks cannot be decoded alone"))
            }
        }
    }

    fn inflate(&self, stored: &[u8], out: &mut [u8]) -> io::Result<()> {
        let mut inflater = take(&self.inflaters).unwrap_or_else(|| flate2::Decompress::new(false));
        inflater.reset(false);
        inflater
            .decompress(stored, out, flate2::FlushDecompress::Sync)
            .map_err(io::Error::other)?;
        let filled = inflater.total_out() == u64::try_from(out.len()).unwrap_or(u64::MAX);
        give(&self.inflaters, inflater);
        if filled { Ok(()) } else { Err(other_length()) }
    }

    fn zstd(&self, stored: &[u8], out: &mut [u8]) -> io::Result<()> {
        let mut zstd = match take(&self.zstd) {
            Some(zstd) => zstd,
            None => Zstd { context: zstd::bulk::Decompressor::new()?, frame: Vec::new() },
        };
        let size = u32::try_from(out.len()).map_err(|_| other_length())?;
        zstd.frame.clear();
        zstd.frame.extend_from_slice(&ZSTD_FRAME_START);
        zstd.frame.extend_from_slice(&size.to_le_bytes());
        zstd.frame.extend_from_slice(stored);
        if !holds_the_last_block(stored)? {
            zstd.frame.extend_from_slice(&ZSTD_LAST_BLOCK);
        }
        let written = zstd.context.decompress_to_buffer(&zstd.frame, out)?;
        give(&self.zstd, zstd);
        if written == out.len() { Ok(()) } else { Err(other_length()) }
    }
}

/// The last job of a frame ends with the frame's own end mark.
fn holds_the_last_block(mut blocks: &[u8]) -> io::Result<bool> {
    let mut last = false;
    while !blocks.is_empty() {
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "a block ends early");
        let (header, rest) = blocks.split_first_chunk().ok_or_else(cut)?;
        let header = BlockHeader::parse(*header);
        let content = usize::try_from(header.content_bytes).unwrap_or(usize::MAX);
        blocks = rest.get(content..).ok_or_else(cut)?;
        last = header.last;
    }
    Ok(last)
}

/// A size, with its high bit set when the data is as it was, and the data
/// (lz4_Frame_format.md, "Data Blocks").
fn lz4(stored: &[u8], out: &mut [u8]) -> io::Result<()> {
    let (size, data) = stored.split_first_chunk().ok_or_else(other_length)?;
    let size = u32::from_le_bytes(*size);
    if usize::try_from(size & 0x7FFF_FFFF).ok() != Some(data.len()) {
        return Err(other_length());
    }
    let written = if size >> 31 == 1 {
        let room = out.get_mut(..data.len()).ok_or_else(other_length)?;
        room.copy_from_slice(data);
        data.len()
    } else {
        lz4_flex::block::decompress_into(data, out).map_err(io::Error::other)?
    };
    if written == out.len() { Ok(()) } else { Err(other_length()) }
}

fn snappy(stored: &[u8], out: &mut [u8]) -> io::Result<()> {
    let mut frames = snap::read::FrameDecoder::new(SNAPPY_IDENTIFIER.as_slice().chain(stored));
    frames.read_exact(out)?;
    match frames.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(other_length()),
    }
}

fn other_length() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a block does not have its recorded length")
}

fn take<T>(free: &Mutex<Vec<T>>) -> Option<T> {
    free.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn give<T>(free: &Mutex<Vec<T>>, item: T) {
    free.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

#[cfg(test)]
mod tests {
    use crate::codec::{
        BLOCK_BYTES, BlockDecoder, BlockMark, Compression, TarballCodec, TarballStream,
    };

    /// Rows, runs and noise, as a relation is.
    fn content(bytes: usize) -> Vec<u8> {
        let mut state = 7u32;
        let mut content = Vec::with_capacity(bytes + 64);
        while content.len() < bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 29 {
                0 => content.extend([0; 48]),
                1..=4 => content.extend(format!("row {} of table", state >> 20).into_bytes()),
                _ => content.extend(state.to_be_bytes()),
            }
        }
        content.truncate(bytes);
        content
    }

    fn encode(compression: Option<Compression>, raw: &[u8]) -> (Vec<u8>, Vec<BlockMark>) {
        let (mut stored, mut marks) = (Vec::new(), Vec::new());
        match TarballCodec::new(compression, None).begin(2).expect("stream") {
            TarballStream::Blocks(mut stream) => {
                let encoder = stream.encoder();
                stored.extend(stream.header().expect("header"));
                for block in raw.chunks(BLOCK_BYTES) {
                    let encoded = encoder.encode(block.to_vec()).expect("block");
                    let (bytes, mark) = stream.join(encoded.0);
                    stored.extend(bytes);
                    marks.push(mark);
                }
                stored.extend(stream.trailer());
            }
            TarballStream::Serial(mut stream) => {
                for block in raw.chunks(BLOCK_BYTES) {
                    let encoded = stream.encode(block).expect("block");
                    stored.extend(encoded.bytes);
                    marks.extend(encoded.marks);
                }
                let encoded = stream.finish().expect("end");
                stored.extend(encoded.bytes);
                marks.extend(encoded.marks);
            }
        }
        (stored, marks)
    }

    #[test]
    fn every_marked_block_is_decoded_alone_and_all_of_them_are_the_stream() {
        let size = |bytes: u64| usize::try_from(bytes).expect("small");
        for compression in [
            None,
            Some(Compression::Gzip),
            Some(Compression::Snappy),
            Some(Compression::Lz4),
            Some(Compression::Zstd),
        ] {
            let decoder = BlockDecoder::new(compression);
            for bytes in [1, 4096, BLOCK_BYTES, 4 * BLOCK_BYTES, 7 * BLOCK_BYTES + 12_345] {
                let raw = content(bytes);
                let (stored, marks) = encode(compression, &raw);
                let ends = marks.iter().skip(1).map(|mark| size(mark.raw_offset)).chain([bytes]);
                let mut whole = 0;
                for (mark, end) in marks.iter().zip(ends) {
                    let begin = size(mark.raw_offset);
                    assert_eq!(begin, whole, "{compression:?} of {bytes}: no gap");
                    let mut out = vec![0; end - begin];
                    let place =
                        size(mark.stored_offset)..size(mark.stored_offset + mark.stored_bytes);
                    decoder.decode(&stored[place], &mut out).expect("decoded alone");
                    assert!(out == raw[begin..end], "{compression:?} of {bytes} at {begin}");
                    assert_eq!(crc32fast::hash(&out), mark.crc32);
                    whole = end;
                }
                assert_eq!(whole, bytes, "{compression:?}");
            }
        }
    }

    #[test]
    fn an_empty_stream_has_no_blocks_and_bzip2_never_has_any() {
        assert_eq!(encode(Some(Compression::Zstd), b"").1, []);
        assert_eq!(encode(Some(Compression::Gzip), b"").1, []);
        assert_eq!(encode(Some(Compression::Bzip2), &content(BLOCK_BYTES * 3)).1, []);
        assert!(!BlockDecoder::knows(Some(Compression::Bzip2)));
    }

    #[test]
    fn a_block_that_was_cut_or_has_another_length_is_an_error() {
        let raw = content(BLOCK_BYTES);
        for compression in [
            None,
            Some(Compression::Gzip),
            Some(Compression::Snappy),
            Some(Compression::Lz4),
            Some(Compression::Zstd),
        ] {
            let decoder = BlockDecoder::new(compression);
            let (stored, marks) = encode(compression, &raw);
            let begin = usize::try_from(marks[0].stored_offset).expect("small");
            let end = begin + usize::try_from(marks[0].stored_bytes).expect("small");
            let block = &stored[begin..end];
            let mut out = vec![0; raw.len()];
            assert!(
                decoder.decode(&block[..block.len() / 2], &mut out).is_err(),
                "{compression:?}"
            );
            let mut longer = vec![0; raw.len() + 1];
            assert!(decoder.decode(block, &mut longer).is_err(), "{compression:?}");
            decoder.decode(block, &mut out).expect("still usable");
        }
    }
}
