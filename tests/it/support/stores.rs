//! One fresh bucket on each kind of store, addressed the way our commands and Barman's are.

use crate::gcs_fake::GcsFake;
use crate::support::http;
use crate::support::outside;
use crate::support::scratch::{give_tree_to_postgres, scratch, unique};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::azure::{
    AzureAccessKey, AzureAuthorizer, AzureCredential, MicrosoftAzureBuilder,
};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Azurite's well-known account, as its documentation publishes it.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    File,
    S3,
    /// The S3 server that checks signatures and checksums.
    S3Strict,
    Azure,
    Gcs,
}

/// A bucket of its own for one test, with a prefix inside of it.
pub struct StoreUnderTest {
    pub kind: StoreKind,
    /// The first positional of every command.
    pub url: String,
    /// `--cloud-provider`, `--endpoint-url`.
    pub options: Vec<String>,
    /// Credentials and endpoints that go through the environment.
    pub environment: Vec<(String, String)>,
    pub bucket: String,
    objects: Arc<dyn ObjectStore>,
    folder: Option<TempDir>,
}

/// The prefix of every [`StoreUnderTest`]: two levels, so that joining is exercised.
pub const PREFIX: &str = "databases/prod";

impl StoreUnderTest {
    /// `None` (after saying so) when this kind's emulator is missing outside of CI.
    pub fn open(kind: StoreKind) -> Option<Self> {
        match kind {
            StoreKind::File => Some(file()),
            StoreKind::S3 => {
                Some(s3(kind, &outside::required(outside::S3, "the S3 emulator")?, "test"))
            }
            StoreKind::S3Strict => {
                let endpoint = outside::optional(outside::S3_STRICT, "the strict S3 server")?;
                Some(s3(kind, &endpoint, "testtest"))
            }
            StoreKind::Azure => {
                Some(azure(&outside::required(outside::AZURE, "the Azure emulator")?))
            }
            StoreKind::Gcs => Some(gcs()),
        }
    }

    /// Every key in the bucket, in order.
    pub fn keys(&self) -> Vec<String> {
        let listing = self.objects.list(None);
        let listing = listing.map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>();
        let mut keys: Vec<String> = runtime().block_on(listing).expect("a listing");
        keys.sort();
        keys
    }

    /// The keys below the prefix and `folder`, without those.
    pub fn keys_below(&self, folder: &str) -> Vec<String> {
        let start = format!("{PREFIX}/{folder}/");
        self.keys().iter().filter_map(|key| key.strip_prefix(&start)).map(String::from).collect()
    }

    /// A whole object; `key` counts from the top of the bucket.
    pub fn get(&self, key: &str) -> Bytes {
        let read = async { self.objects.get(&path(key)).await?.bytes().await };
        runtime().block_on(read).unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let payload = PutPayload::from(bytes.into());
        runtime().block_on(self.objects.put(&path(key), payload)).expect("put");
        if let Some(folder) = &self.folder {
            give_tree_to_postgres(folder.path());
        }
    }

    pub fn delete(&self, key: &str) {
        runtime().block_on(self.objects.delete(&path(key))).expect("delete");
    }

    /// Every object with its content, for comparisons of before and after.
    pub fn contents(&self) -> BTreeMap<String, Bytes> {
        self.keys().into_iter().map(|key| (key.clone(), self.get(&key))).collect()
    }
}

fn file() -> StoreUnderTest {
    let folder = scratch();
    // A folder is a store's bucket: commands do not make it up, it may be an unmounted disk.
    std::fs::create_dir_all(folder.path().join(PREFIX)).expect("a folder");
    give_tree_to_postgres(folder.path());
    StoreUnderTest {
        kind: StoreKind::File,
        url: format!("file://{}/{PREFIX}", folder.path().display()),
        options: Vec::new(),
        environment: Vec::new(),
        bucket: folder.path().display().to_string(),
        objects: Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("a folder")),
        folder: Some(folder),
    }
}

fn s3(kind: StoreKind, endpoint: &str, key: &str) -> StoreUnderTest {
    let bucket = unique("it");
    let secret = if kind == StoreKind::S3Strict { "testtest" } else { "test" };
    create_s3_bucket(endpoint, &bucket, key, secret);
    let objects = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_region("us-east-1")
        .with_bucket_name(&bucket)
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .with_allow_http(true)
        .build()
        .expect("an S3 client");
    StoreUnderTest {
        kind,
        url: format!("s3://{bucket}/{PREFIX}"),
        options: words(&["--cloud-provider", "aws-s3", "--endpoint-url", endpoint]),
        environment: pairs(&[
            ("AWS_ACCESS_KEY_ID", key),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]),
        bucket,
        objects: Arc::new(objects),
        folder: None,
    }
}

fn create_s3_bucket(endpoint: &str, bucket: &str, key: &str, secret: &str) {
    let credential = AwsCredential { key_id: key.into(), secret_key: secret.into(), token: None };
    let mut request = empty_put(&format!("{}/{bucket}", endpoint.trim_end_matches('/')));
    AwsAuthorizer::new(&credential, "s3", "us-east-1")
        .try_authorize(&mut request, None)
        .expect("a signature");
    create(endpoint, &request);
}

fn azure(endpoint: &str) -> StoreUnderTest {
    let endpoint = endpoint.trim_end_matches('/');
    let container = unique("it");
    let account_url = format!("{endpoint}/{AZURITE_ACCOUNT}");
    create_azure_container(endpoint, &format!("{account_url}/{container}?restype=container"));
    let objects = MicrosoftAzureBuilder::new()
        .with_account(AZURITE_ACCOUNT)
        .with_access_key(AZURITE_KEY)
        .with_endpoint(account_url.clone())
        .with_container_name(&container)
        .with_allow_http(true)
        .build()
        .expect("an Azure client");
    let connection = format!(
        "DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};\
         BlobEndpoint={account_url};"
    );
    StoreUnderTest {
        kind: StoreKind::Azure,
        url: format!("{account_url}/{container}/{PREFIX}"),
        options: words(&["--cloud-provider", "azure-blob-storage"]),
        environment: pairs(&[("AZURE_STORAGE_CONNECTION_STRING", &connection)]),
        bucket: container,
        objects: Arc::new(objects),
        folder: None,
    }
}

fn create_azure_container(endpoint: &str, url: &str) {
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURITE_KEY).expect("a key"));
    let mut request = empty_put(url);
    request.headers_mut().insert("content-length", http_value("0"));
    AzureAuthorizer::new(&key, AZURITE_ACCOUNT).try_authorize(&mut request).expect("a signature");
    create(endpoint, &request);
}

fn gcs() -> StoreUnderTest {
    let fake = gcs_fake();
    let bucket = unique("it");
    fake.create_bucket(&bucket);
    let endpoint = fake.endpoint();
    let objects = GoogleCloudStorageBuilder::new()
        .with_base_url(&endpoint)
        .with_bearer_token("anyone")
        .with_bucket_name(&bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .expect("a GCS client");
    StoreUnderTest {
        kind: StoreKind::Gcs,
        url: format!("gs://{bucket}/{PREFIX}"),
        options: words(&["--cloud-provider", "google-cloud-storage"]),
        environment: pairs(&[
            ("STORAGE_EMULATOR_HOST", &endpoint),
            ("GOOGLE_CLOUD_PROJECT", "project"),
        ]),
        bucket,
        objects: Arc::new(objects),
        folder: None,
    }
}

/// One server for all tests; each has a bucket of its own.
pub fn gcs_fake() -> &'static GcsFake {
    static FAKE: OnceLock<GcsFake> = OnceLock::new();
    FAKE.get_or_init(|| GcsFake::start().expect("a free port"))
}

fn empty_put(url: &str) -> HttpRequest {
    ::http::Request::put(url).body(HttpRequestBody::empty()).expect("a request")
}

fn http_value(text: &str) -> ::http::HeaderValue {
    ::http::HeaderValue::from_str(text).expect("a header")
}

/// Sends a signed request that must create something.
fn create(endpoint: &str, request: &HttpRequest) {
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .filter(|(name, _)| *name != "host" && *name != "content-length")
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    let target = request.uri().path_and_query().expect("a path").as_str();
    let (status, body) = http::request("PUT", endpoint, target, &headers, "");
    assert!(matches!(status, 200 | 201), "could not create {}: {status} {body}", request.uri());
}

/// One runtime for the looking-in of all tests; the code under test runs in its own processes.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

fn path(key: &str) -> Path {
    Path::parse(key).expect("a key")
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_string()).collect()
}

fn pairs(texts: &[(&str, &str)]) -> Vec<(String, String)> {
    texts.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
}
