//! Writing whole objects, and beginning uploads.
//!
//! A write whose answer was lost may have happened: before it is given up, or called a loss
//! against somebody else, the store is asked what lies there now.

use crate::cloud::{Answer, Trace};
use crate::flow::{Backoff, random_token};
use crate::store::handle::path;
use crate::store::{
    ConditionalWrites, Effect, ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreError,
    StoreOperation, Upload,
};
use bytes::Bytes;
use object_store::{Attribute, Attributes, PutPayload, TagSet};
use std::time::Duration;

/// How long the look after a lost answer may take: the write itself was tried long enough.
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(30);

/// The metadata by which a completed upload is known as ours.
pub(crate) const UPLOAD_MARKER: &str = "barmancloudupload";

impl Store {
    /// Writes a whole object.
    ///
    /// With [`PutMode::Create`] on a store without conditional writes: looks, writes and reads
    /// back. Two writers that do so at the same moment may both see their own bytes; where that
    /// matters use [`put_alone`](Self::put_alone).
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        if mode == PutMode::Create && self.conditional_writes().is_some_and(|known| !known.work()) {
            return self.look_then_put(key, bytes, options).await;
        }
        let labels = self.inner.labels.apply(self, key, options)?;
        let (trace, mut backoff) = (Trace::new(), Backoff::new(self.retry()));
        loop {
            let put = self.put_once(key, bytes.clone(), mode, labels.clone());
            let error = match self.follow(&trace, put).await {
                Ok(()) => return Ok(PutOutcome::Written),
                Err(error) => error,
            };
            let failed = self.error(StoreOperation::Write, key, &trace, &error);
            let delay = match Collision::of(&trace, &error, mode) {
                Collision::AlreadyThere => {
                    let ours = trace.was_doubtful() && self.holds(key, &bytes).await;
                    return Ok(if ours { PutOutcome::Written } else { PutOutcome::AlreadyThere });
                }
                Collision::NoConditionalWrites => {
                    self.know_conditional_writes(ConditionalWrites::Refused);
                    return self.look_then_put(key, bytes, options).await;
                }
                // Somebody else is writing this very key: ask again who won.
                Collision::Undecided => backoff.next_delay(None),
                Collision::None => self.worth_another_try(&failed, &trace, &mut backoff),
            };
            match delay {
                Some(delay) => self.pause(delay).await,
                None if failed.effect == Effect::SurelyNot => return Err(failed),
                None if self.holds(key, &bytes).await => return Ok(PutOutcome::Written),
                None => return Err(failed),
            }
        }
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        (tags, attributes): (TagSet, Attributes),
    ) -> Result<(), object_store::Error> {
        if let Some(blocks) = self.inner.blocks.filter(|blocks| blocks.apply_to(&bytes)) {
            return self.put_in_blocks(key, bytes, mode, (tags, attributes), blocks).await;
        }
        let mode = match mode {
            PutMode::Create => object_store::PutMode::Create,
            PutMode::Overwrite => object_store::PutMode::Overwrite,
        };
        let extensions = http::Extensions::default();
        let put = object_store::PutOptions { mode, tags, attributes, extensions };
        self.objects().put_opts(&path(key), PutPayload::from(bytes), put).await.map(|_| ())
    }

    /// Creates an object where conditions do nothing: what is there stays, and what was written
    /// counts only when it is read back.
    async fn look_then_put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        options: &PutOptions,
    ) -> Result<PutOutcome, StoreError> {
        if self.head(key).await?.is_some() {
            return Ok(PutOutcome::AlreadyThere);
        }
        Box::pin(self.put(key, bytes.clone(), PutMode::Overwrite, options)).await?;
        match self.get(key).await? {
            Some(stored) if stored == bytes => Ok(PutOutcome::Written),
            _ => Ok(PutOutcome::AlreadyThere),
        }
    }

    /// Whether the object is there with this very content, as far as the store answers in time.
    async fn holds(&self, key: &ObjectKey, bytes: &Bytes) -> bool {
        let look = tokio::time::timeout(LOOK_MAX, self.get(key)).await;
        matches!(look, Ok(Ok(Some(stored))) if stored == *bytes)
    }

    /// Begins an upload in parts; nothing is visible before [`Upload::complete`].
    pub async fn upload(
        &self,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<Upload, StoreError> {
        let (tags, mut attributes) = self.inner.labels.apply(self, key, options)?;
        let marker = random_token();
        attributes.insert(Attribute::Metadata(UPLOAD_MARKER.into()), marker.clone().into());
        let (trace, mut backoff) = (Trace::new(), Backoff::new(self.retry()));
        loop {
            let put = object_store::PutMultipartOptions {
                tags: tags.clone(),
                attributes: attributes.clone(),
                ..object_store::PutMultipartOptions::default()
            };
            let location = path(key);
            let begun = self.objects().put_multipart_opts(&location, put);
            let error = match self.follow(&trace, begun).await {
                Ok(parts) => return Ok(Upload::new(self.clone(), key.clone(), parts, marker)),
                Err(error) => self.error(StoreOperation::Write, key, &trace, &error),
            };
            match self.worth_another_try(&error, &trace, &mut backoff) {
                Some(delay) => self.pause(delay).await,
                None => return Err(error),
            }
        }
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
                return match error {
                    object_store::Error::AlreadyExists { .. } => Self::AlreadyThere,
                    object_store::Error::NotImplemented { .. } => Self::NoConditionalWrites,
                    _ => Self::None,
                };
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
