//! The server's own `pg_wal`, seen from beside it: which segments are complete and what has
//! become of them.
//!
//! PostgreSQL marks a segment in `pg_wal/archive_status`: `.ready` when it is complete and waits
//! for the archiver, `.done` when the archiver has passed it on, or when nobody here has to (on a
//! standby without `archive_mode = always`). Mark and file go together, when it is recycled.
//!
//! Source: `XLogArchiveNotify`, `XLogArchiveForceDone` and `XLogArchiveIsBusy`, PostgreSQL
//! src/backend/access/transam/xlogarchive.c.

use crate::postgres::ServerFacts;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Whose archiver takes this server's WAL to the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiver {
    ThisServer,
    /// The primary's, on a standby; or something that reads the WAL stream.
    Another,
}

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Complete; the archiver has not passed it on.
    Waiting,
    /// Complete; nothing is left to do here.
    Done,
    /// Still being written, or recycled long ago.
    None,
}

/// A `pg_wal` directory.
#[derive(Clone, Debug)]
pub struct LocalWal {
    directory: PathBuf,
    pub archiver: Archiver,
}

/// A complete segment that was still there when it was opened.
#[derive(Debug)]
pub struct LocalSegment {
    pub file: File,
    path: PathBuf,
    wal: LocalWal,
    name: String,
}

/// Segments that wait for this server's archiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingSegments {
    pub first: String,
    pub count: usize,
}

impl LocalWal {
    pub fn new(directory: PathBuf, archiver: Archiver) -> Self {
        Self { directory, archiver }
    }

    /// That of a server on this machine.
    pub fn of(facts: &ServerFacts) -> Self {
        let archiver = if facts.archives() { Archiver::ThisServer } else { Archiver::Another };
        Self::new(facts.data_directory.join("pg_wal"), archiver)
    }

    pub fn mark(&self, segment: &str) -> Mark {
        let marked = |suffix: &str| self.status(&format!("{segment}.{suffix}")).exists();
        if marked("done") {
            return Mark::Done;
        }
        match (marked("ready"), marked("done")) {
            (true, _) => Mark::Waiting,
            // The archiver has renamed it between the two looks.
            (false, true) => Mark::Done,
            (false, false) => Mark::None,
        }
    }

    /// Whether the archiver has passed a segment on: it is marked so, until it is recycled.
    pub fn is_archived(&self, segment: &str) -> bool {
        match self.mark(segment) {
            Mark::Done => true,
            Mark::Waiting => false,
            Mark::None => {
                !self.directory.join(segment).exists() || self.mark(segment) == Mark::Done
            }
        }
    }

    /// A complete segment; `None` when it is not complete yet or not there any more.
    pub fn open_complete(&self, segment: &str) -> Option<LocalSegment> {
        if self.mark(segment) == Mark::None {
            return None;
        }
        let path = self.directory.join(segment);
        let file = File::open(&path).ok()?;
        Some(LocalSegment { file, path, wal: self.clone(), name: segment.into() })
    }

    /// The segments that wait for the archiver; `None` when there are none.
    pub fn waiting(&self) -> Option<WaitingSegments> {
        let entries = fs::read_dir(self.directory.join("archive_status")).ok()?;
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let segment = name.strip_suffix(".ready")?;
            let is_segment = segment.len() == 24 && segment.bytes().all(|b| b.is_ascii_hexdigit());
            is_segment.then(|| segment.to_string())
        });
        let (mut first, mut count) = (None::<String>, 0);
        for name in names {
            count += 1;
            first = Some(first.map_or(name.clone(), |first| first.min(name)));
        }
        first.map(|first| WaitingSegments { first, count })
    }

    fn status(&self, name: &str) -> PathBuf {
        self.directory.join("archive_status").join(name)
    }
}

impl LocalSegment {
    /// Whether it is still the segment that was opened: what was read of one that PostgreSQL has
    /// recycled meanwhile may be the beginning of another.
    pub fn is_still_there(&self) -> bool {
        let (Ok(opened), Ok(there)) = (self.file.metadata(), fs::metadata(&self.path)) else {
            return false;
        };
        (opened.dev(), opened.ino()) == (there.dev(), there.ino())
            && self.wal.mark(&self.name) != Mark::None
    }
}

#[cfg(test)]
mod tests {
    use crate::backup::local_wal::{Archiver, LocalWal, Mark, WaitingSegments};
    use std::fs;

    const FIRST: &str = "000000010000000000000002";
    const SECOND: &str = "000000010000000000000003";

    #[test]
    fn a_segment_that_was_recycled_while_it_was_read_is_not_there_any_more() {
        let folder = tempfile::tempdir().expect("folder");
        let status = folder.path().join("archive_status");
        fs::create_dir(&status).expect("directory");
        let wal = LocalWal::new(folder.path().into(), Archiver::ThisServer);
        fs::write(folder.path().join(FIRST), b"wal").expect("segment");
        assert!(wal.open_complete(FIRST).is_none(), "PostgreSQL still writes it");
        fs::write(status.join(format!("{FIRST}.done")), b"").expect("mark");
        let opened = wal.open_complete(FIRST).expect("complete");
        assert!(opened.is_still_there());
        fs::rename(folder.path().join(FIRST), folder.path().join("0000000100000000000000FF"))
            .expect("recycled");
        assert!(!opened.is_still_there());
    }

    #[test]
    fn what_waits_for_the_archiver_is_counted_and_the_first_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let status = folder.path().join("archive_status");
        fs::create_dir(&status).expect("directory");
        let wal = LocalWal::new(folder.path().into(), Archiver::ThisServer);
        assert_eq!(wal.waiting(), None);
        for name in [SECOND, FIRST, "00000002.history"] {
            fs::write(status.join(format!("{name}.ready")), b"").expect("mark");
        }
        fs::write(status.join("000000010000000000000001.done"), b"").expect("mark");
        assert_eq!(wal.waiting(), Some(WaitingSegments { first: FIRST.into(), count: 2 }));
        assert_eq!(wal.mark(FIRST), Mark::Waiting);
        assert_eq!(wal.mark("000000010000000000000001"), Mark::Done);
    }
}
