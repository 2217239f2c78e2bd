//! Is the archive fit for a new cluster, or does it hold WAL already?
//!
//! One LIST, stopped at the first file that answers the question; memory stays flat.

use crate::catalog::Catalog;
use crate::flow::{Cancel, Cancelled};
use crate::wal::{TimelineId, WalFileName};
use crate::wal_archive::WalArchiveError;
use futures::stream::TryStreamExt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Only files of this timeline and later ones count; a history file counts with its own
    /// number. `None`: any file of the archive counts.
    pub timeline: Option<TimelineId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Nothing is in the way.
    Empty,
    /// With one of the files that are.
    Occupied { example: WalFileName },
}

/// Looks for WAL files of a server name. Objects that are no WAL files do not count.
pub async fn check(
    catalog: &Catalog,
    options: &CheckOptions,
    cancel: &Cancel,
) -> Result<CheckOutcome, WalArchiveError> {
    let mut files = catalog.wals();
    loop {
        let file = tokio::select! {
            file = files.try_next() => file?,
            () = cancel.cancelled() => return Err(Cancelled.into()),
        };
        let Some(file) = file else { return Ok(CheckOutcome::Empty) };
        if options.timeline.is_none_or(|timeline| file.name.timeline() >= timeline) {
            return Ok(CheckOutcome::Occupied { example: file.name });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::Cancel;
    use crate::store::{ObjectKey, PutMode, PutOptions};
    use crate::wal::TimelineId;
    use crate::wal_archive::fixtures::World;
    use crate::wal_archive::{CheckOptions, CheckOutcome, check};

    async fn checked(world: &World, timeline: Option<u32>) -> CheckOutcome {
        let timeline = timeline.map(|number| TimelineId::new(number).expect("timeline"));
        check(&world.catalog, &CheckOptions { timeline }, &Cancel::new()).await.expect("check")
    }

    #[tokio::test]
    async fn only_wal_files_of_the_timeline_and_later_ones_are_in_the_way() {
        let world = World::new();
        assert_eq!(checked(&world, None).await, CheckOutcome::Empty);
        let put = async |key: &str| {
            let key = ObjectKey::parse(key).expect("key");
            let options = PutOptions::default();
            world
                .catalog
                .store()
                .put(&key, "x".into(), PutMode::Create, &options)
                .await
                .expect("put");
        };
        put("p/main/wals/notes.txt").await;
        put("p/main/base/20261120T235832/backup.info").await;
        assert_eq!(checked(&world, None).await, CheckOutcome::Empty);
        put("p/main/wals/0000000200000000/00000002000000000000000A.gz").await;
        assert!(matches!(checked(&world, None).await, CheckOutcome::Occupied { .. }));
        assert!(matches!(checked(&world, Some(2)).await, CheckOutcome::Occupied { .. }));
        assert_eq!(checked(&world, Some(3)).await, CheckOutcome::Empty);
        put("p/main/wals/00000003.history").await;
        assert!(matches!(checked(&world, Some(3)).await, CheckOutcome::Occupied { .. }));
    }
}
