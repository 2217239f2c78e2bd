//! Which of an instance's volumes are meant: exact names, each found once.

use crate::snapshot::{AttachedVolume, Instance, SnapshotError, SnapshotErrorKind};

/// Which volumes are of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFilter {
    All,
    Named(Vec<String>),
}

impl DiskFilter {
    /// Whether a volume with these names is wanted. Names are compared as a whole: Barman's
    /// suffix match takes `data` for `pgdata` too.
    pub fn takes(&self, names: &[String]) -> bool {
        match self {
            Self::All => true,
            Self::Named(disks) => disks.iter().any(|disk| is_named(names, disk)),
        }
    }
}

/// Azure's identifiers, which alone begin with a slash, are written in any case.
fn is_named(names: &[String], disk: &str) -> bool {
    names
        .iter()
        .any(|name| name == disk || disk.starts_with('/') && name.eq_ignore_ascii_case(disk))
}

/// The volume of each disk, in the order of `disks`.
pub fn select<'a>(
    instance: &'a Instance,
    disks: &[String],
) -> Result<Vec<&'a AttachedVolume>, SnapshotError> {
    let mut found: Vec<&AttachedVolume> = Vec::new();
    for disk in disks {
        let mut named = instance.volumes.iter().filter(|volume| is_named(&volume.names, disk));
        let ambiguous = |reason: String| {
            SnapshotError::new(SnapshotErrorKind::DiskAmbiguous, reason)
                .hint("Name each disk once, by its identifier.")
        };
        match (named.next(), named.next()) {
            (None, _) => {
                let message =
                    format!("disk \"{disk}\" is not attached to instance \"{}\"", instance.name);
                return Err(SnapshotError::new(SnapshotErrorKind::DiskMissing, message).hint(
                    "Boot volumes cannot be used. Is the name spelled as the cloud has it?",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(ambiguous(format!(
                    "instance \"{}\" has more than one disk \"{disk}\"",
                    instance.name
                )));
            }
            (Some(volume), None) if found.iter().any(|other| other.id == volume.id) => {
                return Err(ambiguous(format!("disk \"{disk}\" was given twice")));
            }
            (Some(volume), None) => found.push(volume),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use crate::snapshot::{
        AttachedVolume, DeviceClues, DiskFilter, Instance, SnapshotErrorKind, select,
    };

    fn volume(id: &str, name: &str) -> AttachedVolume {
        AttachedVolume {
            id: id.into(),
            names: vec![id.into(), name.into()],
            device_name: "/dev/sdf".into(),
            lun: None,
            location: None,
            clues: DeviceClues::default(),
            source_snapshot: None,
        }
    }

    fn instance(volumes: Vec<AttachedVolume>) -> Instance {
        let (id, name) = ("i-1".into(), "pg".into());
        Instance { id, name, zone: "z".into(), volumes, others: Vec::new() }
    }

    #[test]
    fn disks_are_found_by_whole_names_in_the_order_asked_for() {
        let instance = instance(vec![volume("v1", "pgdata"), volume("v2", "data")]);
        let ids = |disks: &[&str]| {
            let disks: Vec<String> = disks.iter().map(|disk| disk.to_string()).collect();
            select(&instance, &disks)
                .map(|found| found.iter().map(|volume| volume.id.clone()).collect::<Vec<_>>())
                .map_err(|error| error.kind)
        };
        assert_eq!(ids(&["data", "v1"]), Ok(vec!["v2".into(), "v1".into()]));
        assert_eq!(ids(&["ata"]), Err(SnapshotErrorKind::DiskMissing));
        assert_eq!(ids(&["v1", "pgdata"]), Err(SnapshotErrorKind::DiskAmbiguous));
    }

    #[test]
    fn two_disks_of_one_name_are_refused() {
        let instance = instance(vec![volume("v1", "data"), volume("v2", "data")]);
        let error = select(&instance, &["data".into()]).expect_err("ambiguous");
        assert_eq!(error.kind, SnapshotErrorKind::DiskAmbiguous);
        assert!(DiskFilter::All.takes(&[]));
        assert!(!DiskFilter::Named(vec!["a".into()]).takes(&["ba".into()]));
    }
}
