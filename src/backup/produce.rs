//! Writing one tarball of a plan: directories, files, and what is noticed on the way.
//!
//! Runs on a thread of its own; the only shared state is the manifest, which takes one line
//! per file, and the tally.

use crate::backup::plan::{AreaSurvey, Piece, TarballPlan, share_of};
use crate::backup::ship::TarballSink;
use crate::backup::source::{Noticed, PageCheck, SourceFile};
use crate::backup::survey::{Area, Found, present, visit};
use crate::backup::tally::Tally;
use crate::backup::{BackupError, disk_error};
use crate::catalog::{DamagedFile, IndexedMember};
use crate::disk::{Accounts, advise_once_through};
use crate::flow::Cancel;
use crate::monitor::{Metric, Monitor};
use crate::pgdata::{ManifestEntry, RelationFile};
use crate::tarball::{MemberMeta, Owner, TarballWriter};
use crate::wal::Lsn;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the writers of all tarballs share.
pub struct Production {
    pub areas: Vec<SurveyedArea>,
    pub accounts: Accounts,
    /// `None` leaves page checksums alone.
    pub page_checks: Option<PageChecks>,
    pub manifest: Arc<dyn RecordFile>,
    pub tally: Arc<Tally>,
    pub cancel: Cancel,
    pub monitor: Arc<dyn Monitor>,
}

/// An area with what was found in it.
pub struct SurveyedArea {
    area: Area,
    survey: AreaSurvey,
    /// Paths of the survey's big files: the plan places them one by one.
    placed: HashSet<PathBuf>,
}

impl From<(Area, AreaSurvey)> for SurveyedArea {
    fn from((area, survey): (Area, AreaSurvey)) -> Self {
        let placed = survey.big_files.iter().map(|file| file.path.clone()).collect();
        Self { area, survey, placed }
    }
}

/// Which pages have a checksum that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageChecks {
    /// Where the backup began; later pages are replayed from WAL.
    pub begun_at: Lsn,
    pub relation_segment_pages: u32,
}

/// Takes one line per file, from any thread.
pub trait RecordFile: Send + Sync {
    fn record(&self, entry: &ManifestEntry<'_>) -> io::Result<()>;
}

/// What a finished tarball holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub members: u64,
    pub raw_bytes: u64,
}

/// One tarball being written.
struct OneTarball<'a> {
    production: &'a Production,
    area: &'a Area,
    placed: &'a HashSet<PathBuf>,
    writer: TarballWriter<TarballSink>,
    scratch: Vec<u8>,
}

/// Writes all members of `plan`; the sink comes back for its own ending.
pub fn produce(
    production: &Production,
    plan: &TarballPlan,
    sink: TarballSink,
) -> Result<(TarballSink, Produced), BackupError> {
    let SurveyedArea { area, survey, placed } = production
        .areas
        .iter()
        .find(|surveyed| surveyed.area.target == plan.name.target)
        .expect("a plan is made of the areas surveyed");
    let mut tarball = OneTarball {
        production,
        area,
        placed,
        writer: TarballWriter::new(sink),
        scratch: Vec::new(),
    };
    if plan.name.number == 0 {
        tarball.directories(survey)?;
    }
    // A plan's pieces are sorted, so shares of one directory are neighbours.
    for pieces in plan.pieces.chunk_by(|one, next| directory_of(one) == directory_of(next)) {
        production.cancel.check().map_err(|_| BackupError::Cancelled)?;
        let mut taken = BTreeSet::new();
        for piece in pieces {
            match piece {
                Piece::File(path) => tarball.file(path)?,
                Piece::Share { share, shares, .. } => {
                    taken.insert((*share, *shares));
                }
            }
        }
        if let Some(directory) = pieces.first().and_then(directory_of) {
            tarball.shares(directory, &taken)?;
        }
    }
    finish(tarball.writer)
}

/// The directory that a share belongs to.
fn directory_of(piece: &Piece) -> Option<&Path> {
    match piece {
        Piece::File(_) => None,
        Piece::Share { directory, .. } => Some(directory),
    }
}

/// Ends a tarball.
pub fn finish(writer: TarballWriter<TarballSink>) -> Result<(TarballSink, Produced), BackupError> {
    let members = writer.members();
    let before_end = writer.bytes();
    // Two zero blocks, padded to a record of 10240 bytes.
    let raw_bytes = (before_end + 1024).next_multiple_of(10240);
    let sink = writer.finish().map_err(|error| BackupError::Tarball { source: error })?;
    Ok((sink, Produced { members, raw_bytes }))
}

/// The header facts of a member; permissions are kept, owners go by name and number.
pub fn member_meta(metadata: &Metadata, accounts: &Accounts) -> MemberMeta {
    MemberMeta {
        mode: metadata.mode() & 0o7777,
        modified: u64::try_from(metadata.mtime()).unwrap_or(0),
        owner: Owner {
            uid: u64::from(metadata.uid()),
            gid: u64::from(metadata.gid()),
            user: accounts.user_name(metadata.uid()).unwrap_or_default().to_string(),
            group: accounts.group_name(metadata.gid()).unwrap_or_default().to_string(),
        },
    }
}

impl OneTarball<'_> {
    /// All directories of the area, parents first. A data directory has an entry for its root;
    /// a tablespace has none, because its root belongs to the machine (contract §6.2).
    fn directories(&mut self, survey: &AreaSurvey) -> Result<(), BackupError> {
        let root = self.area.manifest_prefix.as_os_str().is_empty().then(PathBuf::new);
        for path in root.iter().chain(&survey.directories) {
            let absolute = self.area.root.join(path);
            let metadata = present(fs::metadata(&absolute))
                .map_err(|error| disk_error("read file information of", &absolute, error))?;
            let Some(metadata) = metadata else { continue };
            let meta = member_meta(&metadata, &self.production.accounts);
            let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            self.writer
                .directory(name, &meta)
                .map_err(|error| BackupError::Tarball { source: error })?;
        }
        Ok(())
    }

    /// The files of a directory that fall into some of its shares and were not placed one by one.
    /// The directory is read once for all of them, because it may hold hundreds of thousands.
    fn shares(
        &mut self,
        directory: &Path,
        taken: &BTreeSet<(u32, u32)>,
    ) -> Result<(), BackupError> {
        let (area, placed) = (self.area, self.placed);
        let counts: BTreeSet<u32> = taken.iter().map(|(_, shares)| *shares).collect();
        let is_ours = |name: &OsStr| {
            counts
                .iter()
                .any(|shares| taken.contains(&(share_of(Path::new(name), *shares), *shares)))
        };
        visit(area, directory, &is_ours, &mut |found| match found {
            Found::File { path, .. } if !placed.contains(&path) => self.file(&path),
            _ => Ok(()),
        })
    }

    /// One file; gone is gone.
    fn file(&mut self, path: &Path) -> Result<(), BackupError> {
        self.production.cancel.check().map_err(|_| BackupError::Cancelled)?;
        let absolute = self.area.root.join(path);
        let opened = present(File::open(&absolute))
            .map_err(|error| disk_error("open file", &absolute, error))?;
        let Some(file) = opened else { return Ok(()) };
        advise_once_through(&file);
        let metadata = file
            .metadata()
            .map_err(|error| disk_error("read file information of", &absolute, error))?;
        let check = self.production.page_checks.and_then(|checks| {
            let first_page =
                RelationFile::from_path(path)?.first_block(checks.relation_segment_pages);
            Some(PageCheck { first_page, begun_at: checks.begun_at })
        });
        let bytes = metadata.len();
        let scratch = std::mem::take(&mut self.scratch);
        let mut source = SourceFile::new(&file, bytes, check, scratch);
        let meta = member_meta(&metadata, &self.production.accounts);
        let mut tell = Told { inner: &mut source, production: self.production };
        let written = self.writer.file(path, bytes, &meta, &mut tell);
        let offset = written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => BackupError::Tarball { source: error },
            _ => disk_error("back up file", &absolute, error),
        })?;
        let name = path.as_os_str().as_bytes().to_vec();
        self.writer.target().note(IndexedMember { path: name, offset, bytes });
        let (noticed, scratch) = source.finish();
        self.scratch = scratch;
        self.note(path, &absolute, &metadata, noticed)
    }

    fn note(
        &self,
        path: &Path,
        absolute: &Path,
        metadata: &Metadata,
        noticed: Noticed,
    ) -> Result<(), BackupError> {
        if noticed.damaged_blocks > 0 {
            let blocks = noticed.damaged_blocks;
            tracing::warn!(path = %absolute.display(), blocks, "page checksums do not match");
            self.production.tally.damage(DamagedFile {
                path: self.area.manifest_prefix.join(path).display().to_string(),
                blocks: noticed.first_damaged,
                damaged_blocks: noticed.damaged_blocks,
            });
        }
        if noticed.padded_bytes > 0 {
            let bytes = noticed.padded_bytes;
            tracing::debug!(path = %absolute.display(), bytes, "file became shorter while read");
        }
        self.production.monitor.add(Metric::Files, 1);
        self.production.tally.file();
        let path = self.area.manifest_prefix.join(path);
        let entry = ManifestEntry {
            path: path.as_os_str().as_encoded_bytes(),
            size_bytes: metadata.len(),
            modified: metadata.mtime(),
            crc32c: noticed.crc32c,
        };
        self.production
            .manifest
            .record(&entry)
            .map_err(|error| BackupError::Tarball { source: error })
    }
}

/// Counts bytes as they are read.
struct Told<'a, 'b> {
    inner: &'a mut SourceFile<'b>,
    production: &'a Production,
}

impl Read for Told<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(out)?;
        let count = u64::try_from(bytes).unwrap_or(0);
        self.production.monitor.add(Metric::ClusterBytes, count);
        Ok(bytes)
    }
}
