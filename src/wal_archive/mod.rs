//! The WAL archive's verbs: put one file in, get one file out, see whether there is any.
//!
//! ```text
//! push        pg_wal → compress → store        refuses to replace other content
//! push_batch  the same for all that is ready   one call, receipts for the rest
//! fetch       store → decompress → destination  complete and durable, or not at all
//! look_ahead  store → decompress → spool        beside recovery, which never waits for it
//! check       store                            is the archive fit for a new cluster
//! adopt       store                            hand the archive over to another cluster
//! ```
//!
//! Base backups and retention are not here; what a key means is the catalog's business.

mod adopt;
mod ahead;
mod batch;
#[cfg(test)]
mod batch_tests;
mod check;
mod compare;
mod copies;
#[cfg(test)]
mod copies_tests;
mod digest;
mod error;
mod fetch;
#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod fixtures;
mod locate;
mod notes;
mod owner;
mod partial;
mod prefetch;
#[cfg(test)]
mod prefetch_tests;
mod push;
mod receipts;
mod receive;
mod route;
mod source;
mod stored;
mod transfer;

pub use adopt::{AdoptOutcome, Newcomer, adopt};
pub use ahead::{Ahead, StartCompanion};
pub use batch::{BatchOptions, push_batch};
pub use check::{CheckOptions, CheckOutcome, check};
pub use error::WalArchiveError;
pub use fetch::{Absence, FetchOptions, FetchOutcome, PartialSegments, SpoolOptions, fetch};
pub use prefetch::look_ahead;
pub use push::{OtherContent, PushOptions, PushOutcome, push};
