//! The WAL archive's verbs: put one file in, get one file out, see whether there is any.
//!
//! ```text
//! push    pg_wal → compress → store        refuses to replace other content
//! fetch   store → decompress → destination  complete and durable, or not at all
//! check   store                            is the archive fit for a new cluster
//! ```
//!
//! Base backups and retention are not here; what a key means is the catalog's business.

mod adopt;
mod check;
mod compare;
mod error;
mod fetch;
#[cfg(test)]
mod fixtures;
mod locate;
mod prefetch;
mod push;
mod receive;
mod source;
mod transfer;

pub use check::{CheckOptions, CheckOutcome, check};
pub use error::WalArchiveError;
pub use fetch::{FetchOptions, FetchOutcome, PartialSegments, SpoolOptions, fetch};
pub use push::{OtherContent, PushOptions, PushOutcome, push};
