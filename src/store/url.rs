//! Where backups lie, as people write it.
//!
//! The forms are Barman's (contract §4), plus `file:///folder` whatever the provider. Nothing is
//! percent-decoded, queries and fragments are dropped.

use crate::cloud::{CloudProvider, without_user};
use std::fmt;
use std::path::PathBuf;

/// A bucket, container or folder, and a prefix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    location: Location,
    prefix: String,
}

/// What the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    S3 {
        bucket: String,
    },
    Azure {
        account: String,
        /// The account's blob service; a connection string replaces it.
        endpoint: String,
        container: String,
    },
    Google {
        bucket: String,
    },
    Folder {
        path: PathBuf,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a URL of {provider}: {reason}")]
pub struct StoreUrlError {
    text: String,
    provider: CloudProvider,
    reason: &'static str,
}

const AZURE_PUBLIC: &str = "blob.core.windows.net";

/// Clouds where the account is in the host too. Barman wants one more path part there (it takes
/// everything unknown for the emulator), and so do we.
const AZURE_SOVEREIGN: [&str; 3] =
    ["blob.core.chinacloudapi.cn", "blob.core.usgovcloudapi.net", "blob.core.cloudapi.de"];

const GOOGLE_CONSOLE: &str = "console.cloud.google.com";

impl StoreUrl {
    /// Parses a URL as the provider's commands take it.
    pub fn parse(text: &str, provider: CloudProvider) -> Result<Self, StoreUrlError> {
        let parts = Parts::split(text);
        let parsed = match parts.scheme.as_str() {
            _ if parts.authority.contains('@') => Err("it must not have a user name or password"),
            "file" => parse_folder(&parts),
            scheme => match provider {
                CloudProvider::AwsS3 => parse_s3(scheme, &parts),
                CloudProvider::AzureBlobStorage => parse_azure(scheme, &parts),
                CloudProvider::GoogleCloudStorage => parse_google(scheme, &parts),
            },
        };
        parsed.map_err(|reason| StoreUrlError { text: without_secrets(text), provider, reason })
    }

    /// The key prefix, with trailing slashes where Barman keeps them.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }
}

/// The bucket's URL, without the prefix.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::S3 { bucket } => write!(f, "s3://{bucket}"),
            Location::Azure { endpoint, container, .. } => write!(f, "{endpoint}/{container}"),
            Location::Google { bucket } => write!(f, "gs://{bucket}"),
            Location::Folder { path } => write!(f, "file://{}", path.display()),
        }
    }
}

struct Parts<'a> {
    scheme: String,
    authority: &'a str,
    /// From the first slash on; may be empty.
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Self {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let rest = rest.split(['?', '#']).next().unwrap_or("");
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        Self { scheme: scheme.to_lowercase(), authority, path }
    }
}

/// A query may be a shared access signature, which must not reach a log, and neither must a
/// password before the host.
fn without_secrets(text: &str) -> String {
    without_user(text.split(['?', '#']).next().unwrap_or(""))
}

type Parsed = Result<StoreUrl, &'static str>;

fn parse_s3(scheme: &str, parts: &Parts<'_>) -> Parsed {
    if scheme != "s3" {
        return Err("it must start with s3://");
    }
    let location = Location::S3 { bucket: bucket(parts.authority)? };
    Ok(StoreUrl { location, prefix: parts.path.trim_start_matches('/').into() })
}

fn parse_google(scheme: &str, parts: &Parts<'_>) -> Parsed {
    let (name, prefix) = match (scheme, parts.authority) {
        ("gs", authority) => (authority, parts.path),
        ("https", GOOGLE_CONSOLE) => {
            let rest = parts.path.strip_prefix("/storage/browser/").ok_or(
                "the path of a console URL must start with /storage/browser/ and a bucket",
            )?;
            rest.split_at(rest.find('/').unwrap_or(rest.len()))
        }
        _ => return Err("it must start with gs://"),
    };
    let location = Location::Google { bucket: bucket(name)? };
    Ok(StoreUrl { location, prefix: prefix.trim_matches('/').into() })
}

fn parse_azure(scheme: &str, parts: &Parts<'_>) -> Parsed {
    if !["http", "https"].contains(&scheme) || parts.authority.is_empty() {
        return Err("it must be https://<account>.blob.core.windows.net/<container>[/<prefix>]");
    }
    let host = parts.authority;
    let mut path = parts.path.trim_start_matches('/').splitn(3, '/');
    let mut next = || path.next().filter(|part| !part.is_empty());
    let label = host.split('.').next().unwrap_or_default().to_string();
    let (account, endpoint) = if host.ends_with(AZURE_PUBLIC) {
        // The scheme is not used: this host never speaks http to us.
        (label, format!("https://{host}"))
    } else {
        let account = next().ok_or("the path must start with an account and a container")?;
        if AZURE_SOVEREIGN.iter().any(|suffix| host.ends_with(suffix)) {
            (label, format!("https://{host}"))
        } else {
            (account.to_string(), format!("{scheme}://{host}/{account}"))
        }
    };
    let container = next().ok_or("the path must name a container")?.to_string();
    let at_container = if host.ends_with(AZURE_PUBLIC) { 1 } else { 2 };
    let prefix = parts.path.trim_start_matches('/').splitn(at_container + 1, '/');
    let prefix = prefix.skip(at_container).collect();
    Ok(StoreUrl { location: Location::Azure { account, endpoint, container }, prefix })
}

fn parse_folder(parts: &Parts<'_>) -> Parsed {
    if !["", "localhost"].contains(&parts.authority) {
        return Err("a file URL must have three slashes: file:///folder");
    }
    let path = parts.path.trim_end_matches('/');
    if path.is_empty() {
        return Err("the folder must not be the root of the file system");
    }
    Ok(StoreUrl { location: Location::Folder { path: path.into() }, prefix: String::new() })
}

fn bucket(name: &str) -> Result<String, &'static str> {
    if name.is_empty() {
        return Err("the bucket is missing");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("the name of a bucket has no blanks");
    }
    Ok(name.to_string())
}

#[cfg(test)]
mod tests {
    use crate::cloud::CloudProvider::{self, AwsS3, AzureBlobStorage, GoogleCloudStorage};
    use crate::store::StoreUrl;

    fn shown(text: &str, provider: CloudProvider) -> (String, String) {
        let url = StoreUrl::parse(text, provider).expect(text);
        (url.to_string(), url.prefix().to_string())
    }

    fn assert_table(provider: CloudProvider, table: &[(&str, &str, &str)]) {
        for (text, bucket, prefix) in table {
            let expected = (bucket.to_string(), prefix.to_string());
            assert_eq!(shown(text, provider), expected, "{text}");
        }
    }

    #[test]
    fn s3_urls_drop_leading_slashes_queries_and_fragments() {
        assert_table(
            AwsS3,
            &[
                ("s3://b", "s3://b", ""),
                ("s3://b/", "s3://b", ""),
                ("S3://b/a/b", "s3://b", "a/b"),
                ("s3://b/a/b/", "s3://b", "a/b/"),
                ("s3://b//dbl", "s3://b", "dbl"),
                ("s3://b/a//c", "s3://b", "a//c"),
                ("s3://b/q?x=1", "s3://b", "q"),
                ("s3://b/q#x", "s3://b", "q"),
                ("s3://b/pct%20x", "s3://b", "pct%20x"),
            ],
        );
    }

    #[test]
    fn azure_urls_name_the_container_first_or_second() {
        let public = "https://acc.blob.core.windows.net/c";
        assert_table(
            AzureBlobStorage,
            &[
                ("https://acc.blob.core.windows.net/c", public, ""),
                ("https://acc.blob.core.windows.net/c/a/b/", public, "a/b/"),
                ("http://acc.blob.core.windows.net/c/p", public, "p"),
                (
                    "http://127.0.0.1:10000/devstoreaccount1/c/p/q",
                    "http://127.0.0.1:10000/devstoreaccount1/c",
                    "p/q",
                ),
                (
                    "https://acc.blob.core.usgovcloudapi.net/acc/c/p",
                    "https://acc.blob.core.usgovcloudapi.net/c",
                    "p",
                ),
            ],
        );
    }

    #[test]
    fn google_urls_lose_the_slashes_around_the_prefix() {
        let console = "https://console.cloud.google.com/storage/browser";
        assert_table(
            GoogleCloudStorage,
            &[
                ("gs://b", "gs://b", ""),
                ("gs://b//a/b//", "gs://b", "a/b"),
                (&format!("{console}/b"), "gs://b", ""),
                (&format!("{console}/b/a/b/"), "gs://b", "a/b"),
            ],
        );
    }

    #[test]
    fn folders_are_stores_whatever_the_provider() {
        for provider in CloudProvider::ALL {
            assert_table(
                provider,
                &[
                    ("file:///srv/backup", "file:///srv/backup", ""),
                    ("file:///srv/backup/", "file:///srv/backup", ""),
                    ("file://localhost/srv/b b", "file:///srv/b b", ""),
                ],
            );
        }
    }

    #[test]
    fn what_names_no_bucket_is_refused() {
        let cases = [
            (AwsS3, "s3://"),
            (AwsS3, "s3:///p"),
            (AwsS3, "b/p"),
            (AwsS3, "gs://b"),
            (AwsS3, ""),
            (AzureBlobStorage, "https://acc.blob.core.windows.net"),
            (AzureBlobStorage, "https://acc.blob.core.windows.net/"),
            (AzureBlobStorage, "http://127.0.0.1:10000/devstoreaccount1"),
            (AzureBlobStorage, "s3://b"),
            (GoogleCloudStorage, "gs://"),
            (GoogleCloudStorage, "https://storage.googleapis.com/b"),
            (GoogleCloudStorage, "https://console.cloud.google.com/storage/browser"),
            (AwsS3, "file://srv/backup"),
            (AwsS3, "file:///"),
        ];
        for (provider, text) in cases {
            assert!(StoreUrl::parse(text, provider).is_err(), "{text}");
        }
    }

    #[test]
    fn the_error_never_repeats_a_signature() {
        let error = StoreUrl::parse("https://x/?sig=hush", AzureBlobStorage).expect_err("refused");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
