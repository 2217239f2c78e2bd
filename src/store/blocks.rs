//! Large whole objects on Azure: staged in blocks, then committed in one request.

use crate::cloud::Trace;
use crate::store::handle::path;
use crate::store::options::AzureBlocks;
use crate::store::{ObjectKey, PutMode, Store};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use object_store::{Attributes, MultipartUpload, PutMultipartOptions, PutPayload, TagSet};

/// Marks the commit of a block list that must not replace a blob; see `azure`.
#[derive(Clone, Copy, Debug)]
pub struct CreateOnly;

impl AzureBlocks {
    pub(crate) fn apply_to(&self, bytes: &Bytes) -> bool {
        length(bytes) > self.single_put_max_bytes
    }
}

impl Store {
    /// Writes `bytes` as blocks of at most `block_max_bytes`, `concurrency` at a time.
    pub(crate) async fn put_in_blocks(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        mode: PutMode,
        (tags, attributes): (TagSet, Attributes),
        blocks: AzureBlocks,
    ) -> Result<(), object_store::Error> {
        let mut put = PutMultipartOptions { tags, attributes, ..PutMultipartOptions::default() };
        if mode == PutMode::Create {
            put.extensions.insert(CreateOnly);
        }
        send(self.objects().put_multipart_opts(&path(key), put).await?, bytes, blocks).await
    }
}

async fn send(
    mut upload: Box<dyn MultipartUpload>,
    mut bytes: Bytes,
    blocks: AzureBlocks,
) -> Result<(), object_store::Error> {
    // At most 50,000 blocks make a blob (Azure, "Scalability targets for Blob storage").
    let block = blocks.block_max_bytes.max(length(&bytes).div_ceil(50_000)).max(1);
    let block = usize::try_from(block).unwrap_or(usize::MAX);
    let mut parts: Vec<BoxFuture<'static, Result<(), object_store::Error>>> = Vec::new();
    let trace = Trace::current();
    while !bytes.is_empty() {
        let part = bytes.split_to(block.min(bytes.len()));
        let sending = upload.put_part(PutPayload::from(part));
        let trace = trace.clone();
        parts.push(Box::pin(async move { trace.follow(sending).await }));
    }
    let mut sent = stream::iter(parts).buffer_unordered(blocks.concurrency.get());
    while let Some(part) = sent.next().await {
        part?;
    }
    upload.complete().await.map(|_| ())
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
