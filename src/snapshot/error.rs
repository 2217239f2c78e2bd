//! What can go wrong with instances, volumes and snapshots, by what a caller does about it.

use crate::cloud::{ApiError, CloudError};
use crate::flow::Cancelled;
use std::fmt;

/// One operation that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotError {
    pub kind: SnapshotErrorKind,
    /// Primary text, complete with the object's name.
    pub message: String,
    /// The likeliest mistake or the next step, a full sentence.
    pub hint: Option<String>,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotErrorKind {
    /// Options or environment do not say enough.
    Settings,
    InstanceMissing,
    InstanceAmbiguous,
    /// No attached volume has this name.
    DiskMissing,
    /// More than one volume has this name, or one volume has two of the names.
    DiskAmbiguous,
    /// A lock forbids the deletion.
    Locked,
    /// The cloud says that it is not there.
    Absent,
    /// The cloud has no such thing.
    Unsupported,
    /// The cloud reports that a snapshot or volume went wrong.
    Broken,
    TimedOut,
    Denied,
    /// Throttled or not answered: the same question may be answered later.
    Unanswered,
    /// Refused.
    Call,
    Cancelled,
}

impl SnapshotError {
    pub fn new(kind: SnapshotErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `action` names what was tried and on which object: `create snapshot "x" of volume "y"`.
    pub fn of_call(action: &str, error: &ApiError) -> Self {
        let kind = match (error.passing, error.is_denied()) {
            (true, _) => SnapshotErrorKind::Unanswered,
            (false, true) => SnapshotErrorKind::Denied,
            (false, false) => SnapshotErrorKind::Call,
        };
        Self { kind, message: format!("could not {action}: {error}"), hint: error.hint.clone() }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SnapshotError {}

impl From<CloudError> for SnapshotError {
    fn from(error: CloudError) -> Self {
        Self { kind: SnapshotErrorKind::Settings, message: error.message, hint: error.hint }
    }
}

impl From<Cancelled> for SnapshotError {
    fn from(cancelled: Cancelled) -> Self {
        Self::new(SnapshotErrorKind::Cancelled, cancelled.to_string())
    }
}
