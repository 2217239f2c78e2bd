//! What a restore is told, and what it tells when it is done.

use crate::catalog::BackupId;
use jiff::Timestamp;
use std::path::PathBuf;

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Where tablespaces go instead of where they were. The last mapping of a name wins; a name
    /// that the backup does not know is a warning, as it always was in Barman.
    pub tablespaces: Vec<TablespaceMapping>,
    pub unfinished: Unfinished,
    /// The time of the command: tells a backup that runs from one that was abandoned.
    pub now: Timestamp,
}

/// What becomes of a backup whose status is not DONE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    Refuse,
    /// Restores what is there; PostgreSQL may not start from it.
    Restore,
}

/// `NAME:LOCATION`, the value of `--tablespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMapping {
    pub name: String,
    pub location: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not of the form NAME:LOCATION")]
pub struct TablespaceMappingError {
    text: String,
}

impl TablespaceMapping {
    /// Splits at the first colon, as Barman does. Names may contain colons too: what is meant
    /// shows when the backup is known, see [`resolve`](Self::resolve).
    pub fn parse(text: &str) -> Result<Self, TablespaceMappingError> {
        match text.split_once(':') {
            Some((name, location)) if !name.is_empty() && !location.is_empty() => {
                Ok(Self { name: name.into(), location: location.into() })
            }
            _ => Err(TablespaceMappingError { text: text.into() }),
        }
    }

    /// The same text, split so that it names one of the backup's tablespaces: the longest name
    /// that is followed by an absolute path, else that of the first split, else the longest one.
    /// When none fits the split stays.
    pub fn resolve(&self, names: &[&str]) -> Self {
        let text = format!("{}:{}", self.name, self.location.display());
        let split = |name: &str| {
            let location = text.strip_prefix(name)?.strip_prefix(':')?;
            (!location.is_empty()).then(|| Self { name: name.into(), location: location.into() })
        };
        let longest = |fits: &dyn Fn(&Self) -> bool| {
            let fitting = names.iter().filter_map(|name| split(name)).filter(|found| fits(found));
            fitting.max_by_key(|found| found.name.len())
        };
        longest(&|found| found.location.is_absolute())
            .or_else(|| longest(&|found| found.name == self.name))
            .or_else(|| longest(&|_| true))
            .unwrap_or_else(|| self.clone())
    }
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSummary {
    pub backup_id: BackupId,
    /// The data directory, absolute.
    pub target: PathBuf,
    /// Name and place of each tablespace that has a place of its own.
    pub tablespaces: Vec<(String, PathBuf)>,
    pub counts: RestoreCounts,
    /// Tarballs that an earlier, interrupted run had finished.
    pub tarballs_resumed: u64,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreCounts {
    pub tarballs: u64,
    pub files: u64,
    /// Bytes written to files.
    pub cluster_bytes: u64,
    /// Bytes received from the store.
    pub stored_bytes: u64,
    /// Fifos and devices, which were left out.
    pub skipped: u64,
}

impl RestoreCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.tarballs += other.tarballs;
        self.files += other.files;
        self.cluster_bytes += other.cluster_bytes;
        self.stored_bytes += other.stored_bytes;
        self.skipped += other.skipped;
    }
}

#[cfg(test)]
mod tests {
    use crate::restore::TablespaceMapping;
    use std::path::Path;

    #[test]
    fn a_mapping_splits_at_the_first_colon_and_needs_both_sides() {
        let mapping = TablespaceMapping::parse("fast:/mnt/a:b").expect("mapping");
        assert_eq!(
            (mapping.name.as_str(), mapping.location.as_path()),
            ("fast", Path::new("/mnt/a:b"))
        );
        for text in ["", "fast", "fast:", ":/mnt"] {
            assert!(TablespaceMapping::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mapping_means_the_tablespace_that_the_backup_has() {
        for (text, names, name, location) in [
            ("my:ts:/mnt", &["my:ts"][..], "my:ts", "/mnt"),
            ("my:ts:/mnt", &["my", "my:ts"], "my:ts", "/mnt"),
            ("my:ts:/mnt", &["my"], "my", "ts:/mnt"),
            ("my:/a:/b", &["my", "my:/a"], "my:/a", "/b"),
            ("my:/a:/b", &["my"], "my", "/a:/b"),
            ("my:ts:mnt", &["my:ts"], "my:ts", "mnt"),
            ("my:ts:mnt", &["my", "my:ts"], "my", "ts:mnt"),
            ("other:/mnt", &["my:ts"], "other", "/mnt"),
            ("my:ts", &["my:ts"], "my", "ts"),
        ] {
            let mapping = TablespaceMapping::parse(text).expect(text).resolve(names);
            let found = (mapping.name.as_str(), mapping.location.as_path());
            assert_eq!(found, (name, Path::new(location)), "{text} of {names:?}");
        }
    }
}
