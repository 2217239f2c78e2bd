//! Azure tokens for other audiences than storage, which is all that `object_store` asks for.
//!
//! The same identities in the same order as for blobs: client secret, workload identity, managed
//! identity, Azure CLI. Sources: "Microsoft identity platform and the OAuth 2.0 client
//! credentials flow" (secret, and `client_assertion` for federated tokens); "How to use managed
//! identities … to acquire an access token" (token request with HTTP); `az account
//! get-access-token`.

use crate::cloud::azure_chain::{ChainKind, missing_of_a_principal};
use crate::cloud::transport::Role;
use crate::cloud::{AzureCredentialKind, CloudError, Environment, TokenSource, Transport};
use crate::flow::{Backoff, RetryLimits};
use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use object_store::client::HttpRequest;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use url::Url;
use url::form_urlencoded::Serializer;

/// Tokens for one audience, kept until shortly before they expire.
pub struct AzureTokens {
    transport: Transport,
    audience: String,
    sources: Vec<Source>,
    /// What a service principal lacks that is configured in part.
    missing: Option<String>,
    cached: Mutex<Option<Cached>>,
}

#[derive(Clone)]
enum Source {
    Secret {
        url: String,
        client_id: String,
        secret: String,
    },
    /// The file is read again each time: Kubernetes renews it.
    Federated {
        url: String,
        client_id: String,
        file: PathBuf,
    },
    Managed {
        endpoint: String,
        client_id: Option<String>,
        header: Option<String>,
    },
    Cli,
}

struct Cached {
    token: String,
    renew_at: Instant,
    /// Which source gave it; the only one that is asked again.
    source: usize,
}

pub(crate) struct Fresh {
    token: String,
    lifetime: Duration,
}

/// A machine without a metadata server must not hold anyone up.
const RETRY: RetryLimits = RetryLimits {
    attempts_max: 4,
    deadline: Duration::from_secs(10),
    delay_first: Duration::from_millis(100),
    delay_max: Duration::from_secs(2),
};

/// The Azure CLI keeps its own tokens and gives them out for less than this.
const CLI_LIFETIME: Duration = Duration::from_secs(300);

const RENEW_BEFORE: Duration = Duration::from_secs(300);

const IDENTITY_HEADER: HeaderName = HeaderName::from_static("x-identity-header");
const METADATA: HeaderName = HeaderName::from_static("metadata");

impl AzureTokens {
    /// `audience` without the slash at its end; no token is asked for yet.
    pub fn new(
        environment: &Environment,
        kind: Option<AzureCredentialKind>,
        audience: &str,
        authority: &Url,
        transport: &Transport,
    ) -> Self {
        let kind = match kind {
            Some(AzureCredentialKind::AzureCli) => ChainKind::Cli,
            Some(AzureCredentialKind::ManagedIdentity) => ChainKind::ManagedIdentity,
            Some(AzureCredentialKind::Default) | None => ChainKind::Default,
        };
        Self {
            transport: transport.with_role(Role::Identity),
            audience: audience.to_string(),
            sources: sources(environment, kind, authority),
            missing: match kind {
                ChainKind::Default => missing_of_a_principal(environment),
                ChainKind::Cli | ChainKind::ManagedIdentity => None,
            },
            cached: Mutex::new(None),
        }
    }

    async fn fresh(&self, found: Option<usize>) -> Result<(usize, Fresh), CloudError> {
        let mut refusals: Vec<String> = self.missing.iter().cloned().collect();
        for (index, source) in self.sources.iter().enumerate() {
            if found.is_some_and(|found| found != index) {
                continue;
            }
            match self.ask(source).await {
                Ok(fresh) => return Ok((index, fresh)),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let message = format!("no Azure token: {}", refusals.join("; "));
        Err(CloudError::new(message).hint(
            "Give the machine a managed identity, set AZURE_TENANT_ID, AZURE_CLIENT_ID and \
             AZURE_CLIENT_SECRET, or log in with \"az login\".",
        ))
    }

    async fn ask(&self, source: &Source) -> Result<Fresh, String> {
        match source {
            Source::Cli => ask_cli(&self.audience).await,
            Source::Managed { endpoint, client_id, header } => {
                let url = managed_url(endpoint, client_id.as_deref(), &self.audience)?;
                let mut request = HttpRequest::new(bytes::Bytes::new().into());
                *request.method_mut() = Method::GET;
                *request.uri_mut() = url.as_str().parse().map_err(|_| malformed(endpoint))?;
                request.headers_mut().insert(METADATA, HeaderValue::from_static("true"));
                if let Some(header) = header {
                    let value = header.parse().map_err(|_| "IDENTITY_HEADER is malformed")?;
                    request.headers_mut().insert(IDENTITY_HEADER, value);
                }
                self.send(request).await.map_err(|why| format!("managed identity: {why}"))
            }
            Source::Secret { url, client_id, secret } => {
                let proof = [("client_secret", secret.as_str())];
                self.send_form(url, client_id, &proof)
                    .await
                    .map_err(|why| format!("client secret: {why}"))
            }
            Source::Federated { url, client_id, file } => {
                let assertion = std::fs::read_to_string(file)
                    .map_err(|error| format!("could not read \"{}\": {error}", file.display()))?;
                let proof = [
                    (
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    ),
                    ("client_assertion", assertion.trim()),
                ];
                self.send_form(url, client_id, &proof)
                    .await
                    .map_err(|why| format!("workload identity: {why}"))
            }
        }
    }

    async fn send_form(
        &self,
        url: &str,
        client_id: &str,
        proof: &[(&str, &str)],
    ) -> Result<Fresh, String> {
        let form = Serializer::new(String::new())
            .append_pair("client_id", client_id)
            .append_pair("scope", &format!("{}/.default", self.audience))
            .append_pair("grant_type", "client_credentials")
            .extend_pairs(proof)
            .finish();
        let mut request = HttpRequest::new(bytes::Bytes::from(form).into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|_| malformed(url))?;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        self.send(request).await
    }

    async fn send(&self, mut request: HttpRequest) -> Result<Fresh, String> {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut backoff = Backoff::new(RETRY);
        loop {
            let (why, again) = match self.transport.send(request.clone()).await {
                Err(error) => (error.to_string(), true),
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = body.bytes().await.map_err(|error| error.to_string())?;
                    if parts.status.is_success() {
                        return read_token(&body);
                    }
                    // 404 and 410: the metadata server is being updated, says its document.
                    let passing = [StatusCode::NOT_FOUND, StatusCode::GONE].contains(&parts.status);
                    let again =
                        passing || parts.status.as_u16() == 429 || parts.status.is_server_error();
                    (refusal(parts.status, &body), again)
                }
            };
            match backoff.next_delay(None).filter(|_| again) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(why),
            }
        }
    }
}

#[async_trait]
impl TokenSource for AzureTokens {
    async fn token(&self) -> Result<String, CloudError> {
        let mut cached = self.cached.lock().await;
        if let Some(cached) = cached.as_ref().filter(|cached| Instant::now() < cached.renew_at) {
            return Ok(cached.token.clone());
        }
        let asked_at = Instant::now();
        let found = cached.as_ref().map(|cached| cached.source);
        let (source, fresh) = self.fresh(found).await?;
        // A token that lives shortly is used for half of its life.
        let usable = fresh.lifetime.saturating_sub(RENEW_BEFORE).max(fresh.lifetime / 2);
        let token = fresh.token;
        *cached = Some(Cached { token: token.clone(), renew_at: asked_at + usable, source });
        Ok(token)
    }
}

fn sources(environment: &Environment, kind: ChainKind, authority: &Url) -> Vec<Source> {
    let text = |name: &str| environment.get(name).map(str::to_string);
    let client_id = text("AZURE_CLIENT_ID");
    let metadata_host = environment.get("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    let metadata_host = metadata_host.unwrap_or("http://169.254.169.254").trim_end_matches('/');
    let managed = Source::Managed {
        endpoint: text("IDENTITY_ENDPOINT")
            .unwrap_or_else(|| format!("{metadata_host}/metadata/identity/oauth2/token")),
        client_id: client_id.clone(),
        header: text("IDENTITY_HEADER"),
    };
    match kind {
        ChainKind::Cli => return vec![Source::Cli],
        ChainKind::ManagedIdentity => return vec![managed],
        ChainKind::Default => {}
    }
    if let (Some(tenant), Some(client_id)) = (text("AZURE_TENANT_ID"), client_id) {
        let authority = authority.as_str().trim_end_matches('/');
        let url = format!("{authority}/{tenant}/oauth2/v2.0/token");
        if let Some(secret) = text("AZURE_CLIENT_SECRET") {
            return vec![Source::Secret { url, client_id, secret }];
        }
        if let Some(file) = environment.get("AZURE_FEDERATED_TOKEN_FILE") {
            return vec![Source::Federated { url, client_id, file: file.into() }];
        }
    }
    vec![managed, Source::Cli]
}

fn managed_url(endpoint: &str, client_id: Option<&str>, audience: &str) -> Result<Url, String> {
    let mut url = Url::parse(endpoint).map_err(|_| malformed(endpoint))?;
    url.query_pairs_mut()
        .append_pair("api-version", "2019-08-01")
        .append_pair("resource", audience);
    if let Some(client_id) = client_id {
        url.query_pairs_mut().append_pair("client_id", client_id);
    }
    Ok(url)
}

fn malformed(url: &str) -> String {
    format!("\"{url}\" is not a URL")
}

/// `expires_in` is a number from the platform, a text from the metadata server.
pub(crate) fn read_token(body: &[u8]) -> Result<Fresh, String> {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let token = json["access_token"].as_str().ok_or("the answer holds no token")?.to_string();
    let lifetime = &json["expires_in"];
    let seconds = lifetime.as_u64().or_else(|| lifetime.as_str()?.parse().ok());
    Ok(Fresh { token, lifetime: Duration::from_secs(seconds.unwrap_or(0)) })
}

/// The words of the identity service: they name what is wrong and never the secret.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = json["error_description"].as_str().or_else(|| json["error"].as_str());
    match words.and_then(|words| words.lines().next()) {
        Some(words) => format!("{} ({})", words.trim_end_matches('.'), status.as_u16()),
        None => format!("answered {status}"),
    }
}

async fn ask_cli(audience: &str) -> Result<Fresh, String> {
    let audience = audience.to_string();
    let asked = tokio::task::spawn_blocking(move || {
        Command::new("az")
            .args(["account", "get-access-token", "--output", "json", "--resource", &audience])
            .output()
    });
    let output = asked
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("Azure CLI: could not start \"az\": {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Err(format!("Azure CLI: {}", first.trim()));
    }
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let token = json["accessToken"].as_str().ok_or("Azure CLI: its answer holds no token")?;
    Ok(Fresh { token: token.to_string(), lifetime: CLI_LIFETIME })
}

/// Secrets are left out.
impl fmt::Debug for AzureTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.sources.iter().map(Source::kind).collect();
        f.debug_struct("AzureTokens")
            .field("audience", &self.audience)
            .field("sources", &kinds)
            .finish_non_exhaustive()
    }
}

impl Source {
    fn kind(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "client secret",
            Self::Federated { .. } => "workload identity",
            Self::Managed { .. } => "managed identity",
            Self::Cli => "Azure CLI",
        }
    }
}
