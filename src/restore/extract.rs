//! From the members of a tarball to files: what goes where, with which mode and owner.
//!
//! `global/pg_control` gets another name until the whole restore is durable, so PostgreSQL
//! cannot start from half a directory. A few files of the data directory may be in several
//! tarballs (external configuration beside a copy of the same name, an older `backup_label`):
//! the tarball with the highest number wins, whichever is extracted first.
//!
//! A tarball may come from anybody. What PostgreSQL or a later step of the restore relies on is
//! a file or directory and never a link, what belongs to a running server or to the restore
//! itself is left out, and a tablespace holds the directories of PostgreSQL's versions alone.

use crate::catalog::{Tarball, TarballTarget};
use crate::disk::{Accounts, AlignedBuffer, Attributes, ExtractRoot, Extractor, Owner};
use crate::flow::Cancel;
use crate::monitor::{Metric, Monitor};
use crate::restore::finish::is_made_anew;
use crate::restore::journal::OWN_PREFIX;
use crate::restore::receipts::ReceiptWriter;
use crate::restore::stage::{StageEnd, Stopped};
use crate::restore::writes::{OpenFile, Writes};
use crate::restore::{RestoreCounts, RestoreError};
use crate::tarball::{self, Member, MemberKind, MemberPath, TarballReadError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// PostgreSQL's control file, and its name until the restore is complete.
pub const PG_CONTROL: &str = "global/pg_control";
pub const PG_CONTROL_WAITING: &str = "global/pg_control.barman-cloud-restore";

/// Read by PostgreSQL or by the end of the restore: never a link.
const NEVER_LINKS: [&str; 3] = [PG_CONTROL_WAITING, "PG_VERSION", "backup_label"];
/// What a copy must not have: of a running server, or of another backup. A map of tablespaces
/// would send PostgreSQL's elsewhere.
const LEFT_OUT: [&str; 4] =
    ["tablespace_map", "postmaster.pid", "postmaster.opts", PG_CONTROL_WAITING];
/// Files directly in a data directory are some forty; more than this are an attack on memory.
const CONTESTED_MAX: usize = 10_000;

/// The directories of one restore; shared by all tarballs.
pub struct Targets {
    pub data: ExtractRoot,
    /// By OID.
    pub tablespaces: BTreeMap<u32, ExtractRoot>,
    /// Present when this process may give files away.
    pub accounts: Option<Accounts>,
    /// Which tarball's number wrote each file that several may hold.
    pub contested: Mutex<BTreeMap<String, u32>>,
}

impl Targets {
    /// Every root once per file system: enough to make all of them durable.
    pub fn file_systems(&self) -> Result<Vec<&ExtractRoot>, RestoreError> {
        let mut systems = BTreeMap::new();
        for root in std::iter::once(&self.data).chain(self.tablespaces.values()) {
            let device = root.device().map_err(RestoreError::disk(root.path()))?;
            systems.entry(device).or_insert(root);
        }
        Ok(systems.into_values().collect())
    }

    pub fn root_of(&self, target: TarballTarget) -> Option<&ExtractRoot> {
        match target {
            TarballTarget::Data => Some(&self.data),
            TarballTarget::Tablespace(oid) => self.tablespaces.get(&oid),
        }
    }

    /// Whether another tarball of the data directory wrote this file last.
    pub fn is_of_other(&self, path: &Path, tarball: &Tarball) -> bool {
        let contested = self.contested();
        let winner = contested.get(&*path.to_string_lossy());
        winner.is_some_and(|winner| *winner != tarball.name.number)
    }

    pub fn contested(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.contested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a data directory or tablespace its attributes, where that is ours to do.
pub fn apply_to_root(root: &ExtractRoot, attributes: &Attributes) -> Result<(), RestoreError> {
    match root.apply(attributes) {
        // A mount point that belongs to somebody else, and lets us write: it stays as it was.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let path = root.path().display();
            tracing::warn!(%path, "could not restrict access to the directory");
            Ok(())
        }
        applied => applied.map_err(RestoreError::disk(root.path())),
    }
}

/// Writes the members of one tarball.
pub struct MemberWriter {
    targets: Arc<Targets>,
    root: ExtractRoot,
    extractor: Extractor,
    target: TarballTarget,
    number: u32,
    /// URL, for errors.
    object: String,
    monitor: Arc<dyn Monitor>,
    stop: Cancel,
    writes: Writes,
    counts: RestoreCounts,
    /// A directory of one of PostgreSQL's versions was seen at the top.
    is_tablespaces: bool,
}

/// Where a member goes.
enum Place {
    Root,
    Nowhere,
    /// Only this tarball can hold it.
    Own(PathBuf),
    /// The highest tarball number wins.
    Contested(PathBuf),
}

/// An error that either ends the tarball or is a consequence of the end.
enum WriteEnd {
    Tarball(TarballReadError),
    Stage(StageEnd),
}

impl From<TarballReadError> for WriteEnd {
    fn from(error: TarballReadError) -> Self {
        Self::Tarball(error)
    }
}

impl From<RestoreError> for WriteEnd {
    fn from(error: RestoreError) -> Self {
        Self::Stage(error.into())
    }
}

impl MemberWriter {
    /// `None` when the tarball belongs to a tablespace that has no place.
    pub fn new(
        targets: Arc<Targets>,
        tarball: &Tarball,
        object: String,
        monitor: Arc<dyn Monitor>,
        stop: Cancel,
        writes: Writes,
    ) -> Option<Self> {
        let root = targets.root_of(tarball.name.target)?.clone();
        Some(Self {
            extractor: root.extractor(),
            root,
            target: tarball.name.target,
            number: tarball.name.number,
            object,
            monitor,
            stop,
            writes,
            counts: RestoreCounts { tarballs: 1, ..RestoreCounts::default() },
            is_tablespaces: false,
            targets,
        })
    }

    /// Reads the whole tarball and writes all of its members; `record` is what it must hold.
    pub fn run(mut self, plain: impl Read, tarball: &Tarball) -> Result<RestoreCounts, StageEnd> {
        let mut receipt = ReceiptWriter::create(&self.targets.data, tarball)?;
        let read = tarball::read_members(plain, |member, content| {
            self.member(member, content, &mut receipt)
        });
        // Nothing may be written any more when this returns, whatever happened.
        let written = self.writes.finish();
        let read = match read {
            Ok(read) => read,
            Err(WriteEnd::Stage(end)) => return Err(end),
            Err(WriteEnd::Tarball(error)) => {
                return Err(RestoreError::tarball(&self.object, &error).into());
            }
        };
        written?;
        receipt.finish()?;
        let is_first = tarball.name.number == 0;
        if self.target != TarballTarget::Data && is_first && !self.is_tablespaces {
            return Err(self.corrupt("it holds no directory of a tablespace".into()).into());
        }
        if let Some(record) = &tarball.record
            && (record.raw_bytes, record.members) != (read.raw_bytes, read.members)
        {
            let reason = format!(
                "it holds {} members in {} bytes, not the recorded {} in {}",
                read.members, read.raw_bytes, record.members, record.raw_bytes
            );
            return Err(self.corrupt(reason).into());
        }
        self.counts.stored_bytes = tarball.stored_bytes;
        Ok(self.counts)
    }

    fn member(
        &mut self,
        member: &Member,
        content: &mut dyn Read,
        receipt: &mut ReceiptWriter,
    ) -> Result<(), WriteEnd> {
        if self.stop.is_cancelled() {
            return Err(WriteEnd::Stage(Stopped.into()));
        }
        self.check_kind(&member.path)?;
        let owner = self.owner_of(member);
        let (path, contested) = match self.place(&member.path) {
            Place::Nowhere => return Ok(()),
            Place::Root => return Ok(self.root_entry(member, owner)?),
            Place::Own(path) => (path, false),
            Place::Contested(path) => (path, true),
        };
        match &member.kind {
            MemberKind::Directory => {
                self.directory(&path, member.mode, owner)?;
                receipt.directory(&path)?;
            }
            MemberKind::File => {
                let file = self.create(&path, contested, |new, path| new.file(path, owner))?;
                if let Some(file) = file {
                    let crc32 = self.fill(member, &path, owner, content, file)?;
                    receipt.file(&path, member.bytes, crc32)?;
                }
            }
            MemberKind::SymbolicLink(_)
                if self.target == TarballTarget::Data && is_made_anew(&path) =>
            {
                // As PostgreSQL's own base backup stores them.
                tracing::warn!(path = %path.display(), "restoring a directory, not the link that was there");
                self.directory(&path, 0o700, owner)?;
                receipt.directory(&path)?;
            }
            MemberKind::SymbolicLink(target) => {
                self.refuse_link(&path)?;
                if path.parent() == Some(Path::new("pg_tblspc")) {
                    tracing::warn!(path = %path.display(), "left out: the backup knows no such tablespace");
                    return Ok(());
                }
                let link =
                    |new: &mut Extractor, path: &Path| new.symbolic_link(path, target, owner);
                if self.create(&path, contested, link)?.is_some() {
                    receipt.symbolic_link(&path, target)?;
                }
            }
            MemberKind::HardLink(existing) => {
                self.refuse_link(&path)?;
                let (Place::Own(existing) | Place::Contested(existing)) = self.place(existing)
                else {
                    return Err(self.corrupt("a hard link names no file of it".into()).into());
                };
                let link = |new: &mut Extractor, path: &Path| new.hard_link(&existing, path, owner);
                if self.create(&path, contested, link)?.is_some() {
                    receipt.hard_link(&path)?;
                    self.count_file();
                }
            }
            MemberKind::Special => {
                tracing::warn!(path = %path.display(), "left out: neither file nor directory");
                self.counts.skipped += 1;
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        path: &Path,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<(), RestoreError> {
        // Writable for its owner whatever the tarball says: members follow.
        let attributes = Attributes { mode: mode | 0o700, owner, modified: None };
        let made = self.extractor.directory(path, &attributes);
        made.map_err(|error| self.refused(path, error))
    }

    /// A tarball that belongs elsewhere may be whole in itself: a tablespace's has directories of
    /// PostgreSQL's versions at its top, the data directory's has none.
    fn check_kind(&mut self, path: &MemberPath) -> Result<(), RestoreError> {
        let Some(first) = path.as_path().iter().next() else { return Ok(()) };
        let first = first.as_encoded_bytes();
        let (of_data, of_tablespace) = (first == b"PG_VERSION", is_version_directory(first));
        let elsewhere = match self.target {
            TarballTarget::Data => of_tablespace,
            TarballTarget::Tablespace(_) => {
                self.is_tablespaces |= of_tablespace;
                of_data || first == b"base" || first == b"global"
            }
        };
        match elsewhere {
            true => Err(self.corrupt("it is that of another part of the cluster".into())),
            false => Ok(()),
        }
    }

    fn refuse_link(&self, path: &Path) -> Result<(), RestoreError> {
        let never = NEVER_LINKS.iter().any(|name| path == Path::new(name));
        if self.target != TarballTarget::Data || !never {
            return Ok(());
        }
        let reason = format!("member \"{}\" is a link", path.display());
        Err(RestoreError::EscapingMember { object: self.object.clone(), reason })
    }

    /// Creates a file or link; `None` when a tarball with a higher number has written it.
    fn create<T>(
        &mut self,
        path: &Path,
        contested: bool,
        create: impl FnOnce(&mut Extractor, &Path) -> io::Result<T>,
    ) -> Result<Option<T>, RestoreError> {
        let created = {
            // Held until the file is there: whoever comes later finds it and knows its number.
            let mut winners = contested.then(|| self.targets.contested());
            if let Some(winners) = &mut winners {
                if winners.len() >= CONTESTED_MAX {
                    return Err(self.corrupt("it fills the data directory itself".into()));
                }
                let winner = winners.entry(path.to_string_lossy().into_owned()).or_default();
                if *winner > self.number {
                    return Ok(None);
                }
                *winner = self.number;
            }
            create(&mut self.extractor, path)
        };
        created.map(Some).map_err(|error| self.refused(path, error))
    }

    fn fill(
        &mut self,
        member: &Member,
        path: &Path,
        owner: Option<Owner>,
        content: &mut dyn Read,
        file: File,
    ) -> Result<u32, WriteEnd> {
        let attributes = Attributes { mode: member.mode, owner, modified: Some(member.modified) };
        let file = OpenFile::new(file, member.bytes, self.root.path().join(path), attributes);
        let (mut copied, mut checksum) = (0, crc32fast::Hasher::new());
        while copied < member.bytes {
            if self.stop.is_cancelled() {
                return Err(WriteEnd::Stage(Stopped.into()));
            }
            let mut buffer = self.writes.buffer()?;
            if let Err(error) = fill(&mut buffer, content) {
                self.writes.give(buffer);
                return Err(TarballReadError::Malformed(error.to_string()).into());
            }
            let bytes = u64::try_from(buffer.filled().len()).unwrap_or(u64::MAX);
            if bytes == 0 {
                self.writes.give(buffer);
                return Err(TarballReadError::NoEndMark.into());
            }
            checksum.update(buffer.filled());
            self.writes.write(&file, buffer, copied);
            self.monitor.add(Metric::ClusterBytes, bytes);
            copied += bytes;
        }
        self.writes.close(file)?;
        self.counts.cluster_bytes += copied;
        self.count_file();
        Ok(checksum.finalize())
    }

    /// The extracted directory itself: PostgreSQL accepts 0700 and 0750 and nothing else.
    fn root_entry(&self, member: &Member, owner: Option<Owner>) -> Result<(), RestoreError> {
        let mode = if member.mode & 0o050 == 0o050 { 0o750 } else { 0o700 };
        let attributes = Attributes { mode, owner, modified: None };
        apply_to_root(&self.root, &attributes)
    }

    fn place(&self, member: &MemberPath) -> Place {
        let path = member.as_path();
        if member.is_root() {
            return Place::Root;
        }
        let first = path.iter().next().unwrap_or_default().as_encoded_bytes();
        if self.target != TarballTarget::Data {
            if is_version_directory(first) {
                return Place::Own(path.into());
            }
            let path = path.display();
            tracing::warn!(object = self.object, %path, "left out: not PostgreSQL's");
            return Place::Nowhere;
        }
        if path == Path::new(PG_CONTROL) {
            return Place::Contested(PG_CONTROL_WAITING.into());
        }
        let left_out = LEFT_OUT.iter().any(|name| path == Path::new(name));
        if left_out || first.starts_with(OWN_PREFIX.as_bytes()) || self.is_tablespace_link(path) {
            return Place::Nowhere;
        }
        let at_top = path.parent() == Some(Path::new(""));
        if at_top { Place::Contested(path.into()) } else { Place::Own(path.into()) }
    }

    /// `pg_tblspc/<oid>` of a tablespace with a place of its own: the link is made anew.
    fn is_tablespace_link(&self, path: &Path) -> bool {
        let oid = path.strip_prefix("pg_tblspc").ok().and_then(Path::to_str);
        oid.and_then(|oid| oid.parse().ok())
            .is_some_and(|oid: u32| self.targets.tablespaces.contains_key(&oid))
    }

    fn owner_of(&self, member: &Member) -> Option<Owner> {
        let owner = &member.owner;
        self.targets.accounts.as_ref().map(|accounts| Owner {
            user_id: accounts.uid_of(&owner.user_name).unwrap_or(owner.user_id),
            group_id: accounts.gid_of(&owner.group_name).unwrap_or(owner.group_id),
        })
    }

    fn count_file(&mut self) {
        self.counts.files += 1;
        self.monitor.add(Metric::Files, 1);
    }

    fn corrupt(&self, reason: String) -> RestoreError {
        RestoreError::Corrupt { object: self.object.clone(), reason }
    }

    /// What is "not a directory" below the root is a link or file in a directory's place.
    fn refused(&self, path: &Path, source: io::Error) -> RestoreError {
        if source.kind() == io::ErrorKind::NotADirectory {
            let reason = format!("member \"{}\" lies behind a link or a file", path.display());
            return RestoreError::EscapingMember { object: self.object.clone(), reason };
        }
        RestoreError::Disk { path: self.root.path().join(path), source }
    }
}

/// `PG_15_202209061`. Source: `TABLESPACE_VERSION_DIRECTORY`, PostgreSQL
/// src/include/common/relpath.h.
fn is_version_directory(name: &[u8]) -> bool {
    name.strip_prefix(b"PG_").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

/// Reads until the buffer is full or the content ends.
fn fill(buffer: &mut AlignedBuffer, content: &mut dyn Read) -> io::Result<()> {
    while !buffer.room().is_empty() {
        match content.read(buffer.room()) {
            Ok(0) => return Ok(()),
            Ok(read) => buffer.advance(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
