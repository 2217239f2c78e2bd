//! One tarball on its way: from a thread that writes tar to an object that is uploaded.
//!
//! ```text
//! thread: tar → TarballSink ─ blocks ─▶ worker pool ─┐
//!                    └────── in order, bounded ──────┴▶ task: join → parts → store
//! ```
//!
//! Order is kept by the channel: it carries the promises of encoded blocks in stream order.
//! Memory: at most `depth` blocks per tarball, raw or encoded, wait between the two sides.

use crate::codec::{BLOCK_BYTES, BlockEncoder, BlockStream, CodecError, EncodedBlock};
use crate::codec::{SerialStream, TarballCodec, TarballStream};
use crate::flow::{Buffers, Cancel, Pending, WorkerGone, WorkerPool};
use crate::store::{Courier, ObjectKey, ObjectWriteError, ObjectWriter, WrittenObject};
use bytes::Bytes;
use std::io::{self, Write};
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
    /// Threads that zstd may use for one tarball.
    pub zstd_workers: u32,
    pub cancel: Cancel,
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
    /// The writing side stopped before the end; its own error says why.
    #[error("the tarball was not written to its end")]
    Incomplete,
}

enum Chunk {
    Encoding(Pending<Result<EncodedBlock, CodecError>>),
    Ready(Vec<u8>),
    End,
}

/// The writing side. A sink that is dropped without [`finish`](Self::finish) makes the
/// shipment fail: a tarball never ends by accident.
pub struct TarballSink {
    stage: Stage,
    buffer: Vec<u8>,
    chunks: mpsc::Sender<Chunk>,
    freight: Freight,
}

enum Stage {
    Plain,
    Blocks(BlockEncoder),
    Serial(Box<SerialStream>),
}

/// The uploading side.
pub struct Shipment {
    stream: Option<BlockStream>,
    chunks: mpsc::Receiver<Chunk>,
    object: ObjectWriter,
}

/// Opens both sides of one tarball.
pub fn open(freight: &Freight, key: ObjectKey) -> Result<(TarballSink, Shipment), CodecError> {
    let (sender, receiver) = mpsc::channel(freight.depth);
    let (stage, stream) = match freight.codec.begin(freight.zstd_workers)? {
        TarballStream::Serial(stream) => (Stage::Serial(stream), None),
        TarballStream::Blocks(_) if freight.codec.compression.is_none() => (Stage::Plain, None),
        TarballStream::Blocks(stream) => (Stage::Blocks(stream.encoder()), Some(stream)),
    };
    let sink = TarballSink {
        stage,
        buffer: freight.buffers.take(),
        chunks: sender,
        freight: freight.clone(),
    };
    let object = ObjectWriter::new(freight.courier.clone(), key);
    Ok((sink, Shipment { stream, chunks: receiver, object }))
}

impl TarballSink {
    /// Ends the stream; the object appears when the other side has stored everything.
    pub fn finish(mut self) -> io::Result<()> {
        self.pass_block()?;
        if let Stage::Serial(stream) = self.stage {
            let rest = stream.finish().map_err(io::Error::other)?;
            send(&self.chunks, Chunk::Ready(rest))?;
        }
        send(&self.chunks, Chunk::End)
    }

    fn pass_block(&mut self) -> io::Result<()> {
        self.freight.cancel.check().map_err(io::Error::other)?;
        let next = self.freight.buffers.take();
        let raw = std::mem::replace(&mut self.buffer, next);
        let chunk = match &mut self.stage {
            Stage::Plain => Chunk::Ready(raw),
            Stage::Serial(stream) => {
                let ready = stream.encode(&raw).map_err(io::Error::other)?;
                self.freight.buffers.give(raw);
                if ready.is_empty() {
                    return Ok(());
                }
                Chunk::Ready(ready)
            }
            Stage::Blocks(encoder) => {
                let (encoder, buffers) = (encoder.clone(), self.freight.buffers.clone());
                Chunk::Encoding(self.freight.pool.submit(move || {
                    let encoded = encoder.encode(&raw);
                    buffers.give(raw);
                    encoded
                }))
            }
        };
        send(&self.chunks, chunk)
    }
}

impl Write for TarballSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BLOCK_BYTES {
            self.pass_block()?;
        }
        Ok(taken)
    }

    /// Blocks are passed on when they are full; nothing is gained by a short one.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shipment {
    /// Uploads until the writing side is done; gives parts back to the store if it fails.
    pub async fn deliver(mut self) -> Result<WrittenObject, ShipError> {
        match self.forward().await {
            Ok(()) => self.object.finish().await.map_err(ShipError::Object),
            Err(error) => {
                self.object.abort().await;
                Err(error)
            }
        }
    }

    async fn forward(&mut self) -> Result<(), ShipError> {
        if let Some(stream) = &self.stream {
            let header = stream.header().map_err(ShipError::Codec)?;
            self.put(header).await?;
        }
        loop {
            let bytes = match self.chunks.recv().await {
                None => return Err(ShipError::Incomplete),
                Some(Chunk::End) => break,
                Some(Chunk::Ready(bytes)) => bytes,
                Some(Chunk::Encoding(pending)) => {
                    let encoded = pending.join().await.map_err(ShipError::Worker)?;
                    let stream = self.stream.as_mut().expect("blocks come with a stream");
                    stream.join(encoded.map_err(ShipError::Codec)?)
                }
            };
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

fn send(chunks: &mpsc::Sender<Chunk>, chunk: Chunk) -> io::Result<()> {
    chunks.blocking_send(chunk).map_err(|_| {
        io::Error::new(io::ErrorKind::BrokenPipe, "the upload of the tarball has stopped")
    })
}
