//! What went wrong on which object, and whether the change may have happened.

use std::fmt;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// Setting up: options, credentials, endpoint.
    Open,
    Connect,
    Read,
    Write,
    List,
    Delete,
    CreateBucket,
}

/// The meanings a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store refused the identity or its permissions.
    Denied,
    /// No credentials were found, or their source failed.
    NoCredentials,
    BucketMissing,
    /// An object that must be there (a part of an upload, the source of a copy) is not.
    ObjectMissing,
    /// No connection: refused, DNS, TLS.
    Unreachable,
    /// Connected, then silence or a cut, until retries gave up.
    Interrupted,
    /// The command was told to stop while it waited for the store.
    Stopped,
    /// The request was wrong: an option the store does not take, a bad name.
    Refused,
    /// The disk or quota is full.
    Full,
    /// Anything else.
    Other,
}

/// Whether a failed change may still have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    SurelyNot,
    MayHaveHappened,
}

/// One failed operation on one object (or bucket).
///
/// `Display` is the primary message without its cause: `could not write object "s3://…"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    pub operation: StoreOperation,
    pub kind: StoreErrorKind,
    pub effect: Effect,
    /// The URL of the object or bucket.
    pub object: String,
    /// The store's own words in a few words: `access denied (403 AccessDenied)`.
    pub reason: String,
    /// The likeliest mistake or the next step, a full sentence.
    pub hint: Option<String>,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, noun) = match self.operation {
            StoreOperation::Open => ("open", "store"),
            StoreOperation::Connect => ("reach", "bucket"),
            StoreOperation::Read => ("read", "object"),
            StoreOperation::Write => ("write", "object"),
            StoreOperation::List => ("list", "objects below"),
            StoreOperation::Delete => ("delete", "object"),
            StoreOperation::CreateBucket => ("create", "bucket"),
        };
        write!(f, "could not {verb} {noun} \"{}\": {}", self.object, self.reason)
    }
}

impl std::error::Error for StoreError {}
