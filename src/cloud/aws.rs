//! AWS: region, endpoint and credentials, as boto3 finds them.
//!
//! Static keys from the environment cost nothing. Everything else (profiles, SSO,
//! `credential_process`, assumed roles, web identity, container and instance roles) is left to
//! `aws-config`, which is loaded at the first request that needs a signature, unless an earlier
//! command has kept what it found.

use crate::cloud::aws_profile::{AwsProfile, profile_files};
use crate::cloud::kept::{Kept, Secrets, is_fresh};
use crate::cloud::{CloudError, Environment, PlainHttp, Trace, check_endpoint};
use async_trait::async_trait;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::Mutex;
use url::Url;

/// Where S3 is and who we are to it.
#[derive(Debug)]
pub struct AwsSettings {
    pub region: String,
    /// The service, without a bucket.
    pub endpoint: Url,
    /// Whether the endpoint was named by the user rather than made from the region.
    pub custom_endpoint: bool,
    pub ca_bundle: Option<PathBuf>,
    pub identity: AwsIdentity,
}

/// Whose signature.
pub enum AwsIdentity {
    Static {
        key_id: String,
        secret_key: String,
        token: Option<String>,
    },
    /// Whatever `aws-config` finds. With a profile named on the command line, the environment's
    /// keys do not count.
    Chain {
        profile: Option<String>,
        profile_only: bool,
        region: String,
        kept: Kept,
    },
}

/// boto3 falls back to it as well; a bucket elsewhere answers with its region.
const DEFAULT_REGION: &str = "us-east-1";

impl AwsSettings {
    /// `profile` and `endpoint` are those of the command line.
    pub fn resolve(
        environment: &Environment,
        profile: Option<&str>,
        endpoint: Option<&str>,
        plain: PlainHttp,
    ) -> Result<Self, CloudError> {
        let profile_name =
            profile.or_else(|| environment.first(&["AWS_DEFAULT_PROFILE", "AWS_PROFILE"]));
        let settings = AwsProfile::read(environment, profile_name)?;
        let region = environment
            .first(&["AWS_DEFAULT_REGION", "AWS_REGION"])
            .or_else(|| settings.get("region"))
            .unwrap_or(DEFAULT_REGION)
            .to_string();
        let configured = endpoint.or_else(|| configured_endpoint(environment, &settings));
        let url = match configured {
            Some(text) => check_endpoint(text, plain)?,
            None => aws_endpoint(environment, &region)?,
        };
        let ca_bundle = environment
            .get("AWS_CA_BUNDLE")
            .or_else(|| settings.get("ca_bundle"))
            .or_else(|| environment.get("REQUESTS_CA_BUNDLE"))
            .map(PathBuf::from);
        Ok(Self {
            endpoint: url,
            custom_endpoint: configured.is_some(),
            ca_bundle,
            identity: AwsIdentity::resolve(environment, profile, profile_name, &region),
            region,
        })
    }
}

fn configured_endpoint<'a>(
    environment: &'a Environment,
    profile: &'a AwsProfile,
) -> Option<&'a str> {
    if environment.switch("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
        return None;
    }
    environment
        .first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
        .or_else(|| profile.get("endpoint_url"))
}

/// Source: AWS General Reference, "Amazon S3 endpoints and quotas".
fn aws_endpoint(environment: &Environment, region: &str) -> Result<Url, CloudError> {
    let fips = if environment.switch("AWS_USE_FIPS_ENDPOINT") { "-fips" } else { "" };
    let stack = if environment.switch("AWS_USE_DUALSTACK_ENDPOINT") { ".dualstack" } else { "" };
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let text = format!("https://s3{fips}{stack}.{region}.{domain}");
    Url::parse(&text).map_err(|_| CloudError::new(format!("\"{region}\" cannot be an AWS region")))
}

impl AwsIdentity {
    pub(crate) fn resolve(
        environment: &Environment,
        asked: Option<&str>,
        profile: Option<&str>,
        region: &str,
    ) -> Self {
        let key_id = environment.get("AWS_ACCESS_KEY_ID");
        let secret = environment.get("AWS_SECRET_ACCESS_KEY");
        match (key_id, secret, asked) {
            (Some(key_id), Some(secret_key), None) => Self::Static {
                key_id: key_id.into(),
                secret_key: secret_key.into(),
                token: environment
                    .first(&["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"])
                    .map(Into::into),
            },
            _ => {
                let profile_only = asked.is_some() && key_id.is_some();
                let identity = format!("aws {profile:?} {profile_only} {region}");
                Self::Chain {
                    profile: profile.map(Into::into),
                    profile_only,
                    region: region.into(),
                    kept: Kept::new(environment, &identity, &["AWS_"], &profile_files(environment)),
                }
            }
        }
    }

    /// Makes the provider; nothing is loaded yet.
    pub fn provider(&self) -> AwsCredentialProvider {
        match self {
            Self::Static { key_id, secret_key, token } => {
                let credential = AwsCredential {
                    key_id: key_id.clone(),
                    secret_key: secret_key.clone(),
                    token: token.clone(),
                };
                Arc::new(object_store::StaticCredentialProvider::new(credential))
            }
            Self::Chain { profile, profile_only, region, kept } => Arc::new(Chain {
                profile: profile.clone(),
                profile_only: *profile_only,
                region: region.clone(),
                kept: kept.clone(),
                state: Mutex::default(),
            }),
        }
    }
}

/// Shows the kind alone.
impl fmt::Debug for AwsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { key_id, .. } => write!(f, "Static({key_id})"),
            Self::Chain { profile, .. } => write!(f, "Chain({profile:?})"),
        }
    }
}

/// `aws-config` behind `object_store`'s trait, cached until shortly before expiry.
struct Chain {
    profile: Option<String>,
    profile_only: bool,
    region: String,
    kept: Kept,
    state: Mutex<ChainState>,
}

#[derive(Default)]
struct ChainState {
    source: Option<SharedCredentialsProvider>,
    current: Option<(Arc<AwsCredential>, Option<SystemTime>)>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({:?})", self.profile)
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held while loading, so that sixteen uploads do not ask the metadata server at once.
        let mut state = self.state.lock().await;
        if let Some((credential, expiry)) = &state.current
            && expiry.is_none_or(is_fresh)
        {
            return Ok(Arc::clone(credential));
        }
        let (credential, expiry) = match self.kept_before() {
            Some((credential, expiry)) => (credential, Some(expiry)),
            None => self.load(&mut state).await.map_err(no_credentials)?,
        };
        let credential = Arc::new(credential);
        state.current = Some((Arc::clone(&credential), expiry));
        Ok(credential)
    }
}

impl Chain {
    fn kept_before(&self) -> Option<(AwsCredential, SystemTime)> {
        let (secrets, expires) = self.kept.load()?;
        let text = |name: &str| Some(secrets.get(name)?.as_str()?.to_string());
        let (key_id, secret_key) = (text("key_id")?, text("secret_key")?);
        Some((AwsCredential { key_id, secret_key, token: text("token") }, expires))
    }

    async fn load(
        &self,
        state: &mut ChainState,
    ) -> Result<(AwsCredential, Option<SystemTime>), String> {
        let asked = Instant::now();
        let source = match &state.source {
            Some(source) => source.clone(),
            None => {
                let source = self.source().await?;
                state.source = Some(source.clone());
                source
            }
        };
        let loaded = source.provide_credentials().await.map_err(|error| why_not(&error))?;
        // What never expires lies in a file of the user's already.
        if let Some(expires) = loaded.expiry() {
            self.kept.keep(secrets_of(&loaded), expires, asked.elapsed());
        }
        let credential = AwsCredential {
            key_id: loaded.access_key_id().into(),
            secret_key: loaded.secret_access_key().into(),
            token: loaded.session_token().map(Into::into),
        };
        Ok((credential, loaded.expiry()))
    }

    async fn source(&self) -> Result<SharedCredentialsProvider, String> {
        if let (true, Some(profile)) = (self.profile_only, &self.profile) {
            let provider = ProfileFileCredentialsProvider::builder().profile_name(profile).build();
            return Ok(SharedCredentialsProvider::new(provider));
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()));
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let config = loader.load().await;
        config.credentials_provider().ok_or_else(|| "no source of credentials is configured".into())
    }
}

fn secrets_of(credentials: &Credentials) -> Secrets {
    let mut secrets = Secrets::new();
    secrets.insert("key_id".into(), credentials.access_key_id().into());
    secrets.insert("secret_key".into(), credentials.secret_access_key().into());
    if let Some(token) = credentials.session_token() {
        secrets.insert("token".into(), token.into());
    }
    secrets
}

/// A source that was found and failed may work later; one that was not found will not appear.
fn why_not(error: &CredentialsError) -> String {
    let lasting = matches!(
        error,
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)
    );
    if !lasting {
        Trace::current().identity_was_busy();
    }
    words(error)
}

/// The innermost cause: the outer ones only say that loading failed.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

fn no_credentials(why: String) -> object_store::Error {
    Trace::current().no_identity(why.clone());
    object_store::Error::Generic { store: "AWS credentials", source: why.into() }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{AwsIdentity, AwsSettings, Environment, PlainHttp};

    fn resolve(variables: &[(&str, &str)], endpoint: Option<&str>) -> AwsSettings {
        let environment = Environment::of(variables.iter().copied());
        AwsSettings::resolve(&environment, None, endpoint, PlainHttp::LoopbackOnly)
            .expect("settings")
    }

    #[test]
    fn the_region_is_aws_default_region_before_aws_region() {
        let both = [("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_REGION", "us-west-2")];
        assert_eq!(resolve(&both, None).region, "eu-west-1");
        assert_eq!(resolve(&both[1..], None).region, "us-west-2");
        assert_eq!(resolve(&[], None).region, "us-east-1");
    }

    #[test]
    fn the_endpoint_follows_option_then_variables_then_region() {
        let variables = [
            ("AWS_ENDPOINT_URL", "https://all.example"),
            ("AWS_ENDPOINT_URL_S3", "https://s3.example"),
        ];
        let url = |variables: &[_], option| resolve(variables, option).endpoint.to_string();
        assert_eq!(url(&variables, Some("https://opt.example")), "https://opt.example/");
        assert_eq!(url(&variables, None), "https://s3.example/");
        assert_eq!(url(&variables[..1], None), "https://all.example/");
        let region = ("AWS_DEFAULT_REGION", "cn-north-1");
        assert_eq!(url(&[region], None), "https://s3.cn-north-1.amazonaws.com.cn/");
        let switches = [("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_USE_DUALSTACK_ENDPOINT", "true")];
        assert_eq!(url(&switches, None), "https://s3-fips.dualstack.us-east-1.amazonaws.com/");
    }

    #[test]
    fn keys_of_the_environment_need_no_chain_and_are_never_shown() {
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")];
        let settings = resolve(&keys, None);
        assert!(matches!(settings.identity, AwsIdentity::Static { .. }));
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(matches!(resolve(&[], None).identity, AwsIdentity::Chain { .. }));
    }
}
