//! The backup manifest, streamed to the store while the files are read.
//!
//! Lines arrive from all tarballs' threads in any order; memory is one block.

use crate::backup::BackupError;
use crate::backup::produce::RecordFile;
use crate::backup::ship::{Freight, ShipError, Shipment, TarballSink, open};
use crate::codec::TarballCodec;
use crate::pgdata::{ManifestEntry, ManifestVersion, ManifestWriter, WalRange};
use crate::store::{ObjectKey, WrittenObject};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// The object's name in the backup's folder.
pub const MANIFEST_NAME: &str = "backup_manifest";

/// The writing side, shared by all threads.
pub struct Manifest {
    /// `None` once the manifest is finished or given up.
    writer: Mutex<Option<ManifestWriter<TarballSink>>>,
}

/// A manifest on its way to the store.
pub struct ManifestUpload {
    pub manifest: Arc<Manifest>,
    delivery: JoinHandle<Result<WrittenObject, ShipError>>,
}

impl ManifestUpload {
    /// Begins the manifest's object. The header is written on a thread, since the sink waits.
    pub fn begin(
        freight: &Freight,
        key: ObjectKey,
        version: ManifestVersion,
    ) -> Result<Self, BackupError> {
        let plain = Freight { codec: TarballCodec::new(None, None), ..freight.clone() };
        let (sink, shipment): (_, Shipment) = open(&plain, key, None).map_err(upload_error)?;
        let delivery = tokio::spawn(async { Ok(shipment.deliver().await?.object) });
        // The header fits the sink's first block, so nothing is sent and nothing waits here.
        let writer = ManifestWriter::new(sink, version)
            .map_err(|error| BackupError::Tarball { source: error })?;
        let manifest = Arc::new(Manifest { writer: Mutex::new(Some(writer)) });
        Ok(Self { manifest, delivery })
    }

    /// Writes the end and waits until the store has it.
    pub async fn finish(self, ranges: Vec<WalRange>) -> Result<WrittenObject, BackupError> {
        let manifest = Arc::clone(&self.manifest);
        let ending = tokio::task::spawn_blocking(move || {
            let Some(writer) = manifest.take() else { return Ok(()) };
            writer.finish(&ranges)?.finish()
        });
        let ended = ending.await.expect("the writing thread neither panics nor is cancelled");
        let delivered = self.delivery.await.expect("the upload's task does not panic");
        let written = delivered.map_err(upload_error)?;
        ended.map_err(|error| BackupError::Tarball { source: error })?;
        Ok(written)
    }

    /// Gives the upload up; nothing becomes visible.
    pub async fn abandon(self) {
        drop(self.manifest.take());
        // The sink is gone without an end, so the upload aborts itself; its error is expected.
        let _ = self.delivery.await;
    }
}

impl Manifest {
    fn take(&self) -> Option<ManifestWriter<TarballSink>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl RecordFile for Manifest {
    fn record(&self, entry: &ManifestEntry<'_>) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.as_mut() {
            Some(writer) => writer.add(entry),
            None => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the manifest was given up")),
        }
    }
}

fn upload_error(source: ShipError) -> BackupError {
    BackupError::Upload { object: MANIFEST_NAME.to_string(), source }
}
