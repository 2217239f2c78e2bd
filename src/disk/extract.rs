//! Writing files below a directory, and nowhere else.
//!
//! Every path is walked from the directory's own descriptor, one component at a time, without
//! following symbolic links: a link that the same tarball (or a neighbour) put there can be
//! created, but never be used as a way out. Nothing is made durable file by file: twenty
//! thousand files would mean twenty thousand journal commits. [`ExtractRoot::sync`] asks the
//! file system once, and reports what it could not write since the root was opened.

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A user and a group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user_id: u32,
    pub group_id: u32,
}

/// What a written file or directory shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// `None`: whoever runs the command.
    pub owner: Option<Owner>,
    /// Seconds since 1970; `None` leaves the time of writing.
    pub modified: Option<i64>,
}

/// A directory that files are written into. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExtractRoot {
    directory: Arc<OwnedFd>,
    path: PathBuf,
}

/// What has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File {
        bytes: u64,
    },
    Directory,
    /// With the text of the link.
    SymbolicLink(OsString),
    Other,
}

/// What becomes of directories that are not there.
#[derive(Clone, Copy)]
enum Missing {
    Fail,
    Create(Option<Owner>),
}

/// Writes below one root; remembers the directory it wrote into last. One per thread.
#[derive(Debug)]
pub struct Extractor {
    root: ExtractRoot,
    last: Option<(PathBuf, OwnedFd)>,
}

impl ExtractRoot {
    /// Opens an existing directory. The path itself may be, or lead through, symbolic links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory: Arc::new(directory), path: path.into() })
    }

    pub(crate) fn new(directory: OwnedFd, path: PathBuf) -> Self {
        Self { directory: Arc::new(directory), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing lies in the directory but files of these names.
    pub fn is_empty_but_for(&self, names: &[&str]) -> io::Result<bool> {
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let known = names.iter().any(|known| known.as_bytes() == name);
            if !known && name != b"." && name != b".." {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Device and inode: the same for every path to the directory.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.directory)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    pub fn extractor(&self) -> Extractor {
        Extractor { root: self.clone(), last: None }
    }

    /// Makes durable everything below the root, and whatever else lies on its file system.
    ///
    /// Fails also for data that could not be written earlier, since the root was opened
    /// (Linux 5.8).
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.directory)?)
    }

    /// Takes the directory for this process, until the last clone of the root is dropped (or
    /// the process dies). False when another process has it. File systems that know no locks
    /// (some NFS) grant it always.
    pub fn lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of the file system that the root lies on.
    pub fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.directory)?.st_dev)
    }

    pub fn owner(&self) -> io::Result<Owner> {
        let stat = rustix::fs::fstat(&self.directory)?;
        Ok(Owner { user_id: stat.st_uid, group_id: stat.st_gid })
    }

    /// Permission bits of the root itself.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.directory)?.st_mode & 0o777)
    }

    /// Gives the root itself its mode and owner.
    pub fn apply(&self, attributes: &Attributes) -> io::Result<()> {
        apply(&*self.directory, attributes)
    }
}

impl Extractor {
    /// Creates a directory, or gives an existing one its attributes.
    pub fn directory(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.parent_of(path, Missing::Create(attributes.owner))?;
        let directory = open_or_create_directory(parent, name, attributes.owner)?;
        apply(&directory, attributes)
    }

    /// Creates an empty file for writing, in place of whatever file or link has its name.
    pub fn file(&mut self, path: &Path, owner: Option<Owner>) -> io::Result<File> {
        let (parent, name) = self.parent_of(path, Missing::Create(owner))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let file = match create() {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                create()?
            }
            result => result?,
        };
        Ok(File::from(file))
    }

    /// Creates a symbolic link with `target` as its text, whatever that names.
    pub fn symbolic_link(
        &mut self,
        path: &Path,
        target: &OsStr,
        owner: Option<Owner>,
    ) -> io::Result<()> {
        let (parent, name) = self.parent_of(path, Missing::Create(owner))?;
        replace(parent, name, || rustix::fs::symlinkat(target, parent, name))?;
        if let Some(owner) = owner {
            let (user, group) = ids(owner);
            rustix::fs::chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Gives the file at `existing` a second name.
    pub fn hard_link(
        &mut self,
        existing: &Path,
        path: &Path,
        owner: Option<Owner>,
    ) -> io::Result<()> {
        let (from_parent, from_name) = split(existing)?;
        let from = self.root.walk(from_parent, Missing::Fail)?;
        let (parent, name) = self.parent_of(path, Missing::Create(owner))?;
        replace(parent, name, || {
            rustix::fs::linkat(&from, from_name, parent, name, AtFlags::empty())
        })
    }

    /// Moves a file to another name, replacing what is there, and makes the new name durable.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = split(from)?;
        let from_directory = self.root.walk(from_parent, Missing::Fail)?;
        let (parent, name) = self.parent_of(to, Missing::Fail)?;
        rustix::fs::renameat(&from_directory, from_name, parent, name)?;
        Ok(rustix::fs::fsync(parent)?)
    }

    /// Removes a file, and makes that durable. One that is not there is fine.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.unlink(path, AtFlags::empty())
    }

    /// Removes an empty directory, and makes that durable. One that is not there is fine.
    pub fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        self.last = None;
        self.unlink(path, AtFlags::REMOVEDIR)
    }

    fn unlink(&mut self, path: &Path, flags: AtFlags) -> io::Result<()> {
        let (parent, name) = match self.parent_of(path, Missing::Fail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(parent, name, flags) {
            Ok(()) => Ok(rustix::fs::fsync(parent)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What has this name, without following it; `None` when nothing has.
    pub fn kind(&mut self, path: &Path) -> io::Result<Option<EntryKind>> {
        let (parent, name) = match self.parent_of(path, Missing::Fail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                EntryKind::File { bytes: u64::try_from(stat.st_size).unwrap_or_default() }
            }
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                EntryKind::SymbolicLink(OsString::from_vec(target.into_bytes()))
            }
            _ => EntryKind::Other,
        }))
    }

    /// Whether something has this name; a link counts, whatever it names.
    pub fn exists(&mut self, path: &Path) -> io::Result<bool> {
        Ok(self.kind(path)?.is_some())
    }

    /// Opens a regular file for reading; `None` when nothing has its name. A link is an error,
    /// and so is what would block or never end.
    pub fn open(&mut self, path: &Path) -> io::Result<Option<File>> {
        let (parent, name) = match self.parent_of(path, Missing::Fail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_regular(path)),
            file => file?,
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(Some(File::from(file))),
            _ => Err(not_regular(path)),
        }
    }

    /// Opens the directory that `path` lies in.
    fn parent_of<'a, 'p>(
        &'a mut self,
        path: &'p Path,
        missing: Missing,
    ) -> io::Result<(&'a OwnedFd, &'p OsStr)> {
        let (parent, name) = split(path)?;
        let cached = self.last.as_ref().is_some_and(|(last, _)| last == parent);
        if !cached {
            self.last = Some((parent.into(), self.root.walk(parent, missing)?));
        }
        let (_, directory) = self.last.as_ref().expect("it was just set");
        Ok((directory, name))
    }
}

impl ExtractRoot {
    fn walk(&self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        let mut directory = self.directory.try_clone()?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(not_below(path));
            };
            directory = match missing {
                Missing::Fail => open_directory(&directory, name)?,
                Missing::Create(owner) => open_or_create_directory(&directory, name, owner)?,
            };
        }
        Ok(directory)
    }
}

/// Whether this process may give files to other users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who runs the command.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Gives an open file or directory its attributes.
pub fn apply(file: impl AsFd, attributes: &Attributes) -> io::Result<()> {
    let file = file.as_fd();
    // Owner before mode: a change of owner may clear mode bits.
    if let Some(owner) = attributes.owner {
        let (user, group) = ids(owner);
        rustix::fs::fchown(file, user, group)?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
    if let Some(modified) = attributes.modified {
        let time = Timespec { tv_sec: modified, tv_nsec: 0 };
        rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    }
    Ok(())
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.user_id)), Some(Gid::from_raw(owner.group_id)))
}

/// Splits into directory and name; the root itself has no name and is refused.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok((parent, name)),
        _ => Err(not_below(path)),
    }
}

fn not_below(path: &Path) -> io::Error {
    let reason = format!("\"{}\" is not a name below the directory", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn not_regular(path: &Path) -> io::Error {
    let reason = format!("\"{}\" is not a regular file", path.display());
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// `O_NOFOLLOW` with `O_DIRECTORY`: a symbolic link in a directory's place is "not a directory".
fn open_directory(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn open_or_create_directory(
    parent: &OwnedFd,
    name: &OsStr,
    owner: Option<Owner>,
) -> io::Result<OwnedFd> {
    let open = || open_directory(parent, name);
    match open() {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        // A neighbour that extracts another tarball was faster.
        Err(Errno::EXIST) => Ok(open()?),
        result => {
            result?;
            let directory = open()?;
            if let Some(owner) = owner {
                let (user, group) = ids(owner);
                rustix::fs::fchown(&directory, user, group)?;
            }
            Ok(directory)
        }
    }
}

/// Runs `create`; when the name is taken, removes what has it and runs it again.
fn replace(
    parent: &OwnedFd,
    name: &OsStr,
    create: impl Fn() -> rustix::io::Result<()>,
) -> io::Result<()> {
    match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            Ok(create()?)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::{Attributes, EntryKind, ExtractRoot};
    use std::ffi::OsStr;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    const PRIVATE: Attributes = Attributes { mode: 0o700, owner: None, modified: None };

    fn root() -> (tempfile::TempDir, ExtractRoot) {
        let directory = tempfile::tempdir().expect("temp");
        let root = ExtractRoot::open(directory.path()).expect("open");
        (directory, root)
    }

    fn write(root: &ExtractRoot, path: &str, content: &[u8]) -> std::io::Result<()> {
        root.extractor().file(Path::new(path), None)?.write_all(content)
    }

    #[test]
    fn files_get_their_missing_directories_and_are_private() {
        let (directory, root) = root();
        write(&root, "base/5/1234", b"x").expect("written");
        let base = fs::metadata(directory.path().join("base")).expect("base");
        let file = fs::metadata(directory.path().join("base/5/1234")).expect("file");
        assert_eq!(base.permissions().mode() & 0o777, 0o700);
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_takes_the_place_of_an_older_one_and_of_a_link() {
        let (directory, root) = root();
        let outside = tempfile::NamedTempFile::new().expect("temp");
        write(&root, "a", b"first, and longer").expect("written");
        write(&root, "a", b"second").expect("written");
        symlink(outside.path(), directory.path().join("b")).expect("link");
        write(&root, "b", b"third").expect("written");
        assert_eq!(fs::read(directory.path().join("a")).expect("a"), b"second");
        assert_eq!(fs::read(directory.path().join("b")).expect("b"), b"third");
        assert_eq!(fs::read(outside.path()).expect("outside"), b"");
    }

    #[test]
    fn a_link_is_never_used_as_a_directory() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().expect("temp");
        let mut extractor = root.extractor();
        extractor
            .symbolic_link(Path::new("out"), outside.path().as_os_str(), None)
            .expect("creating one is fine");
        assert!(extractor.file(Path::new("out/evil"), None).is_err());
        assert!(extractor.directory(Path::new("out"), &PRIVATE).is_err());
        assert!(extractor.directory(Path::new("out/evil"), &PRIVATE).is_err());
        fs::write(outside.path().join("secret"), b"x").expect("write");
        assert!(extractor.hard_link(Path::new("out/secret"), Path::new("copy"), None).is_err());
        assert!(fs::read_dir(directory.path()).expect("list").count() == 1);
    }

    #[test]
    fn names_that_are_not_below_the_root_are_refused() {
        let (_directory, root) = root();
        for path in ["", ".", "..", "/", "/tmp/x", "../x", "a/../../x"] {
            assert!(write(&root, path, b"").is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_read_is_a_regular_file_and_never_one_elsewhere() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().expect("temp");
        fs::write(outside.path().join("secret"), b"x").expect("write");
        symlink(outside.path().join("secret"), directory.path().join("link")).expect("link");
        symlink(outside.path(), directory.path().join("out")).expect("link");
        write(&root, "d/file", b"content").expect("written");
        let mut extractor = root.extractor();
        assert!(extractor.open(Path::new("d/file")).expect("opened").is_some());
        assert!(extractor.open(Path::new("d/none")).expect("absent").is_none());
        assert!(extractor.open(Path::new("none/none")).expect("absent").is_none());
        for path in ["link", "out/secret", "d"] {
            assert!(extractor.open(Path::new(path)).is_err(), "{path}");
        }
        assert!(extractor.kind(Path::new("out/secret")).is_err());
        assert!(extractor.remove(Path::new("out/secret")).is_err());
        assert!(outside.path().join("secret").exists());
        let kinds = ["d/file", "d", "link", "none/none"]
            .map(|path| extractor.kind(Path::new(path)).expect("looked at"));
        let link = outside.path().join("secret").into_os_string();
        assert_eq!(
            kinds,
            [
                Some(EntryKind::File { bytes: 7 }),
                Some(EntryKind::Directory),
                Some(EntryKind::SymbolicLink(link)),
                None
            ]
        );
        assert!(!directory.path().join("none").exists());
    }

    #[test]
    fn an_empty_directory_may_hold_files_that_are_named() {
        let (_directory, root) = root();
        assert!(root.is_empty_but_for(&[]).expect("read"));
        write(&root, "mark", b"").expect("written");
        assert!(!root.is_empty_but_for(&[]).expect("read"));
        assert!(root.is_empty_but_for(&["mark"]).expect("read"));
        write(&root, "other", b"").expect("written");
        assert!(!root.is_empty_but_for(&["mark"]).expect("read"));
    }

    #[test]
    fn mode_and_time_are_applied() {
        let (directory, root) = root();
        let mut extractor = root.extractor();
        let file = extractor.file(Path::new("f"), None).expect("file");
        let attributes = Attributes { mode: 0o640, owner: None, modified: Some(1_000_000_000) };
        crate::disk::apply(&file, &attributes).expect("apply");
        let metadata = fs::metadata(directory.path().join("f")).expect("f");
        assert_eq!(metadata.mode() & 0o777, 0o640);
        assert_eq!(metadata.mtime(), 1_000_000_000);
    }

    #[test]
    fn hard_links_share_their_content_and_replace_what_has_the_name() {
        let (directory, root) = root();
        write(&root, "d/a", b"one").expect("written");
        write(&root, "b", b"two").expect("written");
        let mut extractor = root.extractor();
        extractor.hard_link(Path::new("d/a"), Path::new("b"), None).expect("linked");
        let inode = |name: &str| fs::metadata(directory.path().join(name)).expect(name).ino();
        assert_eq!(inode("d/a"), inode("b"));
    }

    #[test]
    fn renaming_replaces_and_removing_twice_is_fine() {
        let (directory, root) = root();
        write(&root, "global/new", b"new").expect("written");
        write(&root, "global/old", b"old").expect("written");
        let mut extractor = root.extractor();
        extractor.rename(Path::new("global/new"), Path::new("global/old")).expect("renamed");
        assert_eq!(fs::read(directory.path().join("global/old")).expect("old"), b"new");
        extractor.remove(Path::new("global/old")).expect("removed");
        extractor.remove(Path::new("global/old")).expect("nothing to remove");
        assert!(!extractor.exists(Path::new("global/old")).expect("asked"));
        extractor.symbolic_link(Path::new("l"), OsStr::new("nowhere"), None).expect("link");
        assert!(extractor.exists(Path::new("l")).expect("asked"));
    }

    #[test]
    fn only_one_opening_of_a_root_gets_its_lock() {
        let (directory, root) = root();
        let second = ExtractRoot::open(directory.path()).expect("open");
        assert!(root.lock().expect("lock"));
        assert!(!second.lock().expect("lock"));
        drop(root);
        assert!(second.lock().expect("lock"));
    }

    #[test]
    fn the_root_tells_its_file_system() {
        let (directory, root) = root();
        let metadata = fs::metadata(directory.path()).expect("root");
        assert_eq!(root.device().expect("device"), metadata.dev());
        root.sync().expect("sync");
    }
}
