//! Azure storage connection strings: `Key=Value;Key=Value`.
//!
//! Source: Microsoft, "Configure Azure Storage connection strings".

use std::fmt;

/// What a connection string tells about blobs.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    pub account: String,
    /// The blob service, account included: `https://account.blob.core.windows.net`.
    pub blob_endpoint: String,
    pub account_key: Option<String>,
    pub shared_access_signature: Option<String>,
}

/// What is wrong with a connection string; its values are never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Azure storage connection string {0}")]
pub struct ConnectionStringError(&'static str);

/// The emulator's account and key are public and the same everywhere.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";

impl ConnectionString {
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let fields = fields(text)?;
        let get = |name: &str| {
            fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
        };
        if get("UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(Self::emulator());
        }
        let account_key = get("AccountKey").map(str::to_string);
        let shared_access_signature =
            get("SharedAccessSignature").map(|sas| sas.trim_start_matches('?').to_string());
        if account_key.is_none() && shared_access_signature.is_none() {
            return Err(ConnectionStringError(
                "has neither an AccountKey nor a SharedAccessSignature",
            ));
        }
        let (account, blob_endpoint) = match (get("BlobEndpoint"), get("AccountName")) {
            (Some(endpoint), Some(account)) => (account.to_string(), endpoint.to_string()),
            (Some(endpoint), None) => (account_of(endpoint)?, endpoint.to_string()),
            (None, Some(account)) => {
                let protocol = get("DefaultEndpointsProtocol").unwrap_or("https");
                let suffix = get("EndpointSuffix").unwrap_or("core.windows.net");
                (account.to_string(), format!("{protocol}://{account}.blob.{suffix}"))
            }
            (None, None) => {
                return Err(ConnectionStringError("has neither a BlobEndpoint nor an AccountName"));
            }
        };
        let blob_endpoint = blob_endpoint.trim_end_matches('/').to_string();
        Ok(Self { account, blob_endpoint, account_key, shared_access_signature })
    }

    fn emulator() -> Self {
        Self {
            account: EMULATOR_ACCOUNT.into(),
            blob_endpoint: EMULATOR_ENDPOINT.into(),
            account_key: Some(EMULATOR_KEY.into()),
            shared_access_signature: None,
        }
    }
}

/// Shows where, not with which key.
impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionString({})", self.blob_endpoint)
    }
}

fn fields(text: &str) -> Result<Vec<(&str, &str)>, ConnectionStringError> {
    text.split(';')
        .map(str::trim)
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (key, value) =
                field.split_once('=').ok_or(ConnectionStringError("has a field without \"=\""))?;
            Ok((key.trim(), value.trim()))
        })
        .collect()
}

/// The first label of the host, or for an address the first part of the path (the emulator).
fn account_of(endpoint: &str) -> Result<String, ConnectionStringError> {
    let url = url::Url::parse(endpoint)
        .map_err(|_| ConnectionStringError("has a BlobEndpoint that is not a URL"))?;
    let account = match url.host() {
        Some(url::Host::Domain(name)) if name.contains('.') => name.split('.').next(),
        _ => url.path_segments().and_then(|mut parts| parts.next()),
    };
    match account {
        Some(account) if !account.is_empty() => Ok(account.to_string()),
        _ => Err(ConnectionStringError("names no account")),
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::ConnectionString;

    #[test]
    fn the_endpoint_is_given_or_made_of_account_protocol_and_suffix() {
        let cases = [
            ("AccountName=a;AccountKey=aw==", "a", "https://a.blob.core.windows.net"),
            (
                "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=aw==;EndpointSuffix=x.cn;",
                "a",
                "http://a.blob.x.cn",
            ),
            (
                "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=aw==;\
                 BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;",
                "devstoreaccount1",
                "http://127.0.0.1:10000/devstoreaccount1",
            ),
            (
                "BlobEndpoint=https://b.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D",
                "b",
                "https://b.blob.core.windows.net",
            ),
            (
                "UseDevelopmentStorage=true",
                "devstoreaccount1",
                "http://127.0.0.1:10000/devstoreaccount1",
            ),
        ];
        for (text, account, endpoint) in cases {
            let parsed = ConnectionString::parse(text).expect(text);
            assert_eq!(
                (parsed.account.as_str(), parsed.blob_endpoint.as_str()),
                (account, endpoint)
            );
        }
    }

    #[test]
    fn keys_keep_their_equal_signs_and_are_never_shown() {
        let parsed =
            ConnectionString::parse("AccountName=a;AccountKey=c2VjcmV0==").expect("parsed");
        assert_eq!(parsed.account_key.as_deref(), Some("c2VjcmV0=="));
        assert!(!format!("{parsed:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_incomplete_is_refused_without_its_values() {
        for text in [
            "",
            "AccountName=a",
            "AccountKey=secret",
            "nonsense",
            "BlobEndpoint=x;AccountKey=secret",
        ] {
            let error = ConnectionString::parse(text).expect_err(text);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
