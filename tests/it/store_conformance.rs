//! One suite that every kind of store passes: memory, a folder, S3, Azure, Google.
//!
//! What the emulators cannot prove: LocalStack checks no signatures (the strict S3 server does),
//! the Google fake checks no credentials and Azurite does not report an encryption scope back, so
//! there only the request is known to be accepted. Metadata servers, SSO, web identity and
//! regions exist nowhere here.

use crate::gcs_fake::{Fault, GcsFake};
use crate::support::http;
use crate::support::outside;
use crate::support::scratch::unique;
use barman_cloud::cloud::{CloudProvider, Environment, PlainHttp};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{
    Effect, ObjectKey, PutMode, PutOptions, PutOutcome, S3Encryption, Store, StoreError,
    StoreErrorKind, StoreOptions, StoreUrl,
};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{join_all, try_join_all};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequestBody;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Quick to give up: nothing here is meant to fail for long.
const RETRY: RetryLimits = RetryLimits {
    attempts_max: 4,
    deadline: Duration::from_secs(20),
    delay_first: Duration::from_millis(20),
    delay_max: Duration::from_millis(200),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Folder,
    S3,
    S3Strict,
    Azure,
    Google,
}

/// How to open stores of one kind.
struct Peer {
    kind: Kind,
    endpoint: String,
    bucket: String,
    variables: Vec<(&'static str, String)>,
    _folder: Option<tempfile::TempDir>,
}

impl Peer {
    /// `None` when this kind's emulator is missing, which has been said.
    fn find(kind: Kind) -> Option<Self> {
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

    fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::new(RETRY);
        if matches!(self.kind, Kind::S3 | Kind::S3Strict) {
            options.endpoint_url = Some(self.endpoint.clone());
        }
        options
    }

    fn open(&self, bucket: &str, options: &StoreOptions) -> Store {
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
    async fn ready(&self) -> Store {
        self.ready_with(&self.options()).await
    }

    async fn ready_with(&self, options: &StoreOptions) -> Store {
        let store = self.open(&self.bucket, options);
        store.create_bucket().await.expect("a bucket");
        store
    }
}

fn aws_variables(key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", key.to_string()),
        ("AWS_SECRET_ACCESS_KEY", key.to_string()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_string()),
    ]
}

fn google_fake() -> &'static GcsFake {
    static FAKE: OnceLock<GcsFake> = OnceLock::new();
    FAKE.get_or_init(|| GcsFake::start().expect("the fake starts"))
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

async fn put(store: &Store, name: &str, bytes: impl Into<Bytes>) {
    let outcome = store.put(&key(name), bytes.into(), PutMode::Overwrite, &untagged()).await;
    assert_eq!(outcome.expect("put"), PutOutcome::Written);
}

fn untagged() -> PutOptions {
    PutOptions::default()
}

fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

async fn names(store: &Store, prefix: &str) -> Vec<String> {
    let entries: Vec<_> = store.list(prefix).try_collect().await.expect("a listing");
    entries.into_iter().map(|entry| entry.key.to_string()).collect()
}

mod checks {
    use crate::store_conformance::*;

    pub async fn what_is_put_is_read_back(peer: &Peer) {
        let store = peer.ready().await;
        for content in [Bytes::new(), Bytes::from_static(b"x"), noise(3 << 20)] {
            put(&store, "a/object", content.clone()).await;
            assert!(store.get(&key("a/object")).await.expect("get").expect("there") == content);
            let head = store.head(&key("a/object")).await.expect("head").expect("there");
            assert_eq!(head.bytes, u64::try_from(content.len()).expect("a length"));
        }
    }

    pub async fn what_is_not_there_is_none(peer: &Peer) {
        let store = peer.ready().await;
        let nothing = key("no/such/object");
        assert_eq!(store.get(&nothing).await, Ok(None));
        assert_eq!(store.head(&nothing).await, Ok(None));
        assert!(store.get_stream(&nothing, Some(2..5)).await.expect("an answer").is_none());
        assert_eq!(names(&store, "no").await, Vec::<String>::new());
    }

    pub async fn a_range_ends_where_it_was_asked_to(peer: &Peer) {
        let store = peer.ready().await;
        put(&store, "digits", "0123456789").await;
        for (range, expected) in [(2..5, "234"), (0..10, "0123456789"), (8..99, "89"), (4..4, "")] {
            let opened = store.get_stream(&key("digits"), Some(range.clone())).await;
            let (meta, stream) = opened.expect("an answer").expect("there");
            let bytes: Vec<Bytes> = stream.try_collect().await.expect("bytes");
            assert_eq!(bytes.concat(), expected.as_bytes(), "{range:?}");
            assert_eq!(meta.bytes, 10);
        }
    }

    pub async fn a_create_never_replaces(peer: &Peer) {
        let store = peer.ready().await;
        let create = |text: &'static str| {
            let store = store.clone();
            async move { store.put(&key("one"), Bytes::from(text), PutMode::Create, &untagged()).await }
        };
        assert_eq!(create("first").await, Ok(PutOutcome::Written));
        assert_eq!(create("second").await, Ok(PutOutcome::AlreadyThere));
        assert_eq!(store.get(&key("one")).await, Ok(Some(Bytes::from("first"))));
        put(&store, "one", "third").await;
        assert_eq!(store.get(&key("one")).await, Ok(Some(Bytes::from("third"))));
    }

    pub async fn of_sixteen_creators_one_wins(peer: &Peer) {
        let store = peer.ready().await;
        for round in 0..5 {
            let name = key(&format!("race/{round}"));
            let racers = (0..16).map(|racer| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move {
                    let content = Bytes::from(format!("racer {racer}"));
                    store.put(&name, content, PutMode::Create, &untagged()).await
                })
            });
            let outcomes: Vec<PutOutcome> = join_all(racers)
                .await
                .into_iter()
                .map(|outcome| outcome.expect("a task").expect("an answer"))
                .collect();
            let winners: Vec<usize> =
                (0..16).filter(|racer| outcomes[*racer] == PutOutcome::Written).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            let content = store.get(&name).await.expect("get").expect("there");
            assert_eq!(content, format!("racer {}", winners[0]));
        }
    }

    pub async fn parts_sent_at_once_become_one_object(peer: &Peer) {
        let store = peer.ready().await;
        let content = noise((11 << 20) + 7);
        let mut upload = store.upload(&key("big"), &untagged()).await.expect("an upload");
        let parts: Vec<_> = content
            .chunks(5 << 20)
            .map(|part| {
                // Two chunks, to see that they are joined.
                let (head, tail) = part.split_at(part.len() / 2);
                upload.put_part(vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)])
            })
            .collect();
        try_join_all(parts.into_iter().rev()).await.expect("parts");
        assert_eq!(store.get(&key("big")).await, Ok(None), "visible before it was complete");
        assert_eq!(names(&store, "").await, Vec::<String>::new());
        upload.complete().await.expect("complete");
        assert!(store.get(&key("big")).await.expect("get").expect("there") == content);
        let (_, stream) = store
            .get_stream(&key("big"), Some(5_000_000..6_000_000))
            .await
            .expect("ok")
            .expect("there");
        let middle: Vec<Bytes> = stream.try_collect().await.expect("bytes");
        assert!(middle.concat() == content[5_000_000..6_000_000]);
    }

    pub async fn an_abandoned_upload_leaves_no_object(peer: &Peer) {
        let store = peer.ready().await;
        let mut upload = store.upload(&key("gone"), &untagged()).await.expect("an upload");
        upload.put_part(vec![noise(5 << 20)]).await.expect("a part");
        upload.abort().await.expect("abort");
        let mut upload = store.upload(&key("dropped"), &untagged()).await.expect("an upload");
        upload.put_part(vec![noise(1000)]).await.expect("a part");
        drop(upload);
        assert_eq!(names(&store, "").await, Vec::<String>::new());
        assert_eq!(store.get(&key("gone")).await, Ok(None));
    }

    pub async fn an_upload_without_parts_is_an_empty_object(peer: &Peer) {
        let store = peer.ready().await;
        let upload = store.upload(&key("empty"), &untagged()).await.expect("an upload");
        upload.complete().await.expect("complete");
        assert_eq!(store.get(&key("empty")).await, Ok(Some(Bytes::new())));
    }

    pub async fn a_listing_goes_over_pages_and_deletion_over_batches(peer: &Peer) {
        let mut options = peer.options();
        options.delete_batch_size = NonZeroUsize::new(500);
        let store = peer.ready_with(&options).await;
        let expected: BTreeSet<String> = (0..1200).map(|n| format!("p/1/{n:04}")).collect();
        for names in expected.iter().cloned().collect::<Vec<_>>().chunks(64) {
            join_all(names.iter().map(|name| put(&store, name, "x"))).await;
        }
        // Neighbours that share the beginning of the prefix, but are not below it.
        put(&store, "p/10", "x").await;
        put(&store, "p/1x/y", "x").await;
        let listed = names(&store, "p/1").await;
        assert_eq!(listed.len(), 1200);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(names(&store, "p/1/").await.len(), 1200);
        assert_eq!(names(&store, "").await.len(), 1202);

        let mut doomed: Vec<ObjectKey> = expected.iter().map(|name| key(name)).collect();
        doomed.insert(3, key("p/1/never-was"));
        let answers = store.delete(doomed.clone()).await;
        assert!(answers.iter().map(|(name, _)| name).eq(&doomed), "another order");
        let failed = answers.iter().find(|(_, answer)| answer.is_err());
        assert_eq!(failed, None);
        let mut left = names(&store, "").await;
        left.sort();
        assert_eq!(left, ["p/10", "p/1x/y"]);
    }

    pub async fn names_with_one_beginning_are_found_in_their_folder_only(peer: &Peer) {
        let store = peer.ready().await;
        for name in ["w/0A", "w/0A.gz", "w/0A.00000028.backup", "w/0B", "w/0A-folder/x", "x/0A"] {
            put(&store, name, "x").await;
        }
        let found = store.list_starting_with("w/0A").await.expect("a listing");
        let mut found: Vec<String> = found.into_iter().map(|entry| entry.key.to_string()).collect();
        found.sort();
        assert_eq!(found, ["w/0A", "w/0A.00000028.backup", "w/0A.gz"]);
    }

    pub async fn odd_names_are_kept_to_the_byte(peer: &Peer) {
        let store = peer.ready().await;
        let odd = ["a b", "ü/é", "pct%20x", "plus+and=amp&", "q?x", "tilde~", "(br)[ack]", "e'x!"];
        for name in odd {
            put(&store, &format!("odd/{name}"), name).await;
        }
        let mut listed = names(&store, "odd").await;
        let mut expected: Vec<String> = odd.iter().map(|name| format!("odd/{name}")).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
        for name in odd {
            let read = store.get(&key(&format!("odd/{name}"))).await;
            assert_eq!(read, Ok(Some(Bytes::from(name))), "{name}");
        }
        let answers = store.delete(expected.iter().map(|name| key(name)).collect()).await;
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
        assert_eq!(names(&store, "odd").await, Vec::<String>::new());
    }

    pub async fn a_missing_bucket_is_an_error_and_never_none(peer: &Peer) {
        if peer.kind == Kind::Memory {
            return;
        }
        let store = peer.open(&format!("{}-missing", peer.bucket), &peer.options());
        let any = key("any/key");
        let outcomes: Vec<(&str, Option<StoreError>)> = vec![
            ("get", store.get(&any).await.err()),
            ("head", store.head(&any).await.err()),
            ("put", store.put(&any, Bytes::from("x"), PutMode::Overwrite, &untagged()).await.err()),
            ("create", store.put(&any, Bytes::from("x"), PutMode::Create, &untagged()).await.err()),
            ("list", store.list("any").try_collect::<Vec<_>>().await.err()),
            ("delete", store.delete(vec![any.clone()]).await.remove(0).1.err()),
        ];
        for (operation, error) in outcomes {
            let error = error.unwrap_or_else(|| panic!("{operation} found something"));
            assert_eq!(error.kind, StoreErrorKind::BucketMissing, "{operation}: {error}");
            assert_eq!(error.effect, Effect::SurelyNot, "{operation}: {error}");
        }
        assert_eq!(store.bucket_exists().await, Ok(false));
    }

    pub async fn a_bucket_is_created_once_and_found(peer: &Peer) {
        let store = peer.ready().await;
        assert_eq!(store.bucket_exists().await, Ok(true));
        assert_eq!(store.create_bucket().await, Ok(()));
        put(&store, "kept", "x").await;
        assert_eq!(store.create_bucket().await, Ok(()));
        assert_eq!(store.get(&key("kept")).await, Ok(Some(Bytes::from("x"))));
    }
}

macro_rules! conformance {
    ($module:ident, $kind:expr, [$($check:ident),* $(,)?]) => {
        mod $module {
            use crate::store_conformance::{Kind, Peer, checks};

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    if let Some(peer) = Peer::find($kind) {
                        checks::$check(&peer).await;
                    }
                }
            )*
        }
    };
    ($($module:ident: $kind:expr),* $(,)?) => {
        $(
            conformance!($module, $kind, [
                what_is_put_is_read_back,
                what_is_not_there_is_none,
                a_range_ends_where_it_was_asked_to,
                a_create_never_replaces,
                of_sixteen_creators_one_wins,
                parts_sent_at_once_become_one_object,
                an_abandoned_upload_leaves_no_object,
                an_upload_without_parts_is_an_empty_object,
                a_listing_goes_over_pages_and_deletion_over_batches,
                names_with_one_beginning_are_found_in_their_folder_only,
                odd_names_are_kept_to_the_byte,
                a_missing_bucket_is_an_error_and_never_none,
                a_bucket_is_created_once_and_found,
            ]);
        )*
    };
}

conformance! {
    memory: Kind::Memory,
    folder: Kind::Folder,
    s3: Kind::S3,
    s3_strict: Kind::S3Strict,
    azure: Kind::Azure,
    google: Kind::Google,
}

/// The answer to a signed GET on S3.
fn s3_get(peer: &Peer, target: &str) -> String {
    answer_to(peer, &signed_for_s3(peer, target))
}

/// The headers of an object on S3.
async fn s3_headers(peer: &Peer, target: &str) -> ::http::HeaderMap {
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
fn azure_get(peer: &Peer, target: &str) -> String {
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

fn tags() -> PutOptions {
    PutOptions { tags: vec![("team".into(), "db one".into()), ("tier".into(), "gold".into())] }
}

async fn write_tagged(store: &Store) {
    store.put(&key("small"), Bytes::from("x"), PutMode::Create, &tags()).await.expect("put");
    let mut upload = store.upload(&key("large"), &tags()).await.expect("an upload");
    upload.put_part(vec![Bytes::from("x")]).await.expect("a part");
    upload.complete().await.expect("complete");
}

#[tokio::test]
async fn tags_reach_s3_as_object_tags() {
    for kind in [Kind::S3, Kind::S3Strict] {
        let Some(peer) = Peer::find(kind) else { continue };
        write_tagged(&peer.ready().await).await;
        for name in ["small", "large"] {
            let answer = s3_get(&peer, &format!("/{}/{name}?tagging", peer.bucket));
            for text in ["<Key>team</Key>", "<Value>db one</Value>", "<Value>gold</Value>"] {
                assert!(answer.contains(text), "{kind:?} {name}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn tags_reach_azure_as_blob_tags() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    write_tagged(&peer.ready().await).await;
    for name in ["small", "large"] {
        let answer = azure_get(&peer, &format!("/{ACCOUNT}/{}/{name}?comp=tags", peer.bucket));
        for text in ["<Key>team</Key>", "<Value>db one</Value>", "<Value>gold</Value>"] {
            assert!(answer.contains(text), "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn tags_reach_google_as_metadata() {
    let peer = Peer::find(Kind::Google).expect("the fake");
    let store = peer.ready().await;
    write_tagged(&store).await;
    for name in ["small", "large"] {
        let target = format!("/storage/v1/b/{}/o/{name}", peer.bucket);
        let (status, answer) = http::request("GET", &peer.endpoint, &target, &[], "");
        let json: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, json["metadata"]["team"].as_str()), (200, Some("db one")), "{answer}");
    }
    let unfit = PutOptions { tags: vec![("not a header".into(), "x".into())] };
    let refused = store.put(&key("unfit"), Bytes::new(), PutMode::Create, &unfit).await;
    assert_eq!(refused.expect_err("refused").kind, StoreErrorKind::Refused);
}

#[tokio::test]
async fn encryption_is_asked_for_on_s3() {
    let Some(peer) = Peer::find(Kind::S3) else { return };
    let kms = S3Encryption::Kms { key_id: Some("1234abcd-12ab-34cd-56ef-1234567890ab".into()) };
    let asked = [(S3Encryption::Aes256, "AES256", ""), (kms, "aws:kms", "1234abcd-12ab-34cd")];
    for (encryption, algorithm, key_id) in asked {
        let mut options = peer.options();
        options.s3_encryption = Some(encryption);
        let store = peer.ready_with(&options).await;
        store.delete(vec![key("small"), key("large")]).await;
        write_tagged(&store).await;
        for name in ["small", "large"] {
            let headers = s3_headers(&peer, &format!("/{}/{name}", peer.bucket)).await;
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-amz-server-side-encryption"), Some(algorithm), "{name}");
            let stored = header("x-amz-server-side-encryption-aws-kms-key-id").unwrap_or_default();
            assert!(stored.contains(key_id), "{name}: {stored}");
        }
    }
}

#[tokio::test]
async fn an_encryption_scope_is_signed_on_azure() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    let mut options = peer.options();
    options.azure_encryption_scope = Some("scope1".into());
    let store = peer.ready_with(&options).await;
    write_tagged(&store).await;
    assert_eq!(store.get(&key("small")).await, Ok(Some(Bytes::from("x"))));
    assert_eq!(names(&store, "").await.len(), 2);
}

#[tokio::test]
async fn a_kms_key_reaches_google() {
    let peer = Peer::find(Kind::Google).expect("the fake");
    let mut options = peer.options();
    options.gcs_kms_key = Some("projects/p/keys/k".into());
    write_tagged(&peer.ready_with(&options).await).await;
    for name in ["small", "large"] {
        let kms_key = google_fake().kms_key(&peer.bucket, name);
        assert_eq!(kms_key.as_deref(), Some("projects/p/keys/k"), "{name}");
    }
}

#[tokio::test]
async fn azure_objects_above_the_single_put_size_are_written_in_blocks_and_never_replace() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    let mut options = peer.options();
    options.azure_blocks.single_put_max_bytes = 1 << 20;
    options.azure_blocks.block_max_bytes = 300_000;
    options.azure_blocks.concurrency = NonZeroUsize::new(3).expect("3");
    let store = peer.ready_with(&options).await;
    let content = noise(2 << 20);
    for expected in [PutOutcome::Written, PutOutcome::AlreadyThere] {
        let outcome =
            store.put(&key("blocks"), content.clone(), PutMode::Create, &untagged()).await;
        assert_eq!(outcome, Ok(expected));
    }
    assert!(store.get(&key("blocks")).await.expect("get").expect("there") == content);
    let target = format!("/{ACCOUNT}/{}/blocks?comp=blocklist", peer.bucket);
    assert_eq!(azure_get(&peer, &target).matches("<Block>").count(), 7);
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let wrong = [
        (Kind::S3Strict, "AWS_SECRET_ACCESS_KEY", "wrongwrong"),
        (Kind::S3Strict, "AWS_ACCESS_KEY_ID", "nobody"),
        (Kind::Azure, "AZURE_STORAGE_KEY", "d3Jvbmc="),
    ];
    for (kind, variable, value) in wrong {
        let Some(mut peer) = Peer::find(kind) else { continue };
        peer.ready().await;
        for (name, old) in &mut peer.variables {
            if *name == variable {
                *old = value.to_string();
            }
        }
        let store = peer.open(&peer.bucket, &peer.options());
        let any = key("any");
        let errors = [
            store.get(&any).await.expect_err("denied"),
            store.put(&any, Bytes::new(), PutMode::Create, &untagged()).await.expect_err("denied"),
            store.list("any").try_collect::<Vec<_>>().await.expect_err("denied"),
            store.bucket_exists().await.expect_err("denied"),
        ];
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::Denied, "{kind:?} {variable}: {error}");
            assert!(error.hint.is_some() && !error.to_string().contains(value), "{error}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_given_up_within_seconds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let kinds = [
        (Kind::S3, aws_variables("k")),
        (Kind::Azure, vec![("AZURE_STORAGE_KEY", ACCOUNT_KEY.to_string())]),
        (Kind::Google, vec![("STORAGE_EMULATOR_HOST", closed.clone())]),
    ];
    let tries = kinds.map(|(kind, variables)| {
        let (endpoint, bucket) = (closed.clone(), "bucket".to_string());
        let peer = Peer { kind, endpoint, bucket, variables, _folder: None };
        async move {
            let mut options = peer.options();
            options.retry = RetryLimits::PATIENT;
            let store = peer.open("bucket", &options);
            let begun = Instant::now();
            let error = store.get(&key("any")).await.expect_err("nobody is there");
            assert_eq!(error.kind, StoreErrorKind::Unreachable, "{kind:?}: {error}");
            assert!(error.reason.contains("connection refused after "), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(15), "{kind:?}: {:?}", begun.elapsed());
        }
    });
    join_all(tries).await;
}

/// A bucket on a Google fake of its own, so that faults hit this test alone.
async fn faulty() -> (GcsFake, Store) {
    let fake = GcsFake::start().expect("the fake starts");
    fake.create_bucket("b");
    let endpoint = fake.endpoint();
    let environment = Environment::of([("STORAGE_EMULATOR_HOST", endpoint.as_str())]);
    let url = StoreUrl::parse("gs://b", CloudProvider::GoogleCloudStorage).expect("a URL");
    let mut options = StoreOptions::new(RETRY);
    options.read_timeout = Duration::from_secs(1);
    (fake, Store::open_in(&url, &options, &environment).expect("a store"))
}

#[tokio::test]
async fn a_store_that_is_busy_for_a_moment_is_asked_again() {
    let (fake, store) = faulty().await;
    for status in [503, 429, 500] {
        fake.fail("PUT", "/b/", 0, 2, Fault::Status(status));
        put(&store, "busy", "x").await;
        fake.fail("GET", "/b/", 0, 2, Fault::Status(status));
        assert_eq!(store.get(&key("busy")).await, Ok(Some(Bytes::from("x"))), "{status}");
    }
}

#[tokio::test]
async fn what_is_given_up_says_how_often_it_was_tried() {
    let (fake, store) = faulty().await;
    fake.fail("GET", "/b/", 0, 99, Fault::Status(503));
    let error = store.get(&key("any")).await.expect_err("given up");
    assert_eq!(error.kind, StoreErrorKind::Interrupted);
    assert!(error.reason.contains("after 4 attempts in "), "{error}");
    fake.fail("PUT", "/b/", 0, 99, Fault::Status(500));
    let put = store.put(&key("any"), Bytes::new(), PutMode::Overwrite, &untagged()).await;
    assert_eq!(put.expect_err("given up").effect, Effect::MayHaveHappened);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_read_on_from_there() {
    let (fake, store) = faulty().await;
    let content = noise(2 << 20);
    put(&store, "large", content.clone()).await;
    // More breaks than the library allows within one request, each after some progress.
    fake.fail("GET", "/b/large", 0, 12, Fault::CutBody(100_000));
    assert!(store.get(&key("large")).await.expect("read on").expect("there") == content);
    let asked = fake.requests().iter().filter(|line| line.starts_with("GET /b/large")).count();
    assert_eq!(asked, 13);
}

#[tokio::test]
async fn a_body_that_never_moves_on_is_given_up() {
    let (fake, store) = faulty().await;
    put(&store, "stuck", noise(1000)).await;
    fake.fail("GET", "/b/stuck", 0, 999, Fault::CutBody(0));
    let error = store.get(&key("stuck")).await.expect_err("given up");
    assert_eq!(error.kind, StoreErrorKind::Interrupted, "{error}");
}

#[tokio::test]
async fn silence_is_ended_by_the_read_timeout() {
    let (fake, store) = faulty().await;
    put(&store, "held", "x").await;
    fake.fail("GET", "/b/held", 0, 1, Fault::Hold(Duration::from_secs(30)));
    let begun = Instant::now();
    assert_eq!(store.get(&key("held")).await, Ok(Some(Bytes::from("x"))));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_aborted_upload_leaves_no_parts_at_google() {
    let (fake, store) = faulty().await;
    let mut upload = store.upload(&key("gone"), &untagged()).await.expect("an upload");
    upload.put_part(vec![Bytes::from("x")]).await.expect("a part");
    assert_eq!(fake.open_uploads(), 1);
    upload.abort().await.expect("abort");
    assert_eq!(fake.open_uploads(), 0);
}

#[tokio::test]
async fn reading_costs_one_request_and_a_missing_object_no_more() {
    let (fake, store) = faulty().await;
    put(&store, "here", "x").await;
    let before = fake.requests().len();
    store.get(&key("here")).await.expect("get");
    store.get(&key("gone")).await.expect("get");
    store.head(&key("here")).await.expect("head");
    assert_eq!(fake.requests().len() - before, 3);
}

#[test]
fn plain_http_to_another_machine_must_be_allowed() {
    let url = StoreUrl::parse("s3://b", CloudProvider::AwsS3).expect("a URL");
    let mut options = StoreOptions::new(RETRY);
    options.endpoint_url = Some("http://minio.example:9000".into());
    let open = |options: &StoreOptions, variables: &[(&str, &str)]| {
        Store::open_in(&url, options, &Environment::of(variables.iter().copied()))
    };
    let error = open(&options, &[]).expect_err("refused");
    assert!(error.hint.expect("a hint").contains("--allow-http"));
    assert!(open(&options, &[("BARMAN_CLOUD_ALLOW_HTTP", "true")]).is_ok());
    options.plain_http = PlainHttp::Allowed;
    assert!(open(&options, &[]).is_ok());
}

#[test]
fn opening_a_store_costs_nothing() {
    let url = StoreUrl::parse("s3://b", CloudProvider::AwsS3).expect("a URL");
    let options = StoreOptions::new(RETRY);
    let variables = aws_variables("k");
    let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
    let environment = Environment::of(variables);
    let begun = Instant::now();
    for _ in 0..20 {
        Store::open_in(&url, &options, &environment).expect("a store");
    }
    // Reading the system's certificates alone takes longer than this in a debug build.
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_folder_keeps_its_files_private_and_its_unfinished_ones_hidden() {
    use std::os::unix::fs::PermissionsExt;
    let peer = Peer::find(Kind::Folder).expect("a folder");
    let store = peer.ready().await;
    put(&store, "a/b", "x").await;
    let root = std::path::Path::new(&peer.bucket);
    let mode = |path: &str| {
        std::fs::metadata(root.join(path)).expect("metadata").permissions().mode() & 0o777
    };
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
    let mut upload = store.upload(&key("a/c"), &untagged()).await.expect("an upload");
    upload.put_part(vec![Bytes::from("x")]).await.expect("a part");
    assert_eq!(std::fs::read_dir(root.join("a")).expect("a folder").count(), 2);
    assert_eq!(names(&store, "").await, ["a/b"]);
    upload.abort().await.expect("abort");
    assert_eq!(std::fs::read_dir(root.join("a")).expect("a folder").count(), 1);
    let answers = store.delete(vec![key("a/b")]).await;
    assert!(answers[0].1.is_ok());
    assert!(!root.join("a").exists(), "an empty folder was left");
}
