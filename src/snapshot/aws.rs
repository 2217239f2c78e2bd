//! Snapshots of EBS volumes.
//!
//! How they are created stands in `aws_create`, how they become volumes in `aws_volumes`.

use crate::cloud::{ApiError, Ec2Settings, Environment, Repeat};
use crate::flow::{Backoff, Cancel, RetryLimits};
use crate::snapshot::aws_answers::{instance_of, snapshot_name, state_of, volume_of};
use crate::snapshot::aws_create::LOST_ANSWER_PAUSES;
use crate::snapshot::ec2::{Ec2, Params};
use crate::snapshot::pending::check_names;
use crate::snapshot::xml::Element;
use crate::snapshot::{
    AttachedVolume, AwsSnapshot, CreateRequest, Deletion, DiskFilter, ExpectedSnapshot, Instance,
    LockTerm, PlannedSnapshot, ProviderRecord, SnapshotCloud, SnapshotError, SnapshotErrorKind,
    SnapshotLock, SnapshotOptions, SnapshotRecord, SnapshotState, VolumeRequest, aws_volumes,
};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// EC2 in one region.
#[derive(Debug)]
pub struct Aws {
    pub(crate) ec2: Ec2,
    region: String,
    pub(crate) retry: RetryLimits,
    /// Snapshots that this process was told to have made, with the marker of their run. A
    /// moment after its creation EC2 may deny one.
    made: Mutex<BTreeMap<String, Made>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub marker: String,
    pub record: SnapshotRecord,
}

/// What is not there although we have just made it will be: EC2 is eventually consistent.
/// Source: "Eventual consistency in the Amazon EC2 API".
const SETTLING: RetryLimits = RetryLimits {
    attempts_max: 12,
    deadline: Duration::from_secs(60),
    delay_first: Duration::from_millis(250),
    delay_max: Duration::from_secs(10),
};

/// What a tag's value may have; a snapshot is named by a tag.
const NAME_MAX: usize = 255;

const INSTANCE_STATES: [&str; 5] = ["pending", "running", "shutting-down", "stopping", "stopped"];

impl Aws {
    pub fn open(
        region: Option<&str>,
        options: &SnapshotOptions,
        environment: &Environment,
    ) -> Result<Self, SnapshotError> {
        let plain = options.plain_http(environment);
        let profile = options.aws_profile.as_deref();
        let settings = Ec2Settings::resolve(environment, profile, region, plain)?;
        let transport = options.transport(settings.ca_bundle.clone());
        let client = options.client(transport, Arc::new(settings.signer()));
        let ec2 = Ec2::new(client, settings.endpoint.clone());
        let made = Mutex::new(BTreeMap::new());
        Ok(Self { ec2, region: settings.region, retry: options.retry, made })
    }

    /// The instance's description; an identifier that is none is taken for a name.
    async fn find_instance(&self, name: &str) -> Result<Element, SnapshotError> {
        let states = Params::default().filter("instance-state-name", INSTANCE_STATES);
        let mut found = Vec::new();
        if name.starts_with("i-") {
            let by_id = states.clone().list("InstanceId", [name]);
            match self.ec2.describe("DescribeInstances", by_id, "reservationSet").await {
                Ok(reservations) => found = reservations,
                Err(error) if error.has_code(&["InvalidInstanceID.Malformed"]) => {}
                Err(error) if error.has_code(&["InvalidInstanceID.NotFound"]) => {
                    return Err(missing_instance(name));
                }
                Err(error) => return Err(of_instance(name, &error)),
            }
        }
        if found.is_empty() {
            let by_name = states.filter("tag:Name", [name]);
            let answer = self.ec2.describe("DescribeInstances", by_name, "reservationSet").await;
            found = answer.map_err(|error| of_instance(name, &error))?;
        }
        let mut instances =
            found.iter().flat_map(|reservation| reservation.items("instancesSet").cloned());
        match (instances.next(), instances.next()) {
            (None, _) => Err(missing_instance(name)),
            (Some(instance), None) => Ok(instance),
            (Some(_), Some(_)) => {
                let message = format!("more than one instance has the name \"{name}\"");
                Err(SnapshotError::new(SnapshotErrorKind::InstanceAmbiguous, message)
                    .hint("Give the instance's ID (i-…)."))
            }
        }
    }

    pub(crate) fn made(&self) -> MutexGuard<'_, BTreeMap<String, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call on something that was made a moment ago and may not be seen everywhere yet.
    pub(crate) async fn settled(&self, action: &str, params: &Params) -> Result<Element, ApiError> {
        let mut backoff = Backoff::new(SETTLING);
        loop {
            let error = match self.ec2.call(action, params, Repeat::Freely).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let early = error.has_code(&["InvalidSnapshot.NotFound", "InvalidVolume.NotFound"]);
            match backoff.next_delay(None).filter(|_| early) {
                Some(delay) => tokio::time::sleep(delay.min(self.retry.delay_max)).await,
                None => return Err(error),
            }
        }
    }
}

#[async_trait]
impl SnapshotCloud for Aws {
    async fn instance(&self, name: &str, disks: &DiskFilter) -> Result<Instance, SnapshotError> {
        let described = self.find_instance(name).await?;
        let mut instance = instance_of(&described, name);
        let params = Params::default().filter("attachment.instance-id", [instance.id.as_str()]);
        let volumes = self.ec2.describe("DescribeVolumes", params, "volumeSet").await;
        let volumes = volumes.map_err(|error| {
            SnapshotError::of_call(&format!("look up the volumes of instance \"{name}\""), &error)
        })?;
        for item in &volumes {
            let Some(volume) = volume_of(item, &described) else { continue };
            match disks.takes(&volume.names) {
                true => instance.volumes.push(volume),
                false => instance.others.push(volume.id),
            }
        }
        Ok(instance)
    }

    async fn create(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        self.create_all(request).await
    }

    async fn states(
        &self,
        snapshots: &[SnapshotRecord],
    ) -> Result<Vec<SnapshotState>, SnapshotError> {
        // A filter, not a list of IDs, which is an error as long as one is not seen yet.
        let ids = snapshots.iter().map(SnapshotRecord::identifier);
        let params = Params::default().filter("snapshot-id", ids);
        let found = self.ec2.describe("DescribeSnapshots", params, "snapshotSet").await;
        let found = found.map_err(|error| SnapshotError::of_call("look at snapshots", &error))?;
        let state = |snapshot: &SnapshotRecord| {
            let id = Some(snapshot.identifier());
            let item = found.iter().find(|item| item.text("snapshotId") == id);
            item.map_or(SnapshotState::Creating, state_of)
        };
        Ok(snapshots.iter().map(state).collect())
    }

    fn provider_record(&self, snapshots: &[SnapshotRecord]) -> ProviderRecord {
        let account_id = snapshots.iter().rev().find_map(|snapshot| match snapshot {
            SnapshotRecord::Aws(aws) => aws.account_id.clone(),
            SnapshotRecord::Azure(_) | SnapshotRecord::Google(_) => None,
        });
        ProviderRecord::Aws { account_id, region: Some(self.region.clone()) }
    }

    async fn lock(
        &self,
        snapshot: &SnapshotRecord,
        lock: &SnapshotLock,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let id = snapshot.identifier();
        let mut params =
            Params::default().with("SnapshotId", id).with("LockMode", lock.mode.name());
        params = match lock.term {
            LockTerm::Days(days) => params.with("LockDuration", days.to_string()),
            LockTerm::Until(time) => params.with("ExpirationDate", time.to_string()),
        };
        if let Some(hours) = lock.cool_off_hours {
            params = params.with("CoolOffPeriod", hours.to_string());
        }
        let locked = self.settled("LockSnapshot", &params).await;
        locked
            .map_err(|error| SnapshotError::of_call(&format!("lock snapshot \"{id}\""), &error))?;
        Ok(match snapshot {
            SnapshotRecord::Aws(aws) => SnapshotRecord::Aws(AwsSnapshot {
                lock_mode: Some(lock.mode.name().into()),
                ..aws.clone()
            }),
            other => other.clone(),
        })
    }

    fn check_plan(&self, planned: &[PlannedSnapshot]) -> Result<(), SnapshotError> {
        // Any text is a tag's value; equal ones do not hurt, because identifiers differ.
        for one in planned {
            check_names(std::slice::from_ref(one), NAME_MAX, |_| true, "")?;
        }
        Ok(())
    }

    async fn find(
        &self,
        _: &[ExpectedSnapshot],
        marker: &str,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        // Names would do for others too, and theirs must not be deleted; volumes are not enough.
        let found = self.marked(marker).await?;
        let mut records: Vec<SnapshotRecord> = found.iter().filter_map(snapshot_name).collect();
        let unseen = self.made().clone().into_values().filter(|made| made.marker == marker);
        for made in unseen {
            if !records.iter().any(|record| record.identifier() == made.record.identifier()) {
                records.push(made.record);
            }
        }
        Ok(records)
    }

    async fn delete(&self, snapshot: &SnapshotRecord) -> Result<Deletion, SnapshotError> {
        let id = snapshot.identifier();
        let params = Params::default().with("SnapshotId", id);
        let mut pauses = LOST_ANSWER_PAUSES.into_iter();
        let mut not_found = None;
        loop {
            let error = match self.ec2.call("DeleteSnapshot", &params, Repeat::Freely).await {
                Ok(_) => break,
                Err(error) => error,
            };
            if !error.has_code(&["InvalidSnapshot.NotFound"]) {
                return Err(refused_deletion(id, &error));
            }
            // One of ours may only not be seen yet, and would stay.
            let ours = self.made().contains_key(id);
            match pauses.next().filter(|_| ours) {
                Some(pause) => tokio::time::sleep(pause.min(self.retry.delay_max)).await,
                None => {
                    not_found = Some(Deletion::Absent);
                    break;
                }
            }
        }
        self.made().remove(id);
        Ok(not_found.unwrap_or(Deletion::Deleted))
    }

    async fn create_volume(
        &self,
        request: &VolumeRequest<'_>,
        cancel: &Cancel,
    ) -> Result<AttachedVolume, SnapshotError> {
        tokio::select! {
            made = aws_volumes::create(self, request) => made,
            () = cancel.cancelled() => Err(crate::flow::Cancelled.into()),
        }
    }

    async fn discard_volume(&self, request: &VolumeRequest<'_>) -> Result<(), SnapshotError> {
        aws_volumes::discard(self, request).await
    }
}

fn refused_deletion(id: &str, error: &ApiError) -> SnapshotError {
    if error.has_code(&["SnapshotLocked"]) {
        let message = format!("cannot delete snapshot \"{id}\": it is locked");
        return SnapshotError::new(SnapshotErrorKind::Locked, message).hint(
            "A governance lock can be lifted (ec2:UnlockSnapshot); a compliance lock must expire.",
        );
    }
    if error.has_code(&["InvalidSnapshot.InUse"]) {
        let message = format!("cannot delete snapshot \"{id}\": an image was made of it: {error}");
        return SnapshotError::new(SnapshotErrorKind::Call, message)
            .hint("Deregister the AMI that uses it, then delete the backup again.");
    }
    SnapshotError::of_call(&format!("delete snapshot \"{id}\""), error)
}

fn missing_instance(name: &str) -> SnapshotError {
    SnapshotError::new(
        SnapshotErrorKind::InstanceMissing,
        format!("instance \"{name}\" does not exist"),
    )
    .hint("Is it in this region? Name the region with --aws-region.")
}

fn of_instance(name: &str, error: &ApiError) -> SnapshotError {
    SnapshotError::of_call(&format!("look up instance \"{name}\""), error)
}
