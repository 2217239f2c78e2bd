//! Bodies that say when they move, so that silence can be told from slowness.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequestBody};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Small enough that a slow line moves one within any sensible time limit.
const PIECE_BYTES: usize = 128 << 10;

/// When something last moved.
#[derive(Clone, Debug)]
pub struct Movement {
    last: Arc<Mutex<Instant>>,
}

impl Movement {
    pub fn new() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }

    fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when nothing has moved for `limit`.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let deadline = self.last() + limit;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// A request body in pieces, each of which counts as movement when it is taken.
#[derive(Debug)]
pub struct Outgoing {
    body: HttpRequestBody,
    piece: Bytes,
    movement: Movement,
}

impl Outgoing {
    pub fn new(body: HttpRequestBody, movement: Movement) -> Self {
        Self { body, piece: Bytes::new(), movement }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                other => return Poll::Ready(other),
            }
        }
        self.movement.moved();
        let length = self.piece.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().unwrap_or(0);
        SizeHint::with_exact(rest + u64::try_from(self.piece.len()).unwrap_or(0))
    }
}

/// A response body that fails when nothing came for `limit`.
pub struct Incoming {
    body: reqwest::Body,
    limit: Duration,
    /// Runs only while somebody waits: a reader that takes its time is not a stall.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    failed: fn(reqwest::Error) -> HttpError,
}

impl Incoming {
    pub fn new(
        body: reqwest::Body,
        limit: Duration,
        failed: fn(reqwest::Error) -> HttpError,
    ) -> Self {
        Self { body, limit, timer: Box::pin(tokio::time::sleep(limit)), waiting: false, failed }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}")]
pub struct Silence(pub Duration);

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            let failed = self.failed;
            return Poll::Ready(frame.map(|frame| frame.map_err(failed)));
        }
        if !self.waiting {
            let deadline = Instant::now() + self.limit;
            self.timer.as_mut().reset(deadline);
            self.waiting = true;
        }
        ready!(self.timer.as_mut().poll(cx));
        let silence = Silence(self.limit);
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, silence))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
