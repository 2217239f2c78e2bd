//! Stores that throttle for long, and answers that get lost on the way.

use crate::support::web::{WebAnswer, WebRequest, WebServer};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{
    ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreOptions, StoreUrl,
};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Time alone ends patience, and it is quick with the pauses.
const RETRY: RetryLimits = RetryLimits {
    delay_first: Duration::from_millis(1),
    delay_max: Duration::from_millis(4),
    deadline: Duration::from_secs(60),
    ..RetryLimits::PATIENT
};

fn open(server: &WebServer) -> Store {
    let url = StoreUrl::parse("s3://b", CloudProvider::AwsS3).expect("url");
    let mut options = StoreOptions::new(RETRY);
    options.endpoint_url = Some(server.url());
    let environment = Environment::of([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")]);
    Store::open_in(&url, &options, &environment).expect("opens")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("key")
}

fn object(content: &str) -> WebAnswer {
    WebAnswer::new(200, content)
        .with("ETag", "\"1\"")
        .with("Last-Modified", "Fri, 20 Nov 2026 12:00:00 GMT")
}

fn answer(request: &WebRequest) -> WebAnswer {
    let target = request.target.as_str();
    match request.method.as_str() {
        "POST" if target.contains("uploads") => WebAnswer::new(
            200,
            "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>",
        ),
        "POST" if target.contains("uploadId") => WebAnswer::new(
            200,
            "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>",
        ),
        "POST" => {
            WebAnswer::new(200, "<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>")
        }
        "GET" if target.contains("list-type=2") => WebAnswer::new(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>",
        ),
        "GET" | "HEAD" => object("x"),
        _ => WebAnswer::new(200, "").with("ETag", "\"1\""),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_ends_no_operation_before_its_deadline() {
    for status in [429, 503] {
        let asked = Mutex::new(HashMap::<String, usize>::new());
        // Each request is turned away fifteen times before it is served.
        let server = WebServer::play(move |request| {
            let name = format!("{} {}", request.method, request.target);
            let mut asked = asked.lock().expect("no panic");
            let count = asked.entry(name).or_default();
            *count += 1;
            if *count > 15 { answer(request) } else { WebAnswer::error(status, "SlowDown") }
        });
        let (store, options) = (open(&server), PutOptions::default());
        let put = store.put(&key("k"), "x".into(), PutMode::Create, &options).await;
        assert_eq!(put, Ok(PutOutcome::Written), "{status}");
        assert_eq!(store.get(&key("k")).await, Ok(Some("x".into())), "{status}");
        assert!(store.head(&key("k")).await.expect("head").is_some());
        let listed: Vec<_> = store.list("below").try_collect().await.expect("list");
        assert!(listed.is_empty());
        store.list_starting_with("below/x").await.expect("list by name");
        store.list_folder("folder").await.expect("list a folder");
        for (key, answer) in store.delete(vec![key("k")]).await {
            assert_eq!(answer, Ok(()), "{key}");
        }
        let mut upload = store.upload(&key("tar"), &options).await.expect("begins");
        upload.put_part(vec![Bytes::from_static(b"part")]).await.expect("a part");
        upload.complete().await.expect("completes");
    }
}

/// A server that completes, then says 500, then knows the upload no more.
fn forgetful(size: &'static str, whose: fn(&str) -> String) -> WebServer {
    let (marker, completions) = (Mutex::new(String::new()), AtomicUsize::new(0));
    WebServer::play(move |request| match request.method.as_str() {
        "POST" if request.target.contains("uploads") => {
            *marker.lock().expect("no panic") =
                request.header("x-amz-meta-barmancloudupload").to_string();
            answer(request)
        }
        "POST" if completions.fetch_add(1, Ordering::SeqCst) == 0 => {
            WebAnswer::error(500, "InternalError")
        }
        "POST" => WebAnswer::error(404, "NoSuchUpload"),
        "HEAD" => {
            let marker = whose(&marker.lock().expect("no panic"));
            object(size).with("x-amz-meta-barmancloudupload", marker)
        }
        _ => answer(request),
    })
}

/// The size of what is stored, whose mark it bears, and whether it counts.
type Case = (&'static str, fn(&str) -> String, bool);

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_upload_counts_although_its_answer_was_lost_and_only_then() {
    let cases: [Case; 3] = [
        ("part", |marker| marker.to_string(), true),
        ("part", |_| "somebody else's".to_string(), false),
        ("half a part", |marker| marker.to_string(), false),
    ];
    for (size, whose, counts) in cases {
        let server = forgetful(size, whose);
        let store = open(&server);
        let mut upload = store.upload(&key("tar"), &PutOptions::default()).await.expect("begins");
        upload.put_part(vec![Bytes::from_static(b"part")]).await.expect("a part");
        assert_eq!(upload.complete().await.is_ok(), counts, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_write_that_meets_its_own_first_try_has_won() {
    for (stored, outcome) in [("ours", PutOutcome::Written), ("theirs", PutOutcome::AlreadyThere)] {
        let puts = AtomicUsize::new(0);
        let server = WebServer::play(move |request| match request.method.as_str() {
            // Written, but the gateway says that it does not know.
            "PUT" if puts.fetch_add(1, Ordering::SeqCst) == 0 => WebAnswer::new(504, ""),
            "PUT" => WebAnswer::error(412, "PreconditionFailed"),
            _ => object(stored),
        });
        let (store, options) = (open(&server), PutOptions::default());
        let put = store.put(&key("k"), "ours".into(), PutMode::Create, &options).await;
        assert_eq!(put, Ok(outcome), "{stored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_store_had_no_time_for_is_deleted_again() {
    let asked = AtomicUsize::new(0);
    let server = WebServer::play(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0..12 => WebAnswer::new(
            200,
            "<DeleteResult><Error><Key>b</Key><Code>SlowDown</Code><Message>m</Message></Error></DeleteResult>",
        ),
        _ => WebAnswer::new(200, "<DeleteResult><Deleted><Key>b</Key></Deleted></DeleteResult>"),
    });
    for (key, answer) in open(&server).delete(vec![key("a"), key("b"), key("c")]).await {
        assert_eq!(answer, Ok(()), "{key}");
    }
}
