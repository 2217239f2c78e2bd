//! Archiving several files in one call, for an archiver that lags behind.
//!
//! ```text
//! receipt for the requested file? ── yes ─→ success, without the store
//!         └ no ─→ push it, and beside it the files that are ready next
//!                                   └ each that the store has taken → receipt
//! ```
//!
//! PostgreSQL's archiver calls once for each file. The calls that follow find receipts and end in
//! milliseconds. What the call answers is about the requested file alone: another file that fails
//! gets no receipt, and is archived, or fails, when its turn comes.
//! Crash points: before a PUT nothing has changed; between a PUT and its receipt the next call for
//! that file finds the same content in the store; a receipt that was redeemed by a call that then
//! died likewise.
//! Memory: that of [`push`](crate::wal_archive::push), times `files_max`.

use crate::catalog::Catalog;
use crate::disk::Spool;
use crate::flow::{Cancel, Limits};
use crate::monitor::Monitor;
use crate::wal::{WalFileKind, WalFileName};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::fetch::SpoolOptions;
use crate::wal_archive::push::{PushOptions, PushOutcome, push_source};
use crate::wal_archive::receipts::{self, Version};
use crate::wal_archive::source::Source;
use futures::stream::{FuturesUnordered, StreamExt};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::{debug, warn};

/// How long the others may go on when the requested file is done: a store that lets one wait for
/// minutes must not hold up the archiver.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(10);

/// How several files are archived at once.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// The requested one included.
    pub files_max: NonZeroUsize,
    /// Where receipts wait.
    pub receipts: SpoolOptions,
}

/// Archives the file at `path`, and those that `archive_status` beside it says are ready next.
pub async fn push_batch(
    path: &Path,
    catalog: &Catalog,
    options: &PushOptions,
    batch: &BatchOptions,
    limits: &Limits,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<PushOutcome, WalArchiveError> {
    let source = Source::open(path)?;
    let spool = Spool::new(&batch.receipts.directory, &batch.receipts.scope);
    if redeemed(&spool, &source).await {
        debug!(wal = %source.name(), "archived by an earlier call");
        return Ok(PushOutcome::AlreadyArchived);
    }
    let others = match spool.prepare() {
        Ok(()) => ready_files(path, |name| spool.holds(name), batch.files_max.get() - 1),
        Err(error) => {
            warn!(%error, "archiving one file at a time");
            Vec::new()
        }
    };
    let limits = &shared(limits, others.len() + 1);
    let others_cancel = cancel.child();
    let mut others: FuturesUnordered<_> = others
        .into_iter()
        .map(|path| push_other(path, catalog, options, &spool, limits, monitor, &others_cancel))
        .collect();
    let mut requested = Box::pin(push_source(source, catalog, options, limits, monitor, cancel));
    let outcome = loop {
        tokio::select! {
            outcome = &mut requested => break outcome,
            Some(()) = others.next(), if !others.is_empty() => {}
        }
    };
    // Whatever failed the requested file would most likely fail the others too.
    if outcome.is_ok() {
        let rest = async { while others.next().await.is_some() {} };
        let _ = tokio::time::timeout(OTHERS_WAIT_MAX, rest).await;
    }
    others_cancel.cancel();
    while others.next().await.is_some() {}
    let _ = spool.evict(batch.files_max.get().saturating_mul(4));
    outcome
}

/// A spool that cannot be read costs only its receipts.
async fn redeemed(spool: &Spool, source: &Source) -> bool {
    let (spool, source) = (spool.clone(), source.clone());
    let work = move || {
        receipts::redeem(&spool, &source).unwrap_or_else(|error| {
            debug!(wal = %source.name(), %error, "no receipt");
            false
        })
    };
    let work = tokio::task::spawn_blocking(work);
    work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Archives a file that nobody asked for yet, and writes its receipt.
async fn push_other(
    path: PathBuf,
    catalog: &Catalog,
    options: &PushOptions,
    spool: &Spool,
    limits: &Limits,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) {
    let pushed = async {
        let source = Source::open(&path)?;
        let version = version_of(&source).await?;
        push_source(source.clone(), catalog, options, limits, monitor, cancel).await?;
        receipts::write(spool, &source, &version)
    };
    match pushed.await {
        Ok(()) => debug!(path = %path.display(), "archived ahead"),
        Err(WalArchiveError::Cancelled(_)) => debug!(path = %path.display(), "left for later"),
        Err(error) => warn!(path = %path.display(), %error, "could not archive ahead"),
    }
}

async fn version_of(source: &Source) -> Result<Version, WalArchiveError> {
    let read = source.clone();
    let work = tokio::task::spawn_blocking(move || Version::of(&read));
    let version = work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    version.map_err(|error| source.failed(error))
}

/// Cores are shared by the files that are compressed at once.
fn shared(limits: &Limits, files: usize) -> Limits {
    let workers = NonZeroUsize::new(limits.workers.get() / files).unwrap_or(NonZeroUsize::MIN);
    Limits { workers, ..limits.clone() }
}

/// The files that PostgreSQL will ask for next, without the requested one and those that
/// `is_archived`.
///
/// Source: `pgarch_readyXlog`, PostgreSQL src/backend/postmaster/pgarch.c: history files first,
/// then by name.
fn ready_files(
    requested: &Path,
    is_archived: impl Fn(&str) -> bool,
    files_max: usize,
) -> Vec<PathBuf> {
    let folder = match requested.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Not in a pg_wal, as under a hook script: then nothing is known to be ready.
    let Ok(status) = std::fs::read_dir(folder.join("archive_status")) else { return Vec::new() };
    let ready = status.filter_map(|entry| {
        let entry = entry.ok()?.file_name();
        WalFileName::parse(entry.to_str()?.strip_suffix(".ready")?).ok()
    });
    let mut names: Vec<WalFileName> =
        ready.filter(|name| requested.file_name() != Some(name.as_str().as_ref())).collect();
    names.sort_by_cached_key(|name| (name.kind() != WalFileKind::History, name.to_string()));
    let missing = names.into_iter().filter(|name| !is_archived(name.as_str()));
    missing.take(files_max).map(|name| folder.join(name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use crate::wal_archive::batch::ready_files;
    use std::path::Path;

    #[test]
    fn files_are_ready_in_postgresqls_order() {
        let directory = tempfile::tempdir().expect("directory");
        let status = directory.path().join("archive_status");
        std::fs::create_dir(&status).expect("create");
        let ready = [
            "000000010000000000000003.ready",
            "000000010000000000000002.ready",
            "000000010000000000000002.00000028.backup.ready",
            "000000010000000000000001.done",
            "000000010000000000000004.ready",
            "00000002.history.ready",
            "nonsense.ready",
        ];
        for name in ready {
            std::fs::write(status.join(name), "").expect("write");
        }
        let requested = directory.path().join("000000010000000000000002");
        let found = |files_max| -> Vec<String> {
            let archived = |name: &str| name.ends_with('3');
            let names = ready_files(&requested, archived, files_max).into_iter();
            names.map(|path| path.file_name().expect("name").to_string_lossy().into()).collect()
        };
        let all = [
            "00000002.history",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000004",
        ];
        assert_eq!(found(9), all);
        assert_eq!(found(1), all[..1]);
        let elsewhere = Path::new("/nowhere/000000010000000000000002");
        assert!(ready_files(elsewhere, |_| false, 9).is_empty());
    }
}
