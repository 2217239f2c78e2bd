//! What the cluster writes now stays, whatever backups there are: a model of the rule.

use crate::catalog::fixtures::{self, empty_catalog, keys, limits, write};
use crate::catalog::{
    Backup, BackupId, BackupInfo, BackupStatus, Catalog, CatalogListing, Keep, KeepTarget,
    WalObject,
};
use crate::flow::Cancel;
use crate::retention::needs::Histories;
use crate::retention::select::Doomed;
use crate::retention::steps::Steps;
use crate::retention::tests::{OPTIONS, plan_at, policy};
use crate::retention::{self, DeleteTarget};
use crate::snapshot::memory::MemoryCloud;
use crate::store::ObjectKey;
use crate::wal::{Lsn, SegmentSize, TimelineHistory, TimelineId, WalFileName, WalSegment};
use jiff::Timestamp;
use proptest::prelude::{any, prop_assert, proptest};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const NOW: Timestamp = Timestamp::constant(1_795_227_000, 0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Started,
    /// Ours, which has not told where it begins.
    Silent,
    Standalone,
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    kind: Kind,
    timeline: usize,
    begin: u64,
    length: u64,
    goes: bool,
}

fn timeline(index: usize) -> TimelineId {
    TimelineId::new(u32::try_from(index + 1).expect("small")).expect("non-zero")
}

/// In the middle of a segment.
fn middle(segment: u64) -> Lsn {
    Lsn::new(segment * u64::from(SIZE.bytes()) + 8000)
}

fn backup(number: usize, taken: &Taken) -> Backup {
    let silent = taken.kind == Kind::Silent;
    let name = |segment: u64| {
        WalSegment { timeline: timeline(taken.timeline), number: segment }.name(SIZE)
    };
    let told = taken.kind == Kind::Standalone || taken.kind == Kind::Done;
    Backup {
        id: BackupId::parse(&format!("202601{:02}T000000", number + 1)).expect("id"),
        info: BackupInfo {
            status: Some(match taken.kind {
                Kind::Failed => BackupStatus::Failed,
                Kind::Started | Kind::Silent => BackupStatus::Started,
                Kind::Standalone | Kind::Done => BackupStatus::Done,
            }),
            timeline: (!silent).then(|| timeline(taken.timeline)),
            begin_wal: (!silent).then(|| name(taken.begin)),
            begin_xlog: (!silent).then(|| middle(taken.begin)),
            end_wal: told.then(|| name(taken.begin + taken.length)),
            end_xlog: told.then(|| middle(taken.begin + taken.length)),
            ..BackupInfo::default()
        },
        record: None,
        started: None,
        objects: Vec::new(),
        keep: (taken.kind == Kind::Standalone).then(|| Keep::new(KeepTarget::Standalone)),
    }
}

/// From the root to a timeline, each with the segment in which the next left it.
fn way(branches: &[(usize, u64)], mut index: usize) -> Vec<(usize, u64)> {
    let mut way = vec![(index, u64::MAX)];
    while index > 0 {
        let (parent, left_in) = branches[index - 1];
        way.push((parent, left_in));
        index = parent;
    }
    way.reverse();
    way
}

fn histories(branches: &[(usize, u64)]) -> Histories {
    let history = |index| {
        let ancestors =
            way(branches, index).into_iter().filter(|(_, left_in)| *left_in != u64::MAX);
        let text: String = ancestors
            .map(|(own, left_in)| format!("{}\t{}\tx\n", timeline(own), middle(left_in)))
            .collect();
        TimelineHistory::parse(timeline(index), &text).expect("history")
    };
    (1..=branches.len()).map(|index| (timeline(index), history(index))).collect()
}

/// The archive's history files, as the listing knows them.
fn history_files(branches: &[(usize, u64)]) -> Vec<WalObject> {
    let file = |index| {
        let name = WalFileName::of_history(timeline(index));
        let key = ObjectKey::parse(&format!("p/main/wals/{name}")).expect("key");
        WalObject { name, compression: None, key, bytes: 0, modified: NOW }
    };
    (1..=branches.len()).map(file).collect()
}

/// The rule: as long as no DONE backup is left from which the newest timeline can be recovered,
/// everything on it stays, and everything on the way to it.
fn stays(branches: &[(usize, u64)], backups: &[Taken], file: (usize, u64)) -> bool {
    let way = way(branches, branches.len());
    let tells = |taken: &Taken| {
        let end = taken.begin + taken.length;
        let on_way = way.iter().any(|(on, left_in)| *on == taken.timeline && end <= *left_in);
        taken.kind == Kind::Done && on_way
    };
    let recoverable = |taken: &&Taken| !taken.goes && taken.kind == Kind::Done;
    let told = match backups.iter().any(|taken| recoverable(&taken)) {
        true => backups.iter().filter(recoverable).any(tells),
        // Then the last one that goes tells from where on.
        false => backups.iter().rfind(|taken| taken.goes).is_some_and(tells),
    };
    let unknown = backups.iter().any(|taken| !taken.goes && taken.kind == Kind::Silent);
    unknown || !told && way.iter().any(|(on, left_in)| *on == file.0 && file.1 <= *left_in)
}

proptest! {
    #[test]
    fn what_the_newest_timeline_needs_stays_until_a_done_backup_on_it_says_otherwise(
        branches in proptest::collection::vec((any::<usize>(), 1u64..30), 0..4),
        backups in proptest::collection::vec(
            (0u8..8, any::<usize>(), 1u64..30, 0u64..4, any::<bool>()), 1..6),
    ) {
        let branches: Vec<(usize, u64)> = branches
            .iter()
            .enumerate()
            .map(|(index, (parent, left_in))| (parent % (index + 1), *left_in))
            .collect();
        let taken = |(kind, tli, begin, length, goes): &(u8, usize, u64, u64, bool)| Taken {
            kind: match kind {
                0 => Kind::Failed,
                1 => Kind::Started,
                2 => Kind::Silent,
                3 => Kind::Standalone,
                _ => Kind::Done,
            },
            timeline: tli % (branches.len() + 1),
            begin: *begin,
            length: *length,
            goes: *goes,
        };
        let backups: Vec<Taken> = backups.iter().map(taken).collect();
        let mut listing = CatalogListing {
            backups: backups.iter().enumerate().map(|(n, taken)| backup(n, taken)).collect(),
            ..CatalogListing::default()
        };
        listing.top.files = history_files(&branches);
        let doomed: Vec<Doomed<'_>> = listing
            .backups
            .iter()
            .zip(&backups)
            .filter(|(_, taken)| taken.goes)
            .map(|(backup, _)| Doomed::Backup(backup))
            .collect();
        let mut steps = Steps::new(&listing, &doomed, histories(&branches), NOW_RUNNING);
        for index in 0..=branches.len() {
            for number in 0..36 {
                let segment = WalSegment { timeline: timeline(index), number };
                let name = WalFileName::of_segment(segment, SIZE);
                let goes = steps.obsolete_since(&name).is_some();
                prop_assert!(!goes || !stays(&branches, &backups, (index, number)), "{}", name);
            }
        }
    }
}

/// Started backups of the model carry no objects: their ids tell that they are running.
const NOW_RUNNING: Timestamp = Timestamp::constant(1_767_225_600, 0);

async fn put(catalog: &Catalog, day: u32, status: &str, tli: u32, segment: u32) {
    let folder = format!("p/main/base/2026010{day}T000000");
    let time = format!("2026-01-0{day} 00:00:00+00:00");
    let info = format!(
        "status={status}\ntimeline={tli}\nbegin_time={time}\nend_time={time}\n\
         begin_wal={tli:08X}00000000{segment:08X}\nbegin_xlog=0/{segment:X}000028\n\
         end_wal={tli:08X}00000000{segment:08X}\nend_xlog=0/{segment:X}000100\n"
    );
    write(catalog.store(), &format!("{folder}/backup.info"), info).await;
    write(catalog.store(), &format!("{folder}/data.tar"), "x").await;
}

async fn put_wal(catalog: &Catalog, tli: u32, segments: std::ops::RangeInclusive<u32>) {
    for segment in segments {
        let hash = format!("{tli:08X}00000000");
        write(catalog.store(), &format!("p/main/wals/{hash}/{hash}{segment:08X}"), "").await;
    }
}

async fn wal(catalog: &Catalog, tli: u32) -> usize {
    let folder = format!("p/main/wals/{tli:08X}00000000/");
    keys(catalog.store()).await.iter().filter(|key| key.starts_with(&folder)).count()
}

async fn delete(catalog: &Catalog, words: &str) {
    let plan = plan_at(catalog, &policy(words), &OPTIONS, fixtures::now()).await.expect("plans");
    let cloud = MemoryCloud::default();
    retention::apply(catalog, &cloud, plan, &Cancel::new()).await.expect("deletes");
}

/// Backups on timeline 1, and a recovery to before the last of them: timeline 2 is the live one.
async fn after_recovery() -> Catalog {
    let catalog = empty_catalog();
    for (day, segment) in [(1, 0x10), (2, 0x20), (3, 0x30)] {
        put(&catalog, day, "DONE", 1, segment).await;
    }
    put_wal(&catalog, 1, 0x10..=0x32).await;
    write(catalog.store(), "p/main/wals/00000002.history", "1\t0/15000100\tx\n").await;
    put_wal(&catalog, 2, 0x15..=0x40).await;
    catalog
}

#[tokio::test]
async fn after_a_recovery_to_before_the_last_backup_the_live_timeline_stays() {
    let catalog = after_recovery().await;
    delete(&catalog, "REDUNDANCY 1").await;
    assert_eq!(wal(&catalog, 2).await, 0x2C);
    // The one backup from which the live timeline can be reached is not the one that goes.
    let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
    assert!(listing.get(&BackupId::parse("20260101T000000").expect("id")).is_some());
    assert_eq!(wal(&catalog, 1).await, 0x23);
}

#[tokio::test]
async fn without_a_backup_that_reaches_it_the_live_timeline_and_the_way_to_it_stay() {
    let catalog = after_recovery().await;
    let selector = crate::catalog::BackupSelector::parse("20260101T000000");
    let target = DeleteTarget::Backup(selector);
    let plan = plan_at(&catalog, &target, &OPTIONS, fixtures::now()).await.expect("plans");
    let cloud = MemoryCloud::default();
    retention::apply(&catalog, &cloud, plan, &Cancel::new()).await.expect("deletes");
    assert_eq!(wal(&catalog, 2).await, 0x2C);
    // Up to 0x15 for who is late on the way, from 0x20 for the backups that are left.
    assert_eq!(wal(&catalog, 1).await, 6 + 0x13);
}

#[tokio::test]
async fn a_running_backup_of_ours_holds_all_wal_whatever_its_clock_says() {
    for started in ["2025-12-31T00:00:00Z", "2026-01-02T12:00:00Z", "2027-01-01T00:00:00Z"] {
        let catalog = after_recovery().await;
        let claim = crate::catalog::StartedRecord {
            tool: "test".into(),
            name: None,
            method: crate::catalog::BackupMethod::Files,
            started: started.parse().expect("time"),
            host: "standby".into(),
            process: 1,
            snapshots: None,
        };
        catalog.claim(&claim).await.expect("claims");
        put(&catalog, 4, "DONE", 2, 0x3F).await;
        delete(&catalog, "REDUNDANCY 1").await;
        assert_eq!((wal(&catalog, 1).await, wal(&catalog, 2).await), (0x23, 0x2C), "{started}");
    }
}

#[tokio::test]
async fn a_done_backup_on_the_live_timeline_says_what_is_not_needed_any_more() {
    let catalog = after_recovery().await;
    put(&catalog, 4, "DONE", 2, 0x3F).await;
    delete(&catalog, "REDUNDANCY 1").await;
    assert_eq!((wal(&catalog, 1).await, wal(&catalog, 2).await), (0, 2));
}
