//! Deletions from end to end, on stores in memory.

use crate::catalog::fixtures::{self, empty_catalog, keys, limits, write};
use crate::catalog::{ABANDONED_AFTER, BackupSelector, Catalog, KeepTarget};
use crate::flow::Cancel;
use crate::retention::{
    self, DeleteOptions, DeletePlan, DeleteSummary, DeleteTarget, LockCheck, RetentionError,
    RetentionPolicy,
};
use crate::snapshot::memory::MemoryCloud;
use jiff::{SignedDuration, Timestamp};

const OPTIONS: DeleteOptions = DeleteOptions { minimum_redundancy: 0, locks: LockCheck::Skip };

fn policy(text: &str) -> DeleteTarget {
    DeleteTarget::Policy(RetentionPolicy::parse(text).expect(text))
}

fn backup(text: &str) -> DeleteTarget {
    DeleteTarget::Backup(BackupSelector::parse(text))
}

async fn plan_at(
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
async fn a_run_that_broke_off_anywhere_is_finished_by_the_next() {
    let whole = pg15().await;
    let plan =
        plan_at(&whole, &policy("REDUNDANCY 1"), &OPTIONS, fixtures::now()).await.expect("plans");
    let order: Vec<_> = plan
        .backups
        .iter()
        .flat_map(|backup| {
            backup.folder.objects.iter().chain(&backup.wals).chain(&backup.folder.entry)
        })
        .cloned()
        .collect();
    retention::apply(&whole, &MemoryCloud::default(), plan, &Cancel::new()).await.expect("deletes");
    let finished = keys(whole.store()).await;
    for deleted in 0..order.len() {
        let catalog = pg15().await;
        for (_, answer) in catalog.store().delete(order[..deleted].to_vec()).await {
            answer.expect("memory");
        }
        delete(&catalog, &policy("REDUNDANCY 1")).await.expect("deletes");
        assert_eq!(keys(catalog.store()).await, finished, "after {deleted} objects");
    }
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

const SNAPSHOTS: [&str; 2] = ["snap-7f6712ac48c922b18", "snap-7cd545b1ec6eb8a23"];

async fn delete_with(
    cloud: &MemoryCloud,
    catalog: &Catalog,
) -> Result<DeleteSummary, RetentionError> {
    let plan = plan_at(catalog, &policy("REDUNDANCY 0"), &OPTIONS, fixtures::now()).await?;
    retention::apply(catalog, cloud, plan, &Cancel::new()).await
}

#[tokio::test]
async fn snapshots_of_barman_go_with_their_backup_and_absent_ones_do_not_hinder() {
    let catalog = fixtures::catalog("contract", "snap", "main").await;
    let cloud = MemoryCloud::default().with(SNAPSHOTS[1], "vol-1", "").with("snap-x", "vol-1", "");
    let summary = delete_with(&cloud, &catalog).await.expect("deletes");
    assert_eq!((summary.snapshots, summary.backups.len()), (1, 1));
    assert_eq!(cloud.ids(), ["snap-x"]);
    assert!(keys(catalog.store()).await.is_empty());
}

#[tokio::test]
async fn a_backup_with_a_locked_snapshot_stays_as_a_whole() {
    let catalog = fixtures::catalog("contract", "snap", "main").await;
    let key = "snap/main/base/20261121T001847/backup.info";
    let text = std::fs::read_to_string(fixtures::path("contract").join(key)).expect("fixture");
    // The second one is recorded as locked: it must be tried first.
    let cut = text.rfind("'snapshot_lock_mode': None").expect("the second snapshot");
    let locked = text[cut..].replacen("None", "'governance'", 1);
    write(catalog.store(), key, format!("{}{locked}", &text[..cut])).await;
    let before = keys(catalog.store()).await;
    let cloud =
        MemoryCloud::default().with(SNAPSHOTS[0], "vol-1", "").with(SNAPSHOTS[1], "vol-2", "");
    let cloud = cloud.locked(SNAPSHOTS[1]);
    let error = delete_with(&cloud, &catalog).await.expect_err("locked");
    assert!(matches!(error, RetentionError::Snapshot { .. }), "{error}");
    assert_eq!(cloud.ids(), SNAPSHOTS);
    assert_eq!(keys(catalog.store()).await, before);
}

#[tokio::test]
async fn what_a_killed_run_had_claimed_is_found_in_the_cloud_and_swept() {
    let catalog = empty_catalog();
    let folder = "p/main/base/20260101T000000";
    let claim = r#"{"format":1,"tool":"t","backup_name":null,"method":"snapshot",
        "started":"2026-01-01T00:00:00Z","host":"h","process":1,"snapshots":{"provider":"aws",
        "provider_info":{"region":"r"},"server_name":"main","run":"h/1",
        "disks":[{"disk":"pgdata","volume_id":"vol-1"}]}}"#;
    write(catalog.store(), &format!("{folder}/started.json"), claim).await;
    let marker = "barman-cloud backup 20260101T000000 of server main by h/1";
    let cloud = MemoryCloud::default().with("snap-1", "vol-1", marker).with("snap-2", "vol-1", "");
    let later = fixtures::now() + ABANDONED_AFTER + ABANDONED_AFTER;
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, later).await.expect("plans");
    let swept = retention::apply(&catalog, &cloud, plan, &Cancel::new()).await.expect("sweeps");
    assert_eq!((swept.snapshots, cloud.ids()), (1, vec!["snap-2".to_string()]));
    assert!(keys(catalog.store()).await.is_empty());
}

#[tokio::test]
async fn a_backup_of_an_unknown_provider_stays_and_is_told() {
    let catalog = fixtures::catalog("contract", "snap", "main").await;
    let key = "snap/main/base/20261121T001847/backup.info";
    let text = std::fs::read_to_string(fixtures::path("contract").join(key)).expect("fixture");
    write(catalog.store(), key, text.replace("'provider': 'aws'", "'provider': 'moon'")).await;
    let error = delete_with(&MemoryCloud::default(), &catalog).await.expect_err("unknown");
    assert!(matches!(error, RetentionError::SnapshotRecord { .. }), "{error}");
}
