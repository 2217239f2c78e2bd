//! The stages that one tarball passes through, each on a thread of its own.
//!
//! ```text
//! download → chunks ─┬→ decode → blocks → extract → writers
//!                    └→ digest
//! ```
//!
//! With an index the blocks are decoded by the worker pool (`blocks`), and each is compared with
//! its own checksum instead of the whole object with its digest.
//!
//! Stages are joined by short bounded queues. When one fails, its neighbours see their queue
//! close early and end as [`Stopped`]; the failure itself is what is reported.

use crate::flow::WorkerGone;
use crate::restore::RestoreError;
use crate::restore::download::Chunk;
use crate::store::hex;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Ended because a neighbour did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Why a stage did not reach its end.
#[derive(Debug)]
pub enum StageEnd {
    Failed(RestoreError),
    Stopped,
}

impl StageEnd {
    /// A complaint about input that was cut off is no failure of its own.
    pub fn unless(self, input_was_cut: bool) -> Self {
        if input_was_cut { Self::Stopped } else { self }
    }
}

impl From<Stopped> for StageEnd {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<RestoreError> for StageEnd {
    fn from(error: RestoreError) -> Self {
        Self::Failed(error)
    }
}

/// Runs `work` on a thread of its own: it blocks on queues and files for as long as a tarball
/// lasts, which neither the runtime's threads nor the worker pool are for.
pub async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RestoreError> {
    let (sender, answer) = oneshot::channel();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Nobody waits any more when the restore was dropped as a whole.
            let _ = sender.send(work());
        })
        .map_err(RestoreError::Thread)?;
    answer.await.map_err(|_| RestoreError::Worker(WorkerGone))
}

/// The bytes of consecutive chunks as a reader.
///
/// A queue that closes before all bytes came reads as an error and sets `cut`, so that a
/// decoder's complaint about it is not taken for damage.
pub struct ChunkReader {
    chunks: mpsc::Receiver<Arc<Chunk>>,
    missing_bytes: u64,
    current: Option<Arc<Chunk>>,
    part: usize,
    offset: usize,
    cut: Arc<AtomicBool>,
}

impl ChunkReader {
    pub fn new(chunks: mpsc::Receiver<Arc<Chunk>>, bytes: u64) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        Self { chunks, missing_bytes: bytes, current: None, part: 0, offset: 0, cut }
    }

    /// Set once the queue closed early.
    pub fn cut(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cut)
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(part) = self.current.as_ref().and_then(|chunk| chunk.parts.get(self.part)) {
                let rest = &part[self.offset..];
                if rest.is_empty() {
                    (self.part, self.offset) = (self.part + 1, 0);
                    continue;
                }
                let read = rest.len().min(buffer.len());
                buffer[..read].copy_from_slice(&rest[..read]);
                self.offset += read;
                self.missing_bytes -= u64::try_from(read).unwrap_or(u64::MAX);
                return Ok(read);
            }
            if self.missing_bytes == 0 {
                return Ok(0);
            }
            // Dropped first: its memory is what the next chunk may be waiting for.
            self.current = None;
            match self.chunks.blocking_recv() {
                Some(chunk) => (self.current, self.part, self.offset) = (Some(chunk), 0, 0),
                None => {
                    self.cut.store(true, Ordering::Relaxed);
                    return Err(io::Error::other("the download was stopped"));
                }
            }
        }
    }
}

/// Lower-case hex SHA-256 of all chunks. Of no use when the download ended early.
pub fn digest(mut chunks: mpsc::Receiver<Arc<Chunk>>) -> String {
    let mut hash = Sha256::new();
    while let Some(chunk) = chunks.blocking_recv() {
        for part in &chunk.parts {
            hash.update(part);
        }
    }
    hex(&hash.finalize())
}
