//! Stores that are busy, cut connections, fall silent, are not there, or may not be opened.

use crate::gcs_fake::{Fault, GcsFake};
use crate::support::peers::{
    ACCOUNT_KEY, Kind, Peer, RETRY, aws_variables, key, noise, put, untagged,
};
use barman_cloud::cloud::{CloudProvider, Environment, PlainHttp};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{Effect, PutMode, Store, StoreErrorKind, StoreOptions, StoreUrl};
use bytes::Bytes;
use futures::future::join_all;
use std::time::{Duration, Instant};

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
fn what_gives_access_goes_over_plain_http_to_another_machine_only_when_allowed() {
    let s3 = StoreUrl::parse("s3://b", CloudProvider::AwsS3).expect("a URL");
    let azure = CloudProvider::AzureBlobStorage;
    let azure = StoreUrl::parse("http://blobs.example/account/container", azure).expect("a URL");
    let keys = aws_variables("k");
    let keys: Vec<(&str, &str)> =
        keys.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let token = [&keys[..], &[("AWS_SESSION_TOKEN", "token")]].concat();
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&StoreUrl, Variables<'_>, bool); 5] = [
        (&s3, &keys, true),
        (&s3, &token, false),
        (&azure, &[("AZURE_STORAGE_KEY", ACCOUNT_KEY)], true),
        (&azure, &[("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")], false),
        (&azure, &[], false),
    ];
    for (url, variables, is_signed) in cases {
        let mut options = StoreOptions::new(RETRY);
        options.endpoint_url = Some("http://minio.example:9000".into());
        let open = |options: &StoreOptions, more: &[(&str, &str)]| {
            let variables = variables.iter().chain(more).copied();
            Store::open_in(url, options, &Environment::of(variables))
        };
        match open(&options, &[]) {
            Ok(_) => assert!(is_signed, "{url} {variables:?}"),
            Err(error) => {
                assert!(!is_signed, "{error}");
                assert!(error.hint.expect("a hint").contains("--allow-http"));
            }
        }
        assert!(open(&options, &[("BARMAN_CLOUD_ALLOW_HTTP", "true")]).is_ok());
        options.plain_http = PlainHttp::Allowed;
        assert!(open(&options, &[]).is_ok());
    }
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
