//! One bucket, container or folder of objects: put, get, list, delete, upload in parts.
//!
//! The same [`Store`] serves S3, Azure Blob Storage, Google Cloud Storage, a local folder and
//! memory. It knows nothing of backups or WAL. "Not there" is `None`, and only after the store
//! said so; everything doubtful is a [`StoreError`].

mod error;
mod handle;
mod key;
mod upload;
mod writer;

pub use error::{Effect, StoreError, StoreErrorKind, StoreOperation};
pub use handle::{ListEntry, ObjectMeta, PutMode, PutOptions, PutOutcome, Store};
pub use key::{ObjectKey, ObjectKeyError};
pub use upload::{Upload, Uploaded};
pub use writer::{Courier, ObjectWriteError, ObjectWriter, WrittenObject};
