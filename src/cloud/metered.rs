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

/// Whoever collects a body reserves what its length promises: a part of an object at the most.
const RESERVED_BYTES_MAX: u64 = 16 << 20;

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

    /// No more than this is reserved on the word of a server that announces a length.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.body.size_hint().lower().min(RESERVED_BYTES_MAX));
        hint
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::metered::{Incoming, RESERVED_BYTES_MAX};
    use bytes::Bytes;
    use http_body::{Body, Frame, SizeHint};
    use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    /// Two bytes of the exbibytes that it announces.
    struct Boast(u8);

    impl Body for Boast {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready((self.0 < 3).then(|| Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(u64::MAX)
        }
    }

    #[tokio::test]
    async fn an_announced_length_reserves_no_memory_without_bound() {
        let failed = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let body = Incoming::new(reqwest::Body::wrap(Boast(0)), Duration::from_secs(9), failed);
        assert_eq!(body.size_hint().lower(), RESERVED_BYTES_MAX);
        let bytes = HttpResponseBody::new(body).bytes().await.expect("two pieces");
        assert_eq!(bytes, "xx");
    }
}
