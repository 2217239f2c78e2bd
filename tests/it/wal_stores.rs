//! WAL files on every store: one listing for all suffixes, there and back, and no replacing.

use crate::support::scratch::scratch;
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use barman_cloud::catalog::{Catalog, Layout, ServerName};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::codec::{Compression, CompressionLevel};
use barman_cloud::flow::{Cancel, Limits, RetryLimits};
use barman_cloud::monitor::Silent;
use barman_cloud::store::{Store, StoreOptions, StoreUrl};
use barman_cloud::wal::WalFileName;
use barman_cloud::wal_archive::{
    Absence, FetchOptions, FetchOutcome, OtherContent, PartialSegments, PushOptions, PushOutcome,
    SpoolOptions, WalArchiveError, fetch, push,
};
use std::num::NonZeroUsize;
use std::path::Path;

const NAME: &str = "00000001000000000000001A";

#[test]
fn file_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::File);
}

#[test]
fn file_keeps_a_segment_and_refuses_to_replace_it() {
    keeps_a_segment_and_refuses_to_replace_it(StoreKind::File);
}

#[test]
fn s3_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::S3);
}

#[test]
fn s3_keeps_a_segment_and_refuses_to_replace_it() {
    keeps_a_segment_and_refuses_to_replace_it(StoreKind::S3);
}

#[test]
fn s3_strict_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::S3Strict);
}

#[test]
fn s3_strict_keeps_a_segment_and_refuses_to_replace_it() {
    keeps_a_segment_and_refuses_to_replace_it(StoreKind::S3Strict);
}

#[test]
fn azure_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::Azure);
}

#[test]
fn azure_keeps_a_segment_and_refuses_to_replace_it() {
    keeps_a_segment_and_refuses_to_replace_it(StoreKind::Azure);
}

#[test]
fn gcs_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::Gcs);
}

#[test]
fn gcs_keeps_a_segment_and_refuses_to_replace_it() {
    keeps_a_segment_and_refuses_to_replace_it(StoreKind::Gcs);
}

fn lists_the_suffixes_of_a_name(kind: StoreKind) {
    let Some(bucket) = StoreUnderTest::open(kind) else { return };
    let folder = "pct%20x/wals/0000000100000000";
    let mine = ["", ".00000028.backup.gz", ".gz", ".partial.zst"];
    for suffix in mine {
        bucket.put(&format!("{PREFIX}/{folder}/{NAME}{suffix}"), "x");
    }
    for other in ["00000001000000000000001B", "000000010000000000000019.gz"] {
        bucket.put(&format!("{PREFIX}/{folder}/{other}"), "x");
    }
    let (store, prefix) = open(&bucket);
    let folder = format!("{prefix}{folder}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listed = runtime.block_on(store.list_starting_with(&format!("{folder}/{NAME}")));
    let mut suffixes: Vec<_> = listed.expect("a listing").into_iter().collect();
    suffixes.sort_by(|a, b| a.key.cmp(&b.key));
    let suffixes: Vec<_> =
        suffixes.iter().map(|entry| entry.key.file_name()[NAME.len()..].to_string()).collect();
    assert_eq!(suffixes, mine, "{kind:?}");
    let absent = runtime.block_on(store.list_starting_with(&format!("{folder}/0000000F")));
    assert!(absent.expect("a listing").is_empty());
}

fn keeps_a_segment_and_refuses_to_replace_it(kind: StoreKind) {
    let Some(bucket) = StoreUnderTest::open(kind) else { return };
    let (store, prefix) = open(&bucket);
    let server = ServerName::parse("main").expect("server");
    let catalog = Catalog::new(store, Layout::new(&prefix, &server).expect("layout"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    if kind == StoreKind::File {
        // There the URL's folder is the bucket.
        runtime.block_on(catalog.store().create_bucket()).expect("a folder");
    }
    let folder = scratch();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1");
    let segment = fixtures.join("contract/walcomp/plain/wals/0000000100000000").join(NAME);
    let mut changed = std::fs::read(&segment).expect("fixture");
    changed[500_000] ^= 1;
    let other = folder.path().join(NAME);
    std::fs::write(&other, changed).expect("write");
    let options = PushOptions {
        compression: Some((Compression::Zstd, CompressionLevel::Medium)),
        tags: vec![("env".into(), "lab".into())],
        history_tags: None,
        other_content: OtherContent::Refuse,
    };
    let two = NonZeroUsize::new(2).expect("2");
    let limits = Limits {
        jobs: two,
        workers: two,
        memory_max_bytes: 1 << 26,
        bandwidth_max: None,
        retry: RetryLimits::PATIENT,
    };
    let pushed = |path: &Path| {
        runtime.block_on(push(path, &catalog, &options, &limits, &Silent, &Cancel::new()))
    };
    assert_eq!(pushed(&segment).expect("push"), PushOutcome::Archived, "{kind:?}");
    assert_eq!(pushed(&segment).expect("again"), PushOutcome::AlreadyArchived, "{kind:?}");
    let refused = pushed(&other).expect_err("other content");
    assert!(matches!(refused, WalArchiveError::OtherContent { .. }), "{kind:?}: {refused}");
    let destination = folder.path().join("RECOVERYXLOG");
    let fetched = |name: &str| {
        let spool = SpoolOptions { directory: folder.path().join("spool"), scope: "x".into() };
        let options = FetchOptions {
            partial: PartialSegments::Accept,
            absence: Absence::Listed,
            ahead: None,
            spool,
        };
        let name = WalFileName::parse(name).expect("name");
        let cancel = Cancel::new();
        runtime.block_on(fetch(&name, &destination, &catalog, &options, &limits, &Silent, &cancel))
    };
    assert_eq!(fetched(NAME).expect("fetch"), FetchOutcome::Delivered, "{kind:?}");
    let there_and_back = std::fs::read(&destination).expect("read");
    assert_eq!(there_and_back, std::fs::read(&segment).expect("fixture"), "{kind:?}");
    for absent in ["00000001000000000000001B", "00000002.history"] {
        assert_eq!(fetched(absent).expect("fetch"), FetchOutcome::NotThere, "{kind:?}");
    }
}

/// The store and what keys begin with: in a folder the URL is the top of the store.
fn open(bucket: &StoreUnderTest) -> (Store, String) {
    let option = |name: &str| {
        let at = bucket.options.iter().position(|option| option == name)?;
        bucket.options.get(at + 1).cloned()
    };
    let provider = match option("--cloud-provider").as_deref() {
        Some("azure-blob-storage") => CloudProvider::AzureBlobStorage,
        Some("google-cloud-storage") => CloudProvider::GoogleCloudStorage,
        _ => CloudProvider::AwsS3,
    };
    let mut options = StoreOptions::new(RetryLimits::PATIENT);
    options.endpoint_url = option("--endpoint-url");
    let variables = bucket.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let url = StoreUrl::parse(&bucket.url, provider).expect("a URL");
    let store = Store::open_in(&url, &options, &Environment::of(variables)).expect("a store");
    let prefix = match url.prefix() {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    (store, prefix)
}
