//! Disks made of snapshots on Azure, against the strict stand-in: they fit what the snapshot is of,
//! and none stays behind, attached or paid for.

use crate::control_planes::azure::{AzureFake, broken};
use crate::control_planes::server::Fault;
use crate::snapshot_azure::{DISKS, SNAPSHOTS, cloud, faults, machine};
use crate::support::snapshots::{PATIENCE, finish, take};
use barman_cloud::flow::Cancel;
use barman_cloud::snapshot::{DiskFilter, Instance, SnapshotCloud, SnapshotRecord, VolumeRequest};
use futures::future::join_all;
use std::sync::Arc;

#[tokio::test]
async fn an_azure_snapshot_becomes_a_volume_and_goes_without_a_trace() {
    let fake = machine();
    fake.add_machine("recovery", &[]);
    let cloud = cloud(&fake);
    let records = take(&*cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let (snapshot, name) = (&records[0], "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let volume = cloud.create_volume(&request, &Cancel::new()).await.expect("a volume");
    assert_eq!(volume.source_snapshot.as_deref(), Some(SNAPSHOTS[0]));
    assert_eq!(volume.lun, Some(0));
    // A repeated run finds it.
    assert_eq!(cloud.create_volume(&request, &Cancel::new()).await, Ok(volume.clone()));
    let attached = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    assert_eq!(attached.volumes, [volume]);
    cloud.discard_volume(&request).await.expect("discarded");
    cloud.discard_volume(&request).await.expect("nothing to discard");
    assert!(!fake.disks().contains(&"restored".to_string()));
    let attached = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    assert!(attached.volumes.is_empty());
    finish(&*cloud, &records).await.expect("the snapshot stays");
}

/// A snapshot of `pg-data` and a machine that shall get it.
async fn recovery(fake: &AzureFake) -> (Arc<dyn SnapshotCloud>, Instance, SnapshotRecord) {
    fake.add_machine("recovery", &[]);
    let cloud = cloud(fake);
    let records = take(&*cloud, &DISKS[..1]).await.expect("a snapshot");
    let instance = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    let record = records.into_iter().next().expect("one");
    (cloud, instance, record)
}

#[tokio::test]
async fn an_azure_disk_of_large_sectors_becomes_a_disk_that_has_them() {
    let fake = machine();
    fake.enlarge_sectors("pg-data");
    let (cloud, instance, snapshot) = recovery(&fake).await;
    fake.place_machine("recovery", "1", "Premium_LRS");
    let (snapshot, name) = (&snapshot, "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    cloud.create_volume(&request, &Cancel::new()).await.expect("a volume");
    let disk = fake.disk("restored").expect("a disk");
    assert_eq!(disk["sku"]["name"], "PremiumV2_LRS");
    assert_eq!(disk["properties"]["creationData"]["logicalSectorSize"], 4096);
    cloud.discard_volume(&request).await.expect("discarded");
    assert_eq!(fake.disk("restored"), None);
}

#[tokio::test]
async fn a_full_azure_machine_is_told_at_once_and_the_disk_goes() {
    let fake = machine();
    fake.behave(|behaviour| behaviour.data_disks_max = 0);
    let (cloud, instance, snapshot) = recovery(&fake).await;
    let (snapshot, name) = (&snapshot, "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let error = cloud.create_volume(&request, &Cancel::new()).await.expect_err("full");
    assert!(error.message.contains("maximum number of data disks"), "{error}");
    let posts = fake.requests().iter().filter(|r| r.starts_with("POST ")).count();
    assert_eq!(posts, 1, "it is not asked for again");
    cloud.discard_volume(&request).await.expect("discarded");
    assert_eq!(fake.disk("restored"), None);
}

#[tokio::test]
async fn a_fault_at_any_request_of_a_volume_leaves_no_azure_disk_attached_or_paid_for() {
    let whole = machine();
    let requests = volume_and_back(&whole, usize::MAX, 0, broken(503)).await;
    assert!(requests >= 7, "{:#?}", whole.requests());
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
async fn volume_and_back(fake: &AzureFake, passed: usize, times: usize, fault: Fault) -> usize {
    let (cloud, instance, snapshot) = recovery(fake).await;
    let (snapshot, name) = (&snapshot, "restored");
    let request = VolumeRequest { instance: &instance, snapshot, name, patience: PATIENCE };
    let before = fake.requests().len();
    fake.fail("", "/subscriptions/", passed, times, fault);
    let _ = cloud.create_volume(&request, &Cancel::new()).await;
    let asked = fake.requests().len() - before;
    fake.forget_faults();
    cloud.discard_volume(&request).await.expect("discarded");
    assert_eq!(fake.disk("restored"), None, "at {passed}");
    let left = cloud.instance("recovery", &DiskFilter::All).await.expect("an instance");
    assert!(left.volumes.is_empty(), "at {passed}");
    asked
}
