//! One bucket, container or folder of objects: put, get, list, delete, upload in parts.
//!
//! The same [`Store`] serves S3, Azure Blob Storage, Google Cloud Storage, a local folder and
//! memory. It knows nothing of backups or WAL. "Not there" is `None`, and only after the store
//! said so; everything doubtful is a [`StoreError`].
//!
//! ```text
//! StoreUrl + StoreOptions ── open ──> s3 │ azure │ google │ local │ memory     one ObjectStore
//!                                       handle, list, write, upload, read, delete, bucket   what callers use
//!                                       patience, conditions, alone            doubt, and how it ends
//!                                       translate                              what errors mean
//! ```
//!
//! Memory: what the caller gives, plus 1 MiB per open stream of a folder; a part or whole object
//! is never copied on its way out.

mod alone;
mod azure;
mod blocks;
mod bucket;
mod conditions;
mod debris;
mod delete;
#[cfg(test)]
pub(crate) mod dialects;
#[cfg(test)]
mod doubt_tests;
mod error;
mod folder;
mod google;
mod handle;
mod key;
mod labels;
mod list;
mod local;
mod lock;
mod open;
mod options;
mod patience;
mod read;
#[cfg(test)]
pub(crate) mod recording;
mod s3;
mod s3_region;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulated_s3;
mod translate;
mod upload;
mod url;
mod write;
mod writer;

pub use alone::Claim;
pub use conditions::ConditionalWrites;
pub use debris::Debris;
pub use error::{Effect, StoreError, StoreErrorKind, StoreOperation};
pub use folder::FolderListing;
pub use handle::{ListEntry, ObjectMeta, PutMode, PutOptions, PutOutcome, Store};
pub use key::{ObjectKey, ObjectKeyError};
pub use lock::ObjectLock;
pub use options::{AddressingStyle, AzureBlocks, S3Encryption, StoreOptions};
#[cfg(test)]
pub(crate) use simulated::{Faults, SimulatedServer};
#[cfg(test)]
pub(crate) use simulated_s3::Conditions;
pub use upload::{Upload, Uploaded};
pub use url::{StoreUrl, StoreUrlError};
pub use writer::{Courier, ObjectWriteError, ObjectWriter, WrittenObject, hex};
