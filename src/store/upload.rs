//! An upload in parts, from memory.

use crate::cloud::Trace;
use crate::store::{ObjectKey, Store, StoreError, StoreOperation};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::{MultipartUpload, PutPayload};

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
}

/// A completed upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    pub etag: Option<String>,
}

impl Upload {
    pub(crate) fn new(store: Store, key: ObjectKey, parts: Box<dyn MultipartUpload>) -> Self {
        Self { store, key, parts: Some(parts), begun: 0 }
    }

    /// Takes the next part. The returned future sends it; any number may run at once.
    ///
    /// `chunks` are joined in order, without copying. Parts are at least 5 MiB except the last;
    /// an object has at most 10,000.
    pub fn put_part(&mut self, chunks: Vec<Bytes>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.begun += 1;
        let parts = self.parts.as_mut().expect("complete and abort take the upload");
        let sending = parts.put_part(PutPayload::from_iter(chunks));
        let (store, key) = (self.store.clone(), self.key.clone());
        Box::pin(async move {
            let trace = Trace::new();
            let sent = trace.follow(sending).await;
            sent.map_err(|error| store.error(StoreOperation::Write, &key, &trace, &error))
        })
    }

    /// Makes the object visible. All parts' futures must have completed; without any part the
    /// object is empty.
    pub async fn complete(mut self) -> Result<Uploaded, StoreError> {
        if self.begun == 0 {
            self.put_part(Vec::new()).await?;
        }
        let trace = Trace::new();
        let mut parts = self.parts.take().expect("complete and abort take the upload");
        match trace.follow(parts.complete()).await {
            Ok(result) => Ok(Uploaded { etag: result.e_tag }),
            Err(error) => {
                let failed = self.store.error(StoreOperation::Write, &self.key, &trace, &error);
                self.parts = Some(parts);
                Err(failed)
            }
        }
    }

    /// Gives the parts back to the store.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        let trace = Trace::new();
        let mut parts = self.parts.take().expect("complete and abort take the upload");
        match trace.follow(parts.abort()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.store.error(StoreOperation::Write, &self.key, &trace, &error)),
        }
    }
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
