//! Deletions of backups made of snapshots, on a cloud in memory.

use crate::catalog::fixtures::{self, empty_catalog, keys, write};
use crate::catalog::{ABANDONED_AFTER, Catalog};
use crate::flow::Cancel;
use crate::retention::tests::{OPTIONS, plan_at, policy};
use crate::retention::{self, DeleteSummary, RetentionError};
use crate::snapshot::memory::MemoryCloud;

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
    let cloud = MemoryCloud::default().with(SNAPSHOTS[1], "").with("snap-x", "");
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
    let cloud = MemoryCloud::default().with(SNAPSHOTS[0], "").with(SNAPSHOTS[1], "");
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
    let cloud = MemoryCloud::default().with("snap-1", marker).with("snap-2", "");
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
