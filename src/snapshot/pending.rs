//! Snapshots that a run is about to create: recorded before the first of them is asked for, so
//! that even a run that is killed leaves a trace by which they are found and deleted.
//!
//! Names and marker follow from the disks, the server name and the backup's ID alone.

use crate::snapshot::record::{provider_from_json, provider_to_json};
use crate::snapshot::{
    ExpectedSnapshot, PlannedSnapshot, ProviderRecord, SnapshotError, SnapshotErrorKind,
    SnapshotsInfoError,
};
use serde_json::{Value, json};

/// The tag that holds the run's marker, where snapshots have tags.
pub(crate) const MARKER_TAG: &str = "barman-cloud-backup";

/// What `started.json` holds of a snapshot backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSnapshots {
    pub provider: ProviderRecord,
    pub server_name: String,
    /// Which run it is: another bucket may have a server of the same name and a backup of the
    /// same second.
    pub run: String,
    pub disks: Vec<PendingDisk>,
}

/// A disk as the user gave it and the volume it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingDisk {
    pub disk: String,
    pub volume_id: String,
}

/// Barman's name for a snapshot, on every cloud. A disk that was given by its whole path, as
/// Azure and Google have them (`…/disks/<name>`), is called by its name: no name of a snapshot
/// may have slashes there.
pub fn snapshot_name(disk: &str, backup_id: &str) -> String {
    let mut parts = disk.rsplit('/');
    let disk = match (parts.next(), parts.next()) {
        (Some(name), Some(kind)) if kind.eq_ignore_ascii_case("disks") => name,
        _ => disk,
    };
    format!("{disk}-{}", backup_id.to_lowercase())
}

/// Refuses names that the cloud will refuse, and one name for two snapshots. `limit` is how
/// long a name may be.
pub(crate) fn check_names(
    planned: &[PlannedSnapshot],
    limit: usize,
    is_allowed: fn(&str) -> bool,
    rule: &str,
) -> Result<(), SnapshotError> {
    let refused = |message: String| SnapshotError::new(SnapshotErrorKind::DiskAmbiguous, message);
    for (index, snapshot) in planned.iter().enumerate() {
        let name = snapshot.name.as_str();
        let length = name.chars().count();
        if length > limit {
            let disk = limit - (length - disk_length(snapshot)).min(limit);
            let message = format!(
                "the name \"{name}\" of a snapshot of disk \"{}\" is too long",
                snapshot.disk
            );
            return Err(refused(message).hint(format!(
                "Names of snapshots have at most {limit} characters here, which leaves {disk} \
                 for the disk's."
            )));
        }
        if !is_allowed(name) {
            let message =
                format!("disk \"{}\" makes no name for a snapshot: \"{name}\"", snapshot.disk);
            return Err(refused(message).hint(rule));
        }
        if planned[..index].iter().any(|other| other.name.eq_ignore_ascii_case(name)) {
            let message = format!("two of the disks would have snapshots of the name \"{name}\"");
            return Err(refused(message).hint("Disks of one backup need different names."));
        }
    }
    Ok(())
}

/// What of the name is the disk's.
fn disk_length(snapshot: &PlannedSnapshot) -> usize {
    let name = snapshot_name(&snapshot.disk, "");
    name.trim_end_matches('-').chars().count()
}

impl PendingSnapshots {
    /// A text that no other run's snapshots carry. EC2 takes 255 characters.
    pub fn marker(&self, backup_id: &str) -> String {
        let short = |text: &str| text.chars().take(90).collect::<String>();
        let (server, run) = (short(&self.server_name), short(&self.run));
        format!("barman-cloud backup {backup_id} of server {server} by {run}")
    }

    pub fn of(
        provider: ProviderRecord,
        server_name: &str,
        run: String,
        planned: &[PlannedSnapshot],
    ) -> Self {
        let disk = |planned: &PlannedSnapshot| PendingDisk {
            disk: planned.disk.clone(),
            volume_id: planned.volume.id.clone(),
        };
        let disks = planned.iter().map(disk).collect();
        Self { provider, server_name: server_name.into(), run, disks }
    }

    /// What there may be of the run.
    pub fn expected(&self, backup_id: &str) -> Vec<ExpectedSnapshot> {
        let expected = |disk: &PendingDisk| ExpectedSnapshot {
            name: snapshot_name(&disk.disk, backup_id),
            volume_id: disk.volume_id.clone(),
        };
        self.disks.iter().map(expected).collect()
    }

    pub fn to_json(&self) -> Value {
        let (provider, provider_info) = provider_to_json(&self.provider);
        let disks: Vec<Value> = self
            .disks
            .iter()
            .map(|disk| json!({"disk": disk.disk, "volume_id": disk.volume_id}))
            .collect();
        json!({
            "provider": provider,
            "provider_info": provider_info,
            "server_name": self.server_name,
            "run": self.run,
            "disks": disks,
        })
    }

    pub fn parse(value: &Value) -> Result<Self, SnapshotsInfoError> {
        let provider = provider_from_json(value)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let disks = value["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let disk = |value: &Value| PendingDisk {
            disk: text(&value["disk"]),
            volume_id: text(&value["volume_id"]),
        };
        let disks = disks.iter().map(disk).collect();
        let (server_name, run) = (text(&value["server_name"]), text(&value["run"]));
        Ok(Self { provider, server_name, run, disks })
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::{PendingDisk, PendingSnapshots, ProviderRecord, snapshot_name};

    #[test]
    fn what_is_about_to_be_created_round_trips_with_its_names() {
        let pending = PendingSnapshots {
            provider: ProviderRecord::Google { project: Some("p".into()) },
            server_name: "x".repeat(300),
            run: "host/4711".into(),
            disks: vec![PendingDisk { disk: "pgdata".into(), volume_id: "v".into() }],
        };
        assert_eq!(PendingSnapshots::parse(&pending.to_json()), Ok(pending.clone()));
        let marker = pending.marker("20261121T001847");
        assert!(marker.contains("20261121T001847") && marker.ends_with("by host/4711"));
        assert!(marker.len() <= 255);
        assert_eq!(snapshot_name("pgdata", "20261121T001847"), "pgdata-20261121t001847");
    }

    #[test]
    fn a_disk_given_by_its_whole_path_gives_its_name_to_the_snapshot() {
        let named = |disk: &str| snapshot_name(disk, "20261121T001847");
        let azure = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/pg-data";
        assert_eq!(named(azure), "pg-data-20261121t001847");
        assert_eq!(named("projects/p/zones/z/disks/pg-data"), "pg-data-20261121t001847");
        assert_eq!(named("team/db"), "team/db-20261121t001847", "as Barman has it on AWS");
    }
}
