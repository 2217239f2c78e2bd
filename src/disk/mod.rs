//! The local file system: durable writes, private directories, the spool; writing below a
//! directory, owners and modes, free space; what is mounted where.
//!
//! Synchronous throughout; callers on an async runtime use its blocking threads.

mod accounts;
mod advice;
mod bulk;
mod durable;
mod error;
mod extract;
mod leftovers;
mod mounting;
mod mounts;
mod nameless;
mod site;
mod space;
mod spool;

pub use accounts::Accounts;
pub use advice::advise_once_through;
pub use bulk::{AlignedBuffer, BulkFile};
pub use durable::{DurableFile, create_private_directory, sync_directory_of};
pub use error::{DiskError, DiskOperation};
pub use extract::{Attributes, EntryKind, ExtractRoot, Extractor, Owner, apply, is_root, user_id};
pub use mounting::{mount_device, unmount};
pub use mounts::{Machine, Mount};
pub use site::Site;
pub use space::{Space, space};
pub use spool::{Spool, SpoolLock, SpoolWriter, Spooled};
