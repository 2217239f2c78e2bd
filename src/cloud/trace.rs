//! What the other side answered while one operation was tried.
//!
//! The client library tells an error's status but neither its code nor how often it tried, and a
//! missing bucket looks like a missing object. So each operation carries a [`Trace`] as a task
//! local; the transport below the library writes into it, the store above reads from it.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

tokio::task_local! {
    static CURRENT: Trace;
}

/// The requests of one operation. Clones share one record.
#[derive(Clone, Debug)]
pub struct Trace {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    attempts: u32,
    unreachable_since: Option<Instant>,
    /// A request went out whose effect is not known.
    doubtful: bool,
    last: Option<Answer>,
    identity: Option<String>,
    /// A source of credentials is there and was busy.
    identity_may_pass: bool,
}

/// How the last request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A status, with the error's code and words where the body or a header told them.
    Status {
        status: u16,
        code: Option<String>,
        message: Option<String>,
        /// The region that S3 says the bucket is in.
        region: Option<String>,
    },
    /// No connection: refused, no such host, no route.
    Unreachable { detail: String },
    /// A connection, but its certificate is not trusted.
    Untrusted { detail: String },
    /// Connected, then silence.
    Silent { waited: Duration },
    /// Connected, then cut.
    Cut { detail: String },
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    pub fn new() -> Self {
        let state = State {
            begun: Instant::now(),
            attempts: 0,
            unreachable_since: None,
            doubtful: false,
            last: None,
            identity: None,
            identity_may_pass: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Runs `operation`, whose requests are recorded here.
    pub async fn follow<F: Future>(&self, operation: F) -> F::Output {
        CURRENT.scope(self.clone(), operation).await
    }

    /// The trace of the running operation; a fresh one outside of any.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    pub fn last(&self) -> Option<Answer> {
        self.lock().last.clone()
    }

    /// Why no credentials could be had, if that went wrong.
    pub fn identity_failure(&self) -> Option<String> {
        self.lock().identity.clone()
    }

    /// Whether that may go better later: a source of credentials is there, but did not answer or
    /// was busy. Otherwise there is none, or it refused.
    pub fn identity_may_pass(&self) -> bool {
        self.lock().identity_may_pass
    }

    /// Requests sent, and the time since the operation began.
    pub fn spent(&self) -> (u32, Duration) {
        let state = self.lock();
        (state.attempts, state.begun.elapsed())
    }

    /// Whether a request went out whose effect is not known: cut, unanswered, or a 5xx.
    pub fn was_doubtful(&self) -> bool {
        self.lock().doubtful
    }

    /// Counts a request; returns its number, from one.
    pub(crate) fn attempt(&self) -> u32 {
        let mut state = self.lock();
        state.attempts += 1;
        state.attempts
    }

    pub(crate) fn answered(&self, answer: Answer) {
        let mut state = self.lock();
        state.doubtful |= match &answer {
            Answer::Silent { .. } | Answer::Cut { .. } => true,
            Answer::Status { status, .. } => *status >= 500,
            Answer::Unreachable { .. } | Answer::Untrusted { .. } => false,
        };
        if !matches!(answer, Answer::Unreachable { .. }) {
            state.unreachable_since = None;
        }
        state.last = Some(answer);
    }

    /// How long there has been no connection, if the request that began at `begun` got none.
    pub(crate) fn unreachable_for(&self, begun: Instant) -> Duration {
        self.lock().unreachable_since.get_or_insert(begun).elapsed()
    }

    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        state.unreachable_since = None;
        state.last = None;
    }

    pub(crate) fn no_identity(&self, why: String) {
        self.lock().identity = Some(why);
    }

    /// Said beside [`no_identity`](Self::no_identity); where several sources are asked, one that
    /// may work later is enough.
    pub(crate) fn identity_was_busy(&self) {
        self.lock().identity_may_pass = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
