//! What a PostgreSQL data directory consists of: pure values, no I/O.
//!
//! ```text
//! pg_control bytes  → ControlFile        who is this cluster, how is it built
//! backup_label text → BackupLabel        where recovery begins
//! tablespace_map    ↔ TablespaceMap      where tablespaces lie
//! a path            → Inclusion          is the file part of a base backup
//! file entries      → ManifestWriter     PostgreSQL's own backup_manifest
//! a page            → PageVerdict        is the page what PostgreSQL wrote
//! ```
//!
//! Numbers in `pg_control` and in pages are in the byte order of the machine that wrote
//! them; they are read in the order of this machine, and `ControlFile` refuses the other.

mod backup_label;
mod control_file;
mod inclusion;
mod manifest;
mod manifest_check;
mod page;
mod relation_file;
mod tablespace_map;

pub use backup_label::{BackupLabel, BackupLabelError, BackupOrigin};
pub use control_file::{ControlFile, ControlFileError, SystemIdentifier};
pub use inclusion::{DirectoryFilter, FileFilter, Inclusion, Root};
pub use manifest::{ManifestEntry, ManifestVersion, ManifestWriter, WalRange};
pub use manifest_check::{ManifestCheck, ManifestError};
pub use page::{PAGE_BYTES, PageVerdict, page_checksum, verify_page};
pub use relation_file::{Fork, RelationFile};
pub use tablespace_map::{TablespaceLink, TablespaceMap, TablespaceMapError};
