//! What our own record (`backup.json`) knows beyond `backup.info`.

use serde::{Deserialize, Serialize};

/// How the files of a backup were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMethod {
    Files,
    Stream,
    Snapshot,
}

/// One tarball of a backup, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarballRecord {
    /// The object's name inside the backup's folder: `data_0001.tar.gz`.
    pub name: String,
    pub stored_bytes: u64,
    /// Bytes of the tar stream before compression.
    pub raw_bytes: u64,
    pub members: u64,
    /// Lower-case hex SHA-256 of the stored object.
    pub sha256: String,
}
