//! Deletions that are cut short, and what happens beside them, on stores that go wrong.

use crate::catalog::fixtures::{self, empty_catalog, keys, limits, write};
use crate::catalog::{
    Backup, BackupId, BackupInfo, BackupMethod, BackupRecord, BackupStatus, Catalog, KeepTarget,
    StartedRecord, TarballRecord,
};
use crate::flow::Cancel;
use crate::retention::tests::{OPTIONS, plan_at, policy};
use crate::retention::{self, DeleteSummary, DeleteTarget, RetentionError};
use crate::snapshot::memory::MemoryCloud;
use crate::store::ObjectKey;
use crate::store::scripted::Then;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

async fn delete(catalog: &Catalog, target: &DeleteTarget) -> Result<DeleteSummary, RetentionError> {
    let plan = plan_at(catalog, target, &OPTIONS, fixtures::now()).await?;
    retention::apply(catalog, &MemoryCloud::default(), plan, &Cancel::new()).await
}

/// The same objects, of which only the first so many may be written or deleted: then the process
/// is killed.
fn killed_after(catalog: &Catalog, changes: usize) -> Catalog {
    let done = AtomicUsize::new(0);
    let store = catalog.store().scripted(move |method, _| {
        let changes_it = matches!(method, "PUT" | "DELETE");
        let before = done.fetch_add(usize::from(changes_it), Ordering::SeqCst);
        if changes_it && before >= changes || before > changes { Then::Fail } else { Then::Go }
    });
    Catalog::new(store, catalog.layout().clone())
}

/// The objects of each folder below `base/`.
async fn folders(catalog: &Catalog) -> BTreeMap<String, Vec<String>> {
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in keys(catalog.store()).await {
        if let Some((_, below)) = key.split_once("/base/") {
            let (id, name) = below.split_once('/').expect("an object of a backup");
            folders.entry(id.into()).or_default().push(name.into());
        }
    }
    folders
}

/// Two backups of ours that began an hour after each other, and the WAL of both.
async fn ours() -> Catalog {
    let catalog = empty_catalog();
    for (hour, segment) in [(1, 2), (2, 5)] {
        let started: Timestamp = format!("2026-01-01T0{hour}:00:00Z").parse().expect("time");
        let claim = StartedRecord {
            tool: "test".into(),
            name: None,
            method: BackupMethod::Files,
            started,
            host: "db1".into(),
            process: 1,
            snapshots: None,
        };
        let id = catalog.claim(&claim).await.expect("claims");
        for name in ["data.tar", "data_0001.tar"] {
            write(catalog.store(), &format!("p/main/base/{id}/{name}"), "abc").await;
        }
        write(catalog.store(), &format!("p/main/base/{id}/backup_manifest"), "{}").await;
        catalog.publish(&record(&id, started, segment)).await.expect("publishes");
    }
    for segment in 1..7 {
        let name = format!("{:08X}{:08X}{segment:08X}", 1, 0);
        write(catalog.store(), &format!("p/main/wals/{}/{name}", &name[..16]), "").await;
    }
    catalog
}

fn record(id: &BackupId, started: Timestamp, segment: u64) -> BackupRecord {
    let time = Some(started.to_zoned(jiff::tz::TimeZone::UTC));
    let lsn = |offset| Some(crate::wal::Lsn::new(segment * 0x100_0000 + offset));
    let tarball = |name: &str| TarballRecord {
        name: name.into(),
        stored_bytes: 3,
        raw_bytes: 3,
        members: 1,
        sha256: String::new(),
        index: None,
    };
    BackupRecord {
        id: id.clone(),
        tool: "test".into(),
        method: BackupMethod::Files,
        info: BackupInfo {
            status: Some(BackupStatus::Done),
            timeline: crate::wal::TimelineId::new(1).ok(),
            begin_time: time.clone(),
            end_time: time,
            begin_xlog: lsn(0x28),
            end_xlog: lsn(0x100),
            ..BackupInfo::default()
        },
        compression: None,
        tarballs: vec![tarball("data.tar"), tarball("data_0001.tar")],
        statistics: None,
        damaged_files: Vec::new(),
        warnings: Vec::new(),
        other: serde_json::Map::new(),
    }
}

async fn copy_of(original: &Catalog) -> Catalog {
    let copy = Catalog::new(crate::store::Store::memory(), original.layout().clone());
    for key in keys(original.store()).await {
        let content = original.store().get(&ObjectKey::parse(&key).expect("key")).await;
        write(copy.store(), &key, content.expect("memory").expect("there")).await;
    }
    copy
}

/// The two promises about a killed deletion: what is listed as DONE is whole to the last object,
/// and what was begun is finished by the next run, whatever that is asked for.
async fn no_break_leaves_half_a_backup(original: &Catalog, target: &DeleteTarget) {
    let before = folders(original).await;
    let whole = copy_of(original).await;
    delete(&whole, target).await.expect("deletes");
    let finished = keys(whole.store()).await;
    for changes in 0.. {
        let catalog = copy_of(original).await;
        let killed = delete(&killed_after(&catalog, changes), target).await;
        let left = folders(&catalog).await;
        let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
        for backup in listing.backups.iter().filter(|backup| backup.is_done()) {
            let id = backup.id.to_string();
            let whole = before[&id].iter().all(|name| left[&id].contains(name));
            assert!(whole, "after {changes} changes: {id} has {:?}", left[&id]);
        }
        assert!(listing.unreadable.is_empty(), "after {changes} changes");
        // Another policy, which has nothing to delete itself.
        delete(&catalog, &policy("REDUNDANCY 9")).await.expect("finishes");
        for (id, names) in folders(&catalog).await {
            let names: Vec<&String> =
                names.iter().filter(|name| *name != "deletion.json").collect();
            assert_eq!(names.len(), before[&id].len(), "after {changes} changes: {names:?}");
        }
        delete(&catalog, target).await.expect("deletes");
        assert_eq!(keys(catalog.store()).await, finished, "after {changes} changes");
        if killed.is_ok() {
            assert!(changes > 5, "it is about something");
            return;
        }
    }
}

#[tokio::test]
async fn a_deletion_of_our_backups_that_breaks_off_anywhere_leaves_no_half_backup() {
    no_break_leaves_half_a_backup(&ours().await, &policy("REDUNDANCY 1")).await;
}

#[tokio::test]
async fn a_deletion_of_backups_of_barman_that_breaks_off_anywhere_leaves_no_half_backup() {
    let catalog = fixtures::catalog("contract", "pg15", "main").await;
    no_break_leaves_half_a_backup(&catalog, &policy("REDUNDANCY 1")).await;
}

#[tokio::test]
async fn one_undeletable_tarball_leaves_no_entry_and_is_tried_again() {
    let catalog = ours().await;
    let stubborn = catalog.store().scripted(|method, name| {
        if method == "DELETE" && name.ends_with("data_0001.tar") { Then::Fail } else { Then::Go }
    });
    let stubborn = Catalog::new(stubborn, catalog.layout().clone());
    for _ in 0..2 {
        let error = delete(&stubborn, &policy("REDUNDANCY 1")).await.expect_err("one stays");
        assert!(matches!(error, RetentionError::NotDeleted { .. }), "{error}");
        let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
        assert_eq!((listing.backups.len(), listing.begun.len()), (1, 1));
    }
    delete(&catalog, &policy("REDUNDANCY 1")).await.expect("finishes");
    assert_eq!(folders(&catalog).await.len(), 1);
}

#[tokio::test]
async fn an_identity_that_may_not_write_deletes_all_the_same_and_the_entry_goes_first() {
    let catalog = ours().await;
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&order);
    let store = catalog.store().scripted(move |method, name| {
        if method == "DELETE" {
            seen.lock().expect("no panics").push(name.to_string());
        }
        Then::Go
    });
    let noting = Catalog::new(store, catalog.layout().clone());
    delete(&noting, &policy("REDUNDANCY 1")).await.expect("deletes");
    let order = order.lock().expect("no panics");
    assert!(order[0].ends_with("/backup.info"), "{order:?}");
    assert!(order.last().expect("some").ends_with("/deletion.json"), "{order:?}");
}

/// Sets a keep on the older backup just before a certain request, and deletes.
async fn kept_before(request: &'static str, name: &'static str) -> (Catalog, RetentionError) {
    let catalog = ours().await;
    let store = catalog.store().scripted(move |method, asked| {
        if method == request && asked.ends_with(name) {
            let keep = "p/main/base/20260101T010000/annotations/keep";
            return Then::After(keep.into(), "full");
        }
        Then::Go
    });
    let racing = Catalog::new(store, catalog.layout().clone());
    let error = delete(&racing, &policy("REDUNDANCY 1")).await.expect_err("kept");
    (catalog, error)
}

#[tokio::test]
async fn a_keep_that_appears_between_plan_and_deletion_is_honoured() {
    // Before the first look, after it, and after the mark was written.
    for (request, name) in [
        ("GET", "20260101T010000/annotations/keep"),
        ("GET", "20260101T010000/backup.info"),
        ("PUT", "20260101T010000/deletion.json"),
        ("DELETE", "20260101T010000/backup.info"),
    ] {
        let (catalog, error) = kept_before(request, name).await;
        assert!(matches!(error, RetentionError::Kept { .. }), "{request} {name}: {error}");
        let listing = catalog.load(&limits(), fixtures::now()).await.expect("loads");
        let kept: Vec<_> = listing.backups.iter().map(Backup::kept).collect();
        assert_eq!(kept, [Some(KeepTarget::Full), None], "{request} {name}");
        assert!(listing.backups.iter().all(Backup::is_done), "{request} {name}");
        let wals = keys(catalog.store()).await.iter().filter(|key| key.contains("/wals/")).count();
        assert_eq!(wals, 6, "{request} {name}");
    }
}

#[tokio::test]
async fn a_keep_that_cannot_be_looked_for_is_no_missing_keep() {
    let catalog = ours().await;
    let before = keys(catalog.store()).await;
    let store = catalog.store().scripted(|method, name| {
        if method == "GET" && name.ends_with("annotations/keep") { Then::Fail } else { Then::Go }
    });
    let blind = Catalog::new(store, catalog.layout().clone());
    delete(&blind, &policy("REDUNDANCY 1")).await.expect_err("not known");
    assert_eq!(keys(catalog.store()).await, before);
}

#[tokio::test]
async fn a_standalone_keep_that_becomes_a_full_one_meanwhile_holds_all_wal() {
    let catalog = ours().await;
    let id = BackupId::parse("20260101T010000").expect("id");
    catalog.set_keep(&id, KeepTarget::Standalone, fixtures::now()).await.expect("keeps");
    let third = "p/main/base/20260101T030000";
    let started: Timestamp = "2026-01-01T03:00:00Z".parse().expect("time");
    let newest = BackupId::parse("20260101T030000").expect("id");
    for name in ["data.tar", "data_0001.tar"] {
        write(catalog.store(), &format!("{third}/{name}"), "abc").await;
    }
    catalog.publish(&record(&newest, started, 6)).await.expect("publishes");
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, fixtures::now()).await;
    let plan = plan.expect("plans");
    assert!(!plan.backups[0].wals.is_empty());
    catalog.set_keep(&id, KeepTarget::Full, fixtures::now()).await.expect("keeps");
    let cloud = MemoryCloud::default();
    let summary = retention::apply(&catalog, &cloud, plan, &Cancel::new()).await.expect("deletes");
    assert_eq!((summary.backups.len(), summary.wals), (1, 0));
}

#[tokio::test]
async fn a_backup_that_lacks_its_entry_alone_gets_it_back_and_its_wal_stays() {
    let catalog = ours().await;
    let before = keys(catalog.store()).await;
    let entry = "p/main/base/20260101T010000/backup.info";
    catalog.delete_one(ObjectKey::parse(entry).expect("key")).await.expect("deletes");
    let later = fixtures::now() + SignedDuration::from_hours(100);
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, later).await.expect("plans");
    assert!(plan.backups.is_empty() && plan.leftovers.is_empty());
    assert_eq!(plan.repairs.len(), 1);
    let cloud = MemoryCloud::default();
    retention::apply(&catalog, &cloud, plan, &Cancel::new()).await.expect("repairs");
    assert_eq!(keys(catalog.store()).await, before);
    let listing = catalog.load(&limits(), later).await.expect("loads");
    assert_eq!(listing.backups.iter().filter(|backup| backup.is_done()).count(), 2);
}

/// Between its two records a backup is in nobody's list, and needs its WAL all the same.
#[tokio::test]
async fn the_wal_of_a_backup_that_is_just_being_published_stays() {
    let catalog = ours().await;
    let started: Timestamp = "2026-01-01T03:00:00Z".parse().expect("time");
    let newest = BackupId::parse("20260101T030000").expect("id");
    for name in ["data.tar", "data_0001.tar"] {
        write(catalog.store(), &format!("p/main/base/{newest}/{name}"), "abc").await;
    }
    // Taken on a standby that is late: it begins before the backup that stays.
    catalog.publish(&record(&newest, started, 3)).await.expect("publishes");
    let entry = catalog.layout().backup_object(&newest, "backup.info");
    catalog.delete_one(entry).await.expect("deletes");
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, fixtures::now()).await;
    let plan = plan.expect("plans");
    assert!(plan.repairs.is_empty());
    let wals: Vec<&str> = plan.backups[0].wals.iter().map(ObjectKey::file_name).collect();
    assert_eq!(wals, ["000000010000000000000001", "000000010000000000000002"]);
}

#[tokio::test]
async fn what_is_left_of_a_kept_backup_is_not_swept() {
    let catalog = empty_catalog();
    let folder = "p/main/base/20260101T000000";
    for (name, content) in [("started.json", "{}"), ("data.tar", "x"), ("annotations/keep", "full")]
    {
        write(catalog.store(), &format!("{folder}/{name}"), content).await;
    }
    let later = fixtures::now() + SignedDuration::from_hours(100);
    let plan = plan_at(&catalog, &policy("REDUNDANCY 1"), &OPTIONS, later).await.expect("plans");
    assert!(plan.leftovers.is_empty());
}

#[tokio::test]
async fn a_backup_that_lost_a_tarball_does_not_count_and_its_wal_stays() {
    for (target, left) in [(policy("REDUNDANCY 1"), 2), (policy("RECOVERY WINDOW OF 0 DAYS"), 2)] {
        let catalog = ours().await;
        let lost = "p/main/base/20260101T020000/data_0001.tar";
        write(catalog.store(), lost, "ab").await;
        delete(&catalog, &target).await.expect("deletes nothing");
        assert_eq!(folders(&catalog).await.len(), left);
        let wals = keys(catalog.store()).await.iter().filter(|key| key.contains("/wals/")).count();
        assert_eq!(wals, 6);
    }
}
