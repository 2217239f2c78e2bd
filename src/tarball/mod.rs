//! Tar streams: written member by member from files that may change underneath.
//!
//! Written: GNU tar with long names and sizes above 8 GiB, which Barman's reader and GNU tar
//! both take. No threads, no compression: the stream goes to any `std::io::Write`.

mod write;

pub use write::{MemberMeta, Owner, TarballWriter};
