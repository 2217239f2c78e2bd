//! Who we are to a cloud, where it is, and how requests reach it.
//!
//! ```text
//! Environment ─┬─ aws     region, endpoint, credentials        ┐
//!              ├─ azure   connection string, SAS, key, chain   ├─ store
//!              ├─ google  default credentials, emulator        ┘
//!              ├─ ec2, resource_manager, compute_engine        ── snapshot, by ApiClient
//!              └─ Transport   TLS roots, proxies, time limits ──── Trace (what was answered)
//! ```
//!
//! Nothing here costs time before the first request: no name is looked up, no metadata server
//! asked, no certificate read until a request needs it.

mod api;
mod asked;
mod aws;
pub(crate) mod aws_profile;
mod azure;
mod azure_chain;
mod azure_connection;
pub(crate) mod azure_token;
mod compute_engine;
mod ec2;
mod endpoint;
mod environment;
pub(crate) mod error_body;
mod fit;
mod google;
mod kept;
mod metered;
mod provider;
mod resource_manager;
mod trace;
mod transport;
mod trust;

pub use api::{ApiAnswer, ApiClient, ApiError, ApiRequest, Repeat, Sign, TokenSource};
pub use asked::{Asked, RETRY_AFTER_MAX};
pub use aws::{AwsIdentity, AwsSettings};
pub use azure::{AzureCredentialKind, AzureCredentialProvider, AzureIdentity, AzureSettings};
pub use azure_connection::{ConnectionString, ConnectionStringError};
pub use azure_token::AzureTokens;
pub use compute_engine::{ComputeEngineSettings, GoogleTokens};
pub use ec2::{Ec2Settings, Ec2Signer};
pub use endpoint::{
    CloudError, PlainHttp, check_endpoint, check_signed_endpoint, is_protected, without_user,
};
pub use environment::Environment;
pub(crate) use fit::check_header_value;
pub use fit::is_region;
pub use google::{GoogleCredentialProvider, GoogleIdentity, GoogleSettings};
pub use kept::KeptRegion;
pub use provider::{CloudProvider, UnknownProvider};
pub use resource_manager::ResourceManagerSettings;
pub use trace::{Answer, Trace};
pub use transport::{Proxies, Rewrite, Role, Transport, TransportOptions};
