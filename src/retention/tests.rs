//! Deletions from end to end, on stores in memory.

use crate::catalog::fixtures::{self, empty_catalog, keys, limits, write};
use crate::catalog::{BackupSelector, Catalog, KeepTarget, Layout, ServerName, WalTop};
use crate::flow::Cancel;
use crate::retention::needs::Place;
use crate::retention::steps::Steps;
use crate::retention::{
    self, DeleteOptions, DeletePlan, DeleteSummary, DeleteTarget, LockCheck, RetentionError,
    RetentionPolicy,
};
use crate::snapshot::memory::MemoryCloud;
use crate::store::{ObjectKey, Store};
use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::{any, prop_assert_eq, proptest};
use std::collections::BTreeMap;

pub(crate) const OPTIONS: DeleteOptions =
    DeleteOptions { minimum_redundancy: 0, locks: LockCheck::Skip };

pub(crate) fn policy(text: &str) -> DeleteTarget {
    DeleteTarget::Policy(RetentionPolicy::parse(text).expect(text))
}

fn backup(text: &str) -> DeleteTarget {
    DeleteTarget::Backup(BackupSelector::parse(text))
}

pub(crate) async fn plan_at(
    catalog: &Catalog,
    target: &DeleteTarget,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<DeletePlan, RetentionError> {
    retention::plan(catalog, target, options, &limits(), now, &Cancel::new()).await
}

async fn delete(catalog: &Catalog, target: &DeleteTarget) -> Result<DeleteSummary, RetentionError> {
    let plan = plan_at(catalog, target, &OPTIONS, fixtures::now()).await?;
    retention::apply(catalog, &MemoryCloud::default(), plan, &Cancel::new()).await
}

async fn pg15() -> Catalog {
    fixtures::catalog("contract", "pg15", "main").await
}

/// A DONE backup of Barman's form on a timeline, from one segment (of 16 MiB) to another.
async fn put_backup(catalog: &Catalog, id: &str, timeline: u32, begin: u32, end: u32) {
    put_backup_with(catalog, id, "DONE", timeline, begin, end).await;
}

async fn put_backup_with(
    catalog: &Catalog,
    id: &str,
    status: &str,
    timeline: u32,
    begin: u32,
    end: u32,
) {
    let (date, time) = id.split_once('T').expect("id");
    let time = format!(
        "{}-{}-{} {}:{}:{}+00:00",
        &date[..4],
        &date[4..6],
        &date[6..],
        &time[..2],
        &time[2..4],
        &time[4..]
    );
    let info = format!(
        "status={status}\ntimeline={timeline}\nbegin_time={time}\nend_time={time}\n\
         begin_wal={timeline:08X}00000000{begin:08X}\nbegin_xlog=0/{begin:X}000028\n\
         end_wal={timeline:08X}00000000{end:08X}\nend_xlog=0/{end:X}000100\n"
    );
    write(catalog.store(), &format!("p/main/base/{id}/backup.info"), info).await;
    write(catalog.store(), &format!("p/main/base/{id}/data.tar"), "").await;
}

async fn put_wal(catalog: &Catalog, timeline: u32, segments: std::ops::RangeInclusive<u32>) {
    for segment in segments {
        let hash = format!("{timeline:08X}00000000");
        write(catalog.store(), &format!("p/main/wals/{hash}/{hash}{segment:08X}.gz"), "").await;
    }
}

async fn put_history(catalog: &Catalog, timeline: u32, text: &'static str) {
    write(catalog.store(), &format!("p/main/wals/{timeline:08X}.history"), text).await;
}

/// Segments of a timeline that are there.
async fn wal(catalog: &Catalog, timeline: u32) -> Vec<u32> {
    let start = format!("p/main/wals/{timeline:08X}00000000/{timeline:08X}00000000");
    let keys = keys(catalog.store()).await;
    let names = keys.iter().filter_map(|key| key.strip_prefix(start.as_str()));
    names.map(|name| u32::from_str_radix(&name[..8], 16).expect("hex")).collect()
}

async fn ids(catalog: &Catalog) -> Vec<String> {
    let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
    listing.backups.iter().map(|backup| backup.id.to_string()).collect()
}

#[tokio::test]
async fn what_is_deleted_is_what_was_planned() {
    let catalog = pg15().await;
    let before = keys(catalog.store()).await;
    let plan =
        plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, fixtures::now()).await.expect("plans");
    let planned: Vec<String> = plan
        .backups
        .iter()
        .flat_map(|backup| {
            backup.folder.objects.iter().chain(&backup.wals).chain(&backup.folder.entry)
        })
        .map(|key| key.to_string())
        .collect();
    assert_eq!(keys(catalog.store()).await, before);
    let summary = retention::apply(&catalog, &MemoryCloud::default(), plan, &Cancel::new())
        .await
        .expect("deletes");
    assert_eq!(summary.backups.len(), 3);
    assert_eq!(summary.objects + summary.wals, planned.len());
    let expected: Vec<String> = before.into_iter().filter(|key| !planned.contains(key)).collect();
    assert_eq!(keys(catalog.store()).await, expected);
}

#[tokio::test]
async fn a_kept_backup_an_unknown_name_and_too_few_backups_are_refused() {
    let catalog = pg15().await;
    let refused = async |target, minimum_redundancy| {
        let options = DeleteOptions { minimum_redundancy, ..OPTIONS };
        let error = plan_at(&catalog, &target, &options, fixtures::now()).await;
        error.expect_err("refused").to_string()
    };
    assert_eq!(
        refused(backup("archival-bz2"), 0).await,
        "cannot delete backup \"20261120T235911\": it has a keep annotation (standalone)"
    );
    assert_eq!(
        refused(backup("20261121T000057"), 5).await,
        "cannot delete backup \"20261121T000057\": 5 DONE backups exist, minimum redundancy is 5"
    );
    assert_eq!(
        refused(backup("nobody"), 0).await,
        "backup \"nobody\" does not exist for server \"pg15/main\""
    );
}

#[tokio::test]
async fn an_absent_id_is_told_and_deletes_nothing() {
    let catalog = pg15().await;
    let before = keys(catalog.store()).await;
    let target = backup("20200101T000000");
    let plan = plan_at(&catalog, &target, &OPTIONS, fixtures::now()).await.expect("plans");
    assert_eq!(plan.absent.as_ref().map(ToString::to_string).as_deref(), Some("20200101T000000"));
    let summary = retention::apply(&catalog, &MemoryCloud::default(), plan, &Cancel::new())
        .await
        .expect("nothing");
    assert_eq!(summary, DeleteSummary::default());
    assert_eq!(keys(catalog.store()).await, before);
}

#[tokio::test]
async fn failed_backups_do_not_count_for_minimum_redundancy() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 1, 1).await;
    put_backup_with(&catalog, "20260102T000000", "FAILED", 1, 2, 2).await;
    let options = DeleteOptions { minimum_redundancy: 1, ..OPTIONS };
    let target = backup("20260101T000000");
    let error = plan_at(&catalog, &target, &options, fixtures::now()).await.expect_err("last");
    assert!(matches!(error, RetentionError::MinimumRedundancy { done: 1, minimum: 1, .. }));
    let target = backup("20260102T000000");
    plan_at(&catalog, &target, &options, fixtures::now()).await.expect("a failed one may go");
}

#[tokio::test]
async fn deleting_a_backup_in_the_middle_leaves_all_wal() {
    let catalog = empty_catalog();
    for (day, segment) in [(1, 2), (2, 4), (3, 6)] {
        put_backup(&catalog, &format!("2026010{day}T000000"), 1, segment, segment).await;
    }
    put_wal(&catalog, 1, 1..=8).await;
    delete(&catalog, &backup("20260102T000000")).await.expect("deletes");
    assert_eq!(wal(&catalog, 1).await, (1..=8).collect::<Vec<_>>());
    delete(&catalog, &backup("20260101T000000")).await.expect("deletes");
    assert_eq!(wal(&catalog, 1).await, [6, 7, 8]);
}

#[tokio::test]
async fn deleting_the_last_backup_leaves_the_wal_behind_its_beginning() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 4, 4).await;
    put_wal(&catalog, 1, 1..=8).await;
    delete(&catalog, &policy("REDUNDANCY 0")).await.expect("deletes");
    assert_eq!(wal(&catalog, 1).await, [4, 5, 6, 7, 8]);
    assert!(ids(&catalog).await.is_empty());
}

#[tokio::test]
async fn a_failed_backup_without_begin_goes_and_takes_no_wal_along() {
    let catalog = empty_catalog();
    write(catalog.store(), "p/main/base/20260101T000000/backup.info", "status=FAILED").await;
    put_wal(&catalog, 1, 1..=3).await;
    delete(&catalog, &backup("20260101T000000")).await.expect("deletes");
    assert!(ids(&catalog).await.is_empty());
    assert_eq!(wal(&catalog, 1).await, [1, 2, 3]);
}

#[tokio::test]
async fn wal_of_an_older_timeline_goes_with_its_last_backup_and_what_remains_recoverable_stays() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 2, 2).await;
    put_backup(&catalog, "20260102T000000", 1, 5, 5).await;
    put_backup(&catalog, "20260103T000000", 3, 9, 9).await;
    put_wal(&catalog, 1, 1..=8).await;
    put_wal(&catalog, 2, 4..=6).await;
    put_wal(&catalog, 3, 7..=10).await;
    // Timeline 2 branched off before the second backup began, timeline 3 behind it.
    put_history(&catalog, 2, "1\t0/4800000\tx\n").await;
    put_history(&catalog, 3, "1\t0/7800000\tx\n").await;

    delete(&catalog, &policy("REDUNDANCY 2")).await.expect("deletes");
    assert_eq!(wal(&catalog, 1).await, [5, 6, 7, 8]);
    assert!(wal(&catalog, 2).await.is_empty());
    assert_eq!(wal(&catalog, 3).await, [7, 8, 9, 10]);

    delete(&catalog, &policy("REDUNDANCY 1")).await.expect("deletes");
    assert!(wal(&catalog, 1).await.is_empty());
    assert_eq!(wal(&catalog, 3).await, [9, 10]);
    let histories = keys(catalog.store()).await;
    assert_eq!(histories.iter().filter(|key| key.ends_with(".history")).count(), 2);
}

#[tokio::test]
async fn a_timeline_without_history_file_stays() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 2, 2).await;
    put_backup(&catalog, "20260102T000000", 1, 5, 5).await;
    put_wal(&catalog, 2, 3..=4).await;
    write(catalog.store(), "p/main/wals/00000003.history", "nonsense").await;
    put_wal(&catalog, 3, 3..=4).await;
    delete(&catalog, &policy("REDUNDANCY 1")).await.expect("deletes");
    assert_eq!(wal(&catalog, 2).await, [3, 4]);
    assert_eq!(wal(&catalog, 3).await, [3, 4]);
}

#[tokio::test]
async fn a_standalone_keep_holds_its_own_wal_and_a_full_keep_all_behind_it() {
    for (target, left) in [
        (KeepTarget::Standalone, vec![2, 3, 8, 9]),
        (KeepTarget::Full, vec![2, 3, 4, 5, 6, 7, 8, 9]),
    ] {
        let catalog = empty_catalog();
        put_backup(&catalog, "20260101T000000", 1, 2, 3).await;
        put_backup(&catalog, "20260102T000000", 1, 5, 5).await;
        put_backup(&catalog, "20260103T000000", 1, 8, 8).await;
        put_wal(&catalog, 1, 1..=9).await;
        let id = crate::catalog::BackupId::parse("20260101T000000").expect("id");
        catalog.set_keep(&id, target, fixtures::now()).await.expect("keeps");
        delete(&catalog, &policy("REDUNDANCY 1")).await.expect("deletes");
        let left = if target == KeepTarget::Full { (1..=9).collect() } else { left };
        assert_eq!(wal(&catalog, 1).await, left, "{target:?}");
        assert_eq!(ids(&catalog).await, ["20260101T000000", "20260103T000000"]);
    }
}

#[tokio::test]
async fn wal_that_a_running_backup_needs_stays() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 2, 2).await;
    put_backup_with(&catalog, "20260102T000000", "STARTED", 1, 4, 4).await;
    put_backup(&catalog, "20260103T000000", 1, 6, 6).await;
    put_wal(&catalog, 1, 1..=7).await;
    let abandoned = fixtures::now() + SignedDuration::from_hours(100);
    let plan =
        plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, abandoned).await.expect("plans");
    assert_eq!(plan.backups[0].wals.len(), 5);
    delete(&catalog, &policy("REDUNDANCY 1")).await.expect("deletes");
    assert_eq!(wal(&catalog, 1).await, [4, 5, 6, 7]);
}

#[tokio::test]
async fn an_unreadable_backup_keeps_all_wal_and_fails_the_command_behind_the_rest() {
    let catalog = empty_catalog();
    put_backup(&catalog, "20260101T000000", 1, 2, 2).await;
    write(catalog.store(), "p/main/base/20260102T000000/backup.info", "status").await;
    put_backup(&catalog, "20260103T000000", 1, 6, 6).await;
    put_wal(&catalog, 1, 1..=7).await;
    let error = delete(&catalog, &policy("REDUNDANCY 1")).await.expect_err("unreadable");
    assert!(matches!(error, RetentionError::Unreadable { .. }), "{error}");
    assert_eq!(ids(&catalog).await, ["20260103T000000"]);
    assert_eq!(wal(&catalog, 1).await.len(), 7);

    delete(&catalog, &backup("20260102T000000")).await.expect("asked for by id it goes");
    assert_eq!(wal(&catalog, 1).await, [6, 7]);
}

#[tokio::test]
async fn what_barman_left_of_ours_is_swept_and_foreign_folders_are_not() {
    let catalog = empty_catalog();
    let folder = "p/main/base/20260101T000000";
    for name in ["backup.json", "started.json", "backup_manifest", "index/data.tar.jsonl.zst"] {
        write(catalog.store(), &format!("{folder}/{name}"), "{}").await;
    }
    write(catalog.store(), "p/main/base/20260102T000000/notes", "").await;
    let later = fixtures::now() + SignedDuration::from_hours(100);
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, later).await.expect("plans");
    let entry: Vec<&str> = plan.leftovers[0].entry.iter().map(|key| key.file_name()).collect();
    assert_eq!(entry, ["started.json", "backup.json"]);
    retention::apply(&catalog, &MemoryCloud::default(), plan, &Cancel::new())
        .await
        .expect("sweeps");
    assert_eq!(keys(catalog.store()).await, ["p/main/base/20260102T000000/notes"]);
}

#[tokio::test]
async fn a_cancelled_deletion_stops_before_the_next_object() {
    let catalog = pg15().await;
    let before = keys(catalog.store()).await;
    let plan =
        plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, fixtures::now()).await.expect("plans");
    let cancel = Cancel::new();
    cancel.cancel();
    let error = retention::apply(&catalog, &MemoryCloud::default(), plan, &cancel)
        .await
        .expect_err("cancelled");
    assert!(matches!(error, RetentionError::Cancelled(_)));
    assert_eq!(keys(catalog.store()).await, before);
}

/// A backup and four WAL files each in many logs of three timelines, two of them with history.
async fn put_logs(catalog: &Catalog, backups: &[(u32, u32, u32)]) {
    for (number, (timeline, log, segment)) in backups.iter().enumerate() {
        let time = format!("2026-01-{:02} 00:00:00+00:00", number + 1);
        let info = format!(
            "status=DONE\ntimeline={timeline}\nbegin_time={time}\nend_time={time}\n\
             begin_wal={timeline:08X}{log:08X}{segment:08X}\nbegin_xlog={log:X}/{segment:X}000028\n\
             end_wal={timeline:08X}{log:08X}{segment:08X}\nend_xlog={log:X}/{segment:X}000100\n"
        );
        let folder = format!("p/main/base/202601{:02}T000000", number + 1);
        write(catalog.store(), &format!("{folder}/backup.info"), info).await;
        write(catalog.store(), &format!("{folder}/data.tar"), "").await;
    }
    for (timeline, log) in (1..=3).flat_map(|timeline| (0..6).map(move |log| (timeline, log))) {
        for segment in [0, 3, 6, 255] {
            let hash = format!("{timeline:08X}{log:08X}");
            write(catalog.store(), &format!("p/main/wals/{hash}/{hash}{segment:08X}"), "").await;
        }
    }
    put_history(catalog, 2, "1\t2/4800000\tx\n").await;
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    /// The model: the same decision about every file of the whole archive.
    #[test]
    fn skipping_folders_changes_nothing_in_the_plan(
        backups in proptest::collection::vec((1u32..4, 0u32..6, 0u32..8), 1..6),
        kept in any::<usize>(),
        redundancy in 0usize..4,
        one in any::<Option<usize>>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let (planned, expected) = runtime.block_on(async {
            let catalog = empty_catalog();
            put_logs(&catalog, &backups).await;
            let id = |number: usize| format!("202601{:02}T000000", number % backups.len() + 1);
            let keep = crate::catalog::BackupId::parse(&id(kept)).expect("id");
            catalog.set_keep(&keep, KeepTarget::Standalone, fixtures::now()).await.expect("keeps");
            let target = match one.map(id).filter(|id| id != keep.as_str()) {
                Some(id) => backup(&id),
                None => policy(&format!("REDUNDANCY {redundancy}")),
            };
            let plan = plan_at(&catalog, &target, &OPTIONS, fixtures::now()).await.expect("plans");
            let steps = plan.backups.iter().zip(1..);
            let planned: BTreeMap<_, _> = steps
                .flat_map(|(backup, step)| backup.wals.iter().map(move |key| (key.clone(), step)))
                .collect();
            (planned, whole_scan(&catalog, &target).await)
        });
        prop_assert_eq!(planned, expected);
    }
}

/// The files that go, each with the number of the deletion that it goes with.
async fn whole_scan(catalog: &Catalog, target: &DeleteTarget) -> BTreeMap<ObjectKey, usize> {
    let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
    let selection =
        retention::select(catalog, &listing, target, &OPTIONS, fixtures::now()).expect("selects");
    let WalTop { files, .. } = catalog.wal_top().await.expect("lists");
    let histories = catalog.histories(&files, &limits()).await.expect("reads");
    let steps = Steps::new(&listing, &selection.doomed, histories, fixtures::now());
    let all: Vec<_> = catalog.wals().try_collect().await.expect("lists");
    let goes = all.into_iter().filter_map(|object| {
        let step = Place::of(&object.name).and_then(|place| steps.decide(place))?;
        Some((object.key, step))
    });
    goes.collect()
}

/// One backup of eight a day goes, and one folder of WAL with it.
#[tokio::test]
async fn a_nightly_run_lists_only_the_folders_it_deletes_from() {
    let (store, requests) = Store::recording();
    let server = ServerName::parse("main").expect("server name");
    let catalog = Catalog::new(store, Layout::new("p", &server).expect("layout"));
    for day in 1..=8 {
        let id = format!("2026010{day}T000000");
        let info = format!(
            "status=DONE\ntimeline=1\nbegin_time=2026-01-0{day} 00:00:00+00:00\n\
             begin_wal=000000010000000{day}00000000\nend_wal=000000010000000{day}00000001\n"
        );
        write(catalog.store(), &format!("p/main/base/{id}/backup.info"), info).await;
        write(catalog.store(), &format!("p/main/base/{id}/data.tar"), "").await;
        for segment in 0..8 {
            let hash = format!("000000010000000{day}");
            write(catalog.store(), &format!("p/main/wals/{hash}/{hash}{segment:08X}"), "").await;
        }
    }
    requests.take();
    let plan = plan_at(&catalog, &policy("REDUNDANCY 8"), &OPTIONS, fixtures::now()).await;
    assert!(plan.expect("plans").backups.is_empty());
    let nothing = requests.take();
    let lists = |requests: &[String]| -> Vec<String> {
        requests.iter().filter(|request| request.starts_with("LIST")).cloned().collect()
    };
    let load = ["LIST p//main/base", "LIST p/main/base", "LIST p/main/wals"];
    assert_eq!(lists(&nothing), load);
    let reads = |requests: &[String]| requests.iter().filter(|r| r.starts_with("GET")).count();
    assert_eq!(reads(&nothing), 8, "one for each backup");
    let plan =
        plan_at(&catalog, &policy("REDUNDANCY 7"), &OPTIONS, fixtures::now()).await.expect("plans");
    assert_eq!(plan.backups[0].wals.len(), 8);
    let planned = requests.take();
    assert_eq!(
        lists(&planned),
        [
            "LIST p//main/base",
            "LIST p/main/base",
            "LIST p/main/wals",
            "LIST p/main/wals/0000000100000001"
        ]
    );
    retention::apply(&catalog, &MemoryCloud::default(), plan, &Cancel::new())
        .await
        .expect("deletes");
    let folder = "main/base/20260101T000000";
    let [here, elsewhere] =
        ["p", "p/"].map(|prefix| format!("GET {prefix}/{folder}/annotations/keep"));
    let entry = format!("GET p/{folder}/backup.info");
    let mark = format!("PUT p/{folder}/deletion.json");
    let deleted = ["DELETE "; 4].map(String::from);
    // The entry, tarballs, WAL, the mark; and the keep is looked for before the entry goes and
    // after it.
    let mut expected = deleted.to_vec();
    expected.extend([elsewhere.clone(), elsewhere, here.clone(), here, entry, mark]);
    assert_eq!(requests.take(), expected);
}
