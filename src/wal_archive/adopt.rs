//! Handing an archive over to another cluster: after `pg_upgrade`, or when a new cluster takes the
//! place of an old one.
//!
//! A WAL file's name tells position and timeline, not the cluster. So an archive is handed over only
//! to a cluster whose names all lie beyond those that are there: on the same timeline behind the
//! last segment, or on a timeline above all that are named. Then no file of the one can be taken for
//! the other's, by this tool, Barman or PostgreSQL, and a recovery of either never meets a
//! timeline history of the other. `pg_upgrade` begins behind the old cluster's last segment, but on
//! timeline 1; where the old one had been promoted, `pg_resetwal` moves the new one.
//!
//! One LIST of the whole archive with flat memory, once in a cluster's life. Crash point: the write
//! of `archive.json` is the only change.

use crate::catalog::{Adoption, ArchiveIdentity, ArchiveRecord, Catalog};
use crate::flow::{Cancel, Cancelled};
use crate::pgdata::ControlFile;
use crate::wal::{Lsn, SegmentSize, TimelineId, WalFileKind, WalFileName, WalSegment};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::owner::newest_writer;
use futures::stream::TryStreamExt;
use jiff::Timestamp;
use std::path::Path;

/// The cluster that is to have the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    pub identity: ArchiveIdentity,
    /// Where its WAL begins, as far as it will be archived.
    pub from: Lsn,
    /// The first segment that it may archive.
    pub first: WalSegment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptOutcome {
    Adopted(ArchiveRecord),
    /// The archive was its own before.
    AlreadyIts,
}

impl Newcomer {
    /// Reads who a data directory is. Segments that still wait to be archived count.
    pub fn read(data_directory: &Path) -> Result<Self, WalArchiveError> {
        let path = data_directory.join("global/pg_control");
        let failed = |reason: String| WalArchiveError::ControlFile { path: path.clone(), reason };
        let content = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
        let control = ControlFile::parse(&content).map_err(|error| failed(error.to_string()))?;
        let (timeline, size) = (control.timeline, control.wal_segment_size);
        let redo = WalSegment::containing(timeline, control.redo, size);
        let waiting = waiting_segments(&data_directory.join("pg_wal"), size);
        let first = waiting.into_iter().chain([redo]).min().unwrap_or(redo);
        let identity = ArchiveIdentity {
            system_identifier: control.system_identifier,
            first_timeline: first.timeline,
            segment_size: size,
        };
        Ok(Self { identity, from: control.redo, first })
    }

    /// Whether a stored file lies in its way.
    fn meets(&self, stored: &WalFileName, sizes_differ: bool) -> bool {
        let (ours, theirs) = (self.first.timeline, stored.timeline());
        if stored.kind() == WalFileKind::History {
            return theirs >= ours;
        }
        let behind = || {
            let name = stored.segment_name();
            name.and_then(|name| WalSegment::from_name(name, self.identity.segment_size))
                .is_none_or(|segment| segment.number >= self.first.number)
        };
        theirs > ours || theirs == ours && (sizes_differ || behind())
    }
}

/// Makes the archive that of another cluster; what it holds stays, and stays its former's.
pub async fn adopt(
    newcomer: &Newcomer,
    catalog: &Catalog,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<AdoptOutcome, WalArchiveError> {
    let ours = newcomer.identity;
    let stored = catalog.identity().await?;
    if stored.is_some_and(|stored| stored.system_identifier == ours.system_identifier) {
        return Ok(AdoptOutcome::AlreadyIts);
    }
    let former = match stored {
        Some(_) => None,
        None => newest_writer(catalog, cancel).await?.map(|system_identifier| {
            // Barman wrote it: of the rest nothing is noted anywhere.
            ArchiveIdentity { system_identifier, ..ours }
        }),
    };
    // It wrote all that is there: nothing of another cluster can be met.
    if former.is_none_or(|former| former.system_identifier != ours.system_identifier) {
        let sizes_differ = stored.is_some_and(|stored| stored.segment_size != ours.segment_size);
        tokio::select! {
            clear = check_way(newcomer, catalog, sizes_differ) => clear?,
            () = cancel.cancelled() => return Err(Cancelled.into()),
        }
    }
    let adoption = Adoption { at: now, from: newcomer.from };
    let former = former.filter(|former| former.system_identifier != ours.system_identifier);
    Ok(AdoptOutcome::Adopted(catalog.adopt(ours, adoption, former).await?))
}

/// Refuses when a stored file has a name that the new cluster may use.
async fn check_way(
    newcomer: &Newcomer,
    catalog: &Catalog,
    sizes_differ: bool,
) -> Result<(), WalArchiveError> {
    let size = newcomer.identity.segment_size;
    let (mut met, mut timeline, mut number) = (None, None, newcomer.first.number);
    let mut files = catalog.wals();
    while let Some(file) = files.try_next().await? {
        let name = file.name;
        timeline = timeline.max(Some(name.timeline()));
        let segment = name.segment_name().and_then(|name| WalSegment::from_name(name, size));
        number = number.max(segment.map_or(0, |segment| segment.number));
        if newcomer.meets(&name, sizes_differ) && met.as_ref() < Some(&name) {
            met = Some(name);
        }
    }
    let Some(newest) = met else { return Ok(()) };
    // Timeline 1 alone has no history file that could be met.
    let above = timeline.unwrap_or(newcomer.first.timeline).number();
    let above = if above == 1 && !sizes_differ { 1 } else { above.saturating_add(1) };
    let timeline = TimelineId::new(above).unwrap_or(newcomer.first.timeline);
    Err(WalArchiveError::InTheWay {
        server: catalog.server(),
        newest,
        first: WalFileName::of_segment(newcomer.first, size),
        next: WalFileName::of_segment(WalSegment { timeline, number: number + 1 }, size),
    })
}

/// Segments that PostgreSQL has yet to archive.
fn waiting_segments(pg_wal: &Path, size: SegmentSize) -> Vec<WalSegment> {
    let Ok(status) = std::fs::read_dir(pg_wal.join("archive_status")) else { return Vec::new() };
    let waiting = status.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        WalSegment::from_name(name.to_str()?.strip_suffix(".ready")?, size)
    });
    waiting.collect()
}

#[cfg(test)]
mod tests {
    use crate::catalog::ArchiveIdentity;
    use crate::flow::Cancel;
    use crate::monitor::Silent;
    use crate::pgdata::SystemIdentifier;
    use crate::wal::{SegmentSize, TimelineId, WalSegment};
    use crate::wal_archive::adopt::{AdoptOutcome, Newcomer, adopt};
    use crate::wal_archive::fixtures::{
        OURS, SEGMENT_BYTES, THEIRS, World, limits, name, push_options, segment,
    };
    use crate::wal_archive::{PushOutcome, WalArchiveError, push};

    fn newcomer(timeline: u32, number: u64) -> Newcomer {
        let timeline = TimelineId::new(timeline).expect("timeline");
        let size = SegmentSize::new(u64::from(SEGMENT_BYTES)).expect("size");
        let first = WalSegment { timeline, number };
        let identity = ArchiveIdentity {
            system_identifier: SystemIdentifier::new(THEIRS),
            first_timeline: timeline,
            segment_size: size,
        };
        Newcomer { identity, from: first.start(size), first }
    }

    async fn pushed(
        world: &World,
        name: &str,
        content: &[u8],
    ) -> Result<PushOutcome, WalArchiveError> {
        let path = world.file(name, content);
        let (options, limits) = (push_options(), limits());
        push(&path, &world.catalog, &options, &limits, &Silent, &Cancel::new()).await
    }

    async fn adopted(world: &World, newcomer: Newcomer) -> Result<AdoptOutcome, WalArchiveError> {
        let now = jiff::Timestamp::constant(1_800_000_000, 0);
        adopt(&newcomer, &world.catalog, now, &Cancel::new()).await
    }

    #[tokio::test]
    async fn after_an_adoption_the_new_cluster_archives_and_the_old_one_does_not() {
        let world = World::new();
        pushed(&world, &name(1), &segment(OURS, 1, 0)).await.expect("push");
        let refused = pushed(&world, &name(2), &segment(THEIRS, 2, 0)).await.expect_err("theirs");
        assert!(refused.hint().expect("hint").contains("--adopt"), "{refused}");
        let outcome = adopted(&world, newcomer(1, 2)).await.expect("adopts");
        assert!(matches!(outcome, AdoptOutcome::Adopted(_)));
        pushed(&world, &name(2), &segment(THEIRS, 2, 0)).await.expect("the new cluster");
        for number in [1, 3] {
            let refused = pushed(&world, &name(number), &segment(OURS, number, 0)).await;
            assert!(matches!(refused, Err(WalArchiveError::OtherCluster { .. })), "{refused:?}");
        }
        assert_eq!(adopted(&world, newcomer(1, 2)).await.expect("again"), AdoptOutcome::AlreadyIts);
    }

    #[tokio::test]
    async fn a_cluster_whose_names_are_taken_cannot_adopt_and_is_told_where_to_begin() {
        let history = ("00000003.history".to_string(), b"2\t0/300000\tx\n".to_vec());
        let cases = [
            (vec![(name(5), segment(OURS, 5, 0))], (1, 5), "000000010000000000000006"),
            (vec![(name(5), segment(OURS, 5, 0))], (1, 2), "000000010000000000000006"),
            (
                vec![(format!("{}.partial", name(5)), segment(OURS, 5, 0))],
                (1, 5),
                "000000010000000000000006",
            ),
            // pg_upgrade of a cluster that had been promoted.
            (vec![history.clone()], (1, 9), "00000004000000000000000A"),
            (vec![history], (3, 9), "00000004000000000000000A"),
        ];
        for (stored, (timeline, number), next) in cases {
            let world = World::new();
            pushed(&world, &name(1), &segment(OURS, 1, 0)).await.expect("push");
            for (name, content) in &stored {
                pushed(&world, name, content).await.expect("push");
            }
            let keys = world.keys().await;
            let error = adopted(&world, newcomer(timeline, number)).await.expect_err("taken");
            assert!(
                error.hint().expect("hint").contains(&format!("pg_resetwal -l {next}")),
                "{error}"
            );
            assert_eq!(world.keys().await, keys);
            let refused = pushed(&world, &name(40), &segment(THEIRS, 40, 0)).await;
            assert!(matches!(refused, Err(WalArchiveError::OtherCluster { .. })));
            let next = WalSegment::from_name(next, SegmentSize::new(1 << 20).expect("size"));
            let next = next.expect("a name");
            adopted(&world, newcomer(next.timeline.number(), next.number)).await.expect("adopts");
        }
    }

    #[tokio::test]
    async fn an_archive_that_barman_began_is_adopted_with_the_writer_it_had() {
        let world = World::of_barman("gzip").await;
        let outcome = adopted(&world, newcomer(3, 0x100)).await.expect("adopts");
        let AdoptOutcome::Adopted(record) = outcome else { panic!("not adopted") };
        assert_eq!(record.earlier.len(), 1);
    }

    #[tokio::test]
    async fn an_empty_archive_is_adopted_without_anybody_before() {
        let world = World::new();
        let outcome = adopted(&world, newcomer(1, 1)).await.expect("adopts");
        let AdoptOutcome::Adopted(record) = outcome else { panic!("not adopted") };
        assert!(record.earlier.is_empty());
        pushed(&world, &name(1), &segment(THEIRS, 1, 0)).await.expect("push");
    }
}
