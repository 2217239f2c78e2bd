//! The WAL that a backup needs: which segments, and waiting until the archive holds them.

use crate::backup::BackupError;
use crate::catalog::Catalog;
use crate::flow::Cancel;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
use std::path::Path;
use std::time::{Duration, Instant};

/// The first and the longest pause between two looks at the archive. The archiver was woken
/// when the backup stopped, so one segment's archiving is what is waited for.
const PAUSE_MIN: Duration = Duration::from_millis(30);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// After this long the operator is told what is waited for, and again after each such time.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The segments that recovery from a backup must replay at least, in order. A backup that
/// stops on a segment boundary does not need the segment that begins there.
pub fn needed(timeline: TimelineId, begin: Lsn, end: Lsn, size: SegmentSize) -> Vec<WalSegment> {
    let first = WalSegment::containing(timeline, begin, size).number;
    let last = WalSegment::before(timeline, end, size).number;
    (first..=last).map(|number| WalSegment { timeline, number }).collect()
}

/// Waits until the archive holds all of `needed`; reports the first missing segment at the
/// deadline. A look costs one LIST per log (4 GiB of WAL) that is not complete yet.
pub async fn wait_for_wal(
    catalog: &Catalog,
    needed: Vec<WalSegment>,
    size: SegmentSize,
    patience: Duration,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let deadline = Instant::now() + patience;
    let mut tell_at = Instant::now() + TELL_EVERY;
    let mut pause = PAUSE_MIN;
    let mut missing = needed;
    loop {
        missing = catalog.missing_segments(&missing, size).await.map_err(BackupError::Catalog)?;
        let Some(first) = missing.first() else { return Ok(()) };
        if Instant::now() + pause > deadline {
            return Err(BackupError::WalMissing {
                first: first.name(size),
                count: missing.len(),
                waited: patience,
            });
        }
        if Instant::now() > tell_at {
            tell_at += TELL_EVERY;
            let (segment, missing) = (first.name(size), missing.len());
            tracing::warn!(%segment, missing, "waiting for WAL that is not in the archive yet");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
        }
    }
}

/// Waits until the server's own archiver has passed on `last`, the last segment of the backup,
/// wherever it takes it: without a limit, as `pg_backup_stop` does, which looks once a second.
///
/// Source: `XLogArchiveIsBusy`, PostgreSQL src/backend/access/transam/xlogarchive.c.
pub async fn wait_for_archiver(
    wal_directory: &Path,
    last: &str,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let mut tell_at = Instant::now() + TELL_EVERY;
    let mut pause = PAUSE_MIN;
    while !is_archived(wal_directory, last) {
        if Instant::now() > tell_at {
            tell_at += TELL_EVERY;
            tracing::warn!(segment = last, "waiting for the server's archiver");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
        }
    }
    Ok(())
}

/// A segment that is archived is marked so, until it is recycled.
fn is_archived(wal_directory: &Path, segment: &str) -> bool {
    let marked = |suffix: &str| {
        wal_directory.join("archive_status").join(format!("{segment}.{suffix}")).exists()
    };
    // Twice, because the mark may have changed between the two looks.
    marked("done")
        || (!marked("ready") && (marked("done") || !wal_directory.join(segment).exists()))
}

#[cfg(test)]
mod tests {
    use crate::backup::BackupError;
    use crate::backup::wal::{needed, wait_for_archiver, wait_for_wal};
    use crate::catalog::{Catalog, Layout, ServerName};
    use crate::flow::Cancel;
    use crate::store::{ObjectKey, PutMode, PutOptions, Store};
    use crate::wal::{Lsn, SegmentSize, TimelineId};
    use bytes::Bytes;
    use std::fs;
    use std::time::Duration;

    async fn put(store: &Store, key: &str) {
        let key = ObjectKey::parse(key).expect("key");
        store
            .put(&key, Bytes::from_static(b"wal"), PutMode::Create, &PutOptions::default())
            .await
            .expect("put");
    }

    #[tokio::test]
    async fn the_archiver_is_waited_for_until_it_has_marked_or_recycled_the_segment() {
        let folder = tempfile::tempdir().expect("folder");
        let (segment, status) = ("000000010000000000000002", folder.path().join("archive_status"));
        fs::create_dir(&status).expect("directory");
        let (cancel, limit) = (Cancel::new(), Duration::from_millis(200));
        let wait = || async {
            let waiting = wait_for_archiver(folder.path(), segment, &cancel);
            tokio::time::timeout(limit, waiting).await.is_ok()
        };
        assert!(wait().await, "recycled long ago");
        fs::write(folder.path().join(segment), b"wal").expect("segment");
        assert!(!wait().await, "not even marked as ready");
        fs::write(status.join(format!("{segment}.ready")), b"").expect("mark");
        assert!(!wait().await);
        let rename = || {
            fs::rename(
                status.join(format!("{segment}.ready")),
                status.join(format!("{segment}.done")),
            )
        };
        rename().expect("archived");
        assert!(wait().await);
    }

    #[tokio::test]
    async fn a_backup_is_confirmed_only_when_every_segment_is_archived_whole() {
        let store = Store::memory();
        let server = ServerName::parse("main").expect("server");
        let catalog = Catalog::new(store.clone(), Layout::new("", &server).expect("layout"));
        let timeline = TimelineId::new(1).expect("timeline");
        let size = SegmentSize::DEFAULT;
        let begin: Lsn = "0/FF000028".parse().expect("lsn");
        let needed = needed(timeline, begin, Lsn::new((4 << 30) + 40), size);
        assert_eq!(needed.len(), 2);
        let cancel = Cancel::new();
        let wait = || wait_for_wal(&catalog, needed.clone(), size, Duration::ZERO, &cancel);
        put(&store, "main/wals/0000000100000000/0000000100000000000000FF.gz").await;
        put(&store, "main/wals/0000000100000001/000000010000000100000000.partial.gz").await;
        match wait().await {
            Err(BackupError::WalMissing { first, count, .. }) => {
                assert_eq!((first.as_str(), count), ("000000010000000100000000", 1));
            }
            other => panic!("{other:?}"),
        }
        put(&store, "main/wals/0000000100000001/000000010000000100000000.zst").await;
        wait().await.expect("all are there");
    }
}
