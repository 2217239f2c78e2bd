//! Files of one tarball on their way to the disk, written by threads of their own.
//!
//! ```text
//! member's content → buffer of 1 MiB → any writer thread → file
//! ```
//!
//! Memory: [`BUFFERS`] buffers per tarball; who wants one more waits until one was written.
//! A file gets its mode, owner and time when the last of its pieces is there.

use crate::disk::{self, AlignedBuffer, Attributes, BulkFile};
use crate::flow::WorkerPool;
use crate::restore::RestoreError;
use std::fs::File;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Buffers per tarball.
pub const BUFFERS: usize = 6;

/// The writes of one tarball.
pub struct Writes {
    pool: WorkerPool,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Buffers that wait for content.
    free: Vec<AlignedBuffer>,
    made: usize,
    in_flight: usize,
    /// The first one; who asks gets it.
    failure: Option<RestoreError>,
    failed: bool,
}

/// A file that is being written.
pub struct OpenFile {
    file: BulkFile,
    /// For errors.
    path: PathBuf,
    attributes: Attributes,
}

impl OpenFile {
    /// `bytes` is what it will hold; `path` is its place, for errors.
    pub fn new(file: File, bytes: u64, path: PathBuf, attributes: Attributes) -> Arc<Self> {
        Arc::new(Self { file: BulkFile::new(file, bytes), path, attributes })
    }

    fn write(&self, buffer: &AlignedBuffer, offset: u64) -> Result<(), RestoreError> {
        self.file.write_at(buffer, offset).map_err(RestoreError::disk(&self.path))
    }

    /// Ends one use of the file; the last one gives it its attributes.
    fn release(self: Arc<Self>) -> Result<(), RestoreError> {
        match Arc::into_inner(self) {
            Some(file) => disk::apply(file.file.file(), &file.attributes)
                .map_err(RestoreError::disk(&file.path)),
            None => Ok(()),
        }
    }
}

impl Writes {
    pub fn new(pool: WorkerPool) -> Self {
        Self { pool, shared: Arc::default() }
    }

    /// An empty buffer, or the failure of an earlier write.
    pub fn buffer(&self) -> Result<AlignedBuffer, RestoreError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(failure) = state.failure.take() {
                return Err(failure);
            }
            if let Some(buffer) = state.free.pop() {
                return Ok(buffer);
            }
            if state.made < BUFFERS {
                state.made += 1;
                return Ok(AlignedBuffer::new());
            }
            state = self.shared.wait(state);
        }
    }

    /// Takes a buffer back that was not needed.
    pub fn give(&self, buffer: AlignedBuffer) {
        self.shared.give(buffer);
    }

    /// Writes a buffer into a file, some time before [`finish`](Self::finish) returns.
    pub fn write(&self, file: &Arc<OpenFile>, buffer: AlignedBuffer, offset: u64) {
        self.shared.lock().in_flight += 1;
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(file));
        // Its answer comes through the shared state, so nobody waits for it here.
        drop(self.pool.submit(move || {
            let written = if shared.lock().failed { Ok(()) } else { file.write(&buffer, offset) };
            let released = file.release();
            shared.give(buffer);
            shared.end(written.and(released));
        }));
    }

    /// No more pieces of this file will come.
    pub fn close(&self, file: Arc<OpenFile>) -> Result<(), RestoreError> {
        file.release()
    }

    /// Waits until everything is written; the first failure, unless it was told already.
    pub fn finish(&self) -> Result<(), RestoreError> {
        let mut state = self.shared.lock();
        while state.in_flight > 0 {
            state = self.shared.wait(state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, mut buffer: AlignedBuffer) {
        buffer.clear();
        self.lock().free.push(buffer);
        self.changed.notify_all();
    }

    fn end(&self, result: Result<(), RestoreError>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        if let Err(failure) = result
            && !mem::replace(&mut state.failed, true)
        {
            state.failure = Some(failure);
        }
        self.changed.notify_all();
    }
}
