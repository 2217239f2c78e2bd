//! Carrying a plan out: several tarballs at once, biggest first, all or nothing.

use crate::backup::BackupError;
use crate::backup::plan::{BackupPlan, TarballPlan};
use crate::backup::produce::{Produced, Production, produce};
use crate::backup::ship::{Delivered, Freight, ShipError, TarballSink, open};
use crate::catalog::{BackupId, IndexRecord, Layout, TarballName, TarballRecord};
use crate::codec::BlockDecoder;
use futures::stream::{self, StreamExt};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Where a backup's objects go.
#[derive(Clone, Debug)]
pub struct Destination {
    pub layout: Layout,
    pub id: BackupId,
}

/// A tarball that is stored.
#[derive(Clone, Debug)]
pub struct Carried {
    pub name: TarballName,
    pub record: TarballRecord,
    pub elapsed: Duration,
}

/// Writes all tarballs of the plan, `jobs` at once, while the last parts of some that are already
/// written are on their way: no writer waits for round trips to the store. The first failure
/// stops the others and is the one reported.
pub async fn copy(
    plan: &BackupPlan,
    production: Arc<Production>,
    freight: &Freight,
    destination: &Destination,
    jobs: NonZeroUsize,
) -> Result<Vec<Carried>, BackupError> {
    let writers = Arc::new(Semaphore::new(jobs.get()));
    let mut under_way = stream::iter(plan.tarballs.clone())
        .map(|tarball| {
            let (production, freight) = (Arc::clone(&production), freight.clone());
            let (destination, writers) = (destination.clone(), Arc::clone(&writers));
            async move {
                let slot = writers.acquire_owned().await.expect("the semaphore is never closed");
                let one = one_tarball(tarball, production, freight, destination, slot);
                tokio::spawn(one).await.expect("a tarball's task neither panics nor is cancelled")
            }
        })
        .buffer_unordered(jobs.get() + freight.tails);
    let mut records = Vec::new();
    let mut failure = None;
    while let Some(outcome) = under_way.next().await {
        match outcome {
            Ok(record) => records.push(record),
            Err(error) => {
                production.cancel.cancel();
                // What follows a failure is its echo.
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(records),
    }
}

async fn one_tarball(
    plan: TarballPlan,
    production: Arc<Production>,
    freight: Freight,
    destination: Destination,
    slot: OwnedSemaphorePermit,
) -> Result<Carried, BackupError> {
    production.cancel.check().map_err(|_| BackupError::Cancelled)?;
    let name = plan.name;
    let write = move |sink| produce(&production, &plan, sink);
    write_tarball(name, &freight, &destination, Some(slot), write).await
}

/// Runs `write` on a thread of its own while its tarball is uploaded. `slot` is free again when
/// everything is written, which is before it is stored.
pub async fn write_tarball(
    name: TarballName,
    freight: &Freight,
    destination: &Destination,
    slot: Option<OwnedSemaphorePermit>,
    write: impl FnOnce(TarballSink) -> Result<(TarballSink, Produced), BackupError> + Send + 'static,
) -> Result<Carried, BackupError> {
    let begun = Instant::now();
    let file_name = name.file_name();
    let key = destination.layout.backup_object(&destination.id, &file_name);
    let index = BlockDecoder::knows(name.compression)
        .then(|| destination.layout.backup_object(&destination.id, &name.index_name()));
    let (sink, shipment) = open(freight, key.clone(), index)
        .map_err(|source| BackupError::Upload { object: file_name.clone(), source })?;
    let writing = tokio::task::spawn_blocking(move || {
        let (sink, produced) = write(sink)?;
        sink.finish().map_err(|error| BackupError::Tarball { source: error })?;
        drop(slot);
        Ok(produced)
    });
    let delivered = shipment.deliver().await;
    let written = writing.await.expect("the writing thread neither panics nor is cancelled");
    let (produced, stored) = match (written, delivered) {
        (Ok(produced), Ok(stored)) => (produced, stored),
        (Err(error), Err(ShipError::Incomplete)) => return Err(error),
        (Err(error), _) if !is_echo(&error) => return Err(error),
        (_, Err(error)) => return Err(BackupError::Upload { object: file_name, source: error }),
        (Err(error), Ok(_)) => return Err(error),
    };
    let Delivered { object: stored, index } = stored;
    tracing::info!(
        object = %key,
        bytes = stored.bytes,
        raw_bytes = produced.raw_bytes,
        members = produced.members,
        elapsed = ?begun.elapsed(),
        "uploaded tarball"
    );
    let record = TarballRecord {
        name: file_name,
        stored_bytes: stored.bytes,
        raw_bytes: produced.raw_bytes,
        members: produced.members,
        sha256: stored.sha256,
        index: index.map(|index| IndexRecord { stored_bytes: index.bytes, sha256: index.sha256 }),
    };
    Ok(Carried { name, record, elapsed: begun.elapsed() })
}

/// Whether a writer failed only because its upload had stopped.
fn is_echo(error: &BackupError) -> bool {
    matches!(error, BackupError::Tarball { source } if source.kind() == io::ErrorKind::BrokenPipe)
}
