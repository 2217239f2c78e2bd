//! Opening a cloud: which one, where, with what. No request is sent.

use crate::cloud::{
    ApiClient, AzureCredentialKind, Environment, PlainHttp, Proxies, Transport, TransportOptions,
};
use crate::flow::RetryLimits;
use crate::snapshot::aws::Aws;
use crate::snapshot::azure::Azure;
use crate::snapshot::google::Google;
use crate::snapshot::{ProviderRecord, SnapshotCloud, SnapshotError, SnapshotErrorKind};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Which part of which cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotPlace {
    /// Without a region, that of the environment or profile.
    Aws {
        region: Option<String>,
    },
    Azure {
        subscription_id: String,
        resource_group: String,
    },
    /// The zone is that of the instance; deleting snapshots needs none.
    Google {
        project: String,
        zone: Option<String>,
    },
}

/// How a cloud is reached.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    pub aws_profile: Option<String>,
    pub azure_credential: Option<AzureCredentialKind>,
    pub plain_http: PlainHttp,
    /// How long nothing may move on a connection.
    pub read_timeout: Duration,
    /// How long an endpoint that cannot be connected to is tried.
    pub unreachable_after: Duration,
    pub retry: RetryLimits,
}

/// Opens clouds as they are needed: which one is known only when a backup's record was read.
pub trait Clouds: fmt::Debug + Send + Sync {
    fn open(&self, place: &SnapshotPlace) -> Result<Arc<dyn SnapshotCloud>, SnapshotError>;
}

/// Credentials and endpoints are those of an environment.
#[derive(Clone, Debug)]
pub struct CloudsOfEnvironment {
    pub options: SnapshotOptions,
    pub environment: Environment,
}

impl Clouds for CloudsOfEnvironment {
    fn open(&self, place: &SnapshotPlace) -> Result<Arc<dyn SnapshotCloud>, SnapshotError> {
        open(place, &self.options, &self.environment)
    }
}

/// Where a recovery instance is, as far as the user said; each cloud takes what is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryPlace {
    pub aws_region: Option<String>,
    pub azure_resource_group: Option<String>,
    pub gcp_zone: Option<String>,
}

impl SnapshotPlace {
    /// Where the instance is that shall recover a recorded backup.
    pub fn of_recovery(
        record: &ProviderRecord,
        place: &RecoveryPlace,
    ) -> Result<Self, SnapshotError> {
        let missing = |option: &str| {
            let message = format!("recovery of this backup needs option {option}");
            SnapshotError::new(SnapshotErrorKind::Settings, message)
        };
        Ok(match Self::of_record(record)? {
            Self::Aws { region } => Self::Aws { region: place.aws_region.clone().or(region) },
            Self::Azure { subscription_id, .. } => Self::Azure {
                subscription_id,
                resource_group: place
                    .azure_resource_group
                    .clone()
                    .ok_or_else(|| missing("--azure-resource-group"))?,
            },
            Self::Google { project, .. } => Self::Google {
                project,
                zone: Some(place.gcp_zone.clone().ok_or_else(|| missing("--gcp-zone"))?),
            },
        })
    }

    /// Whether snapshots recorded in one place can become volumes in this one.
    pub fn can_use_snapshots_of(&self, recorded: &Self) -> bool {
        match (self, recorded) {
            (Self::Aws { region }, Self::Aws { region: of_snapshots }) => {
                of_snapshots.is_none() || region == of_snapshots
            }
            // Azure compares names of groups without regard to case.
            (
                Self::Azure { resource_group, .. },
                Self::Azure { resource_group: of_snapshots, .. },
            ) => resource_group.eq_ignore_ascii_case(of_snapshots),
            // Snapshots of a project are for all of its zones.
            (Self::Google { .. }, Self::Google { .. }) => true,
            _ => false,
        }
    }

    /// Where the snapshots of a recorded backup are.
    pub fn of_record(record: &ProviderRecord) -> Result<Self, SnapshotError> {
        let missing = |what: &str| {
            let message = format!("the backup's record does not tell the {what} of its snapshots");
            SnapshotError::new(SnapshotErrorKind::Settings, message)
        };
        Ok(match record {
            ProviderRecord::Aws { region, .. } => Self::Aws { region: region.clone() },
            ProviderRecord::Azure { subscription_id, resource_group } => Self::Azure {
                subscription_id: subscription_id.clone().ok_or_else(|| missing("subscription"))?,
                resource_group: resource_group.clone().ok_or_else(|| missing("resource group"))?,
            },
            ProviderRecord::Google { project } => Self::Google {
                project: project.clone().ok_or_else(|| missing("project"))?,
                zone: None,
            },
        })
    }
}

/// Connecting within a region takes milliseconds; this leaves room for one lost SYN or two.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Opens the cloud; credentials and endpoints come from `environment`.
pub fn open(
    place: &SnapshotPlace,
    options: &SnapshotOptions,
    environment: &Environment,
) -> Result<Arc<dyn SnapshotCloud>, SnapshotError> {
    match place {
        SnapshotPlace::Aws { region } => {
            Ok(Arc::new(Aws::open(region.as_deref(), options, environment)?))
        }
        SnapshotPlace::Azure { subscription_id, resource_group } => {
            Ok(Arc::new(Azure::open(subscription_id, resource_group, options, environment)?))
        }
        SnapshotPlace::Google { project, zone } => {
            Ok(Arc::new(Google::open(project, zone.as_deref(), options, environment)?))
        }
    }
}

impl SnapshotOptions {
    pub(crate) fn plain_http(&self, environment: &Environment) -> PlainHttp {
        match environment.switch("BARMAN_CLOUD_ALLOW_HTTP") {
            true => PlainHttp::Allowed,
            false => self.plain_http,
        }
    }

    /// The transport of one cloud's interface.
    pub(crate) fn transport(&self, ca_bundle: Option<PathBuf>) -> Transport {
        Transport::new(TransportOptions {
            connect_timeout: CONNECT_TIMEOUT_MAX.min(self.unreachable_after),
            read_timeout: self.read_timeout,
            unreachable_after: self.unreachable_after,
            ca_bundle,
            proxies: Proxies::FromEnvironment,
        })
    }

    pub(crate) fn client(
        &self,
        transport: Transport,
        signer: Arc<dyn crate::cloud::Sign>,
    ) -> ApiClient {
        ApiClient::new(transport, signer, self.retry)
    }
}
