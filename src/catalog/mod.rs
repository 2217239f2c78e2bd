//! What lies where in the bucket, and what it means: the backups and WAL of one server name.
//!
//! ```text
//! <prefix>/<server>/base/<backup_id>/{started.json,backup.json,backup.info,backup_manifest,data.tar…}
//! <prefix>/<server>/wals/<16 hex>/<24 hex>[.ext]
//! <prefix>/<server>/archive.json
//! ```

mod backup_id;
mod backup_info;
mod layout;
mod record;

pub use backup_id::{BackupId, BackupIdError, ServerName, ServerNameError};
pub use backup_info::{BackupInfo, BackupStatus, Tablespace};
pub use layout::{Layout, TarballName, TarballTarget};
pub use record::{BackupMethod, TarballRecord};
