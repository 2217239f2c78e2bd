//! AWS: region, endpoint and credentials, as boto3 finds them.
//!
//! Static keys from the environment cost nothing. Everything else (profiles, SSO,
//! `credential_process`, assumed roles, web identity, container and instance roles) is left to
//! `aws-config`, which is loaded at the first request that needs a signature, unless an earlier
//! command has kept what it found.

use crate::cloud::aws_profile::{AwsProfile, HalfPair, profile_files};
use crate::cloud::endpoint::{check_signed_endpoint, refuse_in_clear, warn_of_plain_http};
use crate::cloud::fit::{check_header_value, check_region, check_secret};
use crate::cloud::kept::{Kept, Secrets, is_fresh};
use crate::cloud::{CloudError, Environment, PlainHttp, Trace, is_protected};
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
        tokens: Tokens,
        /// What is missing of a key pair, if nothing else is found.
        half: Option<String>,
    },
}

/// Whether session tokens may be sent, each of which lets in whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    Sent,
    /// The endpoint has no TLS.
    Refused,
}

const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "the session token";

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
        let region = region_of(environment, &settings)?.unwrap_or(DEFAULT_REGION).to_string();
        let configured = endpoint.or_else(|| configured_endpoint(environment, &settings));
        let url = match configured {
            Some(text) => check_signed_endpoint(text)?,
            None => aws_endpoint(environment, &region)?,
        };
        let identity =
            AwsIdentity::resolve(environment, profile, profile_name, &settings, &region)?;
        let identity = identity.fit_for(environment, &url, plain)?;
        let ca_bundle = environment
            .get("AWS_CA_BUNDLE")
            .or_else(|| settings.get("ca_bundle"))
            .or_else(|| environment.get("REQUESTS_CA_BUNDLE"))
            .map(PathBuf::from);
        Ok(Self {
            endpoint: url,
            custom_endpoint: configured.is_some(),
            ca_bundle,
            identity,
            region,
        })
    }
}

/// The region of the environment or profile.
pub(crate) fn region_of<'a>(
    environment: &'a Environment,
    profile: &'a AwsProfile,
) -> Result<Option<&'a str>, CloudError> {
    let variables = ["AWS_DEFAULT_REGION", "AWS_REGION"].into_iter();
    let found = variables
        .filter_map(|name| Some((name, environment.get(name)?)))
        .chain(profile.get("region").map(|region| ("region in the AWS profile", region)))
        .next();
    let Some((source, region)) = found else { return Ok(None) };
    check_region(source, region)?;
    Ok(Some(region))
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
    /// `asked` is the profile of the command line, `name` that or the environment's, and
    /// `profile` what it says.
    pub(crate) fn resolve(
        environment: &Environment,
        asked: Option<&str>,
        name: Option<&str>,
        profile: &AwsProfile,
        region: &str,
    ) -> Result<Self, CloudError> {
        let key_id = environment.get(KEY_ID);
        let secret = environment.get(SECRET);
        if let (Some(key_id), Some(secret_key), None) = (key_id, secret, asked) {
            check_header_value(KEY_ID, key_id)?;
            check_secret(SECRET, secret_key)?;
            let tokens = ["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"];
            let token = tokens.into_iter().find_map(|name| Some((name, environment.get(name)?)));
            if let Some((name, token)) = token {
                check_header_value(name, token)?;
            }
            return Ok(Self::Static {
                key_id: key_id.into(),
                secret_key: secret_key.into(),
                token: token.map(|(_, token)| token.into()),
            });
        }
        let profile_only = asked.is_some() && key_id.is_some();
        let half = half_of_a_pair(environment, asked, name, profile)?;
        let identity = format!("aws {name:?} {profile_only} {region}");
        Ok(Self::Chain {
            profile: name.map(Into::into),
            profile_only,
            region: region.into(),
            kept: Kept::new(environment, &identity, &["AWS_"], &profile_files(environment)),
            tokens: Tokens::Sent,
            half,
        })
    }

    /// Checks what this identity would send to `endpoint`: signatures tell nobody anything,
    /// session tokens do. Those of a chain are not known yet; they are checked when they are.
    pub(crate) fn fit_for(
        mut self,
        environment: &Environment,
        endpoint: &Url,
        plain: PlainHttp,
    ) -> Result<Self, CloudError> {
        match &mut self {
            Self::Static { token: Some(_), .. } => {
                refuse_in_clear(endpoint, plain, SESSION_TOKEN)?;
            }
            Self::Chain { tokens, .. }
                if plain == PlainHttp::IfSigned && !is_protected(endpoint) =>
            {
                *tokens = Tokens::Refused;
            }
            _ => {}
        }
        warn_of_plain_http(environment, endpoint, plain);
        Ok(self)
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
            Self::Chain { profile, profile_only, region, kept, tokens, half } => Arc::new(Chain {
                profile: profile.clone(),
                profile_only: *profile_only,
                region: region.clone(),
                kept: kept.clone(),
                tokens: *tokens,
                half: half.clone(),
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
    tokens: Tokens,
    half: Option<String>,
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
            None => self.load(&mut state).await.map_err(|why| no_credentials(self.why(why)))?,
        };
        check_found(&credential).map_err(|error| no_credentials(error.message))?;
        if self.tokens == Tokens::Refused && credential.token.is_some() {
            return Err(no_credentials(format!(
                "{SESSION_TOKEN} could be read on the way to an endpoint without TLS (use https, \
                 or allow it with --allow-http)"
            )));
        }
        let credential = Arc::new(credential);
        state.current = Some((Arc::clone(&credential), expiry));
        Ok(credential)
    }
}

impl Chain {
    /// Half of a key pair explains best why nothing was found.
    fn why(&self, why: String) -> String {
        match &self.half {
            Some(half) => format!("{half} ({why})"),
            None => why,
        }
    }

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

/// What is missing of a key pair. As with boto3 a key ID without its secret ends the search; a
/// secret alone counts only when nothing else is found, which is why it comes back as words.
fn half_of_a_pair(
    environment: &Environment,
    asked: Option<&str>,
    name: Option<&str>,
    profile: &AwsProfile,
) -> Result<Option<String>, CloudError> {
    let (has_key_id, has_secret) =
        (environment.get(KEY_ID).is_some(), environment.get(SECRET).is_some());
    let name = name.unwrap_or("default");
    let (words, half) = match (HalfPair::of(has_key_id, has_secret), profile.half_pair()) {
        (Some(HalfPair::KeyIdOnly), _) if asked.is_none() => {
            (format!("{KEY_ID} is set, but {SECRET} is not"), HalfPair::KeyIdOnly)
        }
        (_, Some(HalfPair::KeyIdOnly)) => (
            format!(
                "AWS profile \"{name}\" has an aws_access_key_id, but no aws_secret_access_key"
            ),
            HalfPair::KeyIdOnly,
        ),
        (_, Some(HalfPair::SecretOnly)) => (
            format!(
                "AWS profile \"{name}\" has an aws_secret_access_key, but no aws_access_key_id"
            ),
            HalfPair::SecretOnly,
        ),
        (Some(HalfPair::SecretOnly), _) if asked.is_none() => {
            (format!("{SECRET} is set, but {KEY_ID} is not"), HalfPair::SecretOnly)
        }
        _ => return Ok(None),
    };
    match half {
        HalfPair::KeyIdOnly => Err(CloudError::new(words)
            .hint("Set both, or neither of them to use another source of credentials.")),
        HalfPair::SecretOnly => Ok(Some(words)),
    }
}

/// What was found must fit into headers wherever it comes from.
fn check_found(credential: &AwsCredential) -> Result<(), CloudError> {
    check_header_value("the access key ID that was found", &credential.key_id)?;
    check_secret("the secret key that was found", &credential.secret_key)?;
    match &credential.token {
        Some(token) => check_header_value("the session token that was found", token),
        None => Ok(()),
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
        AwsSettings::resolve(&environment, None, endpoint, PlainHttp::IfSigned).expect("settings")
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
