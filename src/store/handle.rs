//! The handle on one bucket.

use crate::store::{Effect, ObjectKey, StoreError, StoreErrorKind, StoreOperation, Upload};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::path::{Path, PathPart};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};
use std::ops::Range;
use std::sync::Arc;

/// One bucket, container or folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// `s3://bucket`, `memory:`; object URLs are this, a slash and the key.
    root_url: String,
}

/// What a store tells about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    pub bytes: u64,
    pub modified: Timestamp,
    pub etag: Option<String>,
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
    /// S3 object tags, Azure blob index tags, GCS custom metadata.
    pub tags: Vec<(String, String)>,
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
        Self {
            objects: Arc::new(object_store::memory::InMemory::new()),
            root_url: "memory:".into(),
        }
    }

    /// The URL of an object, for people.
    pub fn url_of(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.root_url)
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
    pub async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<Option<(ObjectMeta, BoxStream<'static, Result<Bytes, StoreError>>)>, StoreError>
    {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.objects.get_opts(&path(key), options).await {
            Ok(result) => {
                let meta = meta_of(&result.meta);
                let store = self.clone();
                let key = key.clone();
                let stream = result
                    .into_stream()
                    .map_err(move |error| store.error(StoreOperation::Read, &key, &error))
                    .boxed();
                Ok(Some((meta, stream)))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(StoreOperation::Read, key, &error)),
        }
    }

    /// Asks for an object's size and time; `None` when the store says that there is none.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        match self.objects.head(&path(key)).await {
            Ok(meta) => Ok(Some(meta_of(&meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(StoreOperation::Read, key, &error)),
        }
    }

    /// Writes a whole object in one request.
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        let mut put = object_store::PutOptions::default();
        put.mode = match mode {
            PutMode::Create => object_store::PutMode::Create,
            PutMode::Overwrite => object_store::PutMode::Overwrite,
        };
        put.tags = tag_set(&options.tags);
        match self.objects.put_opts(&path(key), PutPayload::from(bytes), put).await {
            Ok(_) => Ok(PutOutcome::Written),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::AlreadyThere),
            Err(error) => Err(self.error(StoreOperation::Write, key, &error)),
        }
    }

    /// Begins an upload in parts; nothing is visible before [`Upload::complete`].
    pub async fn upload(
        &self,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<Upload, StoreError> {
        let mut put = object_store::PutMultipartOptions::default();
        put.tags = tag_set(&options.tags);
        let parts = self
            .objects
            .put_multipart_opts(&path(key), put)
            .await
            .map_err(|error| self.error(StoreOperation::Write, key, &error))?;
        Ok(Upload::new(self.clone(), key.clone(), parts))
    }

    /// Lists every object whose key starts with `prefix` followed by a slash (all objects when
    /// it is empty), in no promised order, page by page as it is consumed.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListEntry, StoreError>> {
        let store = self.clone();
        let below = prefix.trim_end_matches('/').to_string();
        let path = (!below.is_empty()).then(|| Path::from_iter(below.split('/')));
        self.objects
            .list(path.as_ref())
            .map(move |entry| {
                let meta = entry.map_err(|error| store.list_error(&below, &error))?;
                let key = ObjectKey::parse(meta.location.as_ref())
                    .map_err(|error| store.list_error(&below, &error))?;
                Ok(ListEntry { key, bytes: meta.size, modified: timestamp(meta.last_modified) })
            })
            .boxed()
    }

    /// Lists the objects of one folder whose names start with the last segment of `prefix`
    /// (`wals/0000000100000000/0000000100000000000000FE`): a positive answer about all suffixes
    /// of one name. Folders below are not entered.
    pub async fn list_starting_with(&self, prefix: &str) -> Result<Vec<ListEntry>, StoreError> {
        let folder = prefix.rsplit_once('/').map(|(folder, _)| Path::from_iter(folder.split('/')));
        let listed = self.objects.list_with_delimiter(folder.as_ref()).await;
        let objects = listed.map_err(|error| self.list_error(prefix, &error))?.objects;
        let matching =
            objects.into_iter().filter(|meta| meta.location.as_ref().starts_with(prefix));
        matching
            .map(|meta| {
                let key = ObjectKey::parse(meta.location.as_ref())
                    .map_err(|error| self.list_error(prefix, &error))?;
                Ok(ListEntry { key, bytes: meta.size, modified: timestamp(meta.last_modified) })
            })
            .collect()
    }

    /// Deletes objects, in the store's batches. An object that is not there counts as deleted.
    /// Every key gets its own answer, in the order given.
    pub async fn delete(&self, keys: Vec<ObjectKey>) -> Vec<(ObjectKey, Result<(), StoreError>)> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            let answer = match self.objects.delete(&path(&key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.error(StoreOperation::Delete, &key, &error)),
            };
            answers.push((key, answer));
        }
        answers
    }

    /// Translates a foreign error about one object.
    pub(crate) fn error(
        &self,
        operation: StoreOperation,
        key: &ObjectKey,
        error: &dyn std::error::Error,
    ) -> StoreError {
        StoreError {
            operation,
            kind: StoreErrorKind::Other,
            effect: Effect::MayHaveHappened,
            object: self.url_of(key),
            reason: error.to_string(),
            hint: None,
        }
    }

    fn list_error(&self, below: &str, error: &dyn std::error::Error) -> StoreError {
        StoreError {
            operation: StoreOperation::List,
            kind: StoreErrorKind::Other,
            effect: Effect::SurelyNot,
            object: format!("{}/{below}", self.root_url),
            reason: error.to_string(),
            hint: None,
        }
    }
}

fn path(key: &ObjectKey) -> Path {
    // Segment by segment, because `Path::parse` refuses empty ones.
    key.as_str().split('/').fold(Path::default(), |path, segment| {
        path.join(PathPart::parse(segment).expect("an object key has valid segments"))
    })
}

fn meta_of(meta: &object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        bytes: meta.size,
        modified: timestamp(meta.last_modified),
        etag: meta.e_tag.clone(),
    }
}

fn timestamp(time: impl Into<std::time::SystemTime>) -> Timestamp {
    Timestamp::try_from(time.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn tag_set(tags: &[(String, String)]) -> object_store::TagSet {
    let mut set = object_store::TagSet::default();
    for (key, value) in tags {
        set.push(key, value);
    }
    set
}

fn concat(chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.into_iter().next().unwrap_or_default();
    }
    chunks.concat().into()
}
