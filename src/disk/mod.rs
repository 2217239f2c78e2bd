//! The local file system: durable writes, private directories, the spool.
//!
//! Synchronous throughout; callers on an async runtime use its blocking threads.

mod accounts;
mod durable;
mod error;
mod spool;

pub use accounts::Accounts;
pub use durable::{DurableFile, create_private_directory, sync_directory_of};
pub use error::{DiskError, DiskOperation};
pub use spool::{Spool, SpoolWriter, Spooled};
