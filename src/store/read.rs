//! Reading an object as a stream that survives broken connections.
//!
//! `object_store` resumes a broken body too, but only within the retry deadline of the request
//! that opened it; a tarball is read for hours. So a stream that ends early is opened again at
//! the byte it reached, as long as each try brings something.

use crate::cloud::Trace;
use crate::flow::Backoff;
use crate::store::handle::path;
use crate::store::{ObjectKey, Store, StoreError, StoreErrorKind, StoreOperation};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// The bytes of one opened object.
pub type Body = BoxStream<'static, Result<Bytes, object_store::Error>>;

/// Files are read in larger bites than `object_store`'s 8 KiB, each of which costs a thread hop.
const FILE_CHUNK_BYTES: u64 = 1 << 20;

/// Where a read is, and how to go on.
struct Reading {
    store: Store,
    key: ObjectKey,
    etag: Option<String>,
    /// What is still to come, in bytes of the object.
    rest: Range<u64>,
    body: Option<Body>,
    trace: Trace,
    backoff: Backoff,
}

/// Streams an opened object to its end.
pub fn stream_of(
    store: &Store,
    key: &ObjectKey,
    opened: GetResult,
    trace: Trace,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let reading = Reading {
        store: store.clone(),
        key: key.clone(),
        etag: opened.meta.e_tag.clone(),
        rest: opened.range.clone(),
        body: Some(body_of(opened)),
        trace,
        backoff: Backoff::new(store.retry()),
    };
    stream::try_unfold(reading, |mut reading| async move {
        let chunk = reading.next().await?;
        Ok(chunk.map(|chunk| (chunk, reading)))
    })
    .boxed()
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while !self.rest.is_empty() {
            let error = match self.step().await {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => self.ended_early(),
                Err(error) => error,
            };
            let delay = match is_worth_another_try(&error) {
                true => self.backoff.next_delay(None),
                false => None,
            };
            let Some(delay) = delay else { return Err(error) };
            self.pause(delay).await;
        }
        Ok(None)
    }

    /// One chunk of the open body, opening it first where it was lost.
    async fn step(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.reopen().await?,
        };
        let next = async { body.next().await.transpose() };
        match self.store.follow(&self.trace, next).await {
            Ok(None) => Ok(None),
            Err(error) => Err(self.error(&error)),
            Ok(Some(chunk)) => {
                self.rest.start += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                self.backoff = Backoff::new(self.store.retry());
                self.body = Some(body);
                Ok(Some(chunk))
            }
        }
    }

    async fn reopen(&mut self) -> Result<Body, StoreError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(self.rest.clone())),
            if_match: self.etag.clone(),
            ..GetOptions::default()
        };
        let objects = Arc::clone(self.store.objects());
        self.trace = Trace::new();
        let location = path(&self.key);
        match self.store.follow(&self.trace, objects.get_opts(&location, options)).await {
            Ok(opened) => Ok(body_of(opened)),
            Err(object_store::Error::Precondition { .. }) => {
                let mut error = self.ended_early();
                error.kind = StoreErrorKind::Refused;
                error.reason = "it was replaced while it was read".into();
                Err(error)
            }
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn pause(&mut self, delay: Duration) {
        self.body = None;
        tracing::debug!(object = %self.key, at = self.rest.start, "reading on after a break");
        self.store.pause(delay).await;
    }

    fn error(&self, error: &object_store::Error) -> StoreError {
        self.store.error(StoreOperation::Read, &self.key, &self.trace, error)
    }

    fn ended_early(&self) -> StoreError {
        let early = io::Error::new(io::ErrorKind::UnexpectedEof, "the object ended early");
        let mut error = self.store.error(StoreOperation::Read, &self.key, &self.trace, &early);
        error.kind = StoreErrorKind::Interrupted;
        error
    }
}

fn is_worth_another_try(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Interrupted | StoreErrorKind::Other)
}

fn body_of(opened: GetResult) -> Body {
    let range = opened.range.clone();
    match opened.payload {
        GetResultPayload::File(file, _) => file_body(Arc::new(file), range),
        GetResultPayload::Stream(stream) => stream,
    }
}

fn file_body(file: Arc<File>, range: Range<u64>) -> Body {
    stream::try_unfold((file, range), |(file, mut rest)| async move {
        if rest.is_empty() {
            return Ok(None);
        }
        let end = rest.end.min(rest.start + FILE_CHUNK_BYTES);
        let chunk = {
            let (file, range) = (Arc::clone(&file), rest.start..end);
            tokio::task::spawn_blocking(move || read_chunk(&file, range)).await
        };
        let chunk = match chunk {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(file_error(error)),
            Err(_) => return Err(file_error(io::Error::other("a worker thread panicked"))),
        };
        rest.start = end;
        Ok(Some((chunk, (file, rest))))
    })
    .boxed()
}

fn read_chunk(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).unwrap_or(0);
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.into())
}

fn file_error(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "folder", source: Box::new(error) }
}
