//! Azure tokens: which identity, tried in which order.
//!
//! Each single identity is `object_store`'s; the chain is ours, because neither it nor
//! `azure_identity` has one.

use crate::cloud::azure::AzureCredentialProvider;
use crate::cloud::fit::check_header_value;
use crate::cloud::kept::{Kept, is_fresh};
use crate::cloud::transport::{Role, identity_retries};
use crate::cloud::{CloudError, Environment, Trace, Transport};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use object_store::CredentialProvider;
use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// Which identities are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Cli,
    ManagedIdentity,
    /// Client secret, workload identity, managed identity, CLI: the first that is configured,
    /// the last two the first that answers.
    Default,
}

/// Makes the provider for `kind`.
pub fn provider(
    kind: ChainKind,
    environment: &Environment,
    transport: &Transport,
) -> Result<AzureCredentialProvider, CloudError> {
    let kept = Kept::new(environment, &format!("azure {kind:?}"), &["AZURE_", "IDENTITY_"], &[]);
    let source = asked(kind, environment, transport)?;
    Ok(Arc::new(KeptTokens { source, kept, current: Mutex::default() }))
}

fn asked(
    kind: ChainKind,
    environment: &Environment,
    transport: &Transport,
) -> Result<AzureCredentialProvider, CloudError> {
    let identity = |kind: &str| single(kind, environment, transport);
    match kind {
        ChainKind::Cli => identity("azure_cli"),
        ChainKind::ManagedIdentity => identity("managed_identity"),
        ChainKind::Default => {
            let tenant = environment.get("AZURE_TENANT_ID").is_some()
                && environment.get("AZURE_CLIENT_ID").is_some();
            if tenant && environment.get("AZURE_CLIENT_SECRET").is_some() {
                identity("client_secret")
            } else if tenant && environment.get("AZURE_FEDERATED_TOKEN_FILE").is_some() {
                identity("workload_identity")
            } else {
                let sources = vec![identity("managed_identity")?, identity("azure_cli")?];
                let missing = missing_of_a_principal(environment);
                Ok(Arc::new(FirstThatAnswers { sources, missing, found: OnceLock::new() }))
            }
        }
    }
}

/// What is missing where some variables of a service principal or workload identity are set; a
/// client ID alone may be that of a managed identity.
pub(crate) fn missing_of_a_principal(environment: &Environment) -> Option<String> {
    let is_set = |name: &str| environment.get(name).is_some();
    let (tenant, client) = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID");
    let (secret, file) = ("AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE");
    for proof in [secret, file] {
        for name in [tenant, client] {
            if is_set(proof) && !is_set(name) {
                return Some(format!("{proof} is set, but {name} is not"));
            }
        }
    }
    (is_set(tenant) && !is_set(secret) && !is_set(file))
        .then(|| format!("{tenant} is set, but neither {secret} nor {file} is"))
}

/// Checks what becomes part of a request, and that the token of a workload can be read: the
/// library says of neither which variable it was.
fn check_variables(kind: &str, environment: &Environment) -> Result<(), CloudError> {
    let sent = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST", "IDENTITY_ENDPOINT"];
    for name in sent.into_iter().chain(["IDENTITY_HEADER"]) {
        if let Some(value) = environment.get(name) {
            check_header_value(name, value)?;
        }
    }
    let file = environment.get("AZURE_FEDERATED_TOKEN_FILE");
    if let (Some(file), "workload_identity") = (file, kind) {
        std::fs::File::open(file).map_err(|error| {
            let text = error.to_string();
            let words = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
            CloudError::new(format!("could not read token file \"{file}\": {words}"))
                .hint("AZURE_FEDERATED_TOKEN_FILE names it.")
        })?;
    }
    Ok(())
}

/// Borrows one provider from a client that is made for nothing else.
fn single(
    kind: &str,
    environment: &Environment,
    transport: &Transport,
) -> Result<AzureCredentialProvider, CloudError> {
    check_variables(kind, environment)?;
    let variables = [
        ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
        ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
        ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
        ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
        ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
    ];
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account("identity")
        .with_container_name("identity")
        .with_credential_type(kind)
        .with_retry(identity_retries())
        .with_http_connector(transport.with_role(Role::Identity));
    for (variable, key) in variables {
        if let Some(value) = environment.get(variable) {
            builder = builder.with_config(key, value);
        }
    }
    let client = builder
        .build()
        .map_err(|_| CloudError::new(format!("the Azure identity \"{kind}\" is not configured")))?;
    Ok(Arc::clone(client.credentials()))
}

/// Tokens that an earlier command has kept, or those of `source`, which keeps its own for this one.
#[derive(Debug)]
struct KeptTokens {
    source: AzureCredentialProvider,
    kept: Kept,
    /// From the file, once it was read.
    current: Mutex<Option<(Arc<AzureCredential>, SystemTime)>>,
}

#[async_trait]
impl CredentialProvider for KeptTokens {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let mut current = self.current.lock().await;
        if let Some((credential, expires)) = &*current
            && is_fresh(*expires)
        {
            return Ok(Arc::clone(credential));
        }
        if let Some((secrets, expires)) = self.kept.load()
            && let Some(token) = secrets.get("token").and_then(|token| token.as_str())
        {
            let credential = Arc::new(AzureCredential::BearerToken(token.into()));
            *current = Some((Arc::clone(&credential), expires));
            return Ok(credential);
        }
        let asked = Instant::now();
        let credential = self.source.get_credential().await?;
        if let AzureCredential::BearerToken(token) = &*credential
            && let Some(expires) = expiry_of(token)
        {
            let secrets = [("token".to_string(), token.as_str().into())].into_iter().collect();
            self.kept.keep(secrets, expires, asked.elapsed());
            *current = Some((Arc::clone(&credential), expires));
        }
        Ok(credential)
    }
}

/// When a token says that it expires; `None` for one that is no JSON Web Token (RFC 7519 §4.1.4).
fn expiry_of(token: &str) -> Option<SystemTime> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

/// Asks one source after the other, and stays with the first that answers.
#[derive(Debug)]
struct FirstThatAnswers {
    sources: Vec<AzureCredentialProvider>,
    /// What a service principal lacks that is configured in part.
    missing: Option<String>,
    found: OnceLock<usize>,
}

#[async_trait]
impl CredentialProvider for FirstThatAnswers {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let found = self.found.get().and_then(|index| self.sources.get(*index));
        if let Some(source) = found {
            return source.get_credential().await;
        }
        for (index, source) in self.sources.iter().enumerate() {
            if let Ok(credential) = source.get_credential().await {
                // Two callers may race; both found something that answers.
                let _ = self.found.set(index);
                return Ok(credential);
            }
        }
        let why = "neither a managed identity nor the Azure CLI gave a token";
        let why = match &self.missing {
            Some(missing) => format!("{missing} ({why})"),
            None => why.to_string(),
        };
        Trace::current().no_identity(why.clone());
        Err(object_store::Error::Generic { store: "Azure credentials", source: why.into() })
    }
}
