//! What an interrupted restore had finished: a small file in the data directory.
//!
//! It is written before the first tarball and after each finished one, when that tarball's
//! files are durable, and removed when PostgreSQL's control file is in its place. A run that
//! finds it goes on behind the finished tarballs; a directory with it never starts, because the
//! control file has another name until the end.

use crate::catalog::Tarball;
use crate::disk::ExtractRoot;
use crate::restore::{PlannedTablespace, RestoreError, RestorePlan};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The journal's name in the data directory.
pub const JOURNAL: &str = ".barman-cloud-restore.json";
/// Its name while it is written.
pub const JOURNAL_NEW: &str = ".barman-cloud-restore.json.new";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// URL of the backup's folder.
    pub backup: String,
    /// Places of the tablespaces by OID.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Object names of the tarballs whose files are durable.
    pub finished: BTreeSet<String>,
    /// Which tarball's number wrote each file that several tarballs may hold.
    pub contested: BTreeMap<String, u32>,
}

impl Journal {
    pub fn new(backup: &str, plan: &RestorePlan) -> Self {
        let place = |tablespace: &PlannedTablespace| (tablespace.oid, tablespace.location.clone());
        Self {
            format: FORMAT,
            backup: backup.into(),
            tablespaces: plan.tablespaces.iter().map(place).collect(),
            finished: BTreeSet::new(),
            contested: BTreeMap::new(),
        }
    }

    /// Reads the journal of `target`; `None` when it has none.
    pub fn read(target: &Path) -> Result<Option<Self>, RestoreError> {
        let path = target.join(JOURNAL);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RestoreError::Disk { path, source: error }),
        };
        let unreadable = |source: io::Error| RestoreError::Disk { path: path.clone(), source };
        let journal: Self =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.into()))?;
        if journal.format != FORMAT {
            let reason = format!("format {} of a newer version", journal.format);
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        Ok(Some(journal))
    }

    /// The same with every tarball finished.
    pub fn with_all_finished(mut self, plan: &RestorePlan) -> Self {
        self.finished = plan.tarballs.iter().map(|tarball| tarball.name.file_name()).collect();
        self
    }

    /// Whether the files of `tarball` are durable.
    pub fn has_finished(&self, tarball: &Tarball) -> bool {
        self.finished.contains(&tarball.name.file_name())
    }

    /// Whether a run for `other` may go on where this one stopped.
    pub fn is_same_restore(&self, other: &Self) -> bool {
        self.backup == other.backup && self.tablespaces == other.tablespaces
    }

    /// Writes the journal durably: new file, fsync, rename, fsync of the directory.
    pub fn write(&self, data: &ExtractRoot) -> Result<(), RestoreError> {
        let path = data.path().join(JOURNAL);
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(self)?;
            let mut extractor = data.extractor();
            let mut file = extractor.file(Path::new(JOURNAL_NEW), None)?;
            file.write_all(&text)?;
            file.sync_all()?;
            extractor.rename(Path::new(JOURNAL_NEW), Path::new(JOURNAL))
        };
        write().map_err(RestoreError::disk(&path))
    }

    /// Removes the journal durably: the restore is complete.
    pub fn remove(data: &ExtractRoot) -> Result<(), RestoreError> {
        let path = data.path().join(JOURNAL);
        data.extractor().remove(Path::new(JOURNAL)).map_err(RestoreError::disk(&path))
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::BackupId;
    use crate::disk::ExtractRoot;
    use crate::restore::journal::{JOURNAL, Journal};
    use crate::restore::{PlannedTablespace, RestoreError, RestorePlan};

    fn journal(backup: &str, location: &str) -> Journal {
        let plan = RestorePlan {
            id: BackupId::parse("20261120T235832").expect("id"),
            tarballs: Vec::new(),
            tablespaces: vec![PlannedTablespace {
                name: "fast".into(),
                oid: 16384,
                location: location.into(),
            }],
            manifest: None,
            wal_directory: "pg_wal",
            warnings: Vec::new(),
        };
        Journal::new(backup, &plan)
    }

    #[test]
    fn a_journal_survives_and_is_gone_when_removed() {
        let directory = tempfile::tempdir().expect("temp");
        let root = ExtractRoot::open(directory.path()).expect("root");
        assert_eq!(Journal::read(directory.path()).expect("read"), None);
        let mut journal = journal("memory:/main/base/20261120T235832", "/ts");
        journal.finished.insert("data.tar".into());
        journal.contested.insert("postgresql.conf".into(), 3);
        journal.write(&root).expect("written");
        assert_eq!(Journal::read(directory.path()).expect("read"), Some(journal));
        Journal::remove(&root).expect("removed");
        assert_eq!(Journal::read(directory.path()).expect("read"), None);
    }

    #[test]
    fn another_backup_or_another_place_is_another_restore() {
        let one = journal("memory:/main/base/20261120T235832", "/ts");
        assert!(one.is_same_restore(&one.clone()));
        assert!(!one.is_same_restore(&journal("memory:/main/base/20261120T235833", "/ts")));
        assert!(!one.is_same_restore(&journal("memory:/main/base/20261120T235832", "/other")));
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().expect("temp");
        std::fs::write(directory.path().join(JOURNAL), "{").expect("written");
        assert!(matches!(Journal::read(directory.path()), Err(RestoreError::Disk { .. })));
    }
}
