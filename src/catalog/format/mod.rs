//! The texts of the catalog's small objects: `backup.info` and our JSON files.
//!
//! Each is read tolerantly (any subset of keys, unknown ones never fatal) and converted at once
//! into the values of `catalog`; none of these structs travels further.

pub mod backup_info;
pub mod backup_json;
pub mod python;
pub mod side_json;
pub mod time;

/// A text that cannot be read as what its name promises.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct FormatError {
    reason: String,
}

impl FormatError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}
