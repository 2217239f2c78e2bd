//! Snapshots of EBS volumes.
//!
//! Several volumes of one instance are asked for by one `CreateSnapshots`, which gives all of
//! them the same instant; where that is not allowed, by one `CreateSnapshot` each, at the same
//! time. EC2 fixes the point in time before it answers.
//!
//! Neither call can be made idempotent, so each snapshot carries the run's marker as its
//! description: after an answer that was lost, snapshots of that volume and description are
//! looked for before anything is asked for again.

use crate::cloud::{ApiError, Ec2Settings, Environment, Repeat};
use crate::flow::{Backoff, Cancel, RetryLimits};
use crate::snapshot::aws_answers::{instance_of, record_of, snapshot_name, state_of, volume_of};
use crate::snapshot::ec2::{Ec2, Params};
use crate::snapshot::xml::Element;
use crate::snapshot::{
    AttachedVolume, AwsSnapshot, CreateRequest, Deletion, DiskFilter, Instance, LockTerm,
    PlannedSnapshot, ProviderRecord, SnapshotCloud, SnapshotError, SnapshotErrorKind, SnapshotLock,
    SnapshotOptions, SnapshotRecord, SnapshotState, VolumeRequest, aws_volumes,
};
use async_trait::async_trait;
use futures::future::{join_all, try_join_all};
use std::sync::Arc;
use std::time::Duration;

/// EC2 in one region.
#[derive(Debug)]
pub struct Aws {
    pub(crate) ec2: Ec2,
    region: String,
    retry: RetryLimits,
}

/// What is not there although we have just made it will be: EC2 is eventually consistent.
/// Source: "Eventual consistency in the Amazon EC2 API".
const SETTLING: RetryLimits = RetryLimits {
    attempts_max: 12,
    deadline: Duration::from_secs(60),
    delay_first: Duration::from_millis(250),
    delay_max: Duration::from_secs(10),
};

/// How long a lost answer's snapshot may take to be seen.
const LOST_ANSWER_PAUSES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// How often a creating call is made while its answers are lost and nothing is found.
const CREATE_ROUNDS: u32 = 3;

/// Why nothing was created, as far as can be told.
enum Uncreated {
    Call(ApiError),
    Look(SnapshotError),
}

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
        Ok(Self { ec2, region: settings.region, retry: options.retry })
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

    /// One call for all volumes. `None` when it is not allowed or not known here.
    async fn create_together(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Option<Vec<SnapshotRecord>>, SnapshotError> {
        let others = request.instance.others.iter().map(String::as_str);
        let params = Params::default()
            .with("Description", request.marker)
            .with("InstanceSpecification.InstanceId", &request.instance.id)
            .with("InstanceSpecification.ExcludeBootVolume", "true")
            .list("InstanceSpecification.ExcludeDataVolumeId", others)
            .tags("snapshot", &tags(request, request.planned[0].name.as_str()));
        let action = format!("create snapshots of instance \"{}\"", request.instance.name);
        match self.create_once("CreateSnapshots", &params, request).await {
            Ok(set) => self.sort(request, &set).map(Some),
            Err(Uncreated::Call(error)) if is_not_offered(&error) => {
                tracing::warn!(
                    reason = %error,
                    "snapshots are created one by one: all of them at once was refused"
                );
                Ok(None)
            }
            Err(Uncreated::Call(error)) => Err(SnapshotError::of_call(&action, &error)),
            Err(Uncreated::Look(error)) => Err(error),
        }
    }

    /// Makes a creating call. After an answer that was lost, what it may have created is looked
    /// for; only when nothing is found is the call made again. Returns the created snapshots.
    async fn create_once(
        &self,
        action: &str,
        params: &Params,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<Element>, Uncreated> {
        let mut lost = None;
        for round in 1..=CREATE_ROUNDS {
            match self.ec2.call(action, params, Repeat::OnlyIfSurelyNot).await {
                Ok(answer) => {
                    let created = match answer.child("snapshotSet") {
                        Some(_) => answer.items("snapshotSet").cloned().collect(),
                        None => vec![answer],
                    };
                    if round > 1 {
                        self.remove_doubles(request, &created).await;
                    }
                    return Ok(created);
                }
                Err(error) if error.may_have_happened => {
                    let found = self.look_for(request).await.map_err(Uncreated::Look)?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    lost = Some(error);
                }
                Err(error) => return Err(Uncreated::Call(error)),
            }
        }
        Err(Uncreated::Call(lost.expect("every round that did not return was lost")))
    }

    /// What a call whose answer was lost has created, as soon as it shows.
    async fn look_for(&self, request: &CreateRequest<'_>) -> Result<Vec<Element>, SnapshotError> {
        for pause in LOST_ANSWER_PAUSES {
            tokio::time::sleep(pause).await;
            let found = self.marked(request.planned, request.marker).await?;
            if self.sort(request, &found).is_ok() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// A lost call that showed its snapshots only after it was made again.
    async fn remove_doubles(&self, request: &CreateRequest<'_>, created: &[Element]) {
        let kept: Vec<_> = created.iter().filter_map(|item| item.text("snapshotId")).collect();
        let marked = self.marked(request.planned, request.marker).await.unwrap_or_default();
        for double in marked.iter().filter_map(snapshot_name) {
            if !kept.contains(&double.identifier())
                && let Err(error) = self.delete(&double).await
            {
                tracing::warn!(%error, "could not delete a snapshot that was created twice");
            }
        }
    }

    /// The snapshots of these volumes that carry the marker.
    async fn marked(
        &self,
        planned: &[PlannedSnapshot],
        marker: &str,
    ) -> Result<Vec<Element>, SnapshotError> {
        let volumes = planned.iter().map(|planned| planned.volume.id.as_str());
        let params = Params::default().list("Owner", ["self"]).filter("volume-id", volumes);
        let found = self.ec2.describe("DescribeSnapshots", params, "snapshotSet").await;
        let found = found.map_err(|error| SnapshotError::of_call("look for snapshots", &error))?;
        Ok(found.into_iter().filter(|item| item.text("description") == Some(marker)).collect())
    }

    /// The record of each planned snapshot, by its volume.
    fn sort(
        &self,
        request: &CreateRequest<'_>,
        set: &[Element],
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let record = |planned: &PlannedSnapshot| {
            let volume = planned.volume.id.as_str();
            let found = set.iter().find(|item| item.text("volumeId") == Some(volume));
            found.and_then(|item| record_of(item, planned)).ok_or_else(|| {
                let message = format!("no snapshot of volume \"{volume}\" was created");
                SnapshotError::new(SnapshotErrorKind::Broken, message)
            })
        };
        request.planned.iter().map(record).collect()
    }

    /// Gives each snapshot its own name: `CreateSnapshots` gives all the same tags.
    async fn name_each(
        &self,
        planned: &[PlannedSnapshot],
        records: &[SnapshotRecord],
    ) -> Result<(), SnapshotError> {
        let name = async |planned: &PlannedSnapshot, record: &SnapshotRecord| {
            let id = record.identifier();
            let tags = [("Name".to_string(), planned.name.clone())];
            let params = Params::default().list("ResourceId", [id]).tag_list("Tag", &tags);
            let named = self.settled("CreateTags", &params).await;
            named
                .map_err(|error| SnapshotError::of_call(&format!("name snapshot \"{id}\""), &error))
        };
        try_join_all(planned.iter().zip(records).map(|(planned, record)| name(planned, record)))
            .await
            .map(drop)
    }

    /// One call per volume, all at the same time.
    async fn create_each(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        // All are answered before the first failure is told: nothing is created behind our back.
        let each = request.planned.iter().map(|planned| self.create_one(request, planned));
        join_all(each).await.into_iter().collect()
    }

    async fn create_one(
        &self,
        request: &CreateRequest<'_>,
        planned: &PlannedSnapshot,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let volume = &planned.volume.id;
        let params = Params::default()
            .with("VolumeId", volume)
            .with("Description", request.marker)
            .tags("snapshot", &tags(request, &planned.name));
        let action = format!("create snapshot \"{}\" of volume \"{volume}\"", planned.name);
        let one = CreateRequest { planned: std::slice::from_ref(planned), ..request.clone() };
        let created = self.create_once("CreateSnapshot", &params, &one).await;
        let created = created.map_err(|error| match error {
            Uncreated::Call(error) => SnapshotError::of_call(&action, &error),
            Uncreated::Look(error) => error,
        })?;
        let item = created.first().cloned().unwrap_or_default();
        if item.text("status") == Some("error") {
            let message = format!("could not {action}: its state is \"error\"");
            return Err(SnapshotError::new(SnapshotErrorKind::Broken, message));
        }
        record_of(&item, planned).ok_or_else(|| {
            let message = format!("could not {action}: the answer names no snapshot");
            SnapshotError::new(SnapshotErrorKind::Broken, message)
        })
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
        if request.planned.len() > 1
            && let Some(records) = self.create_together(request).await?
        {
            self.name_each(request.planned, &records).await?;
            return Ok(records);
        }
        self.create_each(request).await
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

    async fn find(
        &self,
        _name: &str,
        volume_id: &str,
        marker: &str,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let params = Params::default().list("Owner", ["self"]).filter("volume-id", [volume_id]);
        let found = self.ec2.describe("DescribeSnapshots", params, "snapshotSet").await;
        let found = found.map_err(|error| {
            SnapshotError::of_call(&format!("look for snapshots of volume \"{volume_id}\""), &error)
        })?;
        // The name alone would do for others too: theirs must not be deleted.
        let ours = |item: &&Element| item.text("description") == Some(marker);
        Ok(found.iter().filter(ours).filter_map(snapshot_name).collect())
    }

    async fn delete(&self, snapshot: &SnapshotRecord) -> Result<Deletion, SnapshotError> {
        let id = snapshot.identifier();
        let params = Params::default().with("SnapshotId", id);
        match self.ec2.call("DeleteSnapshot", &params, Repeat::Freely).await {
            Ok(_) => Ok(Deletion::Deleted),
            Err(error) if error.has_code(&["InvalidSnapshot.NotFound"]) => Ok(Deletion::Absent),
            Err(error) if error.has_code(&["SnapshotLocked"]) => {
                let message = format!("cannot delete snapshot \"{id}\": it is locked");
                Err(SnapshotError::new(SnapshotErrorKind::Locked, message).hint(
                    "A governance lock can be lifted (ec2:UnlockSnapshot); a compliance lock must \
                     expire.",
                ))
            }
            Err(error) => Err(SnapshotError::of_call(&format!("delete snapshot \"{id}\""), &error)),
        }
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

/// The snapshot's name and the user's tags. A `Name` of the user would only be overwritten.
fn tags(request: &CreateRequest<'_>, name: &str) -> Vec<(String, String)> {
    let users = request.tags.iter().filter(|(key, _)| key != "Name").cloned();
    std::iter::once(("Name".to_string(), name.to_string())).chain(users).collect()
}

/// Whether a failure means that the call itself is not to be had, so that another may be.
fn is_not_offered(error: &ApiError) -> bool {
    error.is_denied()
        || error.status == Some(501)
        || error.has_code(&["InvalidAction", "UnsupportedOperation", "Unsupported"])
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
