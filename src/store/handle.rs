//! The handle on one bucket.

use crate::cloud::{Answer, Trace};
use crate::flow::{Backoff, Cancel, RetryLimits};
use crate::store::bucket::Bucket;
use crate::store::conditions::Known;
use crate::store::labels::{Labels, metadata_of};
use crate::store::options::AzureBlocks;
use crate::store::read::stream_of;
use crate::store::translate::{says_object_missing, store_error};
use crate::store::{ObjectKey, StoreError, StoreOperation};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::list::PaginatedListStore;
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One bucket, container or folder. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<StoreInner>,
    /// What ends every wait; see [`until`](Self::until).
    pub(crate) stop: Cancel,
}

/// What all clones share.
pub(crate) struct StoreInner {
    pub objects: Arc<dyn ObjectStore>,
    /// The same bucket, listed by the beginning of a name; `None` where a folder must be listed.
    pub names: Option<Arc<dyn PaginatedListStore>>,
    /// The same bucket without batch requests, for dialects that have none.
    pub one_by_one: Option<Arc<dyn ObjectStore>>,
    pub bucket: Bucket,
    /// `s3://bucket`, `memory:`; object URLs are this, a slash and the key.
    pub root_url: String,
    pub labels: Labels,
    pub retry: RetryLimits,
    /// Keys per delete request.
    pub delete_batch: usize,
    /// Whether a create can be left to the store.
    pub conditional_writes: Known,
    /// Set on Azure, where large objects are written in blocks.
    pub blocks: Option<AzureBlocks>,
}

/// Shows where, and no credentials.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.inner.root_url)
    }
}

/// What a store tells about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    pub bytes: u64,
    pub modified: Timestamp,
    pub etag: Option<String>,
    /// Custom metadata by name; on Google Cloud Storage tags are among it.
    pub metadata: BTreeMap<String, String>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    pub key: ObjectKey,
    pub bytes: u64,
    pub modified: Timestamp,
}

/// Whether an existing object may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Refuses to replace: the loser of a race gets [`PutOutcome::AlreadyThere`].
    Create,
    Overwrite,
}

/// What travels with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// S3 object tags, Azure blob index tags, GCS custom metadata. A folder cannot hold them.
    pub tags: Vec<(String, String)>,
    /// Custom metadata; in a folder, extended attributes where its file system has them. Names of
    /// lower-case letters and digits arrive everywhere as they are.
    pub metadata: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    Written,
    /// Only with [`PutMode::Create`]. After a lost answer it may be our own write: compare.
    AlreadyThere,
}

impl Store {
    /// An empty store that lives as long as its clones.
    pub fn memory() -> Self {
        let inner = StoreInner {
            objects: Arc::new(object_store::memory::InMemory::new()),
            names: None,
            one_by_one: None,
            bucket: Bucket::Memory,
            root_url: "memory:".into(),
            labels: Labels::Metadata,
            retry: RetryLimits::PATIENT,
            delete_batch: 1000,
            conditional_writes: Known::honoured(),
            blocks: None,
        };
        Self::of(inner)
    }

    pub(crate) fn of(inner: StoreInner) -> Self {
        Self { inner: Arc::new(inner), stop: Cancel::new() }
    }

    /// The URL of an object, for people.
    pub fn url_of(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.inner.root_url)
    }

    /// The URL of the bucket, for people.
    pub fn root_url(&self) -> &str {
        &self.inner.root_url
    }

    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.objects
    }

    pub(crate) fn retry(&self) -> RetryLimits {
        self.inner.retry
    }

    /// Reads a whole object; `None` when the store says that there is none.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Bytes>, StoreError> {
        match self.get_stream(key, None).await? {
            None => Ok(None),
            Some((_, stream)) => {
                let chunks: Vec<Bytes> = stream.try_collect().await?;
                Ok(Some(concat(chunks)))
            }
        }
    }

    /// Opens an object (or `range` of it, end excluded) for streaming; a connection that breaks
    /// is resumed behind the stream. `None` when the store says that there is none.
    ///
    /// A range may end behind the object, but not begin there.
    pub async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<Option<(ObjectMeta, BoxStream<'static, Result<Bytes, StoreError>>)>, StoreError>
    {
        if range.as_ref().is_some_and(|range| range.is_empty()) {
            let meta = self.head(key).await?;
            return Ok(meta.map(|meta| (meta, stream::empty().boxed())));
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let trace = Trace::new();
        match self.opened(key, options, &trace).await? {
            None => Ok(None),
            Some(opened) => {
                let meta = meta_of(&opened);
                Ok(Some((meta, stream_of(self, key, opened, trace))))
            }
        }
    }

    async fn opened(
        &self,
        key: &ObjectKey,
        options: GetOptions,
        trace: &Trace,
    ) -> Result<Option<GetResult>, StoreError> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let location = path(key);
            let asked = self.objects().get_opts(&location, options.clone());
            let error = match self.follow(trace, asked).await {
                Ok(opened) => return Ok(Some(opened)),
                Err(error @ object_store::Error::NotFound { .. }) => {
                    self.absence(key, trace, &error)?;
                    return Ok(None);
                }
                Err(error) => self.error(StoreOperation::Read, key, trace, &error),
            };
            match self.worth_another_try(&error, trace, &mut backoff) {
                Some(delay) => self.pause(delay).await,
                None => return Err(error),
            }
        }
    }

    /// Passes only if the store said that this object, and not its bucket, is missing.
    fn absence(
        &self,
        key: &ObjectKey,
        trace: &Trace,
        error: &object_store::Error,
    ) -> Result<(), StoreError> {
        match trace.last() {
            // No request was sent: memory, or a folder, which checks its root itself.
            None => Ok(()),
            Some(answer) if says_object_missing(&answer) => Ok(()),
            Some(_) => Err(self.error(StoreOperation::Read, key, trace, error)),
        }
    }

    /// Asks for what is known of an object; `None` when the store says that there is none.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let trace = Trace::new();
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.follow(&trace, self.objects().get_opts(&path(key), options)).await {
            Ok(opened) => Ok(Some(meta_of(&opened))),
            Err(object_store::Error::NotFound { .. }) if has_no_code(&trace) => {
                // An answer to HEAD has no body, so it cannot say what is missing; GET's can.
                let trace = Trace::new();
                let opened = self.opened(key, GetOptions::default(), &trace).await?;
                Ok(opened.map(|opened| meta_of(&opened)))
            }
            Err(error @ object_store::Error::NotFound { .. }) => {
                self.absence(key, &trace, &error)?;
                Ok(None)
            }
            Err(error) => Err(self.error(StoreOperation::Read, key, &trace, &error)),
        }
    }

    /// Translates a foreign error about one object.
    pub(crate) fn error(
        &self,
        operation: StoreOperation,
        key: &ObjectKey,
        trace: &Trace,
        error: &(dyn std::error::Error + 'static),
    ) -> StoreError {
        store_error(operation, self.url_of(key), trace, error)
    }

    pub(crate) fn list_error(
        &self,
        below: &str,
        trace: &Trace,
        error: &(dyn std::error::Error + 'static),
    ) -> StoreError {
        let object = format!("{}/{below}", self.inner.root_url);
        store_error(StoreOperation::List, object, trace, error)
    }
}

fn has_no_code(trace: &Trace) -> bool {
    matches!(trace.last(), Some(Answer::Status { code: None, .. }))
}

pub(crate) fn list_entry(
    meta: &object_store::ObjectMeta,
) -> Result<ListEntry, crate::store::ObjectKeyError> {
    let key = ObjectKey::parse(meta.location.as_ref())?;
    Ok(ListEntry { key, bytes: meta.size, modified: timestamp(meta.last_modified) })
}

pub(crate) fn path(key: &ObjectKey) -> Path {
    path_of(key.as_str()).expect("an object key has valid segments")
}

/// A folder to list; `None` for the whole bucket.
pub(crate) fn folder_path(folder: &str) -> Option<Path> {
    let exact = || path_of(folder).unwrap_or_else(|| Path::from_iter(folder.split('/')));
    (!folder.is_empty()).then(exact)
}

/// Names to the byte: `Path::from` would escape a percent sign, and `Path::parse` refuses empty
/// segments.
fn path_of(text: &str) -> Option<Path> {
    text.split('/')
        .try_fold(Path::default(), |path, segment| Some(path.join(PathPart::parse(segment).ok()?)))
}

fn meta_of(opened: &GetResult) -> ObjectMeta {
    ObjectMeta {
        bytes: opened.meta.size,
        modified: timestamp(opened.meta.last_modified),
        etag: opened.meta.e_tag.clone(),
        metadata: metadata_of(&opened.attributes),
    }
}

fn timestamp(time: impl Into<std::time::SystemTime>) -> Timestamp {
    Timestamp::try_from(time.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn concat(chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.into_iter().next().unwrap_or_default();
    }
    chunks.concat().into()
}

#[cfg(test)]
mod tests {
    use crate::store::{ObjectKey, PutMode, PutOptions, Store};
    use futures::stream::TryStreamExt;

    #[tokio::test]
    async fn listings_take_prefixes_to_the_byte() {
        let store = Store::memory();
        let keys = ["pct%20x/wals/A", "pct%20x/wals/A.gz", "pct%20x/wals/B", "a b/wals/A/x"];
        for key in keys {
            let key = ObjectKey::parse(key).expect("key");
            let options = PutOptions::default();
            store.put(&key, "x".into(), PutMode::Create, &options).await.expect("put");
        }
        let below: Vec<_> = store.list("pct%20x/wals").try_collect().await.expect("list");
        assert_eq!(below.len(), 3);
        let named = store.list_starting_with("pct%20x/wals/A").await.expect("list");
        let named: Vec<_> = named.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(named, ["pct%20x/wals/A", "pct%20x/wals/A.gz"]);
        assert!(store.list_starting_with("a b/wals/A").await.expect("list").is_empty());
    }
}
