//! Volumes made of snapshots, for a recovery instance.
//!
//! A volume is found again by its name and the snapshot it was made from, so a run that was
//! killed is simply run again: what it made is used.

use crate::cloud::{ApiError, Repeat};
use crate::snapshot::aws::Aws;
use crate::snapshot::aws_answers::volume_of;
use crate::snapshot::aws_create::LOST_ANSWER_PAUSES;
use crate::snapshot::ec2::Params;
use crate::snapshot::pause::Pauses;
use crate::snapshot::xml::Element;
use crate::snapshot::{AttachedVolume, Patience, SnapshotError, SnapshotErrorKind, VolumeRequest};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// General purpose, the cheapest that every region has.
const VOLUME_TYPE: &str = "gp3";

const PAUSE_MIN: Duration = Duration::from_millis(500);

/// How long a volume may refuse to be deleted.
const DELETE_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(300), pause_max: Duration::from_secs(5) };

/// Names that EC2 recommends for data volumes.
/// Source: "Device names for volumes on Amazon EC2 instances".
const DEVICE_LETTERS: &str = "fghijklmnop";

pub async fn create(
    aws: &Aws,
    request: &VolumeRequest<'_>,
) -> Result<AttachedVolume, SnapshotError> {
    let usable = |volume: &Element| volume.text("status") != Some("error");
    let made = match find(aws, request).await?.into_iter().find(usable) {
        Some(volume) => volume,
        None => make(aws, request).await?,
    };
    let id = made.text("volumeId").unwrap_or_default().to_string();
    let ready = wait(aws, request, &id, &["available", "in-use"]).await?;
    if attached_to(&ready, &request.instance.id).is_none() {
        attach(aws, request, &id).await?;
    }
    let attached = wait_attached(aws, request, &id).await?;
    // The root device's name is not needed: a volume of ours never is one.
    let instance = instance_element(&request.instance.id);
    volume_of(&attached, &instance).ok_or_else(|| {
        let message = format!("volume \"{id}\" is not attached to \"{}\"", request.instance.name);
        SnapshotError::new(SnapshotErrorKind::Broken, message)
    })
}

pub async fn discard(aws: &Aws, request: &VolumeRequest<'_>) -> Result<(), SnapshotError> {
    for volume in find(aws, request).await? {
        let id = volume.text("volumeId").unwrap_or_default().to_string();
        let params = Params::default().with("VolumeId", &id);
        if attached_to(&volume, &request.instance.id).is_some() {
            let params = params.clone().with("InstanceId", &request.instance.id);
            let detached = aws.ec2.call("DetachVolume", &params, Repeat::Freely).await;
            gone_is_fine(detached, &format!("detach volume \"{id}\""))?;
            wait(aws, request, &id, &["available"]).await?;
        }
        delete(aws, &id).await?;
    }
    Ok(())
}

/// Deletes a volume, which EC2 refuses while it is being made, or for a moment after it was
/// detached. Taking that for the end would leave it, and somebody paying for it.
async fn delete(aws: &Aws, id: &str) -> Result<(), SnapshotError> {
    let params = Params::default().with("VolumeId", id);
    let mut pauses = Pauses::new(DELETE_PATIENCE, None);
    let what = format!("deletion of volume \"{id}\"");
    loop {
        match aws.ec2.call("DeleteVolume", &params, Repeat::Freely).await {
            Ok(_) => return Ok(()),
            Err(error) if error.has_code(&["InvalidVolume.NotFound"]) => return Ok(()),
            Err(error) if error.has_code(&["VolumeInUse", "IncorrectState"]) => {
                pauses.rest_after(&what, &error).await?;
            }
            Err(error) => {
                return Err(SnapshotError::of_call(&format!("delete volume \"{id}\""), &error));
            }
        }
    }
}

async fn find(aws: &Aws, request: &VolumeRequest<'_>) -> Result<Vec<Element>, SnapshotError> {
    let params = Params::default()
        .filter("tag:Name", [request.name])
        .filter("snapshot-id", [request.snapshot.identifier()])
        .filter("status", ["creating", "available", "in-use", "error"]);
    let found = aws.ec2.describe("DescribeVolumes", params, "volumeSet").await;
    found.map_err(|error| {
        SnapshotError::of_call(&format!("look for volume \"{}\"", request.name), &error)
    })
}

async fn make(aws: &Aws, request: &VolumeRequest<'_>) -> Result<Element, SnapshotError> {
    let tags = [("Name".to_string(), request.name.to_string())];
    let params = Params::default()
        .with("AvailabilityZone", &request.instance.zone)
        .with("SnapshotId", request.snapshot.identifier())
        .with("VolumeType", VOLUME_TYPE)
        .tags("volume", &tags);
    let action = format!(
        "create volume \"{}\" of snapshot \"{}\"",
        request.name,
        request.snapshot.identifier()
    );
    // Repeated with the same token, a request that was heard makes nothing new.
    let params = params.with("ClientToken", token(request));
    let error = match aws.ec2.call("CreateVolume", &params, Repeat::Freely).await {
        Ok(volume) => return Ok(volume),
        Err(error) => error,
    };
    if error.may_have_happened {
        // What is not seen cannot be taken away either, so it is given time to show.
        for pause in LOST_ANSWER_PAUSES {
            tokio::time::sleep(pause.min(aws.retry.delay_max)).await;
            if let Some(volume) = find(aws, request).await?.into_iter().next() {
                return Ok(volume);
            }
        }
    }
    Err(SnapshotError::of_call(&action, &error))
}

/// Differs between calls of this function alone.
fn token(request: &VolumeRequest<'_>) -> String {
    let random = RandomState::new().hash_one(request.name);
    format!("barman-cloud-{random:016x}-{}", std::process::id())
}

async fn attach(aws: &Aws, request: &VolumeRequest<'_>, id: &str) -> Result<(), SnapshotError> {
    let instance = &request.instance.id;
    let params = Params::default().filter("attachment.instance-id", [instance.as_str()]);
    let action = format!("attach volume \"{id}\" to instance \"{}\"", request.instance.name);
    let attached = aws.ec2.describe("DescribeVolumes", params, "volumeSet").await;
    let attached = attached.map_err(|error| SnapshotError::of_call(&action, &error))?;
    let taken: Vec<&str> = attached
        .iter()
        .filter_map(|volume| attached_to(volume, instance)?.text("device"))
        .collect();
    let mut free = DEVICE_LETTERS
        .chars()
        .map(|letter| format!("/dev/sd{letter}"))
        .filter(|device| !taken.contains(&device.as_str()));
    let Some(device) = free.next() else {
        let message = format!("could not {action}: it has no free device name");
        return Err(SnapshotError::new(SnapshotErrorKind::Call, message));
    };
    let params =
        Params::default().with("VolumeId", id).with("InstanceId", instance).with("Device", device);
    match aws.settled("AttachVolume", &params).await {
        Ok(_) => Ok(()),
        // A lost answer, asked again.
        Err(error) if error.has_code(&["VolumeInUse"]) => Ok(()),
        Err(error) => Err(SnapshotError::of_call(&action, &error)),
    }
}

async fn wait_attached(
    aws: &Aws,
    request: &VolumeRequest<'_>,
    id: &str,
) -> Result<Element, SnapshotError> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let volume = wait(aws, request, id, &["in-use", "available"]).await?;
        let attachment = attached_to(&volume, &request.instance.id);
        if attachment.and_then(|attachment| attachment.text("status")) == Some("attached") {
            return Ok(volume);
        }
        if begun.elapsed() >= request.patience.timeout {
            return Err(late(id, "attached", begun));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(request.patience.pause_max);
    }
}

/// Waits until the volume is in one of `states`.
async fn wait(
    aws: &Aws,
    request: &VolumeRequest<'_>,
    id: &str,
    states: &[&str],
) -> Result<Element, SnapshotError> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN.min(request.patience.pause_max);
    loop {
        let params = Params::default().filter("volume-id", [id]);
        let found = aws.ec2.describe("DescribeVolumes", params, "volumeSet").await;
        let found = found
            .map_err(|error| SnapshotError::of_call(&format!("look at volume \"{id}\""), &error))?;
        match found.into_iter().next() {
            Some(volume) if volume.text("status").is_some_and(|s| states.contains(&s)) => {
                return Ok(volume);
            }
            Some(volume) if volume.text("status") == Some("error") => {
                let message = format!("could not make volume \"{id}\": its state is \"error\"");
                return Err(SnapshotError::new(SnapshotErrorKind::Broken, message));
            }
            _ if begun.elapsed() >= request.patience.timeout => {
                return Err(late(id, states[0], begun));
            }
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(request.patience.pause_max);
    }
}

fn late(id: &str, state: &str, begun: Instant) -> SnapshotError {
    let waited = begun.elapsed().as_secs();
    let message = format!("volume \"{id}\" was not {state} after {waited} s");
    SnapshotError::new(SnapshotErrorKind::TimedOut, message)
}

fn attached_to<'a>(volume: &'a Element, instance: &str) -> Option<&'a Element> {
    volume.items("attachmentSet").find(|entry| entry.text("instanceId") == Some(instance))
}

fn instance_element(id: &str) -> Element {
    Element::parse(&format!("<instance><instanceId>{id}</instanceId></instance>"))
        .expect("an identifier has no markup")
}

fn gone_is_fine(answer: Result<Element, ApiError>, action: &str) -> Result<(), SnapshotError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.has_code(&["InvalidVolume.NotFound", "IncorrectState"]) => Ok(()),
        Err(error) => Err(SnapshotError::of_call(action, &error)),
    }
}
