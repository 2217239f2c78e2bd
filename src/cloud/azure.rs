//! Azure: account, endpoint and credentials.
//!
//! The order is Barman's: `--azure-credential`, connection string, shared access signature,
//! account key, default chain.

use crate::cloud::azure_chain::{self, ChainKind};
use crate::cloud::endpoint::{check_signed_endpoint, refuse_in_clear, warn_of_plain_http};
use crate::cloud::fit::check_header_value;
use crate::cloud::{CloudError, ConnectionString, Environment, PlainHttp, Transport};
use object_store::azure::{AzureAccessKey, AzureCredential, split_sas};
use object_store::{CredentialProvider, StaticCredentialProvider};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// The values of `--azure-credential`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzureCredentialKind {
    AzureCli,
    ManagedIdentity,
    Default,
}

/// Where blobs are and who we are to them.
#[derive(Debug)]
pub struct AzureSettings {
    pub account: String,
    /// The blob service of the account, without a container.
    pub endpoint: Url,
    pub ca_bundle: Option<PathBuf>,
    pub identity: AzureIdentity,
}

/// Whose signature or token.
pub enum AzureIdentity {
    AccessKey { key: String, source: &'static str },
    Sas { signature: String, source: &'static str },
    Token(ChainKind),
}

/// Gives Azure credentials.
pub type AzureCredentialProvider = Arc<dyn CredentialProvider<Credential = AzureCredential>>;

impl AzureSettings {
    /// `account` and `endpoint` are those of the URL; a connection string wins over both.
    pub fn resolve(
        environment: &Environment,
        kind: Option<AzureCredentialKind>,
        account: &str,
        endpoint: &str,
        plain: PlainHttp,
    ) -> Result<Self, CloudError> {
        let ca_bundle =
            environment.first(&["REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"]).map(PathBuf::from);
        let connection = environment.get("AZURE_STORAGE_CONNECTION_STRING");
        if let (None, Some(text)) = (kind, connection) {
            return Self::from_connection(environment, text, ca_bundle, plain);
        }
        let account = match account {
            "" => environment.get("AZURE_STORAGE_ACCOUNT").unwrap_or_default(),
            account => account,
        };
        check_account(account)?;
        let identity = AzureIdentity::resolve(environment, kind);
        let endpoint = identity.endpoint(environment, endpoint, plain)?;
        Ok(Self { account: account.into(), endpoint, ca_bundle, identity })
    }

    fn from_connection(
        environment: &Environment,
        text: &str,
        ca_bundle: Option<PathBuf>,
        plain: PlainHttp,
    ) -> Result<Self, CloudError> {
        let connection =
            ConnectionString::parse(text).map_err(|error| CloudError::new(error.to_string()))?;
        let identity = match (connection.account_key, connection.shared_access_signature) {
            (Some(key), _) => AzureIdentity::AccessKey {
                key,
                source: "the AccountKey in AZURE_STORAGE_CONNECTION_STRING",
            },
            (None, Some(signature)) => AzureIdentity::Sas {
                signature,
                source: "the SharedAccessSignature in AZURE_STORAGE_CONNECTION_STRING",
            },
            (None, None) => AzureIdentity::Token(ChainKind::Default),
        };
        check_account(&connection.account)?;
        Ok(Self {
            account: connection.account,
            endpoint: identity.endpoint(environment, &connection.blob_endpoint, plain)?,
            ca_bundle,
            identity,
        })
    }
}

/// It becomes part of a header and of a host name; emulators have names of their own.
fn check_account(account: &str) -> Result<(), CloudError> {
    if account.is_empty() {
        return Err(CloudError::new("no Azure storage account was given")
            .hint("The URL names it, or AZURE_STORAGE_ACCOUNT."));
    }
    check_header_value("the name of the Azure storage account", account)
}

impl AzureIdentity {
    fn resolve(environment: &Environment, kind: Option<AzureCredentialKind>) -> Self {
        match kind {
            Some(AzureCredentialKind::AzureCli) => Self::Token(ChainKind::Cli),
            Some(AzureCredentialKind::ManagedIdentity) => Self::Token(ChainKind::ManagedIdentity),
            Some(AzureCredentialKind::Default) => Self::Token(ChainKind::Default),
            None => {
                let (sas, key) = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_KEY");
                match (environment.get(sas), environment.get(key)) {
                    (Some(text), _) => Self::Sas { signature: text.into(), source: sas },
                    (None, Some(text)) => Self::AccessKey { key: text.into(), source: key },
                    (None, None) => Self::Token(ChainKind::Default),
                }
            }
        }
    }

    /// Checks an endpoint for what this identity sends: keys sign, all else can be used by
    /// whoever reads it.
    fn endpoint(
        &self,
        environment: &Environment,
        text: &str,
        plain: PlainHttp,
    ) -> Result<Url, CloudError> {
        let url = check_signed_endpoint(text)?;
        match self {
            Self::AccessKey { .. } => warn_of_plain_http(environment, &url, plain),
            Self::Sas { .. } => refuse_in_clear(&url, plain, "the shared access signature")?,
            Self::Token(_) => refuse_in_clear(&url, plain, "the bearer token")?,
        }
        Ok(url)
    }

    /// Makes the provider; no token is asked for yet.
    pub fn provider(
        &self,
        environment: &Environment,
        transport: &Transport,
    ) -> Result<AzureCredentialProvider, CloudError> {
        let credential = match self {
            Self::Token(kind) => return azure_chain::provider(*kind, environment, transport),
            Self::AccessKey { key, source } => {
                check_header_value(source, key)?;
                let key = AzureAccessKey::try_new(key).map_err(|_| {
                    CloudError::new(format!("{source} is not base64"))
                        .hint("Was it copied whole? Keys of storage accounts end with \"==\".")
                })?;
                AzureCredential::AccessKey(key)
            }
            Self::Sas { signature, source } => {
                check_header_value(source, signature)?;
                let pairs = split_sas(signature)
                    .map_err(|_| CloudError::new(format!("{source} is malformed")))?;
                AzureCredential::SASToken(pairs)
            }
        };
        Ok(Arc::new(StaticCredentialProvider::new(credential)))
    }
}

/// Shows the kind alone.
impl fmt::Debug for AzureIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AccessKey { .. } => f.write_str("AccessKey(***)"),
            Self::Sas { .. } => f.write_str("Sas(***)"),
            Self::Token(kind) => write!(f, "Token({kind:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{AzureCredentialKind, AzureIdentity, AzureSettings, Environment, PlainHttp};

    const CONNECTION: (&str, &str) = (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AccountName=c;AccountKey=aw==;BlobEndpoint=https://c.example/c",
    );
    const SAS: (&str, &str) = ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=hush");
    const KEY: (&str, &str) = ("AZURE_STORAGE_KEY", "aHVzaA==");

    fn resolve(variables: &[(&str, &str)], kind: Option<AzureCredentialKind>) -> AzureSettings {
        let environment = Environment::of(variables.iter().copied());
        let endpoint = "https://u.blob.core.windows.net";
        AzureSettings::resolve(&environment, kind, "u", endpoint, PlainHttp::IfSigned)
            .expect("settings")
    }

    #[test]
    fn the_order_is_option_connection_string_sas_key_chain() {
        let all = [CONNECTION, SAS, KEY];
        let shown = |variables: &[_], kind| format!("{:?}", resolve(variables, kind).identity);
        let option = Some(AzureCredentialKind::ManagedIdentity);
        assert_eq!(shown(&all, option), "Token(ManagedIdentity)");
        assert_eq!(shown(&all, None), "AccessKey(***)");
        assert_eq!(resolve(&all, None).account, "c");
        assert!(matches!(resolve(&all[1..], None).identity, AzureIdentity::Sas { .. }));
        assert!(matches!(resolve(&all[2..], None).identity, AzureIdentity::AccessKey { .. }));
        assert_eq!(shown(&[], None), "Token(Default)");
    }

    #[test]
    fn a_connection_string_replaces_account_and_host_of_the_url() {
        let settings = resolve(&[CONNECTION], None);
        assert_eq!(settings.endpoint.as_str(), "https://c.example/c");
        assert_eq!(resolve(&[KEY], None).endpoint.as_str(), "https://u.blob.core.windows.net/");
    }

    #[test]
    fn secrets_are_never_shown() {
        for variables in [[SAS], [KEY]] {
            let shown = format!("{:?}", resolve(&variables, None));
            assert!(!shown.contains("hush") && !shown.contains("aHVzaA"), "{shown}");
        }
    }
}
