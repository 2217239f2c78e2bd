//! Is what the archive holds under a name what we want to put there?
//!
//! Compared are the plain contents, whatever the suffix: the same segment compressed by another
//! tool or at another level is the same segment. An object that was stored with its digest is known
//! by that, in one HEAD; any other is read and decompressed.

use crate::codec::{Compression, decoder};
use crate::flow::{Cancel, Cancelled};
use crate::store::{ObjectMeta, Store};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::copies::WalCopy;
use crate::wal_archive::digest::PlainDigest;
use crate::wal_archive::source::Source;
use crate::wal_archive::transfer::{Feed, read_object};
use std::io::{self, Read};

const COMPARE_BYTES: usize = 64 << 10;
/// Enough of the stored content to say how it differs.
const FIRST_BYTES: usize = 8 << 10;

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
    copy: &WalCopy,
    source: &Source,
    digest: &PlainDigest,
    cancel: &Cancel,
) -> Result<Option<Comparison>, WalArchiveError> {
    let looked = tokio::select! {
        looked = store.head(&copy.key) => looked?,
        () = cancel.cancelled() => return Err(Cancelled.into()),
    };
    let Some(meta) = looked else { return Ok(None) };
    let noted = PlainDigest::of_object(&meta);
    if noted.as_ref() == Some(digest) && has_its_size(copy, &meta, source) {
        return Ok(Some(Comparison::Same));
    }
    let (ours, compression) = (source.clone(), copy.compression);
    let work = move |feed: Feed| {
        let mut stored = plain(compression, feed)?;
        compare_streams(&mut stored, &mut ours.reader(), ours.path())
    };
    let compared = read_object(store, &copy.key, cancel, work).await?.transpose()?;
    Ok(match (compared, noted) {
        // Delivery holds it against its digest, and would refuse it.
        (Some(Comparison::Same), Some(noted)) if noted != *digest => {
            Some(Comparison::Unreadable { reason: format!("it was stored with digest {noted}") })
        }
        (compared, _) => compared,
    })
}

fn has_its_size(copy: &WalCopy, meta: &ObjectMeta, source: &Source) -> bool {
    copy.compression.is_some() || meta.bytes == source.bytes()
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
            stored_first.get_or_insert_with(|| theirs[..theirs.len().min(FIRST_BYTES)].to_vec());
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
pub fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
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
