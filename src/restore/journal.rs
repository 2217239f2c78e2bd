//! What an interrupted restore had finished: a small file in the data directory.
//!
//! It is written before the first tarball and after each finished one, when that tarball's
//! files are durable, and removed when PostgreSQL's control file is in its place. A run that
//! finds it goes on after the finished tarballs, once it has found their files as they were
//! written (`receipts`); a directory with it never starts, because the control file has another
//! name until the end.
//!
//! It names the whole source and what else makes two restores the same: another run than that
//! never adds its files to what is there.

use crate::catalog::Tarball;
use crate::disk::ExtractRoot;
use crate::restore::{PlannedTablespace, RestoreError, RestorePlan};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The journal's name in the data directory.
pub const JOURNAL: &str = ".barman-cloud-restore.json";
/// Its name while it is written.
pub const JOURNAL_NEW: &str = ".barman-cloud-restore.json.new";
/// What every file and directory of a restore's own begins with.
pub const OWN_PREFIX: &str = ".barman-cloud-restore";
/// 2: names the whole source; what 1 calls finished cannot be checked.
const FORMAT: u32 = 2;
/// One name per tarball and contested file; what is longer was not written by us.
const BYTES_MAX: u64 = 64 << 20;

/// Where a backup comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// URL of the backup's folder.
    pub url: String,
    pub server_name: String,
    /// Of the cluster, where the backup tells it.
    pub system_identifier: Option<String>,
    /// Lower-case hex SHA-256 of what is recorded of the backup and of its tarballs.
    pub record_sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    pub source: Source,
    /// Marks the directories of this restore, and of no other.
    pub mark: String,
    /// Who runs the restore: what root gave away nobody else can go on with.
    pub user: u32,
    /// Whose the data directory was before anything was written.
    pub owner: u32,
    /// Places of the tablespaces by OID.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Object names of the tarballs whose files are durable.
    pub finished: BTreeSet<String>,
    /// Which tarball's number wrote each file that several tarballs may hold.
    pub contested: BTreeMap<String, u32>,
    /// The control file is in its place: only the traces of the restore remain.
    pub ready: bool,
}

/// The part that every format has.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl Journal {
    pub fn new(source: Source, plan: &RestorePlan, user: u32, owner: u32) -> Self {
        let place = |tablespace: &PlannedTablespace| (tablespace.oid, tablespace.location.clone());
        let random = || RandomState::new().hash_one(std::process::id());
        Self {
            format: FORMAT,
            source,
            mark: format!("{:016x}{:016x}", random(), random()),
            user,
            owner,
            tablespaces: plan.tablespaces.iter().map(place).collect(),
            finished: BTreeSet::new(),
            contested: BTreeMap::new(),
            ready: false,
        }
    }

    /// Reads the journal of a data directory; `None` when it has none.
    pub fn read(data: &ExtractRoot) -> Result<Option<Self>, RestoreError> {
        let path = data.path().join(JOURNAL);
        let opened = data.extractor().open(Path::new(JOURNAL));
        let Some(file) = opened.map_err(RestoreError::disk(&path))? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text).map_err(RestoreError::disk(&path))?;
        let unusable = |reason: String| RestoreError::Journal { path: path.clone(), reason };
        let header: Header =
            serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        if header.format != FORMAT {
            return Err(unusable(format!("another version wrote it (format {})", header.format)));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| unusable(error.to_string()))
    }

    /// Whether the files of `tarball` are durable.
    pub fn has_finished(&self, tarball: &Tarball) -> bool {
        self.finished.contains(&tarball.name.file_name())
    }

    /// Why a run for `other` may not go on where this one stopped; `None` when it may.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (mine, others) = (&self.source, &other.source);
        let unknown = || "unknown".to_string();
        let id = |source: &Source| source.system_identifier.clone().unwrap_or_else(unknown);
        if mine.system_identifier != others.system_identifier {
            return Some(format!("of system identifier {}, not {}", id(mine), id(others)));
        }
        if mine.url != others.url || mine.server_name != others.server_name {
            return Some(format!("not of \"{}\"", others.url));
        }
        if mine.record_sha256 != others.record_sha256 {
            return Some("and the backup there is another one now".into());
        }
        if self.tablespaces != other.tablespaces {
            return Some("with other places of tablespaces".into());
        }
        if self.user != other.user {
            return Some(format!("run by user {}, not {}", self.user, other.user));
        }
        None
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
    use crate::disk::ExtractRoot;
    use crate::restore::RestoreError;
    use crate::restore::journal::{JOURNAL, Journal, Source};
    use crate::restore::plan::tests::bare_plan;
    use std::os::unix::fs::symlink;

    fn source() -> Source {
        Source {
            url: "s3://one/main/base/20261120T235832".into(),
            server_name: "main".into(),
            system_identifier: Some("7301".into()),
            record_sha256: "aa".into(),
        }
    }

    fn journal(source: Source, location: &str) -> Journal {
        Journal::new(source, &bare_plan(location), 0, 26)
    }

    #[test]
    fn a_journal_survives_and_is_gone_when_removed() {
        let directory = tempfile::tempdir().expect("temp");
        let root = ExtractRoot::open(directory.path()).expect("root");
        assert_eq!(Journal::read(&root).expect("read"), None);
        let mut journal = journal(source(), "/ts");
        journal.finished.insert("data.tar".into());
        journal.contested.insert("postgresql.conf".into(), 3);
        journal.write(&root).expect("written");
        assert_eq!(Journal::read(&root).expect("read"), Some(journal));
        Journal::remove(&root).expect("removed");
        assert_eq!(Journal::read(&root).expect("read"), None);
    }

    #[test]
    fn another_source_place_or_user_is_another_restore() {
        let one = journal(source(), "/ts");
        assert_eq!(one.difference(&journal(source(), "/ts")), None);
        assert!(one.difference(&journal(source(), "/other")).is_some());
        assert!(one.difference(&Journal { user: 26, ..one.clone() }).is_some());
        for change in [
            |source: &mut Source| source.url = "s3://two/main/base/20261120T235832".into(),
            |source: &mut Source| source.server_name = "other".into(),
            |source: &mut Source| source.system_identifier = Some("7302".into()),
            |source: &mut Source| source.system_identifier = None,
            |source: &mut Source| source.record_sha256 = "bb".into(),
        ] {
            let mut other = source();
            change(&mut other);
            assert!(one.difference(&journal(other.clone(), "/ts")).is_some(), "{other:?}");
        }
    }

    #[test]
    fn a_journal_that_cannot_be_read_or_is_of_another_version_is_refused() {
        let directory = tempfile::tempdir().expect("temp");
        let root = ExtractRoot::open(directory.path()).expect("root");
        let path = directory.path().join(JOURNAL);
        let of_an_older_version = r#"{"format":1,"backup":"main/base/20261120T235832/",
            "tablespaces":{},"finished":["data.tar"],"contested":{}}"#;
        for text in ["{", "", "[]", of_an_older_version] {
            std::fs::write(&path, text).expect("written");
            assert!(matches!(Journal::read(&root), Err(RestoreError::Journal { .. })), "{text}");
        }
        std::fs::remove_file(&path).expect("removed");
        symlink("/etc/passwd", &path).expect("link");
        assert!(matches!(Journal::read(&root), Err(RestoreError::Disk { .. })));
    }
}
