//! The handle on one bucket.

use crate::cloud::{Answer, Trace};
use crate::flow::{Backoff, RetryLimits};
use crate::store::bucket::Bucket;
use crate::store::labels::{Labels, metadata_of};
use crate::store::options::AzureBlocks;
use crate::store::read::stream_of;
use crate::store::translate::{says_object_missing, store_error};
use crate::store::{ObjectKey, StoreError, StoreOperation, Upload};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, GetRange, GetResult, ObjectStore, PutPayload};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One bucket, container or folder. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<StoreInner>,
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
            blocks: None,
        };
        Self { inner: Arc::new(inner) }
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
        match trace.follow(self.objects().get_opts(&path(key), options)).await {
            Ok(opened) => Ok(Some(opened)),
            Err(error @ object_store::Error::NotFound { .. }) => {
                self.absence(key, trace, &error)?;
                Ok(None)
            }
            Err(error) => Err(self.error(StoreOperation::Read, key, trace, &error)),
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
        match trace.follow(self.objects().get_opts(&path(key), options)).await {
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

    /// Writes a whole object.
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let trace = Trace::new();
            let written = trace.follow(self.put_once(key, bytes.clone(), mode, options)).await?;
            let error = match written {
                Ok(()) => return Ok(PutOutcome::Written),
                Err(error) => error,
            };
            match Collision::of(&trace, &error, mode) {
                Collision::AlreadyThere => return Ok(PutOutcome::AlreadyThere),
                // Somebody else is writing this very key: ask again who won.
                Collision::Undecided => match backoff.next_delay(None) {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(self.error(StoreOperation::Write, key, &trace, &error)),
                },
                Collision::NoConditionalWrites => {
                    return self.look_then_put(key, bytes, options).await;
                }
                Collision::None => {
                    return Err(self.error(StoreOperation::Write, key, &trace, &error));
                }
            }
        }
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        options: &PutOptions,
    ) -> Result<Result<(), object_store::Error>, StoreError> {
        if let Some(blocks) = self.inner.blocks.filter(|blocks| blocks.apply_to(&bytes)) {
            return self.put_in_blocks(key, bytes, mode, options, blocks).await;
        }
        let (tags, attributes) = self.inner.labels.apply(self, key, options)?;
        let mode = match mode {
            PutMode::Create => object_store::PutMode::Create,
            PutMode::Overwrite => object_store::PutMode::Overwrite,
        };
        let extensions = http::Extensions::default();
        let put = object_store::PutOptions { mode, tags, attributes, extensions };
        let path = path(key);
        let written = self.objects().put_opts(&path, PutPayload::from(bytes), put).await;
        Ok(written.map(|_| ()))
    }

    /// For dialects that answer "not implemented" to a conditional write. Between the look and
    /// the write another writer may slip in; callers that must know compare afterwards.
    async fn look_then_put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        if self.head(key).await?.is_some() {
            return Ok(PutOutcome::AlreadyThere);
        }
        Box::pin(self.put(key, bytes, PutMode::Overwrite, options)).await
    }

    /// Begins an upload in parts; nothing is visible before [`Upload::complete`].
    pub async fn upload(
        &self,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<Upload, StoreError> {
        let mut put = object_store::PutMultipartOptions::default();
        (put.tags, put.attributes) = self.inner.labels.apply(self, key, options)?;
        let trace = Trace::new();
        let parts = trace
            .follow(self.objects().put_multipart_opts(&path(key), put))
            .await
            .map_err(|error| self.error(StoreOperation::Write, key, &trace, &error))?;
        Ok(Upload::new(self.clone(), key.clone(), parts))
    }

    /// Lists every object whose key starts with `prefix` followed by a slash (all objects when
    /// it is empty), in no promised order, page by page as it is consumed.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListEntry, StoreError>> {
        let below = prefix.trim_end_matches('/').to_string();
        let folder = folder_path(&below);
        let pages = self.objects().list(folder.as_ref());
        stream::unfold((self.clone(), below, pages), |(store, below, mut pages)| async move {
            let trace = Trace::new();
            let entry = match trace.follow(pages.next()).await? {
                Ok(meta) => {
                    list_entry(&meta).map_err(|error| store.list_error(&below, &trace, &error))
                }
                Err(error) => Err(store.list_error(&below, &trace, &error)),
            };
            Some((entry, (store, below, pages)))
        })
        .boxed()
    }

    /// Lists the objects of one folder whose names start with the last segment of `prefix`
    /// (`wals/0000000100000000/0000000100000000000000FE`): a positive answer about all suffixes
    /// of one name, in one request. Folders below are not entered.
    pub async fn list_starting_with(&self, prefix: &str) -> Result<Vec<ListEntry>, StoreError> {
        let trace = Trace::new();
        let listed = match &self.inner.names {
            Some(names) => trace.follow(list_by_name(names.as_ref(), prefix)).await,
            None => {
                let folder = prefix.rsplit_once('/').and_then(|(folder, _)| folder_path(folder));
                let listing = self.objects().list_with_delimiter(folder.as_ref());
                trace.follow(listing).await.map(|listed| listed.objects)
            }
        };
        let objects = listed.map_err(|error| self.list_error(prefix, &trace, &error))?;
        let matching = objects.iter().filter(|meta| meta.location.as_ref().starts_with(prefix));
        matching
            .map(|meta| list_entry(meta).map_err(|error| self.list_error(prefix, &trace, &error)))
            .collect()
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

/// What a failed write tells about the object that may be there.
enum Collision {
    AlreadyThere,
    Undecided,
    NoConditionalWrites,
    None,
}

impl Collision {
    fn of(trace: &Trace, error: &object_store::Error, mode: PutMode) -> Self {
        if mode == PutMode::Overwrite {
            return Self::None;
        }
        let (status, code) = match trace.last() {
            Some(Answer::Status { status, code, .. }) => (status, code.unwrap_or_default()),
            Some(_) => return Self::None,
            // No request was sent: memory, or a folder.
            None => {
                let there = matches!(error, object_store::Error::AlreadyExists { .. });
                return if there { Self::AlreadyThere } else { Self::None };
            }
        };
        match (status, code.as_str()) {
            // 304: some dialects answer a failed condition as if it were a read.
            (412 | 304, _) => Self::AlreadyThere,
            // Azure: there, or there and the signature may create but not replace.
            (409, "BlobAlreadyExists") | (403, "UnauthorizedBlobOverwrite") => Self::AlreadyThere,
            (409, "ConditionalRequestConflict" | "OperationAborted") => Self::Undecided,
            (501, _) => Self::NoConditionalWrites,
            _ => Self::None,
        }
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

/// All pages of the objects whose names begin so: one page, but for prefixes of many names.
async fn list_by_name(
    names: &dyn PaginatedListStore,
    prefix: &str,
) -> object_store::Result<Vec<object_store::ObjectMeta>> {
    // One character less: on Azure the library leaves out the object that has the very name, for
    // it could be the marker of a folder.
    let shorter = prefix.char_indices().next_back().map_or("", |(last, _)| &prefix[..last]);
    let mut objects = Vec::new();
    let mut page_token = None;
    loop {
        let delimiter = Some("/".into());
        let options =
            PaginatedListOptions { delimiter, page_token, ..PaginatedListOptions::default() };
        let page = names.list_paginated(Some(shorter), options).await?;
        objects.extend(page.result.objects);
        page_token = page.page_token;
        if page_token.is_none() {
            return Ok(objects);
        }
    }
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
