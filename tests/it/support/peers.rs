//! The kinds of stores that the library's own suite runs over.

use crate::gcs_fake::GcsFake;
use crate::support::http;
use crate::support::outside;
use crate::support::scratch::unique;
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{
    ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreOptions, StoreUrl,
};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;
use std::sync::OnceLock;
use std::time::Duration;

pub const ACCOUNT: &str = "devstoreaccount1";
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Quick to give up: nothing here is meant to fail for long.
pub const RETRY: RetryLimits = RetryLimits {
    attempts_max: 4,
    deadline: Duration::from_secs(20),
    delay_first: Duration::from_millis(20),
    delay_max: Duration::from_millis(200),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Folder,
    S3,
    S3Strict,
    Azure,
    Google,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Memory, Self::Folder, Self::S3, Self::S3Strict, Self::Azure, Self::Google];
}

/// Runs a check on all kinds at once, and says on which one it failed.
pub async fn on_every_store<F>(check: fn(Peer) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let peers: Vec<Peer> = Kind::ALL.into_iter().filter_map(Peer::find).collect();
    let runs: Vec<_> =
        peers.into_iter().map(|peer| (peer.kind, tokio::spawn(check(peer)))).collect();
    for (kind, run) in runs {
        run.await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

/// How to open stores of one kind.
pub struct Peer {
    pub kind: Kind,
    pub endpoint: String,
    pub bucket: String,
    pub variables: Vec<(&'static str, String)>,
    pub _folder: Option<tempfile::TempDir>,
}

impl Peer {
    /// `None` when this kind's emulator is missing, which has been said.
    pub fn find(kind: Kind) -> Option<Self> {
        let endpoint = match kind {
            Kind::Memory | Kind::Folder => String::new(),
            Kind::S3 => outside::required(outside::S3, "the S3 emulator")?,
            Kind::S3Strict => outside::optional(outside::S3_STRICT, "the strict S3 server")?,
            Kind::Azure => outside::required(outside::AZURE, "the Azure emulator")?,
            Kind::Google => google_fake().endpoint(),
        };
        let endpoint = endpoint.trim_end_matches('/').trim_end_matches(ACCOUNT);
        let endpoint = endpoint.trim_end_matches('/').to_string();
        let folder = (kind == Kind::Folder).then(|| tempfile::tempdir().expect("a folder"));
        let bucket = match &folder {
            Some(folder) => folder.path().join("store").display().to_string(),
            None => unique("conformance"),
        };
        let variables = match kind {
            Kind::Memory | Kind::Folder => vec![],
            Kind::S3 => aws_variables("test"),
            Kind::S3Strict => aws_variables("testtest"),
            Kind::Azure => vec![("AZURE_STORAGE_KEY", ACCOUNT_KEY.to_string())],
            Kind::Google => vec![
                ("STORAGE_EMULATOR_HOST", endpoint.clone()),
                ("GOOGLE_CLOUD_PROJECT", "project".to_string()),
            ],
        };
        Some(Self { kind, endpoint, bucket, variables, _folder: folder })
    }

    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::new(RETRY);
        if matches!(self.kind, Kind::S3 | Kind::S3Strict) {
            options.endpoint_url = Some(self.endpoint.clone());
        }
        options
    }

    pub fn open(&self, bucket: &str, options: &StoreOptions) -> Store {
        let (provider, url) = match self.kind {
            Kind::Memory => return Store::memory(),
            Kind::Folder => (CloudProvider::AwsS3, format!("file://{bucket}")),
            Kind::S3 | Kind::S3Strict => (CloudProvider::AwsS3, format!("s3://{bucket}")),
            Kind::Azure => {
                let url = format!("{}/{ACCOUNT}/{bucket}", self.endpoint);
                (CloudProvider::AzureBlobStorage, url)
            }
            Kind::Google => (CloudProvider::GoogleCloudStorage, format!("gs://{bucket}")),
        };
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        let url = StoreUrl::parse(&url, provider).expect("a URL");
        Store::open_in(&url, options, &Environment::of(variables)).expect("a store")
    }

    /// A store with a bucket that exists.
    pub async fn ready(&self) -> Store {
        self.ready_with(&self.options()).await
    }

    pub async fn ready_with(&self, options: &StoreOptions) -> Store {
        let store = self.open(&self.bucket, options);
        store.create_bucket().await.expect("a bucket");
        store
    }
}

pub fn aws_variables(key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", key.to_string()),
        ("AWS_SECRET_ACCESS_KEY", key.to_string()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_string()),
    ]
}

pub fn google_fake() -> &'static GcsFake {
    static FAKE: OnceLock<GcsFake> = OnceLock::new();
    FAKE.get_or_init(|| GcsFake::start().expect("the fake starts"))
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

pub async fn put(store: &Store, name: &str, bytes: impl Into<Bytes>) {
    let outcome = store.put(&key(name), bytes.into(), PutMode::Overwrite, &untagged()).await;
    assert_eq!(outcome.expect("put"), PutOutcome::Written);
}

pub fn untagged() -> PutOptions {
    PutOptions::default()
}

pub fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

pub async fn names(store: &Store, prefix: &str) -> Vec<String> {
    let entries: Vec<_> = store.list(prefix).try_collect().await.expect("a listing");
    entries.into_iter().map(|entry| entry.key.to_string()).collect()
}

/// The answer to a signed GET on S3.
pub fn s3_get(peer: &Peer, target: &str) -> String {
    answer_to(peer, &signed_for_s3(peer, target))
}

/// The headers of an object on S3.
pub async fn s3_headers(peer: &Peer, target: &str) -> ::http::HeaderMap {
    let request = signed_for_s3(peer, target);
    let client = reqwest::Client::new().get(request.uri().to_string());
    let answer = client.headers(request.headers().clone()).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.headers().clone()
}

fn signed_for_s3(peer: &Peer, target: &str) -> ::http::Request<HttpRequestBody> {
    let url = format!("{}{target}", peer.endpoint);
    let mut request = ::http::Request::get(&url).body(HttpRequestBody::empty()).expect("a request");
    let secret = peer.variables[0].1.clone();
    let credential = AwsCredential { key_id: secret.clone(), secret_key: secret, token: None };
    AwsAuthorizer::new(&credential, "s3", "us-east-1")
        .try_authorize(&mut request, None)
        .expect("a signature");
    request
}

/// The answer to a signed GET on Azure.
pub fn azure_get(peer: &Peer, target: &str) -> String {
    let url = format!("{}{target}", peer.endpoint);
    let mut request = ::http::Request::get(&url).body(HttpRequestBody::empty()).expect("a request");
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).expect("a key"));
    AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).expect("a signature");
    answer_to(peer, &request)
}

fn answer_to(peer: &Peer, request: &::http::Request<HttpRequestBody>) -> String {
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .filter(|(name, _)| *name != "host")
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    let target = request.uri().path_and_query().expect("a path").as_str();
    let (status, body) = http::request("GET", &peer.endpoint, target, &headers, "");
    assert_eq!(status, 200, "{body}");
    body
}
