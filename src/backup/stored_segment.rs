//! Is a segment in the archive the one that this server wrote?
//!
//! ```text
//! object → decoder → header: system identifier, segment size, position
//!                  → compared with the file in pg_wal, where it is still there
//! ```
//!
//! Memory: two buffers of 64 KiB and what the decoder needs. What the header alone tells costs
//! the first chunk of the object.

use crate::backup::BackupError;
use crate::backup::local_wal::LocalSegment;
use crate::catalog::WalObject;
use crate::codec::decoder;
use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::store::{Store, StoreError};
use crate::wal::{SegmentSize, WalPageHeader, WalSegment};
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use tokio_util::io::{StreamReader, SyncIoBridge};

const COMPARE_BYTES: usize = 64 << 10;

/// Whose segment it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub segment: WalSegment,
    pub size: SegmentSize,
    pub system_identifier: SystemIdentifier,
}

/// What was found out about one stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Ours, as far as it can be told: the same to the last byte where there was a file to compare.
    Ours,
    /// Not what this server wrote, with the difference in words.
    Other(String),
    /// Nothing lies there any more.
    Gone,
}

/// Whether an object has a size that a stored segment can have. Compression makes it smaller, and
/// at worst a little larger.
pub fn is_plausible(object: &WalObject, size: SegmentSize) -> bool {
    let whole = u64::from(size.bytes());
    match object.compression {
        None => object.bytes == whole,
        Some(_) => (1..=whole + whole / 64 + (64 << 10)).contains(&object.bytes),
    }
}

/// Reads the object and holds it against the file in `pg_wal`, or without one against what must
/// be in its header.
pub async fn examine(
    store: &Store,
    object: &WalObject,
    expected: Expected,
    local: Option<LocalSegment>,
    cancel: &Cancel,
) -> Result<Finding, BackupError> {
    if !is_plausible(object, expected.size) {
        let (bytes, size) = (object.bytes, expected.size.bytes());
        return Ok(Finding::Other(format!("it has {bytes} bytes, for a segment of {size}")));
    }
    let opened = tokio::select! {
        opened = store.get_stream(&object.key, None) => opened.map_err(BackupError::Store)?,
        () = cancel.cancelled() => return Err(BackupError::Cancelled),
    };
    let Some((_, stream)) = opened else { return Ok(Finding::Gone) };
    let broken = Arc::new(OnceLock::new());
    let noted = note_errors(stream, Arc::clone(&broken));
    let (compression, stop) = (object.compression, cancel.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let stored = SyncIoBridge::new(StreamReader::new(Box::pin(noted)));
        let mut stored: Box<dyn Read> = match compression {
            None => Box::new(stored),
            Some(compression) => match decoder(compression, stored) {
                Ok(plain) => plain,
                Err(error) => return unreadable(&error),
            },
        };
        compare(&mut stored, expected, local.as_ref(), &stop)
    });
    let finding = reading.await.expect("the reading thread neither panics nor is cancelled");
    cancel.check().map_err(|_| BackupError::Cancelled)?;
    match Arc::into_inner(broken).and_then(OnceLock::into_inner) {
        // The stream broke, so nothing was found out.
        Some(error) => Err(BackupError::Store(error)),
        None => Ok(finding),
    }
}

/// Passes a stream on and keeps the error that ends it: the decoder would hide it in its own.
fn note_errors(
    stream: impl Stream<Item = Result<Bytes, StoreError>>,
    broken: Arc<OnceLock<StoreError>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    stream.map(move |chunk| {
        chunk.map_err(|error| {
            let text = error.to_string();
            let _ = broken.set(error);
            io::Error::other(text)
        })
    })
}

fn compare(
    stored: &mut dyn Read,
    expected: Expected,
    local: Option<&LocalSegment>,
    cancel: &Cancel,
) -> Finding {
    let (mut theirs, mut ours) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut at = 0;
    loop {
        let found = match fill(stored, &mut theirs) {
            Ok(length) => &theirs[..length],
            Err(error) => return unreadable(&error),
        };
        if at == 0
            && let Some(difference) = contradiction(found, expected)
        {
            return Finding::Other(difference);
        }
        // Without a file of ours the header is all that can be told.
        let Some(local) = local else { return Finding::Ours };
        let Ok(length) = fill(&mut &local.file, &mut ours) else { return Finding::Ours };
        if found != &ours[..length] {
            if !local.is_still_there() {
                // PostgreSQL has recycled the file while it was read.
                return Finding::Ours;
            }
            let equal = found.iter().zip(&ours[..length]).take_while(|(one, other)| one == other);
            let byte = at + equal.count();
            return Finding::Other(format!("it differs from the file in pg_wal at byte {byte}"));
        }
        if length == 0 || cancel.check().is_err() {
            return Finding::Ours;
        }
        at += length;
    }
}

/// How the first page contradicts what must be there.
fn contradiction(first: &[u8], expected: Expected) -> Option<String> {
    let Some(header) = WalPageHeader::parse(first) else {
        return Some("it does not begin like a WAL segment".into());
    };
    let found = SystemIdentifier::new(header.system_identifier);
    if found != expected.system_identifier {
        let ours = expected.system_identifier;
        return Some(format!("it was written by system identifier {found}, this server is {ours}"));
    }
    if header.segment_size != expected.size {
        let (found, ours) = (header.segment_size.bytes(), expected.size.bytes());
        return Some(format!("its segment size is {found} bytes, this server's is {ours}"));
    }
    let start = expected.segment.start(expected.size);
    let of_later_timeline = header.timeline > expected.segment.timeline.number();
    if header.address != start || of_later_timeline {
        let (address, timeline) = (header.address, header.timeline);
        return Some(format!("it begins at {address} of timeline {timeline}"));
    }
    None
}

fn unreadable(error: &dyn std::error::Error) -> Finding {
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        text = format!("{text}: {cause}");
    }
    Finding::Other(format!("it cannot be decompressed: {text}"))
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
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
