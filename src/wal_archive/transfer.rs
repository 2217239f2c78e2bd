//! One object from the store to a thread that decompresses it.
//!
//! ```text
//! store (async) → at most 8 chunks → Feed: Read → decoder → the caller's work   (own thread)
//! ```
//!
//! The work sees an error, never a clean end, when the stream breaks or the command is told to
//! stop; it is always waited for, so that it can remove what it began to write.

use crate::flow::{Cancel, Cancelled};
use crate::store::{ObjectKey, Store, StoreError};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::digest::PlainDigest;
use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, StreamExt};
use std::io::{self, Read};
use tokio::sync::mpsc;

/// Chunks between the network and the thread.
const CHUNKS_MAX: usize = 8;

/// The object's bytes as they arrive, for a thread.
#[derive(Debug)]
pub struct Feed {
    chunks: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
    digest: Option<PlainDigest>,
}

impl Feed {
    /// The digest of the plain content that was noted with the object.
    pub fn digest(&self) -> Option<PlainDigest> {
        self.digest
    }
}

/// Runs `work` on the bytes of an object; `None` when the store says that there is none.
///
/// `work` may stop reading early; what it did not want is not downloaded.
pub async fn read_object<T: Send + 'static>(
    store: &Store,
    key: &ObjectKey,
    cancel: &Cancel,
    work: impl FnOnce(Feed) -> T + Send + 'static,
) -> Result<Option<T>, WalArchiveError> {
    let opened = tokio::select! {
        opened = store.get_stream(key, None) => opened.map_err(WalArchiveError::Store)?,
        () = cancel.cancelled() => return Err(WalArchiveError::Cancelled(Cancelled)),
    };
    let Some((meta, stream)) = opened else { return Ok(None) };
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let feed =
        Feed { chunks, current: Bytes::new(), ended: false, digest: PlainDigest::of_object(&meta) };
    let worker = tokio::task::spawn_blocking(move || work(feed));
    let fed = tokio::select! {
        fed = pass_on(stream, sender) => fed.map_err(WalArchiveError::Store),
        () = cancel.cancelled() => Err(WalArchiveError::Cancelled(Cancelled)),
    };
    // The sender is gone by now: the work ends, well or with an error of its own.
    let done = worker.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    fed.map(|()| Some(done))
}

async fn pass_on(
    mut stream: BoxStream<'static, Result<Bytes, StoreError>>,
    sender: mpsc::Sender<Option<Bytes>>,
) -> Result<(), StoreError> {
    while let Some(chunk) = stream.next().await {
        if sender.send(Some(chunk?)).await.is_err() {
            // The work has seen enough.
            return Ok(());
        }
    }
    let _ = sender.send(None).await;
    Ok(())
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the download was interrupted")),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
