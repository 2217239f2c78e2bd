//! Google Cloud Storage: endpoint and Application Default Credentials.

use crate::cloud::transport::{Role, identity_retries};
use crate::cloud::{CloudError, Environment, PlainHttp, Trace, Transport, check_endpoint};
use async_trait::async_trait;
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{CredentialProvider, StaticCredentialProvider};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;
use url::Url;

/// Where buckets are and who we are to them.
#[derive(Debug)]
pub struct GoogleSettings {
    pub endpoint: Url,
    pub ca_bundle: Option<PathBuf>,
    /// Whose bill a new bucket goes on.
    pub project: Option<String>,
    pub identity: GoogleIdentity,
}

/// Whose token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoogleIdentity {
    /// An emulator: any token will do.
    Anonymous,
    /// A service account's or a user's file.
    File(PathBuf),
    /// External account or impersonation: `google-cloud-auth` knows how.
    Federated,
    /// The machine's metadata server.
    MetadataServer,
}

/// Gives Google credentials.
pub type GoogleCredentialProvider = Arc<dyn CredentialProvider<Credential = GcpCredential>>;

const READ_WRITE_SCOPE: &str = "https://www.googleapis.com/auth/devstorage.full_control";

impl GoogleSettings {
    pub fn resolve(environment: &Environment, plain: PlainHttp) -> Result<Self, CloudError> {
        let ca_bundle =
            environment.first(&["REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"]).map(PathBuf::from);
        let project = environment.first(&["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"]);
        if let Some(host) = environment.get("STORAGE_EMULATOR_HOST") {
            let text = if host.contains("://") { host.into() } else { format!("http://{host}") };
            // Whoever names an emulator asks for its plain http.
            return Ok(Self {
                endpoint: check_endpoint(&text, PlainHttp::Allowed)?,
                ca_bundle,
                project: project.map(Into::into),
                identity: GoogleIdentity::Anonymous,
            });
        }
        let domain = environment.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN").unwrap_or("googleapis.com");
        let (identity, project_of_file) = find_identity(environment)?;
        Ok(Self {
            endpoint: check_endpoint(&format!("https://storage.{domain}"), plain)?,
            ca_bundle,
            project: project.map(Into::into).or(project_of_file),
            identity,
        })
    }
}

/// Source: Google Cloud, "How Application Default Credentials works".
pub(crate) fn find_identity(
    environment: &Environment,
) -> Result<(GoogleIdentity, Option<String>), CloudError> {
    if let Some(path) = environment.get("GOOGLE_APPLICATION_CREDENTIALS") {
        return read_file(Path::new(path))
            .map_err(|error| error.hint("GOOGLE_APPLICATION_CREDENTIALS names this file."));
    }
    let well_known = environment
        .get("CLOUDSDK_CONFIG")
        .map(PathBuf::from)
        .or_else(|| environment.get("HOME").map(|home| Path::new(home).join(".config/gcloud")))
        .map(|folder| folder.join("application_default_credentials.json"));
    match well_known {
        Some(path) if path.is_file() => read_file(&path),
        _ => Ok((GoogleIdentity::MetadataServer, None)),
    }
}

fn read_file(path: &Path) -> Result<(GoogleIdentity, Option<String>), CloudError> {
    let unusable = |reason: &str| {
        CloudError::new(format!(
            "could not read Google credentials \"{}\": {reason}",
            path.display()
        ))
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let text = error.to_string();
        unusable(&text.split(" (os error").next().unwrap_or(&text).to_lowercase())
    })?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|_| unusable("it is not JSON"))?;
    let project = ["project_id", "quota_project_id"]
        .iter()
        .find_map(|key| json[key].as_str().map(str::to_string));
    let identity = match json["type"].as_str() {
        Some("service_account" | "authorized_user") => GoogleIdentity::File(path.into()),
        Some("external_account" | "impersonated_service_account") => GoogleIdentity::Federated,
        Some(other) => return Err(unusable(&format!("it has the unknown type \"{other}\""))),
        None => return Err(unusable("it has no type")),
    };
    Ok((identity, project))
}

impl GoogleIdentity {
    /// Makes the provider for Cloud Storage; no token is asked for yet.
    pub fn provider(&self, transport: &Transport) -> Result<GoogleCredentialProvider, CloudError> {
        self.provider_for(transport, READ_WRITE_SCOPE)
    }

    /// The same for another service. Only federated identities ask for `scope` itself; the
    /// others ask for all of Google Cloud.
    pub(crate) fn provider_for(
        &self,
        transport: &Transport,
        scope: &'static str,
    ) -> Result<GoogleCredentialProvider, CloudError> {
        let builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name("identity")
            .with_retry(identity_retries())
            .with_http_connector(transport.with_role(Role::Identity));
        let builder = match self {
            Self::Anonymous => {
                let credential = GcpCredential { bearer: "anonymous".into() };
                return Ok(Arc::new(StaticCredentialProvider::new(credential)));
            }
            Self::Federated => {
                return Ok(Arc::new(Federated { scope, source: OnceCell::new() }));
            }
            Self::File(path) => builder.with_application_credentials(path.to_string_lossy()),
            Self::MetadataServer => builder,
        };
        let client = builder.build().map_err(|_| {
            CloudError::new("the Google credentials file is incomplete")
                .hint("It needs the private key or refresh token as downloaded from Google.")
        })?;
        Ok(Arc::clone(client.credentials()))
    }
}

/// `google-cloud-auth` behind `object_store`'s trait; it caches and renews by itself.
#[derive(Debug)]
struct Federated {
    scope: &'static str,
    source: OnceCell<AccessTokenCredentials>,
}

#[async_trait]
impl CredentialProvider for Federated {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let token = async {
            let source = self
                .source
                .get_or_try_init(|| async {
                    Builder::default()
                        .with_scopes([self.scope])
                        .build_access_token_credentials()
                        .map_err(|error| error.to_string())
                })
                .await?;
            source.access_token().await.map_err(|error| {
                if error.is_transient() {
                    Trace::current().identity_was_busy();
                }
                error.to_string()
            })
        };
        match token.await {
            Ok(token) => Ok(Arc::new(GcpCredential { bearer: token.token })),
            Err(why) => {
                Trace::current().no_identity(why.clone());
                Err(object_store::Error::Generic {
                    store: "Google credentials",
                    source: why.into(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Environment, GoogleIdentity, GoogleSettings, PlainHttp};

    fn resolve(variables: &[(&str, &str)]) -> GoogleSettings {
        let environment = Environment::of(variables.iter().copied());
        GoogleSettings::resolve(&environment, PlainHttp::IfSigned).expect("settings")
    }

    #[test]
    fn an_emulator_is_reached_without_credentials() {
        for host in ["http://gcs:4443", "gcs:4443"] {
            let settings = resolve(&[("STORAGE_EMULATOR_HOST", host)]);
            assert_eq!(settings.endpoint.as_str(), "http://gcs:4443/");
            assert_eq!(settings.identity, GoogleIdentity::Anonymous);
        }
    }

    #[test]
    fn the_file_decides_who_makes_the_token() {
        let folder = tempfile::tempdir().expect("directory");
        let path = folder.path().join("key.json");
        let name = path.to_string_lossy().into_owned();
        let file = GoogleIdentity::File(path.clone());
        for (kind, identity) in [
            ("service_account", file.clone()),
            ("authorized_user", file),
            ("external_account", GoogleIdentity::Federated),
            ("impersonated_service_account", GoogleIdentity::Federated),
        ] {
            std::fs::write(&path, format!(r#"{{"type":"{kind}","project_id":"p"}}"#))
                .expect("write");
            let settings = resolve(&[("GOOGLE_APPLICATION_CREDENTIALS", &name)]);
            assert_eq!((settings.identity, settings.project.as_deref()), (identity, Some("p")));
        }
    }

    #[test]
    fn without_a_file_the_metadata_server_is_asked() {
        let settings = resolve(&[("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "example.goog")]);
        assert_eq!(settings.identity, GoogleIdentity::MetadataServer);
        assert_eq!(settings.endpoint.as_str(), "https://storage.example.goog/");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let environment = Environment::of([("GOOGLE_APPLICATION_CREDENTIALS", "/nope/key.json")]);
        let error = GoogleSettings::resolve(&environment, PlainHttp::IfSigned);
        assert!(error.expect_err("missing").message.contains("/nope/key.json"));
    }
}
