//! All suffixes of one WAL file's name come back from one listing, on every store.

use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{Store, StoreOptions, StoreUrl};

const NAME: &str = "00000001000000000000001A";

#[test]
fn file_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::File);
}

#[test]
fn s3_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::S3);
}

#[test]
fn azure_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::Azure);
}

#[test]
fn gcs_lists_the_suffixes_of_a_name() {
    lists_the_suffixes_of_a_name(StoreKind::Gcs);
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
