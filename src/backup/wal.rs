//! The WAL that a backup needs: which segments, and waiting until the archive holds them.

use crate::backup::BackupError;
use crate::catalog::Catalog;
use crate::flow::Cancel;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalSegment};
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

#[cfg(test)]
mod tests {
    use crate::backup::BackupError;
    use crate::backup::wal::{needed, wait_for_wal};
    use crate::catalog::{Catalog, Layout, ServerName};
    use crate::flow::Cancel;
    use crate::store::{ObjectKey, PutMode, PutOptions, Store};
    use crate::wal::{Lsn, SegmentSize, TimelineId};
    use bytes::Bytes;
    use std::time::Duration;

    async fn put(store: &Store, key: &str) {
        let key = ObjectKey::parse(key).expect("key");
        store
            .put(&key, Bytes::from_static(b"wal"), PutMode::Create, &PutOptions::default())
            .await
            .expect("put");
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
