//! A folder as a store: durable, atomic, private.
//!
//! ```text
//! put, complete:  <key>#<digits> (0600) → fsync → rename or link → fsync of the folders
//! ```
//!
//! Crash points: before the rename there is only a file whose name ends in `#<digits>`, which no
//! listing shows; after it the object is whole. A create links instead of renaming, because a
//! link never replaces. The folder itself must exist: a file system that is not mounted must not
//! fill the disk below its mount point.
//!
//! Metadata becomes extended attributes of the file, where its file system has them: they move with
//! the file, need no second file that could be missing or stale, and no listing shows them, ours
//! or Barman's. Elsewhere objects have none.
//!
//! Reading and listing are `object_store`'s; its writing leaves files open to the world and makes
//! a missing root.

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use rustix::fs::{CWD, RenameFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr, renameat_with};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The objects below one folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
}

/// The folder of a store does not exist.
#[derive(Debug, thiserror::Error)]
#[error("folder \"{0}\" does not exist")]
pub struct FolderMissing(pub PathBuf);

impl Folder {
    /// Looks at nothing yet: opening a store costs no I/O.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn objects(&self) -> Result<LocalFileSystem> {
        self.check()?;
        Ok(LocalFileSystem::new_with_prefix(&self.root)?.with_automatic_cleanup(true))
    }

    fn check(&self) -> Result<()> {
        if self.root.is_dir() {
            return Ok(());
        }
        Err(generic(FolderMissing(self.root.clone())))
    }

    fn target(&self, location: &ObjectPath) -> Result<PathBuf> {
        self.objects()?.path_to_filesystem(location)
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let target = self.target(location)?;
        let root = self.root.clone();
        let location = location.to_string();
        blocking(move || {
            let staged = Staged::new(&root, target)?;
            set_attributes(&staged.file, &options.attributes);
            payload.iter().try_for_each(|bytes| (&staged.file).write_all(bytes))?;
            match options.mode {
                PutMode::Create => staged.create(),
                _ => staged.replace(),
            }
        })
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Error::AlreadyExists { path: location, source: Box::new(error) }
            }
            _ => generic(error),
        })?;
        Ok(nothing_known())
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.target(location)?;
        let root = self.root.clone();
        let begin = move || {
            let staged = Staged::new(&root, target)?;
            set_attributes(&staged.file, &options.attributes);
            Ok(staged)
        };
        let staged = blocking(begin).await.map_err(generic)?;
        Ok(Box::new(FolderUpload { staged: Some(Arc::new(staged)), offset: 0 }))
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let mut opened = self.objects()?.get_opts(location, options).await?;
        if let GetResultPayload::File(file, _) = &opened.payload {
            opened.attributes = attributes_of(file);
        }
        Ok(opened)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        match self.objects() {
            Ok(objects) => synced(objects.clone(), objects.delete_stream(locations)),
            Err(error) => failed(error),
        }
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.objects() {
            Ok(objects) => objects.list(prefix),
            Err(error) => failed(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.objects()?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> Result<()> {
        self.objects()?.with_fsync(true).copy_opts(from, to, options).await
    }
}

/// Makes deletions durable, once per folder: what was deleted first must not outlive, after a
/// power failure, what was deleted last.
fn synced(
    objects: LocalFileSystem,
    deleted: BoxStream<'static, Result<ObjectPath>>,
) -> BoxStream<'static, Result<ObjectPath>> {
    let folders = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&folders);
    let noted = deleted.inspect_ok(move |location| {
        if let Ok(path) = objects.path_to_filesystem(location) {
            let folder = path.ancestors().skip(1).find(|folder| folder.is_dir());
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(folder.map(Path::to_path_buf));
        }
    });
    let sync = async move {
        let folders = std::mem::take(&mut *folders.lock().unwrap_or_else(PoisonError::into_inner));
        let sync = move || folders.iter().try_for_each(|folder| File::open(folder)?.sync_all());
        // A folder may be gone by now, emptied by somebody else: then nothing is left to sync.
        let _ = blocking(sync).await;
        stream::empty()
    };
    noted.chain(stream::once(sync).flatten()).boxed()
}

fn failed<T: Send + 'static>(error: Error) -> BoxStream<'static, Result<T>> {
    stream::iter([Err(error)]).boxed()
}

/// A file on its way; removed when dropped before it became an object.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    target: PathBuf,
    root: PathBuf,
}

impl Staged {
    fn new(root: &Path, target: PathBuf) -> io::Result<Self> {
        loop {
            let path = staged_path(&target);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => {
                    let staged = Self { file, path, target, root: root.into() };
                    give_to_owner_of_parent(&staged.path)?;
                    return Ok(staged);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Also when a concurrent delete has just removed the empty folder.
                Err(error) if error.kind() == ErrorKind::NotFound => make_folders(root, &target)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn replace(&self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        self.sync_folders()
    }

    fn create(&self) -> io::Result<()> {
        self.file.sync_all()?;
        match std::fs::hard_link(&self.path, &self.target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
            // File systems without hard links (FAT, some network mounts).
            Err(_) => {
                renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE)?;
            }
        }
        self.sync_folders()
    }

    /// Makes the name durable, and the names of folders that may be new.
    fn sync_folders(&self) -> io::Result<()> {
        let mut folder = self.target.parent();
        while let Some(path) = folder {
            File::open(path)?.sync_all()?;
            if path == self.root {
                break;
            }
            folder = path.parent();
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename it is gone; after a link it must go.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Extended attributes of users' files begin so; the rest keeps ours from others'.
const ATTRIBUTE_PREFIX: &str = "user.barman-cloud.";
/// More than a file's attributes need; ext4 has room for 4 KiB.
const ATTRIBUTES_BYTES_MAX: usize = 4096;

/// A file system without extended attributes, or with no room for them, costs only them.
fn set_attributes(file: &File, attributes: &Attributes) {
    for (attribute, value) in attributes {
        let Attribute::Metadata(name) = attribute else { continue };
        let name = format!("{ATTRIBUTE_PREFIX}{name}");
        let set = fsetxattr(file, &name, value.as_bytes(), XattrFlags::empty());
        if let Err(error) = set {
            tracing::debug!(name, %error, "the file system keeps no metadata");
        }
    }
}

fn attributes_of(file: &File) -> Attributes {
    let mut attributes = Attributes::new();
    let mut names = vec![0; ATTRIBUTES_BYTES_MAX];
    let Ok(length) = flistxattr(file, &mut names[..]) else { return attributes };
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let Some(ours) = name.strip_prefix(ATTRIBUTE_PREFIX) else { continue };
        let mut value = vec![0; ATTRIBUTES_BYTES_MAX];
        let Ok(length) = fgetxattr(file, name, &mut value[..]) else { continue };
        if let Ok(value) = std::str::from_utf8(&value[..length]) {
            attributes
                .insert(Attribute::Metadata(ours.to_string().into()), value.to_string().into());
        }
    }
    attributes
}

/// Beside the target, hidden from listings by its ending.
fn staged_path(target: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{}{number:06}", std::process::id()));
    name.into()
}

/// Whether a file is one on its way: no object's name ends so, for no listing would show it.
fn is_staged(name: &str) -> bool {
    let digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    name.rsplit_once('#').is_some_and(|(_, ending)| digits(ending))
}

/// The files on their way below a folder of a store, each with its path below the store's root
/// and the time at which it was last written.
pub(crate) async fn staged_below(
    root: PathBuf,
    below: String,
) -> std::result::Result<Vec<(String, Timestamp)>, Box<dyn std::error::Error + Send + Sync>> {
    let walk = move || {
        let (mut folders, mut found) = (vec![root.join(below)], Vec::new());
        while let Some(folder) = folders.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                // Somebody else has just removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_staged) {
                    let Ok(metadata) = entry.metadata() else { continue };
                    let path = entry.path();
                    let relative = path.strip_prefix(&root).ok().and_then(Path::to_str);
                    let since = metadata.modified().ok().and_then(|t| Timestamp::try_from(t).ok());
                    found.extend(relative.map(String::from).zip(since));
                }
            }
        }
        Ok(found)
    };
    Ok(blocking(walk).await?)
}

/// Makes the folders of an object. Those that root makes belong to the owner of the folder they
/// are in: what root keeps, the owner of the store must be able to read and to delete.
fn make_folders(root: &Path, target: &Path) -> io::Result<()> {
    if !root.is_dir() {
        return Err(io::Error::new(ErrorKind::NotFound, FolderMissing(root.into())));
    }
    let folder = target.parent().unwrap_or(root);
    let missing = folder.ancestors().take_while(|folder| !folder.is_dir());
    let missing: Vec<&Path> = missing.collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    missing.iter().rev().try_for_each(|folder| give_to_owner_of_parent(folder))
}

/// As root, gives a new file or folder to the owner of the folder that it lies in, where the file
/// system lets root do so: network mounts may take root for nobody.
fn give_to_owner_of_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|_| rustix::process::geteuid().is_root()) else {
        return Ok(());
    };
    let owner = std::fs::metadata(parent)?;
    if owner.uid() == 0 && owner.gid() == 0 {
        return Ok(());
    }
    match std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid())) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct FolderUpload {
    staged: Option<Arc<Staged>>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for FolderUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += u64::try_from(payload.content_length()).unwrap_or(u64::MAX);
        let Some(staged) = self.staged.clone() else {
            return Box::pin(async { Err(aborted()) });
        };
        Box::pin(async move {
            let write = move || {
                let mut at = offset;
                for bytes in &payload {
                    staged.file.write_all_at(bytes, at)?;
                    at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                }
                Ok(())
            };
            blocking(write).await.map_err(generic)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(aborted)?;
        blocking(move || staged.replace()).await.map_err(generic)?;
        Ok(nothing_known())
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged = None;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::other("a worker thread panicked")),
    }
}

fn nothing_known() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: http::Extensions::default() }
}

fn aborted() -> Error {
    generic(io::Error::other("the upload is already finished"))
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "folder", source: Box::new(error) }
}
