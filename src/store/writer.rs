//! One object written as a stream: parts are cut from memory and sent while more is written.
//!
//! ```text
//! write(bytes) → parts of part_bytes → any number in flight, bounded by shared permits → complete
//! ```
//!
//! Memory: at most one part being gathered per writer, plus one part per permit. An object
//! that fits one part is one conditional PUT. Nothing is visible before [`ObjectWriter::finish`].

use crate::flow::Pace;
use crate::monitor::{Metric, Monitor};
use crate::store::{ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreError, Upload};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What all writers of one verb share.
#[derive(Clone)]
pub struct Courier {
    pub store: Store,
    /// Parts in flight at once, over all objects.
    pub parts: Arc<Semaphore>,
    /// Bytes of every part but the last.
    pub part_bytes: usize,
    pub pace: Option<Pace>,
    pub monitor: Arc<dyn Monitor>,
    pub options: PutOptions,
}

/// An object on its way. Drop without [`finish`](Self::finish) leaves parts at the store;
/// call [`abort`](Self::abort) instead.
pub struct ObjectWriter {
    courier: Courier,
    key: ObjectKey,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    upload: Option<Upload>,
    sending: JoinSet<Result<(), StoreError>>,
    digest: Sha256,
    bytes: u64,
}

/// A finished object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenObject {
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// Why an object was not finished.
#[derive(Debug, thiserror::Error)]
pub enum ObjectWriteError {
    #[error(transparent)]
    Store(StoreError),
    /// Somebody else's object lies under the key.
    #[error("object \"{object}\" is already there")]
    AlreadyThere { object: String },
}

impl ObjectWriter {
    pub fn new(courier: Courier, key: ObjectKey) -> Self {
        Self {
            courier,
            key,
            pending: VecDeque::new(),
            pending_bytes: 0,
            upload: None,
            sending: JoinSet::new(),
            digest: Sha256::new(),
            bytes: 0,
        }
    }

    /// Takes the next bytes of the object; waits while all permits are out.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectWriteError> {
        self.digest.update(&bytes);
        self.bytes += count(bytes.len());
        self.pending_bytes += bytes.len();
        self.pending.push_back(bytes);
        while self.pending_bytes >= self.courier.part_bytes {
            let part = self.cut(self.courier.part_bytes);
            self.send(part).await?;
        }
        Ok(())
    }

    /// Makes the object visible once all of it is there.
    pub async fn finish(mut self) -> Result<WrittenObject, ObjectWriteError> {
        let rest = self.cut(self.pending_bytes);
        if self.upload.is_none() {
            self.put_whole(rest).await?;
        } else {
            if let Err(error) = self.finish_parts(rest).await {
                self.abort().await;
                return Err(error);
            }
            let upload = self.upload.take().expect("checked above");
            upload.complete().await.map_err(ObjectWriteError::Store)?;
        }
        Ok(WrittenObject { bytes: self.bytes, sha256: hex(&self.digest.finalize()) })
    }

    /// Gives sent parts back to the store, as far as it answers.
    pub async fn abort(mut self) {
        self.sending.shutdown().await;
        if let Some(upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(object = %self.courier.store.url_of(&self.key), %error, "could not abort upload");
        }
    }

    async fn finish_parts(&mut self, rest: Vec<Bytes>) -> Result<(), ObjectWriteError> {
        if !rest.is_empty() {
            self.send(rest).await?;
        }
        while let Some(sent) = self.sending.join_next().await {
            flatten(sent)?;
        }
        Ok(())
    }

    async fn put_whole(&mut self, chunks: Vec<Bytes>) -> Result<(), ObjectWriteError> {
        let Courier { store, pace, monitor, options, .. } = &self.courier;
        if let Some(pace) = pace {
            until_stopped(store, &self.key, pace.send(self.bytes)).await?;
        }
        let body = Bytes::from(chunks.concat());
        match store.put(&self.key, body, PutMode::Create, options).await {
            Ok(PutOutcome::Written) => {
                monitor.add(Metric::StoredBytes, self.bytes);
                Ok(())
            }
            Ok(PutOutcome::AlreadyThere) => {
                Err(ObjectWriteError::AlreadyThere { object: store.url_of(&self.key) })
            }
            Err(error) => Err(ObjectWriteError::Store(error)),
        }
    }

    /// Takes exactly `bytes` from the front of what is pending, without copying.
    fn cut(&mut self, bytes: usize) -> Vec<Bytes> {
        let mut part = Vec::new();
        let mut missing = bytes;
        while missing > 0 {
            let mut chunk = self.pending.pop_front().expect("as much is pending as was counted");
            if chunk.len() > missing {
                self.pending.push_front(chunk.split_off(missing));
            }
            missing -= chunk.len();
            part.push(chunk);
        }
        self.pending_bytes -= bytes;
        part
    }

    /// Sends one part in the background, as soon as a permit is free; reports a part that
    /// failed in the meantime.
    async fn send(&mut self, part: Vec<Bytes>) -> Result<(), ObjectWriteError> {
        let (store, free) = (self.courier.store.clone(), Arc::clone(&self.courier.parts));
        let permit = until_stopped(&store, &self.key, free.acquire_owned()).await?;
        let permit = permit.expect("the semaphore is never closed");
        while let Some(sent) = self.sending.try_join_next() {
            flatten(sent)?;
        }
        let bytes = count(part.iter().map(Bytes::len).sum());
        if self.upload.is_none() {
            let begun = self.courier.store.upload(&self.key, &self.courier.options).await;
            self.upload = Some(begun.map_err(ObjectWriteError::Store)?);
        }
        let upload = self.upload.as_mut().expect("begun above");
        let sending = upload.put_part(part);
        let Courier { store, pace, monitor, .. } = self.courier.clone();
        let key = self.key.clone();
        self.sending.spawn(async move {
            if let Some(pace) = pace {
                let paced = store.unless_stopped(pace.send(bytes)).await;
                paced.map_err(|stopped| store.stopped(&key, &stopped))?;
            }
            sending.await?;
            monitor.add(Metric::StoredBytes, bytes);
            drop(permit);
            Ok(())
        });
        Ok(())
    }
}

/// Waits for something other than an answer of the store.
async fn until_stopped<T>(
    store: &Store,
    key: &ObjectKey,
    wait: impl Future<Output = T>,
) -> Result<T, ObjectWriteError> {
    let waited = store.unless_stopped(wait).await;
    waited.map_err(|stopped| ObjectWriteError::Store(store.stopped(key, &stopped)))
}

fn flatten(
    sent: Result<Result<(), StoreError>, tokio::task::JoinError>,
) -> Result<(), ObjectWriteError> {
    sent.expect("a part's task neither panics nor is cancelled while awaited")
        .map_err(ObjectWriteError::Store)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits 64 bits")
}

/// Lower-case hex, as records and manifests write digests.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use crate::monitor::Silent;
    use crate::store::{Courier, ObjectKey, ObjectWriter, PutOptions, Store};
    use bytes::Bytes;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn courier(store: &Store, part_bytes: usize) -> Courier {
        Courier {
            store: store.clone(),
            parts: Arc::new(Semaphore::new(2)),
            part_bytes,
            pace: None,
            monitor: Arc::new(Silent),
            options: PutOptions::default(),
        }
    }

    #[tokio::test]
    async fn an_object_is_the_same_bytes_however_it_was_cut() {
        let store = Store::memory();
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        for part_bytes in [1000, 4096, 399_999, 400_000, 400_001] {
            let key = ObjectKey::parse(&format!("object-{part_bytes}")).expect("key");
            let mut writer = ObjectWriter::new(courier(&store, part_bytes), key.clone());
            for chunk in content.chunks(777) {
                writer.write(Bytes::copy_from_slice(chunk)).await.expect("write");
            }
            let written = writer.finish().await.expect("finish");
            assert_eq!(written.bytes, 400_000);
            assert_eq!(written.sha256.len(), 64);
            assert!(store.get(&key).await.expect("get").expect("there") == content);
        }
    }

    #[tokio::test]
    async fn an_aborted_object_is_not_there() {
        let store = Store::memory();
        let key = ObjectKey::parse("object").expect("key");
        let mut writer = ObjectWriter::new(courier(&store, 10), key.clone());
        writer.write(Bytes::from_static(b"more than one part of it")).await.expect("write");
        writer.abort().await;
        assert_eq!(store.get(&key).await.expect("get"), None);
    }

    #[tokio::test]
    async fn a_small_object_does_not_replace_what_is_there() {
        let store = Store::memory();
        let key = ObjectKey::parse("object").expect("key");
        for expected in [true, false] {
            let mut writer = ObjectWriter::new(courier(&store, 1000), key.clone());
            writer.write(Bytes::from_static(b"small")).await.expect("write");
            assert_eq!(writer.finish().await.is_ok(), expected);
        }
    }
}
