//! One tarball on its way: from a thread that writes tar to an object that is uploaded.
//!
//! ```text
//! thread: tar → TarballSink ─ blocks ─▶ worker pool ─┐
//!                    └────── in order, bounded ──────┴▶ task: join → parts → store
//! ```
//!
//! Order is kept by the channel: it carries the promises of encoded blocks in stream order, each
//! with the members that begin in it. From both the index is made, as a second object.
//! Memory: at most `depth` blocks per tarball, raw or encoded, wait between the two sides.

use crate::catalog::{IndexWriter, IndexedMember};
use crate::codec::{BLOCK_BYTES, BlockEncoder, BlockMark, BlockStream, CodecError, EncodedBlock};
use crate::codec::{Encoded, SerialStream, TarballCodec, TarballStream};
use crate::flow::{Buffers, Cancel, Pending, WorkerGone, WorkerPool};
use crate::store::{Courier, ObjectKey, ObjectWriteError, ObjectWriter, WrittenObject};
use crate::tarball::ContentSink;
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::mem;
use tokio::sync::mpsc;

/// What all tarballs of one backup share.
#[derive(Clone)]
pub struct Freight {
    pub courier: Courier,
    pub codec: TarballCodec,
    pub pool: WorkerPool,
    pub buffers: Buffers,
    /// Blocks that may wait between writer and uploader, per tarball.
    pub depth: usize,
    /// Tarballs that may still be on their way, written to their end, beside those being written.
    pub tails: usize,
    /// Threads that zstd may use for one tarball.
    pub zstd_workers: u32,
    pub cancel: Cancel,
}

impl Freight {
    /// The same for tarballs that end, with their requests, when `cancel` is cancelled.
    pub fn until(&self, cancel: &Cancel) -> Self {
        let mut freight = self.clone();
        freight.courier.store = freight.courier.store.until(cancel);
        freight.cancel = cancel.clone();
        freight
    }
}

/// Why a tarball did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error(transparent)]
    Object(ObjectWriteError),
    #[error(transparent)]
    Codec(CodecError),
    #[error(transparent)]
    Worker(WorkerGone),
    #[error("could not write the index of the tarball")]
    Index(#[source] io::Error),
    /// The writing side stopped before the end; its own error says why.
    #[error("the tarball was not written to its end")]
    Incomplete,
}

enum Chunk {
    Block { members: Vec<IndexedMember>, block: Pending<Result<EncodedBlock, CodecError>> },
    Serial { members: Vec<IndexedMember>, encoded: Encoded },
    End,
}

/// The writing side. A sink that is dropped without [`finish`](Self::finish) makes the
/// shipment fail: a tarball never ends by accident.
pub struct TarballSink {
    stage: Stage,
    /// Always of [`BLOCK_BYTES`], of which the first `filled` are taken.
    buffer: Vec<u8>,
    filled: usize,
    /// Those whose content begins in what was not passed on yet.
    members: Vec<IndexedMember>,
    chunks: mpsc::Sender<Chunk>,
    freight: Freight,
}

enum Stage {
    Blocks(BlockEncoder),
    Serial(Box<SerialStream>),
}

/// The uploading side.
pub struct Shipment {
    stream: Option<BlockStream>,
    chunks: mpsc::Receiver<Chunk>,
    object: ObjectWriter,
    index: Option<IndexShipment>,
}

/// The index of a tarball on its way.
struct IndexShipment {
    writer: IndexWriter,
    object: ObjectWriter,
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub object: WrittenObject,
    pub index: Option<WrittenObject>,
}

/// Opens both sides of one object; `index` is the key of its index, if it shall have one.
pub fn open(
    freight: &Freight,
    key: ObjectKey,
    index: Option<ObjectKey>,
) -> Result<(TarballSink, Shipment), ShipError> {
    let (sender, receiver) = mpsc::channel(freight.depth);
    let stream = freight.codec.begin(freight.zstd_workers).map_err(ShipError::Codec)?;
    let (stage, stream) = match stream {
        TarballStream::Serial(stream) => (Stage::Serial(stream), None),
        TarballStream::Blocks(stream) => (Stage::Blocks(stream.encoder()), Some(stream)),
    };
    let sink = TarballSink {
        stage,
        buffer: freight.buffers.take(BLOCK_BYTES),
        filled: 0,
        members: Vec::new(),
        chunks: sender,
        freight: freight.clone(),
    };
    let index = index
        .map(|key| {
            let writer = IndexWriter::new().map_err(ShipError::Index)?;
            let object = ObjectWriter::new(freight.courier.clone(), key);
            Ok(IndexShipment { writer, object })
        })
        .transpose()?;
    let object = ObjectWriter::new(freight.courier.clone(), key);
    Ok((sink, Shipment { stream, chunks: receiver, object, index }))
}

impl TarballSink {
    /// Ends the stream; the object appears when the other side has stored everything.
    pub fn finish(mut self) -> io::Result<()> {
        if self.filled > 0 {
            self.pass_block()?;
        }
        if let Stage::Serial(stream) = self.stage {
            let encoded = stream.finish().map_err(io::Error::other)?;
            send(&self.chunks, Chunk::Serial { members: self.members, encoded })?;
        }
        send(&self.chunks, Chunk::End)
    }

    /// Notes where a member's content lies, once it was written.
    pub fn note(&mut self, member: IndexedMember) {
        self.members.push(member);
    }

    fn pass_block(&mut self) -> io::Result<()> {
        self.freight.cancel.check().map_err(io::Error::other)?;
        let filled = mem::take(&mut self.filled);
        let chunk = match &mut self.stage {
            Stage::Serial(stream) => {
                let encoded = stream.encode(&self.buffer[..filled]).map_err(io::Error::other)?;
                if encoded.bytes.is_empty() {
                    return Ok(());
                }
                Chunk::Serial { members: mem::take(&mut self.members), encoded }
            }
            Stage::Blocks(encoder) => {
                let next = self.freight.buffers.take(BLOCK_BYTES);
                let mut raw = mem::replace(&mut self.buffer, next);
                raw.truncate(filled);
                let (encoder, buffers) = (encoder.clone(), self.freight.buffers.clone());
                let block = self.freight.pool.submit(move || {
                    let (encoded, memory) = encoder.encode(raw)?;
                    memory.into_iter().for_each(|memory| buffers.give(memory));
                    Ok(encoded)
                });
                Chunk::Block { members: mem::take(&mut self.members), block }
            }
        };
        send(&self.chunks, chunk)
    }

    fn advance(&mut self, bytes: usize) -> io::Result<()> {
        self.filled += bytes;
        if self.filled == BLOCK_BYTES { self.pass_block() } else { Ok(()) }
    }
}

impl ContentSink for TarballSink {
    fn fill_from(&mut self, content: &mut dyn Read, limit: u64) -> io::Result<u64> {
        let room = &mut self.buffer[self.filled..];
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX).min(room.len());
        let taken = content.read(&mut room[..wanted])?;
        self.advance(taken)?;
        Ok(u64::try_from(taken).expect("a length fits 64 bits"))
    }
}

impl Write for TarballSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = &mut self.buffer[self.filled..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.advance(taken)?;
        Ok(taken)
    }

    /// Blocks are passed on when they are full; nothing is gained by a short one.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shipment {
    /// Uploads until the writing side is done; gives parts back to the store if it fails.
    ///
    /// The index comes after its tarball: whoever finds it finds the tarball too.
    pub async fn deliver(mut self) -> Result<Delivered, ShipError> {
        if let Err(error) = self.forward().await {
            self.object.abort().await;
            if let Some(index) = self.index {
                index.object.abort().await;
            }
            return Err(error);
        }
        let object = self.object.finish().await.map_err(ShipError::Object);
        let index = match (self.index, &object) {
            (Some(index), Ok(_)) => Some(index.finish().await?),
            (Some(index), Err(_)) => {
                index.object.abort().await;
                None
            }
            (None, _) => None,
        };
        Ok(Delivered { object: object?, index })
    }

    async fn forward(&mut self) -> Result<(), ShipError> {
        if let Some(stream) = &mut self.stream {
            let header = stream.header().map_err(ShipError::Codec)?;
            self.put(header).await?;
        }
        loop {
            let (members, bytes, marks) = match self.chunks.recv().await {
                None => return Err(ShipError::Incomplete),
                Some(Chunk::End) => break,
                Some(Chunk::Serial { members, encoded }) => (members, encoded.bytes, encoded.marks),
                Some(Chunk::Block { members, block }) => {
                    let block = block.join().await.map_err(ShipError::Worker)?;
                    let stream = self.stream.as_mut().expect("blocks come with a stream");
                    let (bytes, mark) = stream.join(block.map_err(ShipError::Codec)?);
                    (members, bytes, vec![mark])
                }
            };
            if let Some(index) = &mut self.index {
                index.add(members, marks).await?;
            }
            self.put(bytes).await?;
        }
        match self.stream.take() {
            Some(stream) => self.put(stream.trailer()).await,
            None => Ok(()),
        }
    }

    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), ShipError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.object.write(Bytes::from(bytes)).await.map_err(ShipError::Object)
    }
}

impl IndexShipment {
    async fn add(
        &mut self,
        members: Vec<IndexedMember>,
        marks: Vec<BlockMark>,
    ) -> Result<(), ShipError> {
        for member in members {
            self.writer.member(member).map_err(ShipError::Index)?;
        }
        for mark in marks {
            self.writer.block(mark).map_err(ShipError::Index)?;
        }
        let ready = self.writer.take();
        if ready.is_empty() {
            return Ok(());
        }
        self.object.write(Bytes::from(ready)).await.map_err(ShipError::Object)
    }

    async fn finish(mut self) -> Result<WrittenObject, ShipError> {
        let rest = self.writer.finish().map_err(ShipError::Index)?;
        self.object.write(Bytes::from(rest)).await.map_err(ShipError::Object)?;
        self.object.finish().await.map_err(ShipError::Object)
    }
}

fn send(chunks: &mpsc::Sender<Chunk>, chunk: Chunk) -> io::Result<()> {
    chunks.blocking_send(chunk).map_err(|_| {
        io::Error::new(io::ErrorKind::BrokenPipe, "the upload of the tarball has stopped")
    })
}
