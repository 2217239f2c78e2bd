//! Snapshots on Google Cloud, against a strict stand-in for Compute Engine.
//!
//! It proves that what we send is what the documents describe, and that nothing stays behind
//! whatever goes wrong when. It cannot prove that Google answers as documented, how long it
//! takes, or which permissions are enough.

use crate::control_planes::google::{
    GoogleFake, PROJECT, ZONE, broken, forbidden, snapshot_path, throttled, too_many_requests,
    zone_path,
};
use crate::control_planes::server::Fault;
use crate::support::snapshots::{MARKER, PATIENCE, RETRY, find, finish, plan, take, take_or_clean};
use async_trait::async_trait;
use barman_cloud::cloud::{
    ApiClient, CloudError, Proxies, TokenSource, Transport, TransportOptions,
};
use barman_cloud::flow::Cancel;
use barman_cloud::snapshot::{
    CreateRequest, Deletion, DiskFilter, Google, GoogleSnapshot, ProviderRecord, SnapshotCloud,
    SnapshotErrorKind, SnapshotRecord, SnapshotState, VolumeRequest,
};
use futures::future::join_all;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DISKS: [&str; 2] = ["pg-data", "pg-wal"];
const SNAPSHOTS: [&str; 2] = ["pg-data-20261121t074507", "pg-wal-20261121t074507"];

/// A token that is given out once. Those of the metadata server are tested with whole processes:
/// its place is told by the process's environment alone.
#[derive(Debug)]
struct Given(String);

#[async_trait]
impl TokenSource for Given {
    async fn token(&self) -> Result<String, CloudError> {
        Ok(self.0.clone())
    }
}

fn cloud(fake: &GoogleFake) -> Google {
    cloud_in(fake, Some(ZONE))
}

fn cloud_in(fake: &GoogleFake, zone: Option<&str>) -> Google {
    let transport = Transport::new(TransportOptions {
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(10),
        unreachable_after: Duration::from_secs(2),
        ca_bundle: None,
        proxies: Proxies::Never,
    });
    let tokens = Arc::new(Given(fake.token()));
    let client = ApiClient::with_bearer(transport, tokens, RETRY);
    Google::new(client, fake.endpoint().parse().expect("a URL"), PROJECT, zone)
}

/// A machine with three data disks, whose names are parts of each other.
fn machine() -> GoogleFake {
    let fake = GoogleFake::start().expect("the fake starts");
    for disk in ["pg-data", "pg-wal", "data"] {
        fake.add_disk(disk);
    }
    fake.add_machine("pg", &[("data", "other"), ("pg-data", "pgdata"), ("pg-wal", "pgwal")]);
    fake
}

fn record(name: &str) -> SnapshotRecord {
    SnapshotRecord::Google(GoogleSnapshot {
        device_name: None,
        snapshot_name: name.to_string(),
        snapshot_project: Some(PROJECT.to_string()),
    })
}

#[tokio::test]
async fn the_disks_of_a_google_machine_are_found_by_whole_names_with_their_links() {
    let fake = machine();
    let instance = find(&cloud(&fake), &DISKS).await.expect("an instance");
    let names: Vec<&str> = instance.volumes.iter().map(|v| v.names[0].as_str()).collect();
    // Neither the boot disk nor "data", which a comparison of endings would take.
    assert_eq!(names, DISKS);
    assert_eq!(instance.others, ["data"]);
    assert_eq!(instance.zone, ZONE);
    let volume = &instance.volumes[0];
    assert_eq!(volume.id, format!("{}/disks/pg-data", zone_path()));
    assert_eq!(volume.device_name, "pgdata");
    assert_eq!(volume.clues.paths, [Path::new("/dev/disk/by-id/google-pgdata")]);
    assert_eq!(volume.source_snapshot, None);
}

#[tokio::test]
async fn a_google_machine_that_is_not_there_is_named_with_its_zone() {
    let fake = machine();
    let cloud = cloud(&fake);
    let error = cloud.instance("other", &DiskFilter::All).await.expect_err("missing");
    assert_eq!(error.kind, SnapshotErrorKind::InstanceMissing);
    for part in ["\"other\"", ZONE, PROJECT] {
        assert!(error.message.contains(part), "{error}");
    }
    let nowhere = cloud_in(&fake, None).instance("pg", &DiskFilter::All).await;
    let error = nowhere.expect_err("no zone");
    assert_eq!(error.kind, SnapshotErrorKind::Settings);
    assert!(error.hint.expect("hint").contains("--gcp-zone"));
}

#[tokio::test]
async fn google_snapshots_are_global_and_carry_the_marker_but_no_labels() {
    let fake = machine();
    let cloud = cloud(&fake);
    let records = take(&cloud, &DISKS).await.expect("snapshots");
    assert_eq!(
        records[1],
        SnapshotRecord::Google(GoogleSnapshot {
            device_name: Some("pgwal".into()),
            snapshot_name: SNAPSHOTS[1].into(),
            snapshot_project: Some(PROJECT.into()),
        })
    );
    let snapshot = fake.snapshot(SNAPSHOTS[0]).expect("a snapshot");
    assert_eq!(snapshot["status"], "READY");
    assert_eq!(snapshot["description"], MARKER);
    assert!(snapshot["labels"].is_null());
    let source = snapshot["sourceDisk"].as_str().expect("a disk");
    assert!(source.ends_with(&format!("/{}/disks/pg-data", zone_path())), "{source}");
    let provider = ProviderRecord::Google { project: Some(PROJECT.into()) };
    assert_eq!(cloud.provider_record(&records), provider);
}

#[tokio::test]
async fn both_google_snapshots_are_asked_for_before_either_is_waited_for() {
    let fake = machine();
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
    let requests = fake.requests();
    let at = |wanted: &str| requests.iter().position(|request| request.contains(wanted));
    let last_post = requests.iter().rposition(|request| request.starts_with("POST "));
    assert!(last_post < at("/operations/"), "{requests:#?}");
}

#[tokio::test]
async fn a_google_snapshot_is_created_then_copied_then_complete() {
    let fake = machine();
    fake.behave(|behaviour| behaviour.pending_polls = 2);
    let cloud = cloud(&fake);
    let instance = find(&cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS[..1]).expect("a plan");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &[] };
    let records = cloud.create(&request).await.expect("asked for");
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.extend(cloud.states(&records).await.expect("states"));
    }
    seen.dedup();
    let copying = SnapshotState::Copying { percent: Some(50) };
    assert_eq!(seen, [copying, SnapshotState::Complete]);
}

#[tokio::test]
async fn a_google_snapshot_that_is_not_visible_yet_is_being_created() {
    let fake = machine();
    fake.behave(|behaviour| behaviour.hidden_gets = 3);
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
}

#[tokio::test]
async fn a_google_operation_that_fails_says_why() {
    let fake = machine();
    fake.behave(|behaviour| {
        let failure = ("QUOTA_EXCEEDED", "Quota 'SNAPSHOTS' exceeded.");
        behaviour.operations_fail = Some((failure.0.into(), failure.1.into()));
    });
    let error = take(&cloud(&fake), &DISKS).await.expect_err("failed");
    assert_eq!(error.kind, SnapshotErrorKind::Broken);
    let reason = "failed: Quota 'SNAPSHOTS' exceeded (QUOTA_EXCEEDED)";
    assert!(error.message.ends_with(reason), "{error}");
}

#[tokio::test]
async fn a_google_warning_does_not_fail_a_snapshot() {
    let fake = machine();
    fake.behave(|behaviour| {
        behaviour.operations_warn = Some(("EXPERIMENTAL_TYPE_USED".into(), "Beware.".into()));
    });
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
}

#[tokio::test]
async fn a_denied_google_snapshot_names_the_permission() {
    let fake = machine();
    let permission = "compute.disks.createSnapshot";
    fake.fail("POST", "/snapshots", 0, 1, forbidden(permission, "projects/p/zones/z/disks/d"));
    let error = take_or_clean(&cloud(&fake), &DISKS).await.expect_err("denied");
    assert_eq!(error.kind, SnapshotErrorKind::Denied);
    assert!(error.message.contains(permission), "{error}");
    assert!(fake.snapshots().is_empty());
}

#[tokio::test]
async fn google_rate_limits_are_waited_for_although_they_look_like_denials() {
    let fake = machine();
    fake.fail("POST", "/snapshots", 0, 2, throttled());
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
    let fake = machine();
    fake.fail("POST", "/snapshots", 0, 1, too_many_requests(1));
    let begun = Instant::now();
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_google_snapshot_whose_answer_was_lost_is_made_once() {
    let fake = machine();
    fake.fail("POST", "/snapshots", 0, 1, Fault::LoseAnswer);
    let records = take(&cloud(&fake), &DISKS).await.expect("snapshots");
    assert_eq!(records.len(), 2);
    assert_eq!(fake.snapshots(), SNAPSHOTS);
}

#[tokio::test]
async fn a_google_snapshot_of_the_same_name_is_neither_taken_for_new_nor_removed() {
    let fake = machine();
    let first = cloud(&fake);
    let instance = find(&first, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS[..1]).expect("a plan");
    let marker = "another backup";
    let request = CreateRequest { instance: &instance, planned: &planned, marker, tags: &[] };
    let records = first.create(&request).await.expect("an older snapshot");
    finish(&first, &records).await.expect("complete");
    let error = take_or_clean(&cloud(&fake), &DISKS).await.expect_err("there already");
    assert!(error.message.contains("409 alreadyExists"), "{error}");
    assert_eq!(fake.snapshots(), SNAPSHOTS[..1]);
}

#[tokio::test]
async fn names_that_google_would_refuse_are_refused_before_anything_is_asked() {
    let fake = machine();
    let long = "d".repeat(50);
    fake.add_disk(&long);
    fake.add_machine("pg", &[(&long, "pgdata")]);
    let error = take(&cloud(&fake), &[&long]).await.expect_err("too long");
    assert!(error.hint.expect("hint").contains("47"));
    assert!(!fake.requests().iter().any(|request| request.starts_with("POST ")));
}

#[tokio::test]
async fn a_google_disk_given_by_its_path_is_backed_up_under_its_name() {
    let fake = machine();
    let path = format!("{}/disks/pg-data", zone_path());
    take(&cloud(&fake), &[&path]).await.expect("a snapshot");
    assert_eq!(fake.snapshots(), SNAPSHOTS[..1]);
}

/// What can go wrong with one request, and how often.
fn faults() -> Vec<(&'static str, usize, Fault)> {
    vec![
        ("denied", 1, forbidden("any", "thing")),
        ("lost once", 1, Fault::LoseAnswer),
        ("lost each time", 4, Fault::LoseAnswer),
        ("busy", 1, broken(503)),
    ]
}

#[tokio::test]
async fn a_fault_at_any_request_leaves_no_google_snapshot_behind() {
    let whole = machine();
    take(&cloud(&whole), &DISKS).await.expect("snapshots");
    // Machine and two disks, two requests, and what follows them.
    let requests = whole.requests().len();
    assert!(requests >= 9, "{:#?}", whole.requests());
    for (name, times, fault) in faults() {
        // Of the last requests not all four may come.
        let tries = (0..requests - times + 1).map(|passed| {
            let fault = fault.clone();
            async move {
                let fake = machine();
                fake.fail("", "/compute/v1/", passed, times, fault);
                let cloud = cloud(&fake);
                let at = format!("{name} at request {passed}");
                match take_or_clean(&cloud, &DISKS).await {
                    Ok(records) => {
                        assert_eq!(fake.snapshots(), SNAPSHOTS, "{at}");
                        assert_ne!(name, "denied", "{at}");
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
async fn deleting_google_snapshots_needs_no_zone_and_gone_ones_are_success() {
    let fake = machine();
    let records = take(&cloud(&fake), &DISKS[..1]).await.expect("a snapshot");
    let cloud = cloud_in(&fake, None);
    assert_eq!(cloud.delete(&records[0]).await, Ok(Deletion::Deleted));
    assert_eq!(cloud.delete(&records[0]).await, Ok(Deletion::Absent));
    assert_eq!(cloud.delete(&record("gone")).await, Ok(Deletion::Absent));
    assert!(fake.snapshots().is_empty());
}

#[tokio::test]
async fn a_google_snapshot_that_is_still_being_created_is_deleted_afterwards() {
    let fake = machine();
    let cloud = cloud(&fake);
    let instance = find(&cloud, &DISKS).await.expect("an instance");
    let planned = plan(&instance, &DISKS).expect("a plan");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &[] };
    for record in cloud.create(&request).await.expect("asked for") {
        assert_eq!(cloud.delete(&record).await, Ok(Deletion::Deleted));
    }
    assert!(fake.snapshots().is_empty());
}

#[tokio::test]
async fn a_google_snapshot_becomes_a_volume_and_goes_without_a_trace() {
    let fake = machine();
    fake.add_machine("recovery", &[]);
    let cloud = cloud(&fake);
    let records = take(&cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let (snapshot, name) = (&records[0], "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let volume = cloud.create_volume(&request, &Cancel::new()).await.expect("a volume");
    assert_eq!(volume.source_snapshot.as_deref(), Some(SNAPSHOTS[0]));
    assert_eq!(volume.clues.paths, [Path::new("/dev/disk/by-id/google-restored")]);
    // A repeated run finds it.
    assert_eq!(cloud.create_volume(&request, &Cancel::new()).await, Ok(volume.clone()));
    let attached = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    assert_eq!(attached.volumes, [volume]);
    cloud.discard_volume(&request).await.expect("discarded");
    cloud.discard_volume(&request).await.expect("nothing to discard");
    assert!(!fake.disks().contains(&"restored".to_string()));
    assert!(fake.snapshot(SNAPSHOTS[0]).is_some(), "{}", snapshot_path(SNAPSHOTS[0]));
}

#[tokio::test]
async fn a_volume_of_a_machine_with_a_regional_boot_disk_is_of_the_zonal_type() {
    let fake = machine();
    let regional = format!("projects/{PROJECT}/regions/europe-west1/diskTypes/pd-ssd");
    fake.add_machine("recovery", &[]);
    fake.set_disk_type("recovery-boot", &regional);
    let cloud = cloud(&fake);
    let records = take(&cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let (snapshot, name) = (&records[0], "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    cloud.create_volume(&request, &Cancel::new()).await.expect("a volume");
    let kind = fake.disk("restored").expect("a disk")["type"].as_str().map(str::to_string);
    assert!(kind.expect("a type").ends_with(&format!("{}/diskTypes/pd-ssd", zone_path())));
}

#[tokio::test]
async fn a_fault_at_any_request_of_a_volume_leaves_no_google_disk_attached_or_paid_for() {
    let whole = machine();
    let requests = volume_and_back(&whole, usize::MAX, 0, throttled()).await;
    assert!(requests >= 6, "{:#?}", whole.requests());
    for (_, times, fault) in faults() {
        let tries = (0..requests).map(|passed| {
            let fault = fault.clone();
            async move {
                volume_and_back(&machine(), passed, times, fault).await;
            }
        });
        join_all(tries).await;
    }
}

/// Makes a volume with a fault at one request, and takes it back as a restore that failed does.
/// Returns how many requests the making took.
async fn volume_and_back(fake: &GoogleFake, passed: usize, times: usize, fault: Fault) -> usize {
    fake.add_machine("recovery", &[]);
    let cloud = cloud(fake);
    let records = take(&cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let (snapshot, name) = (&records[0], "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let before = fake.requests().len();
    fake.fail("", "/compute/v1/", passed, times, fault);
    let _ = cloud.create_volume(&request, &Cancel::new()).await;
    let asked = fake.requests().len() - before;
    fake.forget_faults();
    cloud.discard_volume(&request).await.expect("discarded");
    assert!(!fake.disks().contains(&"restored".to_string()), "at {passed}");
    let left = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    assert!(left.volumes.is_empty(), "at {passed}");
    asked
}

#[tokio::test]
async fn a_google_disk_that_another_machine_has_is_not_waited_for() {
    let fake = machine();
    fake.add_machine("recovery", &[]);
    let cloud = cloud(&fake);
    let records = take(&cloud, &DISKS[..1]).await.expect("a snapshot");
    fake.add_disk_from("restored", SNAPSHOTS[0]);
    fake.add_machine("other", &[("restored", "x")]);
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let (snapshot, name) = (&records[0], "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let error = cloud.discard_volume(&request).await.expect_err("in use");
    assert!(error.message.contains("resourceInUseByAnotherResource"), "{error}");
    assert_eq!(fake.requests().iter().filter(|r| r.starts_with("DELETE ")).count(), 1);
}

#[tokio::test]
async fn a_look_that_is_throttled_does_not_abandon_google_snapshots() {
    let fake = machine();
    // More often than one call is repeated.
    fake.fail("GET", "/snapshots/", 0, 12, throttled());
    take(&cloud(&fake), &DISKS).await.expect("snapshots");
}
