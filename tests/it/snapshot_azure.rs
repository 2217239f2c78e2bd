//! Snapshots on Azure, against a strict stand-in for Resource Manager.
//!
//! It proves that what we send is what the documents describe, and that nothing stays behind
//! whatever goes wrong when. It cannot prove that Azure answers as documented, how long it
//! takes, or which roles are enough.

use crate::control_planes::azure::{
    AzureFake, CLIENT, CLIENT_SECRET, GROUP, LOCATION, SUBSCRIPTION, TENANT, Tracking, broken,
    forbidden, refused, resource_id, throttled,
};
use crate::control_planes::server::Fault;
use crate::support::snapshots::{MARKER, expected, find, options, plan, take, take_or_clean};
use barman_cloud::cloud::{AzureCredentialKind, Environment};
use barman_cloud::snapshot::{
    AzureSnapshot, CreateRequest, Deletion, DiskFilter, ProviderRecord, SnapshotCloud,
    SnapshotErrorKind, SnapshotPlace, SnapshotRecord, SnapshotState, open,
};
use futures::future::join_all;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const DISKS: [&str; 2] = ["pg-data", "pg-wal"];
pub const SNAPSHOTS: [&str; 2] = ["pg-data-20261121t074507", "pg-wal-20261121t074507"];

pub fn cloud(fake: &AzureFake) -> Arc<dyn SnapshotCloud> {
    let endpoint = fake.endpoint();
    let environment = Environment::of([
        ("AZURE_RESOURCE_MANAGER_ENDPOINT", endpoint.as_str()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint.as_str()),
    ]);
    let mut options = options();
    options.azure_credential = Some(AzureCredentialKind::ManagedIdentity);
    open(&place(), &options, &environment).expect("a cloud")
}

fn place() -> SnapshotPlace {
    SnapshotPlace::Azure { subscription_id: SUBSCRIPTION.into(), resource_group: GROUP.into() }
}

/// A machine with three data disks, whose names are parts of each other.
pub fn machine() -> AzureFake {
    let fake = AzureFake::start().expect("the fake starts");
    for disk in ["pg-data", "pg-wal", "data"] {
        fake.add_disk(disk);
    }
    fake.add_machine("pg", &[("data", 0), ("pg-data", 1), ("pg-wal", 2)]);
    fake
}

fn record(name: &str) -> SnapshotRecord {
    let (location, lun) = (Some(LOCATION.to_string()), None);
    SnapshotRecord::Azure(AzureSnapshot { location, lun, snapshot_name: name.to_string() })
}

#[tokio::test]
async fn the_disks_of_an_azure_machine_are_found_by_whole_names_with_their_links() {
    let fake = machine();
    let cloud = cloud(&fake);
    let instance = find(&*cloud, &DISKS).await.expect("an instance");
    let names: Vec<&str> = instance.volumes.iter().map(|v| v.names[0].as_str()).collect();
    assert_eq!(names, DISKS);
    assert_eq!(instance.others, ["data"]);
    let volume = &instance.volumes[0];
    assert_eq!(volume.id, resource_id("disks", "pg-data"));
    assert_eq!((volume.lun, volume.location.as_deref()), (Some(1), Some(LOCATION)));
    let links = ["/dev/disk/azure/scsi1/lun1", "/dev/disk/azure/data/by-lun/1"];
    assert_eq!(volume.clues.paths, links.map(Path::new));
    assert_eq!(volume.source_snapshot, None);
}

#[tokio::test]
async fn an_azure_machine_that_is_not_there_is_told_from_one_in_another_group() {
    let fake = machine();
    let missing = cloud(&fake).instance("other", &DiskFilter::All).await.expect_err("missing");
    assert_eq!(missing.kind, SnapshotErrorKind::InstanceMissing);
    assert!(missing.message.contains("\"other\""), "{missing}");
    assert!(missing.message.contains(GROUP), "{missing}");

    let endpoint = fake.endpoint();
    let environment = Environment::of([
        ("AZURE_RESOURCE_MANAGER_ENDPOINT", endpoint.as_str()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint.as_str()),
    ]);
    let place = SnapshotPlace::Azure {
        subscription_id: SUBSCRIPTION.into(),
        resource_group: "elsewhere".into(),
    };
    let cloud = open(&place, &options(), &environment).expect("a cloud");
    let error = cloud.instance("pg", &DiskFilter::All).await.expect_err("no such group");
    assert_eq!(error.kind, SnapshotErrorKind::InstanceMissing);
    assert!(error.message.contains("ResourceGroupNotFound"), "{error}");
    assert!(error.hint.is_some());
}

#[tokio::test]
async fn azure_snapshots_are_incremental_copies_beside_the_machine() {
    let fake = machine();
    let cloud = cloud(&fake);
    let records = take(&*cloud, &DISKS).await.expect("snapshots");
    assert_eq!(
        records[1],
        SnapshotRecord::Azure(AzureSnapshot {
            location: Some(LOCATION.into()),
            lun: Some(2),
            snapshot_name: SNAPSHOTS[1].into(),
        })
    );
    let snapshot = fake.snapshot(SNAPSHOTS[0]).expect("a snapshot");
    assert_eq!(snapshot["location"], LOCATION);
    let properties = &snapshot["properties"];
    assert_eq!(properties["incremental"], true);
    assert_eq!(properties["provisioningState"], "Succeeded");
    let data = json!({
        "createOption": "Copy",
        "sourceResourceId": resource_id("disks", "pg-data"),
    });
    assert_eq!(properties["creationData"], data);
    assert_eq!(snapshot["tags"], json!({"barman-cloud-backup": MARKER}));
    let provider = ProviderRecord::Azure {
        subscription_id: Some(SUBSCRIPTION.into()),
        resource_group: Some(GROUP.into()),
    };
    assert_eq!(cloud.provider_record(&records), provider);
    assert_eq!(fake.tokens_issued(), 1);
}

#[tokio::test]
async fn both_azure_snapshots_are_asked_for_before_either_is_waited_for() {
    let fake = machine();
    take(&*cloud(&fake), &DISKS).await.expect("snapshots");
    let requests = fake.requests();
    let at = |wanted: &str| requests.iter().position(|request| request.contains(wanted));
    let last_put = requests.iter().rposition(|request| request.starts_with("PUT "));
    assert!(last_put < at("/operations/"), "{requests:#?}");
}

#[tokio::test]
async fn azure_operations_are_followed_in_each_way_they_can_be_told() {
    let ways = [Tracking::Both, Tracking::LocationOnly, Tracking::Resource];
    let tries = ways.map(|tracking| async move {
        let fake = machine();
        fake.behave(|behaviour| {
            behaviour.tracking = tracking;
            behaviour.pending_polls = 3;
            behaviour.retry_after = None;
        });
        let cloud = cloud(&fake);
        let records = take(&*cloud, &DISKS).await.expect("snapshots");
        let deleted = join_all(records.iter().map(|record| cloud.delete(record))).await;
        assert_eq!(deleted, vec![Ok(Deletion::Deleted); 2], "{tracking:?}");
        assert!(fake.snapshots().is_empty(), "{tracking:?}");
    });
    join_all(tries).await;
}

#[tokio::test]
async fn an_azure_snapshot_that_is_not_visible_yet_is_being_created() {
    let fake = machine();
    fake.behave(|behaviour| behaviour.hidden_gets = 3);
    take(&*cloud(&fake), &DISKS).await.expect("snapshots");
}

#[tokio::test]
async fn an_azure_snapshot_whose_data_follows_is_complete_at_a_hundred_percent() {
    let fake = machine();
    fake.behave(|behaviour| {
        behaviour.pending_polls = 0;
        behaviour.copy_gets = 1;
    });
    let cloud = cloud(&fake);
    let instance = find(&*cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS[..1]).expect("a plan");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &[] };
    let records = cloud.create(&request).await.expect("snapshots");
    let states = [SnapshotState::Copying { percent: Some(50) }, SnapshotState::Complete];
    for state in states {
        assert_eq!(cloud.states(&records).await, Ok(vec![state]));
    }
}

#[tokio::test]
async fn an_azure_operation_that_fails_says_why() {
    let fake = machine();
    fake.behave(|behaviour| {
        let failure = ("SnapshotCountExceeded", "The limit of 500 was reached.");
        behaviour.operations_fail = Some((failure.0.into(), failure.1.into()));
    });
    let cloud = cloud(&fake);
    let error = take(&*cloud, &DISKS).await.expect_err("failed");
    assert_eq!(error.kind, SnapshotErrorKind::Broken);
    let reason = "failed: The limit of 500 was reached (SnapshotCountExceeded)";
    assert!(error.message.ends_with(reason), "{error}");
}

#[tokio::test]
async fn a_denied_azure_snapshot_names_the_action() {
    let fake = machine();
    let action = "Microsoft.Compute/snapshots/write";
    fake.fail("PUT", "/snapshots/", 0, 1, forbidden(action));
    let error = take_or_clean(&*cloud(&fake), &DISKS).await.expect_err("denied");
    assert_eq!(error.kind, SnapshotErrorKind::Denied);
    assert!(error.message.contains(action), "{error}");
    assert!(error.message.contains("(403 AuthorizationFailed)"), "{error}");
    assert!(fake.snapshots().is_empty());
}

#[tokio::test]
async fn azure_snapshots_need_no_permission_to_look_at_operations() {
    let fake = machine();
    let action = "Microsoft.Compute/locations/operations/read";
    fake.fail("GET", "/operations/", 0, usize::MAX, forbidden(action));
    let cloud = cloud(&fake);
    let records = take(&*cloud, &DISKS).await.expect("snapshots");
    let deleted = join_all(records.iter().map(|record| cloud.delete(record))).await;
    assert_eq!(deleted, vec![Ok(Deletion::Deleted); 2]);
}

#[tokio::test]
async fn azure_throttling_is_waited_for_as_long_as_it_asks() {
    let fake = machine();
    fake.fail("PUT", "/snapshots/", 0, 1, throttled(1));
    let begun = Instant::now();
    take(&*cloud(&fake), &DISKS).await.expect("snapshots");
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn an_azure_snapshot_of_the_same_name_is_neither_taken_for_new_nor_removed() {
    let fake = machine();
    let first = cloud(&fake);
    take(&*first, &DISKS[..1]).await.expect("an older snapshot");
    let error = take_or_clean(&*cloud(&fake), &DISKS).await.expect_err("there already");
    assert!(error.message.contains("is there already"), "{error}");
    assert_eq!(fake.snapshots(), SNAPSHOTS[..1]);
}

/// What can go wrong with one request, and whether the backup survives it.
pub fn faults() -> Vec<(&'static str, usize, Fault)> {
    vec![
        ("denied", 1, forbidden("any")),
        ("lost once", 1, Fault::LoseAnswer),
        ("lost each time", 4, Fault::LoseAnswer),
        ("busy", 1, broken(503)),
    ]
}

#[tokio::test]
async fn a_fault_at_any_request_leaves_no_azure_snapshot_behind() {
    let whole = machine();
    take(&*cloud(&whole), &DISKS).await.expect("snapshots");
    // Machine and two disks, two looks for namesakes, two requests, and what follows them.
    let requests = whole.requests().len();
    assert!(requests >= 11, "{:#?}", whole.requests());
    for (name, times, fault) in faults() {
        // Of the last requests not all four may come.
        let tries = (0..requests - times + 1).map(|passed| {
            let fault = fault.clone();
            async move {
                let fake = machine();
                fake.fail("", "/subscriptions/", passed, times, fault);
                let cloud = cloud(&fake);
                let at = format!("{name} at request {passed}");
                match take_or_clean(&*cloud, &DISKS).await {
                    Ok(records) => {
                        assert_eq!(fake.snapshots(), SNAPSHOTS, "{at}");
                        for record in &records {
                            assert_eq!(cloud.delete(record).await, Ok(Deletion::Deleted), "{at}");
                        }
                    }
                    Err(error) => {
                        assert!(["denied", "lost each time"].contains(&name), "{at}: {error}");
                    }
                }
                assert!(fake.snapshots().is_empty(), "{at}: {:?}", fake.requests());
            }
        });
        join_all(tries).await;
    }
}

#[tokio::test]
async fn deleting_an_azure_snapshot_that_is_gone_is_success() {
    let fake = machine();
    let cloud = cloud(&fake);
    assert_eq!(cloud.delete(&record("gone")).await, Ok(Deletion::Absent));
}

#[tokio::test]
async fn an_azure_snapshot_that_is_still_being_created_is_deleted_afterwards() {
    let fake = machine();
    let cloud = cloud(&fake);
    let instance = find(&*cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS).expect("a plan");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &[] };
    for record in cloud.create(&request).await.expect("asked for") {
        assert_eq!(cloud.delete(&record).await, Ok(Deletion::Deleted));
    }
    assert!(fake.snapshots().is_empty());
}

#[tokio::test]
async fn a_management_lock_keeps_an_azure_snapshot_and_is_told_as_a_lock() {
    let fake = machine();
    let cloud = cloud(&fake);
    let records = take(&*cloud, &DISKS[..1]).await.expect("a snapshot");
    fake.behave(|behaviour| behaviour.scope_locked = true);
    let error = cloud.delete(&records[0]).await.expect_err("locked");
    assert_eq!(error.kind, SnapshotErrorKind::Locked);
    assert!(error.message.contains("ScopeLocked"), "{error}");
    assert_eq!(fake.snapshots(), SNAPSHOTS[..1]);
}

#[tokio::test]
async fn azure_tokens_are_renewed_and_come_from_a_client_secret_as_well() {
    let fake = machine();
    // Used for half of its life, so that none expires in a request.
    fake.token_lifetime(Duration::from_secs(1));
    let endpoint = fake.endpoint();
    let variables = [
        ("AZURE_RESOURCE_MANAGER_ENDPOINT", endpoint.as_str()),
        ("AZURE_AUTHORITY_HOST", endpoint.as_str()),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
    ];
    let environment = Environment::of(variables);
    let cloud = open(&place(), &options(), &environment).expect("a cloud");
    find(&*cloud, &DISKS).await.expect("an instance");
    tokio::time::sleep(Duration::from_millis(600)).await;
    find(&*cloud, &DISKS).await.expect("an instance");
    assert_eq!(fake.tokens_issued(), 2);

    let wrong = variables.map(|(name, value)| match name {
        "AZURE_CLIENT_SECRET" => (name, "wrong"),
        _ => (name, value),
    });
    let cloud = open(&place(), &options(), &Environment::of(wrong)).expect("a cloud");
    let error = find(&*cloud, &DISKS).await.expect_err("no token");
    assert!(error.message.contains("AADSTS7000215"), "{error}");
    assert!(!error.message.contains("wrong"), "{error}");
}

#[tokio::test]
async fn an_azure_disk_given_by_its_id_in_any_case_is_backed_up_under_its_name() {
    let fake = machine();
    let id = resource_id("disks", "pg-data").replace("resourceGroups", "RESOURCEGROUPS");
    take(&*cloud(&fake), &[&id]).await.expect("a snapshot");
    assert_eq!(fake.snapshots(), SNAPSHOTS[..1]);
}

#[tokio::test]
async fn names_that_azure_would_refuse_are_refused_before_anything_is_asked() {
    let fake = machine();
    let long = "d".repeat(70);
    fake.add_disk(&long);
    fake.add_machine("pg", &[(&long, 0)]);
    let error = take(&*cloud(&fake), &[&long]).await.expect_err("too long");
    assert!(error.hint.expect("hint").contains("leaves 64"));
    assert!(!fake.requests().iter().any(|request| request.starts_with("PUT ")));
}

#[tokio::test]
async fn azure_snapshots_of_another_run_with_the_same_name_are_left_alone() {
    let fake = machine();
    let cloud = cloud(&fake);
    take(&*cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = find(&*cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS[..1]).expect("a plan");
    let other = cloud.find(&expected(&planned), "another run").await.expect("looked");
    assert_eq!(other, []);
    assert_eq!(cloud.find(&expected(&planned), MARKER).await.expect("looked").len(), 1);
}

#[tokio::test]
async fn azure_refusals_that_do_not_pass_are_told_at_once() {
    for code in ["QuotaExceeded", "OperationNotAllowed", "PropertyChangeNotAllowed"] {
        let fake = machine();
        let cloud = cloud(&fake);
        let records = take(&*cloud, &DISKS[..1]).await.expect("a snapshot");
        fake.fail("DELETE", "/snapshots/", 0, usize::MAX, Fault::Refuse(refused(code)));
        let error = cloud.delete(&records[0]).await.expect_err("refused");
        assert!(error.message.contains(code), "{error}");
        let tries = fake.requests().iter().filter(|r| r.starts_with("DELETE ")).count();
        assert_eq!(tries, 1, "{code}");
    }
}

#[tokio::test]
async fn a_look_that_is_throttled_does_not_abandon_azure_snapshots() {
    let fake = machine();
    // More often than one call is repeated.
    fake.fail("GET", "/operations/", 0, 12, broken(503));
    take(&*cloud(&fake), &DISKS).await.expect("snapshots");
}

#[tokio::test]
async fn azure_operations_are_not_looked_at_before_the_time_they_name() {
    let fake = machine();
    fake.behave(|behaviour| {
        behaviour.retry_after = Some(3600);
        behaviour.pending_polls = 1000;
    });
    let cloud = cloud(&fake);
    let instance = find(&*cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS).expect("a plan");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &[] };
    let records = cloud.create(&request).await.expect("asked for");
    let before = fake.requests().len();
    for _ in 0..5 {
        let creating = vec![SnapshotState::Creating; 2];
        assert_eq!(cloud.states(&records).await, Ok(creating));
    }
    assert_eq!(fake.requests().len(), before);
}
