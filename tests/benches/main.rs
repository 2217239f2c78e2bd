//! The inner loops, alone and on one thread: `cargo bench --bench hot_loops`.
//!
//! What a whole backup or restore takes beside other tools: `scripts/bench`.

use barman_cloud::codec::{
    BLOCK_BYTES, Compression, SerialStream, TarballCodec, TarballStream, compress, decoder,
};
use barman_cloud::pgdata::{
    ManifestEntry, ManifestVersion, ManifestWriter, PAGE_BYTES, page_checksum, verify_page,
};
use barman_cloud::tarball::{ContentSink, MemberMeta, Owner, TarballWriter};
use barman_cloud::wal::Lsn;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use std::io::{self, Read};
use std::path::Path;

fn main() {
    divan::main();
}

const BLOCKS: usize = 8;

/// Bytes of a relation of many types: words, numbers and ids, a seventh of it random; about
/// 3 to 1 under zstd.
fn rows(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = ["delivered to the front door", "waiting for payment", "returned by the customer"];
    let mut content = Vec::with_capacity(bytes + 256);
    let mut number = 0_u64;
    while content.len() < bytes {
        number += 1;
        let word = words.get(usize::try_from(random() % 3).unwrap_or(0)).copied().unwrap_or("");
        content.extend(number.to_be_bytes());
        content.extend(format!("customer {} {word} {{\"weight\": ", random() % 50_000).bytes());
        content.extend(format!("{}, \"state\": \"paid\"}}", random() % 4000).bytes());
        content.extend([0; 24]);
        content.extend(random().to_be_bytes());
        content.extend(random().to_be_bytes());
    }
    content.truncate(bytes);
    content
}

/// One block after another, as one worker of a backup compresses them.
fn encode_blocks(bencher: Bencher<'_, '_>, compression: Option<Compression>, level: Option<i32>) {
    let content = rows(BLOCKS * BLOCK_BYTES);
    let stream = match TarballCodec::new(compression, level).begin(1) {
        Ok(TarballStream::Blocks(stream)) => stream,
        other => panic!("not a stream of blocks: {other:?}"),
    };
    let encoder = stream.encoder();
    bencher.counter(BytesCount::of_slice(&content)).bench_local(|| {
        for block in content.chunks(BLOCK_BYTES) {
            divan::black_box(encoder.compress(block).expect("encodes"));
        }
    });
}

#[divan::bench(args = [1, 2, 6])]
fn block_gzip(bencher: Bencher<'_, '_>, level: i32) {
    encode_blocks(bencher, Some(Compression::Gzip), Some(level));
}

#[divan::bench]
fn block_lz4(bencher: Bencher<'_, '_>) {
    encode_blocks(bencher, Some(Compression::Lz4), None);
}

#[divan::bench]
fn block_snappy(bencher: Bencher<'_, '_>) {
    encode_blocks(bencher, Some(Compression::Snappy), None);
}

#[divan::bench(args = [1, 3])]
fn block_zstd(bencher: Bencher<'_, '_>, level: i32) {
    let content = rows(BLOCKS * BLOCK_BYTES);
    bencher.counter(BytesCount::of_slice(&content)).bench_local(|| {
        let mut stream = zstd_stream(level);
        for block in content.chunks(BLOCK_BYTES) {
            divan::black_box(stream.encode(block).expect("encodes"));
        }
        stream.finish().expect("ends")
    });
}

fn zstd_stream(level: i32) -> SerialStream {
    match TarballCodec::new(Some(Compression::Zstd), Some(level)).begin(1) {
        Ok(TarballStream::Serial(stream)) => *stream,
        other => panic!("not a serial stream: {other:?}"),
    }
}

/// What a restore and a WAL fetch spend their time on.
#[divan::bench(args = [Compression::Gzip, Compression::Lz4, Compression::Snappy, Compression::Zstd])]
fn decode(bencher: Bencher<'_, '_>, compression: &Compression) {
    let content = rows(BLOCKS * BLOCK_BYTES);
    let stored = compress(*compression, 1, &content).expect("compresses");
    bencher.counter(BytesCount::of_slice(&content)).bench_local(|| {
        let mut reader =
            decoder(*compression, io::Cursor::new(stored.clone())).expect("opens a decoder");
        io::copy(&mut reader, &mut io::sink()).expect("decodes")
    });
}

/// Takes members as a backup does, into a block that is written over again and again.
struct OneBlock(Vec<u8>);

impl io::Write for OneBlock {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES);
        self.0[..taken].copy_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ContentSink for OneBlock {
    fn fill_from(&mut self, content: &mut dyn Read, limit: u64) -> io::Result<u64> {
        let wanted = usize::try_from(limit).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        let taken = content.read(&mut self.0[..wanted])?;
        Ok(u64::try_from(taken).expect("a length fits 64 bits"))
    }
}

/// Members of three sizes: headers count, or bytes do.
#[divan::bench(args = [8_192, 1 << 20, 64 << 20])]
fn tar_members(bencher: Bencher<'_, '_>, bytes: u64) {
    let meta = MemberMeta {
        mode: 0o600,
        modified: 1_795_227_000,
        owner: Owner { uid: 26, gid: 26, user: "postgres".into(), group: "postgres".into() },
    };
    let members = (64_u64 << 20) / bytes;
    bencher.counter(BytesCount::new(members * bytes)).bench_local(|| {
        let mut writer = TarballWriter::new(OneBlock(vec![0; BLOCK_BYTES]));
        for _ in 0..members {
            let mut content = io::repeat(7).take(bytes);
            let path = Path::new("base/16384/16385");
            writer.file(path, bytes, &meta, &mut content).expect("writes");
        }
        writer.finish().expect("ends")
    });
}

#[divan::bench]
fn page_checksums(bencher: Bencher<'_, '_>) {
    let content = rows(BLOCKS * BLOCK_BYTES);
    bencher.counter(BytesCount::of_slice(&content)).bench_local(|| {
        content.chunks(PAGE_BYTES).zip(0_u32..).fold(0_u32, |sum, (page, number)| {
            sum ^ u32::from(page_checksum(divan::black_box(page), number))
        })
    });
}

/// With the look at the page's header.
#[divan::bench]
fn page_verdicts(bencher: Bencher<'_, '_>) {
    let content = rows(BLOCKS * BLOCK_BYTES);
    let start = Lsn::new(u64::MAX);
    bencher.counter(BytesCount::of_slice(&content)).bench_local(|| {
        for (page, number) in content.chunks(PAGE_BYTES).zip(0_u32..) {
            divan::black_box(verify_page(page, number, start));
        }
    });
}

#[divan::bench]
fn manifest_lines(bencher: Bencher<'_, '_>) {
    const FILES: u32 = 10_000;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        let mut writer =
            ManifestWriter::new(io::sink(), ManifestVersion::One).expect("begins a manifest");
        for number in 0..FILES {
            let entry = ManifestEntry {
                path: b"base/16384/1663820",
                size_bytes: u64::from(number) * 8192,
                modified: 1_795_227_000,
                crc32c: number,
            };
            writer.add(&entry).expect("adds a file");
        }
        writer.finish(&[]).expect("ends")
    });
}
