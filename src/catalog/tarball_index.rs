//! The index of a tarball: where each of its members and each of its blocks lies.
//!
//! JSON lines, zstd-compressed. A first line says which format this is; then one line per block
//! that can be decoded alone, each behind the lines of the members whose content begins in it:
//!
//! ```text
//! {"format":1}
//! {"path":"base/5/1259","offset":1536,"size":8192}
//! {"raw":0,"stored":10,"length":4711,"crc32":3421780262}
//! ```
//!
//! `offset` and `size` are bytes of content in the tar stream; `raw` is a block's offset in the
//! tar stream, `stored` and `length` its place in the object, `crc32` the checksum of its plain
//! bytes. A path that is not UTF-8 is `encoded_path`, in hex, as in PostgreSQL's manifests.
//!
//! It is an accelerator: without it a tarball is read in sequence. Memory: one compressor, and
//! what is not taken yet.

use crate::codec::BlockMark;
use crate::store::hex;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;

const FORMAT: u64 = 1;

/// A path of 4096 bytes in hex, and the other fields.
const LINE_BYTES_MAX: u64 = 32 << 10;
/// Blocks of 1 MiB in the largest object of any store, 5 TB.
const MARKS_MAX: usize = 5 << 20;

/// Where a member's content lies in the tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedMember {
    /// As in the tarball.
    pub path: Vec<u8>,
    pub offset: u64,
    pub bytes: u64,
}

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IndexReadError(String);

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
}

/// Writes an index while its tarball is written.
pub struct IndexWriter {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
}

impl std::fmt::Debug for IndexWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexWriter").finish_non_exhaustive()
    }
}

impl IndexWriter {
    pub fn new() -> io::Result<Self> {
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), 1)?;
        let mut writer = Self { encoder };
        writer.line(&Line { format: Some(FORMAT), ..Line::default() })?;
        Ok(writer)
    }

    pub fn member(&mut self, member: IndexedMember) -> io::Result<()> {
        let (path, encoded_path) = match String::from_utf8(member.path) {
            Ok(path) => (Some(path), None),
            Err(error) => (None, Some(hex(error.as_bytes()))),
        };
        let (offset, size) = (Some(member.offset), Some(member.bytes));
        self.line(&Line { path, encoded_path, offset, size, ..Line::default() })
    }

    pub fn block(&mut self, mark: BlockMark) -> io::Result<()> {
        self.line(&Line {
            raw: Some(mark.raw_offset),
            stored: Some(mark.stored_offset),
            length: Some(mark.stored_bytes),
            crc32: Some(mark.crc32),
            ..Line::default()
        })
    }

    /// What is ready of the object; may be empty.
    pub fn take(&mut self) -> Vec<u8> {
        mem::take(self.encoder.get_mut())
    }

    /// The rest of the object.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.encoder.finish()
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.encoder, line)?;
        self.encoder.write_all(b"\n")
    }
}

/// Reads the blocks of a whole index, in stream order: without a gap in the object.
pub fn read_index(stored: &[u8]) -> Result<Vec<BlockMark>, IndexReadError> {
    let unreadable = |error: io::Error| IndexReadError(error.to_string());
    let decoder = zstd::stream::read::Decoder::new(stored).map_err(unreadable)?;
    let mut marks: Vec<BlockMark> = Vec::new();
    let (mut decoder, mut text) = (BufReader::new(decoder), Vec::new());
    for number in 0.. {
        text.clear();
        let read = (&mut decoder).take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
        if read.map_err(unreadable)? == 0 {
            break;
        }
        let malformed = |reason: &str| IndexReadError(format!("line {}: {reason}", number + 1));
        let line: Line =
            serde_json::from_slice(&text).map_err(|error| malformed(&error.to_string()))?;
        if marks.len() >= MARKS_MAX {
            return Err(malformed("it has more blocks than any tarball"));
        }
        if number == 0 && line.format != Some(FORMAT) {
            return Err(malformed("it has another format than this version reads"));
        }
        let (Some(raw_offset), Some(stored_offset), Some(stored_bytes), Some(crc32)) =
            (line.raw, line.stored, line.length, line.crc32)
        else {
            continue;
        };
        let follows = match marks.last() {
            None => raw_offset == 0,
            Some(last) => {
                raw_offset > last.raw_offset
                    && Some(stored_offset) == last.stored_offset.checked_add(last.stored_bytes)
            }
        };
        if !follows {
            return Err(malformed("the block does not follow the one before it"));
        }
        marks.push(BlockMark { raw_offset, stored_offset, stored_bytes, crc32 });
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use crate::catalog::{IndexWriter, IndexedMember, read_index};
    use crate::codec::BlockMark;
    use std::io::Read;

    fn mark(number: u64) -> BlockMark {
        BlockMark {
            raw_offset: number << 20,
            stored_offset: 10 + number * 777,
            stored_bytes: 777,
            crc32: u32::try_from(number).expect("small"),
        }
    }

    fn index(marks: &[BlockMark]) -> Vec<u8> {
        let mut writer = IndexWriter::new().expect("writer");
        let mut stored = Vec::new();
        for mark in marks {
            let path = format!("base/5/{}", mark.raw_offset).into_bytes();
            let member = IndexedMember { path, offset: mark.raw_offset + 512, bytes: 3 };
            writer.member(member).expect("member");
            writer.block(*mark).expect("block");
            stored.extend(writer.take());
        }
        stored.extend(writer.finish().expect("end"));
        stored
    }

    #[test]
    fn blocks_come_back_in_order() {
        let marks: Vec<_> = (0..5000).map(mark).collect();
        assert_eq!(read_index(&index(&marks)).expect("read"), marks);
        assert_eq!(read_index(&index(&[])).expect("read"), []);
    }

    #[test]
    fn a_block_that_ends_beyond_every_object_is_refused() {
        let first = format!("{{\"raw\":0,\"stored\":{},\"length\":9,\"crc32\":0", u64::MAX);
        let second = "{\"raw\":1,\"stored\":8,\"length\":1,\"crc32\":0}\n";
        let lines = format!("{first},\"format\":1}}\n{second}");
        let stored = zstd::encode_all(lines.as_bytes(), 1).expect("compressed");
        let error = read_index(&stored).expect_err("it lies").to_string();
        assert!(error.contains("does not follow"), "{error}");
    }

    #[test]
    fn lines_are_plain_json_and_names_that_are_no_text_are_hex() {
        let mut writer = IndexWriter::new().expect("writer");
        let member = |path: &[u8]| IndexedMember { path: path.to_vec(), offset: 512, bytes: 4 };
        writer.member(member(b"PG_VERSION")).expect("member");
        writer.member(member(b"\xff")).expect("member");
        writer.block(mark(0)).expect("block");
        let stored = writer.finish().expect("end");
        let mut text = String::new();
        zstd::stream::read::Decoder::new(&stored[..])
            .expect("zstd")
            .read_to_string(&mut text)
            .expect("text");
        assert_eq!(
            text,
            "{\"format\":1}\n\
             {\"path\":\"PG_VERSION\",\"offset\":512,\"size\":4}\n\
             {\"encoded_path\":\"ff\",\"offset\":512,\"size\":4}\n\
             {\"raw\":0,\"stored\":10,\"length\":777,\"crc32\":0}\n"
        );
    }

    #[test]
    fn an_index_with_a_gap_or_cut_short_or_of_another_format_is_refused() {
        assert!(read_index(&index(&[mark(0), mark(2)])).is_err());
        assert!(read_index(&index(&[mark(1)])).is_err());
        let whole = index(&[mark(0), mark(1)]);
        assert!(read_index(&whole[..whole.len() - 5]).is_err());
        let endless = [b'"'; 64 << 10];
        let endless = zstd::stream::encode_all(&endless[..], 1).expect("zstd");
        assert!(read_index(&endless).is_err());
        let newer = zstd::stream::encode_all(&b"{\"format\":2}\n"[..], 1).expect("zstd");
        assert!(read_index(&newer).is_err());
    }
}
