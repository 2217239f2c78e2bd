//! Tar streams: written member by member from files that may change underneath, and read
//! member by member.
//!
//! Written: GNU tar with long names and sizes above 8 GiB, which Barman's reader and GNU tar
//! both take. Read: that, and the pax form that Barman writes. No threads, no compression, no
//! files: the stream goes to any `std::io::Write` and comes from any `std::io::Read`.

mod member_path;
mod read;
mod write;

pub use member_path::{MemberPath, MemberPathError};
pub use read::{Member, MemberKind, MemberOwner, ReadCounts, TarballReadError, read_members};
pub use write::{ContentSink, MemberMeta, Owner, TarballWriter};
