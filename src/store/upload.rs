//! An upload in parts, from memory.

use crate::store::{ObjectKey, Store, StoreError, StoreOperation};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::{MultipartUpload, PutPayload};

/// An object on its way. Invisible until [`complete`](Self::complete); what is not completed
/// must be [`abort`](Self::abort)ed, or the store keeps its parts.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    key: ObjectKey,
    parts: Box<dyn MultipartUpload>,
}

/// A completed upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    pub etag: Option<String>,
}

impl Upload {
    pub(crate) fn new(store: Store, key: ObjectKey, parts: Box<dyn MultipartUpload>) -> Self {
        Self { store, key, parts }
    }

    /// Takes the next part. The returned future sends it; any number may run at once.
    ///
    /// `chunks` are joined in order, without copying. Parts are at least 5 MiB except the last;
    /// an object has at most 10,000.
    pub fn put_part(&mut self, chunks: Vec<Bytes>) -> BoxFuture<'static, Result<(), StoreError>> {
        let sending = self.parts.put_part(PutPayload::from_iter(chunks));
        let (store, key) = (self.store.clone(), self.key.clone());
        Box::pin(async move {
            sending.await.map_err(|error| store.error(StoreOperation::Write, &key, &error))
        })
    }

    /// Makes the object visible. All parts' futures must have completed.
    pub async fn complete(mut self) -> Result<Uploaded, StoreError> {
        match self.parts.complete().await {
            Ok(result) => Ok(Uploaded { etag: result.e_tag }),
            Err(error) => Err(self.store.error(StoreOperation::Write, &self.key, &error)),
        }
    }

    /// Gives the parts back to the store.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        match self.parts.abort().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.store.error(StoreOperation::Write, &self.key, &error)),
        }
    }
}
