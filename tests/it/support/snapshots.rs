//! A snapshot backup seen from the cloud alone: find, take, wait, clean up.

use barman_cloud::cloud::PlainHttp;
use barman_cloud::flow::{Cancel, RetryLimits};
use barman_cloud::monitor::Silent;
use barman_cloud::snapshot::{
    CreateRequest, Deletion, DiskFilter, ExpectedSnapshot, Instance, Patience, PlannedSnapshot,
    Reached, SnapshotCloud, SnapshotError, SnapshotOptions, SnapshotRecord, select, snapshot_name,
    wait,
};
use std::time::Duration;

pub const MARKER: &str = "barman-cloud main 20261121T074507";

pub const PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(20), pause_max: Duration::from_millis(20) };

pub const RETRY: RetryLimits = RetryLimits {
    attempts_max: 4,
    deadline: Duration::from_secs(20),
    delay_first: Duration::from_millis(5),
    delay_max: Duration::from_millis(20),
};

pub fn options() -> SnapshotOptions {
    SnapshotOptions {
        aws_profile: None,
        azure_credential: None,
        plain_http: PlainHttp::IfSigned,
        read_timeout: Duration::from_secs(10),
        unreachable_after: Duration::from_secs(2),
        retry: RETRY,
    }
}

/// The snapshots of the backup 20261121T074507.
pub fn plan(instance: &Instance, disks: &[&str]) -> Result<Vec<PlannedSnapshot>, SnapshotError> {
    let names: Vec<String> = disks.iter().map(|disk| disk.to_string()).collect();
    let volumes = select(instance, &names)?;
    Ok(names
        .iter()
        .zip(volumes)
        .map(|(disk, volume)| PlannedSnapshot {
            disk: disk.clone(),
            name: snapshot_name(disk, "20261121T074507"),
            volume: volume.clone(),
        })
        .collect())
}

/// Finds the disks of instance `pg`, snapshots them and waits until they are complete.
pub async fn take(
    cloud: &dyn SnapshotCloud,
    disks: &[&str],
) -> Result<Vec<SnapshotRecord>, SnapshotError> {
    let instance = find(cloud, disks).await?;
    let planned = plan(&instance, disks)?;
    cloud.check_plan(&planned)?;
    let tags = [("team".to_string(), "db".to_string())];
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: MARKER, tags: &tags };
    let records = cloud.create(&request).await?;
    finish(cloud, &records).await?;
    Ok(records)
}

pub async fn find(cloud: &dyn SnapshotCloud, disks: &[&str]) -> Result<Instance, SnapshotError> {
    let filter = DiskFilter::Named(disks.iter().map(|disk| disk.to_string()).collect());
    cloud.instance("pg", &filter).await
}

pub async fn finish(
    cloud: &dyn SnapshotCloud,
    records: &[SnapshotRecord],
) -> Result<(), SnapshotError> {
    wait(cloud, records, Reached::Completion, PATIENCE, &Silent, &Cancel::new()).await
}

/// What a run of this plan may have left.
pub fn expected(planned: &[PlannedSnapshot]) -> Vec<ExpectedSnapshot> {
    let expected = |planned: &PlannedSnapshot| ExpectedSnapshot {
        name: planned.name.clone(),
        volume_id: planned.volume.id.clone(),
    };
    planned.iter().map(expected).collect()
}

/// [`take`], and what a backup does when that fails: nothing of it may stay.
pub async fn take_or_clean(
    cloud: &dyn SnapshotCloud,
    disks: &[&str],
) -> Result<Vec<SnapshotRecord>, SnapshotError> {
    let error = match take(cloud, disks).await {
        Ok(records) => return Ok(records),
        Err(error) => error,
    };
    let Ok(instance) = find(cloud, disks).await else { return Err(error) };
    let planned = plan(&instance, disks).expect("the disks are there");
    let found = cloud.find(&expected(&planned), MARKER).await;
    for record in found.expect("the cloud answers again") {
        let deleted = cloud.delete(&record).await.expect("it can be deleted");
        assert_eq!(deleted, Deletion::Deleted);
    }
    Err(error)
}
