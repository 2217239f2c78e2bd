//! Snapshots as `backup.info` and `backup.json` record them (contract §7.7).
//!
//! ```text
//! {"provider": "aws", "provider_info": {…}, "snapshots": [{"mount": {…}, "provider": {…}}, …]}
//! ```
//!
//! Keys are written in Barman's order; readers accept missing and unknown inner keys.

use serde_json::{Value, json};

/// All snapshots of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotsInfo {
    pub provider: ProviderRecord,
    /// Each snapshot with what its volume was mounted as.
    pub snapshots: Vec<(SnapshotRecord, MountRecord)>,
}

/// Whose snapshots they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderRecord {
    Aws { account_id: Option<String>, region: Option<String> },
    Azure { subscription_id: Option<String>, resource_group: Option<String> },
    Google { project: Option<String> },
}

/// One snapshot, as its provider tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRecord {
    Aws(AwsSnapshot),
    Azure(AzureSnapshot),
    Google(GoogleSnapshot),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsSnapshot {
    pub device_name: Option<String>,
    pub snapshot_id: String,
    pub snapshot_name: Option<String>,
    /// `governance` or `compliance`
    pub lock_mode: Option<String>,
    /// Whose it is; kept for the provider's record, not written here.
    pub account_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureSnapshot {
    pub location: Option<String>,
    pub lun: Option<u32>,
    pub snapshot_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleSnapshot {
    pub device_name: Option<String>,
    pub snapshot_name: String,
    pub snapshot_project: Option<String>,
}

/// Where the volume was mounted, and how: the text of `findmnt -o OPTIONS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRecord {
    pub point: String,
    pub options: String,
}

/// Why a record is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshots_info {0}")]
pub struct SnapshotsInfoError(String);

impl SnapshotRecord {
    /// What Barman, too, deletes and compares by.
    pub fn identifier(&self) -> &str {
        match self {
            Self::Aws(aws) => &aws.snapshot_id,
            Self::Azure(azure) => &azure.snapshot_name,
            Self::Google(google) => &google.snapshot_name,
        }
    }

    /// Whether a volume that was made of the snapshot `source` was made of this one. Azure tells
    /// names in whatever case.
    pub fn is_source(&self, source: &str) -> bool {
        match self {
            Self::Azure(azure) => azure.snapshot_name.eq_ignore_ascii_case(source),
            Self::Aws(_) | Self::Google(_) => self.identifier() == source,
        }
    }

    /// The name for people; the identifier where there is none.
    pub fn name(&self) -> &str {
        match self {
            Self::Aws(aws) => aws.snapshot_name.as_deref().unwrap_or(&aws.snapshot_id),
            Self::Azure(azure) => &azure.snapshot_name,
            Self::Google(google) => &google.snapshot_name,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Aws(aws) => json!({
                "device_name": aws.device_name,
                "snapshot_id": aws.snapshot_id,
                "snapshot_name": aws.snapshot_name,
                "snapshot_lock_mode": aws.lock_mode,
            }),
            Self::Azure(azure) => json!({
                "location": azure.location,
                "lun": azure.lun,
                "snapshot_name": azure.snapshot_name,
            }),
            Self::Google(google) => json!({
                "device_name": google.device_name,
                "snapshot_name": google.snapshot_name,
                "snapshot_project": google.snapshot_project,
            }),
        }
    }
}

impl SnapshotsInfo {
    pub fn to_json(&self) -> Value {
        let (provider, provider_info) = provider_to_json(&self.provider);
        let snapshots: Vec<Value> = self
            .snapshots
            .iter()
            .map(|(snapshot, mount)| {
                let mount = json!({"mount_options": mount.options, "mount_point": mount.point});
                json!({"mount": mount, "provider": snapshot.to_json()})
            })
            .collect();
        json!({"provider": provider, "provider_info": provider_info, "snapshots": snapshots})
    }

    pub fn parse(value: &Value) -> Result<Self, SnapshotsInfoError> {
        let provider = provider_from_json(value)?;
        let empty = Vec::new();
        let listed = value["snapshots"].as_array().unwrap_or(&empty);
        let snapshots = listed
            .iter()
            .map(|entry| {
                let mount = MountRecord {
                    point: text(&entry["mount"]["mount_point"]).unwrap_or_default(),
                    options: text(&entry["mount"]["mount_options"]).unwrap_or_default(),
                };
                Ok((snapshot(&provider, &entry["provider"])?, mount))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { provider, snapshots })
    }
}

/// The values of `provider` and `provider_info`.
pub fn provider_to_json(provider: &ProviderRecord) -> (&'static str, Value) {
    match provider {
        ProviderRecord::Aws { account_id, region } => {
            ("aws", json!({"account_id": account_id, "region": region}))
        }
        ProviderRecord::Azure { subscription_id, resource_group } => {
            let info = json!({
                "subscription_id": subscription_id,
                "resource_group": resource_group,
            });
            ("azure", info)
        }
        ProviderRecord::Google { project } => ("gcp", json!({"project": project})),
    }
}

/// Reads `provider` and `provider_info`.
pub fn provider_from_json(value: &Value) -> Result<ProviderRecord, SnapshotsInfoError> {
    let info = &value["provider_info"];
    match value["provider"].as_str() {
        Some("aws") => Ok(ProviderRecord::Aws {
            account_id: text(&info["account_id"]),
            region: text(&info["region"]),
        }),
        Some("azure") => Ok(ProviderRecord::Azure {
            subscription_id: text(&info["subscription_id"]),
            resource_group: text(&info["resource_group"]),
        }),
        Some("gcp") => Ok(ProviderRecord::Google { project: text(&info["project"]) }),
        other => {
            let other = other.unwrap_or_default();
            Err(SnapshotsInfoError(format!("has the unknown provider \"{other}\"")))
        }
    }
}

fn snapshot(
    provider: &ProviderRecord,
    value: &Value,
) -> Result<SnapshotRecord, SnapshotsInfoError> {
    let required = |key: &str| {
        text(&value[key]).ok_or_else(|| SnapshotsInfoError(format!("has a snapshot without {key}")))
    };
    Ok(match provider {
        ProviderRecord::Aws { account_id, .. } => SnapshotRecord::Aws(AwsSnapshot {
            device_name: text(&value["device_name"]),
            snapshot_id: required("snapshot_id")?,
            snapshot_name: text(&value["snapshot_name"]),
            lock_mode: text(&value["snapshot_lock_mode"]),
            account_id: account_id.clone(),
        }),
        ProviderRecord::Azure { .. } => SnapshotRecord::Azure(AzureSnapshot {
            location: text(&value["location"]),
            lun: value["lun"].as_u64().and_then(|lun| u32::try_from(lun).ok()),
            snapshot_name: required("snapshot_name")?,
        }),
        ProviderRecord::Google { project } => SnapshotRecord::Google(GoogleSnapshot {
            device_name: text(&value["device_name"]),
            snapshot_name: required("snapshot_name")?,
            snapshot_project: text(&value["snapshot_project"]).or_else(|| project.clone()),
        }),
    })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}

#[cfg(test)]
mod tests {
    use crate::snapshot::{ProviderRecord, SnapshotsInfo};
    use serde_json::json;

    #[test]
    fn the_form_of_every_provider_round_trips() {
        let mount = json!({"mount_options": "rw,noatime", "mount_point": "/srv"});
        let aws = json!({"device_name": "/dev/sdf", "snapshot_id": "snap-1",
            "snapshot_name": "pgdata-20261121t001847", "snapshot_lock_mode": null});
        let azure = json!({"location": "westeurope", "lun": 3, "snapshot_name": "a"});
        let google = json!({"device_name": "d", "snapshot_name": "a", "snapshot_project": "p"});
        for (provider, info, snapshot) in [
            ("aws", json!({"account_id": "1", "region": "eu-west-1"}), aws),
            ("azure", json!({"subscription_id": "s", "resource_group": "g"}), azure),
            ("gcp", json!({"project": "p"}), google),
        ] {
            let value = json!({"provider": provider, "provider_info": info,
                "snapshots": [{"mount": mount, "provider": snapshot}]});
            let parsed = SnapshotsInfo::parse(&value).expect(provider);
            assert_eq!(parsed.to_json().to_string(), value.to_string());
        }
    }

    #[test]
    fn missing_and_unknown_inner_keys_are_read_and_unknown_providers_are_not() {
        let value = json!({"provider": "aws", "provider_info": {"new": 1},
            "snapshots": [{"provider": {"snapshot_id": "snap-1", "new": []}}]});
        let parsed = SnapshotsInfo::parse(&value).expect("aws");
        assert_eq!(parsed.provider, ProviderRecord::Aws { account_id: None, region: None });
        assert_eq!(parsed.snapshots[0].0.identifier(), "snap-1");
        let unnamed = json!({"provider": "aws", "snapshots": [{"provider": {}}]});
        assert!(SnapshotsInfo::parse(&unnamed).is_err());
        assert!(SnapshotsInfo::parse(&json!({"provider": "other"})).is_err());
    }
}
