//! Google Compute Engine: endpoint and identity.

use crate::cloud::google::find_identity;
use crate::cloud::{
    CloudError, Environment, GoogleCredentialProvider, GoogleIdentity, PlainHttp, TokenSource,
    Transport, check_endpoint,
};
use async_trait::async_trait;
use std::path::PathBuf;
use url::Url;

/// Where the compute interface is and who we are to it.
#[derive(Debug)]
pub struct ComputeEngineSettings {
    /// Ends with the version and a slash: `https://compute.googleapis.com/compute/v1/`.
    pub endpoint: Url,
    pub ca_bundle: Option<PathBuf>,
    identity: GoogleIdentity,
}

/// Tokens of Google credentials, which keep and renew them.
#[derive(Debug)]
pub struct GoogleTokens {
    credentials: GoogleCredentialProvider,
}

/// `compute` alone would do, but object_store's identities ask for this.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

impl ComputeEngineSettings {
    /// The endpoint is that of `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE`, which gcloud uses,
    /// too, or the universe's.
    pub fn resolve(environment: &Environment, plain: PlainHttp) -> Result<Self, CloudError> {
        let domain = environment.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN").unwrap_or("googleapis.com");
        let usual = format!("https://compute.{domain}/compute/v1/");
        let given = environment.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE");
        let mut endpoint = check_endpoint(given.unwrap_or(&usual), plain)?;
        if !endpoint.path().ends_with('/') {
            endpoint.set_path(&format!("{}/", endpoint.path()));
        }
        let ca_bundle =
            environment.first(&["REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"]).map(PathBuf::from);
        let (identity, _) = find_identity(environment)?;
        Ok(Self { endpoint, ca_bundle, identity })
    }

    /// Tokens for the interface; none is asked for yet.
    pub fn tokens(&self, transport: &Transport) -> Result<GoogleTokens, CloudError> {
        Ok(GoogleTokens { credentials: self.identity.provider_for(transport, SCOPE)? })
    }
}

#[async_trait]
impl TokenSource for GoogleTokens {
    async fn token(&self) -> Result<String, CloudError> {
        let credential = self.credentials.get_credential().await.map_err(|error| {
            CloudError::new(format!("no Google token: {error}")).hint(
                "Set GOOGLE_APPLICATION_CREDENTIALS to a credentials file, or run on a machine \
                 with a service account.",
            )
        })?;
        Ok(credential.bearer.clone())
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{ComputeEngineSettings, Environment, PlainHttp};

    fn endpoint(variables: &[(&str, &str)]) -> String {
        let environment = Environment::of(variables.iter().copied());
        let settings = ComputeEngineSettings::resolve(&environment, PlainHttp::IfSigned);
        settings.expect("settings").endpoint.to_string()
    }

    #[test]
    fn the_endpoint_is_gclouds_override_or_that_of_the_universe() {
        assert_eq!(endpoint(&[]), "https://compute.googleapis.com/compute/v1/");
        let universe = [("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "example.goog")];
        assert_eq!(endpoint(&universe), "https://compute.example.goog/compute/v1/");
        let own = [("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "http://127.0.0.1:9/compute/v1")];
        assert_eq!(endpoint(&own), "http://127.0.0.1:9/compute/v1/");
    }
}
