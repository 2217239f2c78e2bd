//! For tests: a store in memory whose conditional writes do not work, which lets other tasks in
//! at seeded points, so that races are tried in many orders.

use crate::flow::RetryLimits;
use crate::store::Store;
use crate::store::bucket::Bucket;
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What becomes of a write that must not replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Honoured,
    Ignored,
    /// Answered with "not implemented".
    Refused,
}

/// The bucket: opened any number of times, each time without memory of what was found out.
#[derive(Clone, Debug)]
pub struct Dialect {
    objects: Arc<InMemory>,
    condition: Condition,
    dice: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    /// Writes that are carried out without an answer, and that do not arrive at all.
    lost_answers: Arc<AtomicU64>,
    lost_requests: Arc<AtomicU64>,
}

impl Dialect {
    pub fn new(condition: Condition, seed: u64) -> Self {
        let dice = Arc::new(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        Self {
            objects: Arc::default(),
            condition,
            dice,
            requests: Arc::default(),
            lost_answers: Arc::default(),
            lost_requests: Arc::default(),
        }
    }

    pub fn open(&self) -> Store {
        Store::of(StoreInner {
            objects: Arc::new(self.clone()),
            names: None,
            one_by_one: None,
            bucket: Bucket::Memory,
            root_url: "memory:".into(),
            labels: Labels::Metadata,
            retry: RetryLimits {
                attempts_max: 100,
                deadline: Duration::from_secs(60),
                delay_first: Duration::from_micros(100),
                delay_max: Duration::from_millis(2),
            },
            delete_batch: 1000,
            conditional_writes: Known::nothing(),
            blocks: None,
        })
    }

    /// Requests since the last call.
    pub fn requests(&self) -> u64 {
        self.requests.swap(0, Ordering::Relaxed)
    }

    pub fn lose_answers(&self, count: u64) {
        self.lost_answers.store(count, Ordering::Relaxed);
    }

    pub fn lose_requests(&self, count: u64) {
        self.lost_requests.store(count, Ordering::Relaxed);
    }

    async fn write<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let lost = || Error::Generic { store: "dialect", source: "connection reset".into() };
        let takes = |count: &AtomicU64| {
            let less = |left: u64| left.checked_sub(1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
        };
        if takes(&self.lost_requests) {
            return Err(lost());
        }
        let answer = self.around(request).await;
        if takes(&self.lost_answers) { Err(lost()) } else { answer }
    }

    /// Lets others in between, zero to seven times.
    async fn others_first(&self) {
        let step = |state: u64| {
            let state = state ^ (state << 13);
            let state = state ^ (state >> 7);
            Some(state ^ (state << 17))
        };
        let rolled = self.dice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        for _ in 0..(rolled.unwrap_or(0) >> 33) % 8 {
            tokio::task::yield_now().await;
        }
    }

    async fn around<T>(&self, request: impl Future<Output = T>) -> T {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.others_first().await;
        let answer = request.await;
        self.others_first().await;
        answer
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dialect")
    }
}

#[derive(Debug)]
struct DialectUpload {
    bucket: Dialect,
    parts: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for DialectUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.parts.put_part(payload)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let bucket = self.bucket.clone();
        bucket.write(self.parts.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.abort().await
    }
}

#[async_trait]
impl ObjectStore for Dialect {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        match (&options.mode, self.condition) {
            (PutMode::Create, Condition::Ignored) => options.mode = PutMode::Overwrite,
            (PutMode::Create, Condition::Refused) => {
                let operation = "If-None-Match".into();
                return Err(Error::NotImplemented { operation, implementer: self.to_string() });
            }
            _ => {}
        }
        self.write(self.objects.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let parts = self.around(self.objects.put_multipart_opts(location, options)).await?;
        Ok(Box::new(DialectUpload { bucket: self.clone(), parts }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.around(self.objects.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let deleted = async move {
            this.others_first().await;
            this.objects.delete_stream(locations)
        };
        stream::once(deleted).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let page: Vec<_> = this.around(this.objects.list(prefix.as_ref()).collect()).await;
            stream::iter(page)
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.around(self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
