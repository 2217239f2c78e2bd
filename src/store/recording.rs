//! For tests: a store in memory that writes down what it was asked, or stops writing.

use crate::store::Store;
use crate::store::bucket::Bucket;
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Requests in the order they were made, as `GET p/main/archive.json`.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<Vec<String>>>);

/// The store itself.
#[derive(Debug, Default)]
pub struct Recording {
    objects: InMemory,
    requests: Requests,
    limit: ChangeLimit,
}

/// How many changes a store still makes; no limit at first.
#[derive(Clone, Debug, Default)]
pub struct ChangeLimit(Arc<Mutex<Option<u32>>>);

impl ChangeLimit {
    pub fn set(&self, changes: Option<u32>) {
        *self.0.lock().expect("no panics") = changes;
    }

    fn spend(&self) -> Result<()> {
        let mut left = self.0.lock().expect("no panics");
        match left.as_mut() {
            Some(0) => {
                let source = "the connection is gone".into();
                return Err(object_store::Error::Generic { store: "recording", source });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl Requests {
    /// Those since the last call, sorted: what runs side by side has no order.
    pub fn take(&self) -> Vec<String> {
        let mut taken = std::mem::take(&mut *self.0.lock().expect("no panics"));
        taken.sort();
        taken
    }

    fn note(&self, method: &str, location: &str) {
        self.0.lock().expect("no panics").push(format!("{method} {location}"));
    }
}

impl Store {
    /// A store in memory and what it was asked.
    pub(crate) fn recording() -> (Self, Requests) {
        let recording = Recording::default();
        let requests = recording.requests.clone();
        (Self::over(recording), requests)
    }

    /// A store in memory that refuses all changes while `limit` says so, and how many it made.
    pub(crate) fn stopping(limit: &ChangeLimit) -> Self {
        Self::over(Recording { limit: limit.clone(), ..Recording::default() })
    }

    fn over(recording: Recording) -> Self {
        let memory = Self::memory().inner;
        let inner = StoreInner {
            objects: Arc::new(recording),
            names: None,
            one_by_one: None,
            bucket: Bucket::Memory,
            root_url: memory.root_url.clone(),
            labels: Labels::Metadata,
            retry: memory.retry,
            delete_batch: memory.delete_batch,
            conditional_writes: Known::honoured(),
            blocks: None,
        };
        Self::of(inner)
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("recording")
    }
}

#[async_trait]
impl ObjectStore for Recording {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.requests.note("PUT", location.as_ref());
        self.limit.spend()?;
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.requests.note("POST", location.as_ref());
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.requests.note(if options.head { "HEAD" } else { "GET" }, location.as_ref());
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.requests.note("DELETE", "");
        if let Err(error) = self.limit.spend() {
            return Box::pin(futures::stream::iter([Err(error)]));
        }
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.note("LIST", prefix.map_or("", |prefix| prefix.as_ref()));
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.requests.note("LIST", prefix.map_or("", |prefix| prefix.as_ref()));
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.requests.note("COPY", to.as_ref());
        self.objects.copy_opts(from, to, options).await
    }
}
