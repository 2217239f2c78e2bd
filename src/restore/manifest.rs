//! PostgreSQL's manifest of the backup: fetched and checked before the first tarball, put in
//! place at the end.
//!
//! It is streamed to a file of its own, never held in memory. One that is damaged or missing
//! says that the backup is not what was written, so nothing is restored without a word:
//! `--allow-incomplete` restores the files without it.

use crate::catalog::{Backup, BackupMethod};
use crate::disk::{Attributes, ExtractRoot};
use crate::pgdata::ManifestCheck;
use crate::restore::receipts::RECEIPTS;
use crate::restore::stage::on_thread;
use crate::restore::{RestoreError, RestorePlan, Unfinished};
use crate::store::Store;
use crate::wal::Lsn;
use bytes::Bytes;
use futures::stream::TryStreamExt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Its name in the backup's folder and in the data directory.
pub const MANIFEST: &str = "backup_manifest";
const PIECES_WAITING: usize = 4;

/// Whether a backup must have one: all of ours made of files do.
pub fn is_expected(backup: &Backup) -> bool {
    backup.record.as_ref().is_some_and(|record| record.method != BackupMethod::Snapshot)
}

/// Fetches the manifest to its waiting place and checks it. False when the backup has none that
/// can be used, and is restored without.
pub async fn fetch(
    store: &Store,
    plan: &RestorePlan,
    data: &ExtractRoot,
    unfinished: Unfinished,
) -> Result<bool, RestoreError> {
    let Some(manifest) = &plan.manifest else { return Ok(false) };
    let object = store.url_of(&manifest.key);
    let opened = store.get_stream(&manifest.key, None).await.map_err(RestoreError::Store)?;
    let Some((_, mut stream)) = opened else {
        return Err(RestoreError::MissingObject { object });
    };
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
    let (root, begin) = (data.clone(), plan.begin);
    let writing = on_thread("restore-manifest", move || write(&root, receiver, begin));
    let sending = async move {
        while let Some(piece) = stream.try_next().await? {
            // Nobody receives when it could not be written; then that is reported.
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (sent, written) = futures::future::join(sending, writing).await;
    sent.map_err(RestoreError::Store)?;
    let path = data.path().join(MANIFEST);
    match written?.map_err(RestoreError::disk(&path))? {
        None => Ok(true),
        Some(reason) if unfinished == Unfinished::Restore => {
            tracing::warn!(object, reason, "restoring without the manifest, which is damaged");
            Ok(false)
        }
        Some(reason) => Err(RestoreError::Corrupt { object, reason }),
    }
}

/// Writes what comes; what is wrong with it in the end.
fn write(
    data: &ExtractRoot,
    mut pieces: mpsc::Receiver<Bytes>,
    begin: Option<Lsn>,
) -> io::Result<Option<String>> {
    let mut file = data.extractor().file(&waiting(), None)?;
    let mut check = ManifestCheck::default();
    while let Some(piece) = pieces.blocking_recv() {
        check.update(&piece);
        file.write_all(&piece)?;
    }
    Ok(check.finish(begin).err().map(|error| error.to_string()))
}

/// Gives a fetched manifest its name; without one, what waits is removed.
pub fn place(
    data: &ExtractRoot,
    is_fetched: bool,
    attributes: &Attributes,
) -> Result<(), RestoreError> {
    let path = data.path().join(MANIFEST);
    let place = || -> io::Result<()> {
        let mut extractor = data.extractor();
        if !is_fetched {
            return extractor.remove(&waiting());
        }
        let file = extractor.open(&waiting())?.ok_or(io::ErrorKind::NotFound)?;
        crate::disk::apply(&file, attributes)?;
        extractor.rename(&waiting(), Path::new(MANIFEST))
    };
    place().map_err(RestoreError::disk(&path))
}

fn waiting() -> PathBuf {
    Path::new(RECEIPTS).join(MANIFEST)
}
