//! Is what the archive holds under a name what we want to put there?
//!
//! Compared are the plain contents, whatever the suffix: the same segment compressed by another
//! tool or at another level is the same segment.

use crate::codec::{Compression, decoder};
use crate::flow::Cancel;
use crate::store::{ObjectKey, Store};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::source::Source;
use crate::wal_archive::transfer::{Feed, read_object};
use std::io::{self, Read};

const COMPARE_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    Same,
    /// With the first bytes of the stored content.
    Different {
        stored_first: Vec<u8>,
    },
    /// The stored object cannot be decompressed.
    Unreadable {
        reason: String,
    },
}

/// Compares a stored object with a file; `None` when there is no such object (any more).
pub async fn compare(
    store: &Store,
    key: &ObjectKey,
    compression: Option<Compression>,
    source: &Source,
    cancel: &Cancel,
) -> Result<Option<Comparison>, WalArchiveError> {
    let ours = source.clone();
    let work = move |feed: Feed| {
        let mut stored = plain(compression, feed)?;
        compare_streams(&mut stored, &mut ours.reader(), ours.path())
    };
    read_object(store, key, cancel, work).await?.transpose()
}

/// The plain content of a stored object.
pub fn plain(
    compression: Option<Compression>,
    feed: Feed,
) -> Result<Box<dyn Read + Send>, WalArchiveError> {
    match compression {
        None => Ok(Box::new(feed)),
        Some(compression) => decoder(compression, feed).map_err(WalArchiveError::Codec),
    }
}

fn compare_streams(
    stored: &mut dyn Read,
    ours: &mut dyn Read,
    path: &std::path::Path,
) -> Result<Comparison, WalArchiveError> {
    let (mut stored_buffer, mut our_buffer) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut stored_first = None;
    loop {
        let theirs = match fill(stored, &mut stored_buffer) {
            Ok(length) => &stored_buffer[..length],
            Err(error) => return Ok(Comparison::Unreadable { reason: error.to_string() }),
        };
        let stored_first: &Vec<u8> =
            stored_first.get_or_insert_with(|| theirs[..theirs.len().min(64)].to_vec());
        let length = fill(ours, &mut our_buffer)
            .map_err(|source| WalArchiveError::Source { path: path.to_path_buf(), source })?;
        if theirs != &our_buffer[..length] {
            return Ok(Comparison::Different { stored_first: stored_first.clone() });
        }
        if length == 0 {
            return Ok(Comparison::Same);
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
