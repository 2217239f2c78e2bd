//! What lies where in the bucket, and what it means: the backups and WAL of one server name.
//!
//! ```text
//! <prefix>/<server>/base/<backup_id>/{started.json,backup.json,backup.info,backup_manifest,data.tar…}
//! <prefix>/<server>/base/<backup_id>/index/<tarball>.jsonl.zst
//! <prefix>/<server>/wals/<16 hex>/<24 hex>[.ext]
//! <prefix>/<server>/archive.json
//! ```

mod annotations;
mod backup;
mod backup_id;
mod backup_info;
mod branches;
mod deletion;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod format;
mod handle;
mod identity;
mod keep;
mod layout;
mod listing;
mod publish;
mod record;
mod tarball_index;
mod tarballs;
mod upload_claim;
mod wal_folders;
mod wal_index;

pub use backup::{Backup, Leftover, UnreadableBackup};
pub use backup_id::{BackupId, BackupIdError, ServerName, ServerNameError};
pub use backup_info::{BackupInfo, BackupStatus, Tablespace};
pub use branches::{Branch, Line, dead_backups, newest_timeline, several_clusters};
pub use deletion::{DeletionMark, Unlisted};
pub use error::CatalogError;
pub use handle::{ABANDONED_AFTER, Catalog, is_abandoned, is_being_published};
pub use identity::{Adoption, ArchiveEra, ArchiveRecord};
pub use keep::{Keep, KeepTarget};
pub use layout::{Layout, TarballName, TarballTarget};
pub use listing::{BackupSelector, CatalogListing, SelectError};
pub use record::{
    ArchiveIdentity, BackupMethod, BackupRecord, BackupStatistics, DamagedFile, IndexRecord,
    StartedRecord, TarballRecord,
};
pub use tarball_index::{IndexReadError, IndexWriter, IndexedMember, read_index};
pub use tarballs::{Tarball, TarballError};
pub use upload_claim::{Claimed, UploadClaim};
pub use wal_folders::{WalFolder, WalLog, WalTop};
pub use wal_index::WalObject;
