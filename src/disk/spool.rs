//! A folder of files fetched ahead of time, which cannot be poisoned.
//!
//! ```text
//! <base>/<16 hex of the scope>/<name>.<8 hex of CRC-32C>   an entry
//! <base>/<16 hex of the scope>/.<name>.part….tmp           on its way in
//! <base>/<16 hex of the scope>/.<name>.<CRC>….tmp          on its way out
//! ```
//!
//! The scope (URL, endpoint, server name) is part of the path, so two archives never meet.
//! Entries appear by rename and carry their checksum in their name; one that a crash damaged
//! fails its checksum and is fetched again. Taking an entry renames
//! it first, so each is delivered at most once and any number of processes may share the folder
//! without waiting for each other. Who fills it holds a lock on the folder itself, which leaves no
//! file and ends with its process. Folders that other users could write to are not used.

use crate::disk::durable::temporary_name;
use crate::disk::{
    DiskError, DiskOperation, DurableFile, create_private_directory, sync_directory_of,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What lies longer than this was left by a recovery that went elsewhere.
const AGE_MAX_SECONDS: i64 = 3600;
const COPY_BYTES: usize = 128 << 10;
/// What stands behind the name of an entry that is still being written.
const ARRIVING: &str = "part";

/// The spool of one scope.
#[derive(Clone, Debug)]
pub struct Spool {
    base: PathBuf,
    directory: PathBuf,
}

/// An entry taken out of the spool, checked; removed when dropped without delivery.
#[derive(Debug)]
pub struct Spooled {
    file: File,
    path: PathBuf,
}

/// The right to fill a spool, held by one process at a time; given back when dropped.
#[derive(Debug)]
pub struct SpoolLock {
    _directory: File,
}

/// A file on its way into the spool.
#[derive(Debug)]
pub struct SpoolWriter {
    file: DurableFile,
    checksum: u32,
    directory: PathBuf,
    name: String,
}

impl Spool {
    /// Names the spool; touches nothing.
    pub fn new(base: &Path, scope: &str) -> Self {
        let digest = Sha256::digest(scope.as_bytes());
        let folder: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { base: base.to_path_buf(), directory: base.join(folder) }
    }

    /// Creates what is missing of the folder and refuses one that others may write to.
    pub fn prepare(&self) -> Result<(), DiskError> {
        create_private_directory(&self.directory)?;
        self.check_owner().map(|_| ())
    }

    /// Takes the entry of `name`, if there is one whose content is what was put in.
    pub fn take(&self, name: &str) -> Result<Option<Spooled>, DiskError> {
        if !self.check_owner()? {
            return Ok(None);
        }
        for (entry, checksum) in self.entries(name)? {
            let claimed = temporary_name(&entry)?;
            match fs::rename(&entry, &claimed) {
                Ok(()) => {}
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(DiskError::new(DiskOperation::Rename, &claimed, error)),
            }
            let opened = File::open(&claimed);
            let file =
                opened.map_err(|error| DiskError::new(DiskOperation::Open, &claimed, error))?;
            let mut spooled = Spooled { file, path: claimed };
            if !spooled.is_stale()? && spooled.checksum()? == checksum {
                return Ok(Some(spooled));
            }
        }
        Ok(None)
    }

    pub fn holds(&self, name: &str) -> bool {
        self.entries(name).is_ok_and(|entries| !entries.is_empty())
    }

    /// The names of all entries; none of a folder that cannot be read or trusted.
    pub fn names(&self) -> BTreeSet<String> {
        if !self.check_owner().unwrap_or(false) {
            return BTreeSet::new();
        }
        let files = self.files().unwrap_or_default().into_iter();
        let entries = files.filter(|(path, _)| is_entry(path) && !is_temporary(path));
        entries.filter_map(|(path, _)| Some(path.file_stem()?.to_str()?.to_string())).collect()
    }

    /// How much has arrived of an entry that is being written; `None` when none is.
    pub fn arriving(&self, name: &str) -> Option<u64> {
        let start = format!(".{name}.{ARRIVING}.");
        let (path, _) =
            self.files().ok()?.into_iter().find(|(path, _)| starts_with(path, &start))?;
        fs::metadata(path).ok().map(|metadata| metadata.len())
    }

    /// Takes the right to fill the spool; `None` while another process has it.
    pub fn lock(&self) -> Result<Option<SpoolLock>, DiskError> {
        let failed = |error| DiskError::new(DiskOperation::Open, &self.directory, error);
        let directory = File::open(&self.directory).map_err(failed)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(SpoolLock { _directory: directory })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Removes what writers that were killed left behind: for the holder of the lock, before it
    /// writes anything itself.
    pub fn remove_arriving(&self, _: &SpoolLock) -> Result<(), DiskError> {
        let dead = format!(".{ARRIVING}.");
        let arriving = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with('.') && name.contains(&dead))
        };
        for (path, _) in self.files()?.into_iter().filter(|(path, _)| arriving(path)) {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Removes the entries whose name is not `wanted`.
    pub fn retain(&self, _: &SpoolLock, wanted: impl Fn(&str) -> bool) -> Result<(), DiskError> {
        for (path, _) in self.files()?.into_iter().filter(|(path, _)| is_entry(path)) {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with('.') && !wanted(name) {
                // Whoever took it meanwhile has it; that is as good.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Begins an entry; the folder must have been [`prepare`](Self::prepare)d.
    pub fn put(&self, name: &str) -> Result<SpoolWriter, DiskError> {
        let file = DurableFile::create(&self.directory.join(format!("{name}.{ARRIVING}")))?;
        let (directory, name) = (self.directory.clone(), name.to_string());
        Ok(SpoolWriter { file, checksum: 0, directory, name })
    }

    /// Removes leftovers: entries beyond the newest `entries_max`, and whatever is an hour older
    /// than the newest file. The files' own times are compared, no clock is asked.
    pub fn evict(&self, entries_max: usize) -> Result<(), DiskError> {
        let mut files = self.files()?;
        files.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
        let Some(newest) = files.first().map(|(_, modified)| *modified) else { return Ok(()) };
        let mut entries = 0;
        for (path, modified) in files {
            let (entry, temporary) = (is_entry(&path), is_temporary(&path));
            entries += usize::from(entry);
            let old = modified + AGE_MAX_SECONDS < newest;
            if (old && (entry || temporary)) || (entry && entries > entries_max) {
                // Whoever took it meanwhile has it; that is as good.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// A short text kept beside the entries; `None` when there is none to be trusted.
    pub fn note(&self, name: &str) -> Option<String> {
        if !self.check_owner().unwrap_or(false) {
            return None;
        }
        fs::read_to_string(self.directory.join(name)).ok()
    }

    /// Replaces a note; the folder must have been [`prepare`](Self::prepare)d.
    pub fn set_note(&self, name: &str, text: &str) -> Result<(), DiskError> {
        let path = self.directory.join(name);
        let mut file = DurableFile::create(&path)?;
        let written = file.write_all(text.as_bytes());
        written.map_err(|error| DiskError::new(DiskOperation::Write, &path, error))?;
        file.publish_unsynced(&path)
    }

    /// `false` when there is no folder yet.
    fn check_owner(&self) -> Result<bool, DiskError> {
        for path in [&self.base, &self.directory] {
            let metadata = match fs::symlink_metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(DiskError::new(DiskOperation::Open, path, error)),
            };
            if let Some(reason) = distrust(&metadata, path == &self.directory) {
                let error = io::Error::new(io::ErrorKind::PermissionDenied, reason);
                return Err(DiskError::new(DiskOperation::Trust, path, error));
            }
        }
        Ok(true)
    }

    /// Paths and checksums of the entries of one name.
    fn entries(&self, name: &str) -> Result<Vec<(PathBuf, u32)>, DiskError> {
        let checksum = |path: &Path| {
            let digits = path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
            (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let files = self.files()?.into_iter();
        Ok(files
            .filter_map(|(path, _)| Some((checksum(&path)?, path)))
            .map(|(c, p)| (p, c))
            .collect())
    }

    /// Files and the seconds of their last change.
    fn files(&self) -> Result<Vec<(PathBuf, i64)>, DiskError> {
        let failed = |error| DiskError::new(DiskOperation::ListDirectory, &self.directory, error);
        let listing = match fs::read_dir(&self.directory) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for entry in listing {
            let path = entry.map_err(failed)?.path();
            // Files come and go while others use the spool.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() {
                files.push((path, metadata.mtime()));
            }
        }
        Ok(files)
    }
}

impl Spooled {
    /// The content, from wherever the last reader left off.
    pub fn reader(&mut self) -> Result<impl Read + '_, DiskError> {
        let rewound = self.file.rewind();
        rewound.map_err(|error| DiskError::new(DiskOperation::Read, &self.path, error))?;
        Ok(&self.file)
    }

    /// The first bytes of the content: `bytes`, or fewer where there are no more.
    pub fn beginning(&mut self, bytes: usize) -> Result<Vec<u8>, DiskError> {
        let (mut first, path) = (Vec::new(), self.path.clone());
        let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
        let read = self.reader()?.take(limit).read_to_end(&mut first);
        read.map_err(|error| DiskError::new(DiskOperation::Read, &path, error))?;
        Ok(first)
    }

    pub fn bytes(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        let failed = |error| DiskError::new(DiskOperation::Read, &self.path, error);
        Ok(metadata.map_err(failed)?.len())
    }

    /// Moves the entry to its destination: durable when this returns.
    pub fn deliver(mut self, destination: &Path) -> Result<(), DiskError> {
        let synced = self.file.sync_all();
        synced.map_err(|error| DiskError::new(DiskOperation::Sync, &self.path, error))?;
        match fs::rename(&self.path, destination) {
            Ok(()) => sync_directory_of(destination),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut file = DurableFile::create_out_of_sight(destination)?;
                let copied = io::copy(&mut self.reader()?, &mut file);
                copied.map_err(|error| DiskError::new(DiskOperation::Write, destination, error))?;
                file.publish()
            }
            Err(error) => Err(DiskError::new(DiskOperation::Rename, destination, error)),
        }
    }

    /// Whether the entry waited so long that the archive may have been begun anew under the same
    /// name. Taking it has just renamed it, which sets the change time: the file system's own
    /// clock measures the age.
    fn is_stale(&self) -> Result<bool, DiskError> {
        let metadata = self.file.metadata();
        let failed = |error| DiskError::new(DiskOperation::Read, &self.path, error);
        let metadata = metadata.map_err(failed)?;
        Ok(metadata.ctime() - metadata.mtime() > AGE_MAX_SECONDS)
    }

    fn checksum(&mut self) -> Result<u32, DiskError> {
        let path = self.path.clone();
        let mut reader = self.reader()?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut checksum = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(checksum),
                Ok(read) => checksum = crc32c::crc32c_append(checksum, &buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::new(DiskOperation::Read, &path, error)),
            }
        }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // A delivered entry has left this name; nobody else can own it.
        let _ = fs::remove_file(&self.path);
    }
}

impl SpoolWriter {
    /// Names the entry in an error of writing.
    pub fn write_error(&self, error: io::Error) -> DiskError {
        self.file.write_error(error)
    }

    /// Makes the entry durable and visible, so that its delivery has nothing left to write.
    pub fn finish(self) -> Result<(), DiskError> {
        self.file.sync()?;
        self.finish_unsynced()
    }

    /// Makes the entry visible; for what costs little when a crash takes it.
    pub fn finish_unsynced(self) -> Result<(), DiskError> {
        let entry = self.directory.join(format!("{}.{:08x}", self.name, self.checksum));
        self.file.publish_unsynced(&entry)
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Why a folder could be in somebody else's hands. The base may be shared in the way of `/tmp`
/// (sticky), or belong to root.
fn distrust(metadata: &Metadata, own: bool) -> Option<&'static str> {
    let me = rustix::process::geteuid().as_raw();
    let mode = metadata.mode();
    if !metadata.is_dir() {
        return Some("it is not a directory");
    }
    if metadata.uid() != me && (own || metadata.uid() != 0) {
        return Some("it belongs to another user");
    }
    let sticky = mode & 0o1000 != 0;
    (mode & 0o022 != 0 && (own || !sticky)).then_some("other users may write to it")
}

fn is_entry(path: &Path) -> bool {
    let checksum = path.extension().and_then(|extension| extension.to_str());
    checksum.is_some_and(|digits| digits.len() == 8 && u32::from_str_radix(digits, 16).is_ok())
}

fn is_temporary(path: &Path) -> bool {
    starts_with(path, ".")
}

fn starts_with(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

#[cfg(test)]
mod tests {
    use crate::disk::Spool;
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn spool(base: &Path) -> Spool {
        let spool = Spool::new(base, "s3://b/p main");
        spool.prepare().expect("prepare");
        spool
    }

    fn put(spool: &Spool, name: &str, content: &[u8]) {
        let mut writer = spool.put(name).expect("put");
        writer.write_all(content).expect("write");
        writer.finish().expect("finish");
    }

    fn files(base: &Path) -> Vec<PathBuf> {
        let folders = fs::read_dir(base).expect("base").map(|entry| entry.expect("entry").path());
        folders
            .flat_map(|folder| fs::read_dir(folder).expect("folder"))
            .map(|entry| entry.expect("entry").path())
            .collect()
    }

    #[test]
    fn an_entry_is_delivered_once_and_whole() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        put(&spool, "A", b"content");
        assert!(spool.holds("A") && !spool.holds("B"));
        let destination = base.path().join("out");
        let mut taken = spool.take("A").expect("take").expect("entry");
        let mut content = Vec::new();
        taken.reader().expect("reader").read_to_end(&mut content).expect("read");
        assert_eq!(content, b"content");
        taken.deliver(&destination).expect("deliver");
        assert_eq!(fs::read(&destination).expect("read"), b"content");
        assert!(spool.take("A").expect("take").is_none());
    }

    #[test]
    fn other_scopes_do_not_see_it() {
        let base = tempfile::tempdir().expect("base");
        put(&spool(base.path()), "A", b"content");
        let other = Spool::new(base.path(), "s3://b/p other");
        assert!(other.take("A").expect("take").is_none());
    }

    #[test]
    fn a_damaged_entry_is_dropped_instead_of_delivered() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        for damage in [&b"content"[..3], b"content!", b"CONTENT", b""] {
            put(&spool, "A", b"content");
            fs::write(&files(base.path())[0], damage).expect("damage");
            assert!(spool.take("A").expect("take").is_none());
            assert!(files(base.path()).is_empty());
        }
    }

    #[test]
    fn an_entry_that_waited_for_hours_is_not_delivered() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        put(&spool, "A", b"content");
        let entry = fs::File::open(&files(base.path())[0]).expect("open");
        let modified = entry.metadata().expect("metadata").modified().expect("time");
        entry.set_modified(modified - std::time::Duration::from_secs(7300)).expect("touch");
        assert!(spool.take("A").expect("take").is_none());
        assert!(files(base.path()).is_empty());
    }

    #[test]
    fn a_file_placed_under_the_bare_name_is_not_an_entry() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        put(&spool, "A", b"content");
        let folder = files(base.path())[0].parent().expect("folder").to_path_buf();
        fs::write(folder.join("B"), "poison").expect("write");
        fs::write(base.path().join("B"), "poison").expect("write");
        assert!(spool.take("B").expect("take").is_none());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        put(&spool, "A", b"content");
        let folder = files(base.path())[0].parent().expect("folder").to_path_buf();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(spool.take("A").is_err());
        assert!(spool.prepare().is_err());
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        let mut writer = spool.put("A").expect("put");
        writer.write_all(b"half").expect("write");
        drop(writer);
        assert!(files(base.path()).is_empty());
    }

    #[test]
    fn an_entry_that_arrives_is_seen_and_not_taken() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        assert_eq!(spool.arriving("A"), None);
        let mut writer = spool.put("A").expect("put");
        assert_eq!(spool.arriving("A"), Some(0));
        writer.write_all(b"half").expect("write");
        assert_eq!((spool.arriving("A"), spool.arriving("B")), (Some(4), None));
        assert!(!spool.holds("A") && spool.take("A").expect("take").is_none());
        writer.finish().expect("finish");
        assert_eq!((spool.arriving("A"), spool.holds("A")), (None, true));
    }

    #[test]
    fn one_at_a_time_fills_it_and_leaves_no_lock_file() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        let lock = spool.lock().expect("lock").expect("free");
        assert!(spool.lock().expect("lock").is_none());
        drop(lock);
        assert!(spool.lock().expect("lock").is_some());
        assert!(files(base.path()).is_empty());
    }

    #[test]
    fn who_fills_it_removes_what_is_unwanted_and_what_the_dead_left() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        for name in ["A", "B"] {
            put(&spool, name, b"content");
        }
        spool.set_note("position", "B").expect("note");
        // A writer that was killed has no chance to clean up.
        std::mem::forget(spool.put("C").expect("put"));
        let lock = spool.lock().expect("lock").expect("free");
        spool.retain(&lock, |name| name == "B").expect("retain");
        assert_eq!(spool.arriving("C"), Some(0));
        spool.remove_arriving(&lock).expect("remove");
        assert_eq!(files(base.path()).len(), 2);
        assert!(spool.holds("B") && spool.note("position").is_some());
        assert_eq!(spool.arriving("C"), None);
    }

    #[test]
    fn only_the_newest_entries_are_kept() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        for name in ["A", "B", "C", "D"] {
            put(&spool, name, b"content");
        }
        let old = fs::File::open(&files(base.path())[0]).expect("open");
        let hours_ago = old.metadata().expect("metadata").modified().expect("time")
            - std::time::Duration::from_secs(7300);
        old.set_modified(hours_ago).expect("touch");
        spool.evict(10).expect("evict");
        assert_eq!(files(base.path()).len(), 3);
        spool.evict(2).expect("evict");
        assert_eq!(files(base.path()).len(), 2);
    }

    #[test]
    fn notes_are_replaced_whole_and_absent_ones_are_none() {
        let base = tempfile::tempdir().expect("base");
        let spool = spool(base.path());
        assert_eq!(spool.note("suffix"), None);
        spool.set_note("suffix", "gz").expect("note");
        spool.set_note("suffix", "zst").expect("note");
        assert_eq!(spool.note("suffix").as_deref(), Some("zst"));
        assert!(!spool.holds("suffix"));
    }
}
