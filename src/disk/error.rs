//! What went wrong on which file or directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    Open,
    Read,
    Create,
    Write,
    Sync,
    /// To the name that is reported.
    Rename,
    CreateDirectory,
    ListDirectory,
    /// A directory that others may write to was refused.
    Trust,
}

/// One failed operation on one file; the system's own words are its source.
#[derive(Debug)]
pub struct DiskError {
    pub operation: DiskOperation,
    pub path: PathBuf,
    pub cause: io::Error,
}

impl DiskError {
    pub fn new(operation: DiskOperation, path: &Path, cause: io::Error) -> Self {
        Self { operation, path: path.to_path_buf(), cause }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, noun) = match self.operation {
            DiskOperation::Open => ("could not open", "file"),
            DiskOperation::Read => ("could not read", "file"),
            DiskOperation::Create => ("could not create", "file"),
            DiskOperation::Write => ("could not write", "file"),
            DiskOperation::Sync => ("could not make durable", "file"),
            DiskOperation::Rename => ("could not replace", "file"),
            DiskOperation::CreateDirectory => ("could not create", "directory"),
            DiskOperation::ListDirectory => ("could not list", "directory"),
            DiskOperation::Trust => ("cannot use", "directory"),
        };
        write!(f, "{what} {noun} \"{}\"", self.path.display())
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
