//! An upload in parts, from memory.

use crate::cloud::Trace;
use crate::flow::Cancelled;
use crate::store::handle::path;
use crate::store::write::{LOOK_MAX, UPLOAD_MARKER};
use crate::store::{Effect, ObjectKey, Store, StoreError, StoreOperation};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::{Attribute, GetOptions, MultipartUpload, PutPayload};
use std::time::Duration;

/// An object on its way. Invisible until [`complete`](Self::complete); what is not completed
/// should be [`abort`](Self::abort)ed, or the store may keep its parts. Dropping aborts as well,
/// as far as the runtime still gets to it.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    key: ObjectKey,
    /// `None` when finished.
    parts: Option<Box<dyn MultipartUpload>>,
    begun: u32,
    bytes: u64,
    /// Travels as metadata: an object that has it is this upload's.
    marker: String,
}

/// How long giving the parts back may take after the command was told to stop.
const ABORT_MAX: Duration = Duration::from_secs(8);

/// A completed upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    pub etag: Option<String>,
}

impl Upload {
    pub(crate) fn new(
        store: Store,
        key: ObjectKey,
        parts: Box<dyn MultipartUpload>,
        marker: String,
    ) -> Self {
        Self { store, key, parts: Some(parts), begun: 0, bytes: 0, marker }
    }

    /// Takes the next part. The returned future sends it; any number may run at once.
    ///
    /// `chunks` are joined in order, without copying. Parts are at least 5 MiB except the last;
    /// an object has at most 10,000.
    pub fn put_part(&mut self, chunks: Vec<Bytes>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.begun += 1;
        let bytes = chunks.iter().map(Bytes::len).sum::<usize>();
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        let parts = self.parts.as_mut().expect("complete and abort take the upload");
        let sending = parts.put_part(PutPayload::from_iter(chunks));
        let (store, key) = (self.store.clone(), self.key.clone());
        Box::pin(async move {
            let trace = Trace::new();
            let sent = store.follow(&trace, sending).await;
            sent.map_err(|error| store.error(StoreOperation::Write, &key, &trace, &error))
        })
    }

    /// Makes the object visible. All parts' futures must have completed; without any part the
    /// object is empty.
    ///
    /// A completion whose answer was lost counts when the object is there, is of this size, and
    /// carries this upload's own mark: an older or somebody else's object does not.
    pub async fn complete(mut self) -> Result<Uploaded, StoreError> {
        if self.begun == 0 {
            self.put_part(Vec::new()).await?;
        }
        let trace = Trace::new();
        let mut parts = self.parts.take().expect("complete and abort take the upload");
        match self.store.follow(&trace, parts.complete()).await {
            Ok(result) => Ok(Uploaded { etag: result.e_tag }),
            Err(error) => {
                let failed = self.store.error(StoreOperation::Write, &self.key, &trace, &error);
                if failed.effect == Effect::MayHaveHappened
                    && let Some(uploaded) =
                        found(&self.store, &self.key, &self.marker, self.bytes).await
                {
                    tracing::debug!(object = %self.key, "the answer was lost, the object is there");
                    return Ok(uploaded);
                }
                self.parts = Some(parts);
                Err(failed)
            }
        }
    }

    /// Gives the parts back to the store, also after the command was told to stop.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        let trace = Trace::new();
        let mut parts = self.parts.take().expect("complete and abort take the upload");
        let bounded = self.store.stop.bounded(ABORT_MAX, trace.follow(parts.abort())).await;
        match bounded {
            Some(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Some(Err(error)) => {
                Err(self.store.error(StoreOperation::Write, &self.key, &trace, &error))
            }
            None => Err(self.store.stopped(&self.key, &Cancelled)),
        }
    }
}

/// The object that an upload made, if it is there and that upload's.
async fn found(store: &Store, key: &ObjectKey, marker: &str, bytes: u64) -> Option<Uploaded> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    let (trace, location) = (Trace::new(), path(key));
    let asked = store.follow(&trace, store.objects().get_opts(&location, options));
    let found = tokio::time::timeout(LOOK_MAX, asked).await.ok()?.ok()?;
    let marked = found.attributes.get(&Attribute::Metadata(UPLOAD_MARKER.into()))?;
    let ours = marked.as_ref() == marker && found.meta.size == bytes;
    ours.then_some(Uploaded { etag: found.meta.e_tag })
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut parts), Ok(runtime)) =
            (self.parts.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let key = self.key.clone();
        runtime.spawn(async move {
            if let Err(error) = Trace::new().follow(parts.abort()).await {
                tracing::debug!(object = %key, %error, "an abandoned upload could not be aborted");
            }
        });
    }
}
