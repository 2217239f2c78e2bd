//! What a WAL file is stored as, made on several cores.
//!
//! ```text
//! file ─ blocks, read at their place ─ WorkerPool: compress ─ joined and digested in order
//! ```
//!
//! A segment is compressed before its upload can begin, so the archiver waits for it: here all
//! cores shorten the wait, up to [`THREADS_MAX`] of them, for PostgreSQL needs some too.
//! Memory: the object as stored, two blocks of 1 MiB and a codec for each thread.

use crate::codec::{
    BLOCK_BYTES, CodecError, Compression, CompressionLevel, FileBlock, FileBlockEncoder,
    FileBlocks, compress_from,
};
use crate::flow::{Buffers, Pending, WorkerPool};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::digest::{Digester, Digesting, PlainDigest};
use crate::wal_archive::source::Source;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};

const THREADS_MAX: usize = 4;

/// A block and the plain bytes that it was made of.
type EncodedBlock = Result<(FileBlock, Vec<u8>), CodecError>;

/// A file as it is stored, and the digest of the very bytes that went into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub bytes: Bytes,
    pub digest: PlainDigest,
}

/// The object's content. Waits for disk and processor: not for a thread of the runtime.
///
/// A file that changes its size while it is read is an error.
pub fn stored_form(
    source: &Source,
    compression: Option<(Compression, CompressionLevel)>,
    workers: NonZeroUsize,
) -> Result<Stored, WalArchiveError> {
    let threads = workers.get().min(THREADS_MAX);
    let mut digester = Digester::default();
    let stored = match compression {
        None => {
            let content = source.content().map_err(CodecError::Source);
            content.inspect(|content| digester.take(content))
        }
        Some((compression, level)) => {
            compressed(source, compression, level, threads, &mut digester)
        }
    };
    match stored {
        Ok(stored) => Ok(Stored { bytes: stored.into(), digest: digester.finish() }),
        Err(CodecError::Source(error)) => Err(source.failed(error)),
        Err(error) => Err(WalArchiveError::Codec(error)),
    }
}

fn compressed(
    source: &Source,
    compression: Compression,
    level: CompressionLevel,
    threads: usize,
    digester: &mut Digester,
) -> Result<Vec<u8>, CodecError> {
    let level = level.for_wal(compression);
    match FileBlocks::new(compression, level, source.bytes())? {
        Some(blocks) => in_blocks(source, compression, blocks, threads, digester),
        None => {
            let threads = u32::try_from(threads).ok().and_then(NonZeroU32::new);
            let threads = threads.unwrap_or(NonZeroU32::MIN);
            let mut reader = Digesting { reader: source.reader(), digester };
            compress_from(compression, level, threads, &mut reader, source.bytes())
        }
    }
}

fn in_blocks(
    source: &Source,
    compression: Compression,
    mut blocks: FileBlocks,
    threads: usize,
    digester: &mut Digester,
) -> Result<Vec<u8>, CodecError> {
    let encoder = blocks.encoder();
    let mut stored = blocks.header()?;
    let bytes = source.bytes();
    if bytes <= block_bytes() {
        // A history file is not worth a thread.
        let (block, plain) = encode_at(source, 0, bytes, &encoder, Vec::new())?;
        digester.take(&plain);
        stored.extend(blocks.join(block));
    } else {
        let pool = WorkerPool::new(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN));
        let buffers = Buffers::new(BLOCK_BYTES, threads * 2);
        let mut waiting: VecDeque<Pending<EncodedBlock>> = VecDeque::new();
        let mut at = 0;
        while at < bytes || !waiting.is_empty() {
            if at < bytes && waiting.len() < threads * 2 {
                let length = block_bytes().min(bytes - at);
                let (source, encoder, buffers) = (source.clone(), encoder.clone(), buffers.clone());
                waiting.push_back(pool.submit(move || {
                    encode_at(&source, at, length, &encoder, buffers.take(BLOCK_BYTES))
                }));
                at += length;
            } else if let Some(block) = waiting.pop_front() {
                let gone =
                    |error| CodecError::Compress { compression, source: io::Error::other(error) };
                let (block, plain) = block.join_blocking().map_err(gone)??;
                stored.extend(blocks.join(block));
                // Beside the compression of the blocks that follow.
                digester.take(&plain);
                buffers.give(plain);
            }
        }
    }
    source.check_end().map_err(CodecError::Source)?;
    stored.extend(blocks.trailer());
    Ok(stored)
}

fn encode_at(
    source: &Source,
    at: u64,
    length: u64,
    encoder: &FileBlockEncoder,
    mut buffer: Vec<u8>,
) -> EncodedBlock {
    buffer.resize(usize::try_from(length).expect("at most a block"), 0);
    source.read_at(at, &mut buffer).map_err(CodecError::Source)?;
    Ok((encoder.encode(&buffer)?, buffer))
}

fn block_bytes() -> u64 {
    u64::try_from(BLOCK_BYTES).expect("a small number")
}

#[cfg(test)]
mod tests {
    use crate::codec::{Compression, CompressionLevel, decoder};
    use crate::wal_archive::WalArchiveError;
    use crate::wal_archive::digest::Digester;
    use crate::wal_archive::source::Source;
    use crate::wal_archive::stored::stored_form;
    use std::io::Read;
    use std::num::NonZeroUsize;

    fn threads(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("not zero")
    }

    #[test]
    fn a_file_of_many_blocks_is_stored_the_same_by_any_number_of_threads() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("00000001000000000000000A.00000028.backup");
        let plain: Vec<u8> =
            (0..1_300_000u32).flat_map(|n| (n * 7 % 1013 * (n >> 8)).to_le_bytes()).collect();
        std::fs::write(&path, &plain).expect("write");
        let source = Source::open(&path).expect("source");
        let mut digester = Digester::default();
        digester.take(&plain);
        let digest = digester.finish();
        for compression in Compression::ALL {
            let chosen = Some((compression, CompressionLevel::Low));
            let one = stored_form(&source, chosen, threads(1)).expect("stored");
            let three = stored_form(&source, chosen, threads(3)).expect("stored");
            assert!(one == three, "{compression}");
            assert_eq!(one.digest, digest, "{compression}");
            let mut back = Vec::new();
            let reader = decoder(compression, std::io::Cursor::new(one.bytes)).expect("decoder");
            { reader }.read_to_end(&mut back).expect("reads");
            assert!(back == plain, "{compression}");
        }
        let as_it_is = stored_form(&source, None, threads(2)).expect("stored");
        assert!(as_it_is.bytes == plain && as_it_is.digest == digest);
    }

    #[test]
    fn a_file_that_changes_its_size_while_it_is_read_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("00000001000000000000000A.00000028.backup");
        for (before, after) in
            [(100, 99), (100, 101), (3_000_000, 2_999_999), (3_000_000, 3_000_001)]
        {
            std::fs::write(&path, vec![7; before]).expect("write");
            let source = Source::open(&path).expect("source");
            std::fs::write(&path, vec![7; after]).expect("write");
            let all = Compression::ALL.into_iter().map(|it| Some((it, CompressionLevel::Low)));
            for compression in std::iter::once(None).chain(all) {
                let error = stored_form(&source, compression, threads(2)).expect_err("changed");
                assert!(
                    matches!(error, WalArchiveError::Source { .. }),
                    "{compression:?}: {error}"
                );
            }
        }
    }
}
