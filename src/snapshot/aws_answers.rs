//! What EC2's descriptions of instances, volumes and snapshots mean.

use crate::snapshot::xml::Element;
use crate::snapshot::{
    AttachedVolume, AwsSnapshot, DeviceClues, Instance, PlannedSnapshot, SnapshotRecord,
    SnapshotState,
};
use std::path::PathBuf;

/// The value of a resource's tag.
pub fn tag<'a>(item: &'a Element, key: &str) -> Option<&'a str> {
    item.items("tagSet").find(|tag| tag.text("key") == Some(key))?.text("value")
}

pub fn instance_of(described: &Element, name: &str) -> Instance {
    let zone = described.child("placement").and_then(|place| place.text("availabilityZone"));
    Instance {
        id: described.text("instanceId").unwrap_or_default().into(),
        name: name.into(),
        zone: zone.unwrap_or_default().into(),
        volumes: Vec::new(),
        others: Vec::new(),
    }
}

/// A volume of the described instance; `None` for its root device.
pub fn volume_of(item: &Element, instance: &Element) -> Option<AttachedVolume> {
    let id = item.text("volumeId")?;
    let instance_id = instance.text("instanceId");
    let attachment =
        item.items("attachmentSet").find(|entry| entry.text("instanceId") == instance_id)?;
    let device = attachment.text("device").unwrap_or_default();
    if instance.text("rootDeviceName") == Some(device) {
        return None;
    }
    let names = std::iter::once(id).chain(tag(item, "Name")).map(String::from).collect();
    Some(AttachedVolume {
        id: id.into(),
        names,
        device_name: device.into(),
        lun: None,
        location: None,
        clues: clues(id, device, instance.text("virtualizationType")),
        source_snapshot: item.text("snapshotId").map(String::from),
    })
}

/// On Nitro instances the volume's ID is the NVMe device's serial number, which cannot be
/// confused. Elsewhere the kernel shows `/dev/sdf` as itself or as `/dev/xvdf`, and in
/// paravirtual instances maybe as `/dev/hdf`.
/// Source: "Device names for volumes on Amazon EC2 instances", "Identify NVMe block devices".
fn clues(id: &str, device: &str, virtualization: Option<&str>) -> DeviceClues {
    let mut paths = vec![PathBuf::from(device)];
    // These two name the root of some images: what they lead to is not the volume.
    if ["/dev/sda1", "/dev/xvda"].contains(&device) {
        paths.clear();
    } else if let Some(letter) = device.strip_prefix("/dev/sd") {
        paths.push(format!("/dev/xvd{letter}").into());
        if virtualization == Some("paravirtual") {
            paths.push(format!("/dev/hd{letter}").into());
        }
    }
    DeviceClues { paths, serial: Some(id.replace('-', "")) }
}

/// The record of a snapshot that was created as planned.
pub fn record_of(item: &Element, planned: &PlannedSnapshot) -> Option<SnapshotRecord> {
    Some(SnapshotRecord::Aws(AwsSnapshot {
        device_name: Some(planned.volume.device_name.clone()),
        snapshot_id: item.text("snapshotId")?.into(),
        snapshot_name: Some(planned.name.clone()),
        lock_mode: None,
        account_id: item.text("ownerId").map(String::from),
    }))
}

/// The record of a snapshot that was found.
pub fn snapshot_name(item: &Element) -> Option<SnapshotRecord> {
    Some(SnapshotRecord::Aws(AwsSnapshot {
        device_name: None,
        snapshot_id: item.text("snapshotId")?.into(),
        snapshot_name: tag(item, "Name").map(String::from),
        lock_mode: None,
        account_id: item.text("ownerId").map(String::from),
    }))
}

/// EC2 calls a snapshot pending while its data is copied; its point in time is fixed then.
pub fn state_of(item: &Element) -> SnapshotState {
    let percent = item.text("progress").and_then(|text| text.trim_end_matches('%').parse().ok());
    match item.text("status") {
        Some("completed") => SnapshotState::Complete,
        Some(status @ ("error" | "recoverable")) => {
            let reason = match item.text("statusMessage") {
                Some(message) => format!("its state is \"{status}\" ({message})"),
                None => format!("its state is \"{status}\""),
            };
            SnapshotState::Failed { reason }
        }
        _ => SnapshotState::Copying { percent },
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::SnapshotState;
    use crate::snapshot::aws_answers::{clues, state_of, volume_of};
    use crate::snapshot::xml::Element;
    use std::path::Path;

    #[test]
    fn sd_names_may_be_xvd_and_root_names_lead_nowhere() {
        let found = clues("vol-0a1", "/dev/sdf", Some("hvm"));
        assert_eq!(found.paths, [Path::new("/dev/sdf"), Path::new("/dev/xvdf")]);
        assert_eq!(found.serial.as_deref(), Some("vol0a1"));
        let paravirtual = clues("vol-0a1", "/dev/sdf", Some("paravirtual"));
        assert_eq!(
            paravirtual.paths.last().map(|path| path.as_path()),
            Some(Path::new("/dev/hdf"))
        );
        for root in ["/dev/sda1", "/dev/xvda"] {
            assert!(clues("vol-0a1", root, None).paths.is_empty());
        }
    }

    #[test]
    fn the_root_device_is_no_volume_for_a_snapshot() {
        let instance = Element::parse(
            "<i><instanceId>i-1</instanceId><rootDeviceName>/dev/sda1</rootDeviceName></i>",
        )
        .expect("xml");
        let volume = |device: &str| {
            let text = format!(
                "<v><volumeId>vol-1</volumeId><snapshotId>snap-1</snapshotId><attachmentSet><item>\
                 <instanceId>i-1</instanceId><device>{device}</device></item></attachmentSet>\
                 <tagSet><item><key>Name</key><value>pgdata</value></item></tagSet></v>"
            );
            volume_of(&Element::parse(&text).expect("xml"), &instance)
        };
        assert_eq!(volume("/dev/sda1"), None);
        let data = volume("/dev/sdf").expect("volume");
        assert_eq!(data.names, ["vol-1", "pgdata"]);
        assert_eq!(data.source_snapshot.as_deref(), Some("snap-1"));
    }

    #[test]
    fn pending_is_copying_with_its_percent() {
        let state = |text: &str| state_of(&Element::parse(text).expect("xml"));
        let pending = "<s><status>pending</status><progress>60%</progress></s>";
        assert_eq!(state(pending), SnapshotState::Copying { percent: Some(60) });
        assert_eq!(state("<s><status>completed</status></s>"), SnapshotState::Complete);
        assert!(matches!(state("<s><status>error</status></s>"), SnapshotState::Failed { .. }));
    }
}
