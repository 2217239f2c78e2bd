//! Settings that cannot be right: values that fit into no header or URL, halves of credentials,
//! files that are not there, endpoints without TLS. Each is refused by its name, and none panics.

use crate::support::commands::{Commands, clean_environment};
use crate::support::peers::{ACCOUNT_KEY, key};
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, give_to_postgres, private_folder, scratch};
use crate::support::web::{WebAnswer, WebServer};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{
    PutMode, PutOptions, S3Encryption, Store, StoreError, StoreOptions, StoreUrl,
};
use bytes::Bytes;
use std::fs;
use std::path::Path;
use std::process::Command;

const UNFIT: [&str; 9] =
    ["a\nb", "a\rb", "x\n", "a\0b", "h\u{e9}", "\u{7f}", "a b", "%", "\u{1F980}"];
const NOBODY: &str = "http://127.0.0.1:1";

type Variables<'a> = Vec<(&'a str, &'a str)>;

/// Good settings of one provider, each of which is made unfit in turn.
fn good() -> Vec<(CloudProvider, &'static str, Variables<'static>)> {
    let azure = "http://127.0.0.1:1/account/container";
    vec![
        (
            CloudProvider::AwsS3,
            "s3://bucket",
            vec![
                ("AWS_ACCESS_KEY_ID", "id"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SESSION_TOKEN", "token"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
                ("AWS_ENDPOINT_URL", NOBODY),
            ],
        ),
        (CloudProvider::AzureBlobStorage, azure, vec![("AZURE_STORAGE_KEY", ACCOUNT_KEY)]),
        (CloudProvider::AzureBlobStorage, azure, vec![("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")]),
        (
            CloudProvider::AzureBlobStorage,
            azure,
            vec![(
                "AZURE_STORAGE_CONNECTION_STRING",
                "AccountName=a;AccountKey=aw==;BlobEndpoint=http://127.0.0.1:1/a",
            )],
        ),
        (CloudProvider::GoogleCloudStorage, "gs://bucket", vec![("STORAGE_EMULATOR_HOST", NOBODY)]),
    ]
}

fn options() -> StoreOptions {
    StoreOptions::new(RetryLimits { attempts_max: 1, ..RetryLimits::PATIENT })
}

/// Uses a store in every way; nothing may panic, and nothing can succeed.
async fn use_it(
    provider: CloudProvider,
    url: &str,
    options: &StoreOptions,
    variables: &[(&str, &str)],
) -> StoreError {
    let url = StoreUrl::parse(url, provider).expect("a URL");
    let environment = Environment::of(variables.iter().copied());
    let store = match Store::open_in(&url, options, &environment) {
        Ok(store) => store,
        Err(error) => return error,
    };
    store.get(&key("k")).await.expect_err("nobody is there");
    store.bucket_exists().await.expect_err("nobody is there");
    let tags = vec![("key".to_string(), "h\u{e9}\n".to_string())];
    store
        .put(
            &key("k"),
            Bytes::new(),
            PutMode::Create,
            &PutOptions { tags, ..PutOptions::default() },
        )
        .await
        .expect_err("nobody is there")
}

#[tokio::test]
async fn a_variable_that_fits_into_no_request_is_refused_and_never_panics() {
    for (provider, url, variables) in good() {
        for index in 0..variables.len() {
            for unfit in UNFIT {
                let mut variables = variables.clone();
                let name = variables[index].0;
                variables[index].1 = unfit;
                let error = use_it(provider, url, &options(), &variables).await;
                let control = unfit.contains(|c: char| c.is_control());
                let named = name.starts_with("AWS_") && !name.contains("URL");
                if control && named {
                    assert!(error.reason.contains(name), "{unfit:?}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_option_that_fits_into_no_request_is_refused_and_never_panics() {
    for (provider, url, variables) in good() {
        for unfit in UNFIT {
            let text = Some(unfit.to_string());
            let mut several = vec![options(); 5];
            several[0].endpoint_url = text.clone();
            several[1].s3_encryption = Some(S3Encryption::Kms { key_id: text.clone() });
            several[2].azure_encryption_scope = text.clone();
            several[3].gcs_kms_key = text.clone();
            several[4].aws_profile = text;
            for options in several {
                use_it(provider, url, &options, &variables).await;
            }
        }
    }
}

fn list(words: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let ours = Commands::ours();
    let mut command = Command::new(ours.program("barman-cloud-backup-list"));
    clean_environment(&mut command, Path::new("/nonexistent"));
    run(as_postgres(&mut command).args(words).envs(variables.iter().copied()))
}

const S3: [&str; 4] = ["--endpoint-url", NOBODY, "s3://bucket/p", "main"];
const AZURE: [&str; 4] =
    ["--cloud-provider", "azure-blob-storage", "http://127.0.0.1:1/account/container/p", "main"];

#[test]
fn half_of_a_key_pair_is_told_by_what_is_missing() {
    let folder = scratch();
    let file = folder.path().join("credentials");
    let profiles = "[key]\naws_access_key_id=id\n[secret]\naws_secret_access_key=hush\n";
    fs::write(&file, profiles).expect("write");
    give_to_postgres(&file);
    let file = file.display().to_string();
    let files = [("AWS_SHARED_CREDENTIALS_FILE", file.as_str())];
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    let cases: [(Variables<'_>, &str); 4] = [
        (vec![(id, "id")], "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not"),
        (vec![(secret, "hush")], "AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not"),
        (
            vec![("AWS_PROFILE", "key")],
            "AWS profile \"key\" has an aws_access_key_id, but no aws_secret_access_key",
        ),
        (
            vec![("AWS_PROFILE", "secret")],
            "AWS profile \"secret\" has an aws_secret_access_key, but no aws_access_key_id",
        ),
    ];
    for (variables, words) in cases {
        let disabled = [("AWS_EC2_METADATA_DISABLED", "true")];
        let variables = [&variables[..], &files, &disabled].concat();
        let outcome = list(&S3, &variables).exits(4).says(words);
        assert!(!outcome.stderr.contains("hush"), "{outcome}");
    }
}

#[test]
fn credentials_of_azure_are_told_by_what_is_missing() {
    let principal = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    let allowed = [&["--allow-http"][..], &AZURE].concat();
    let nowhere = [("IDENTITY_ENDPOINT", NOBODY)];
    let cases: [(Variables<'_>, &str); 5] = [
        (vec![("AZURE_STORAGE_KEY", "no base64!")], "AZURE_STORAGE_KEY has a blank"),
        (vec![("AZURE_STORAGE_KEY", "nobase64!")], "AZURE_STORAGE_KEY is not base64"),
        (
            vec![("AZURE_CLIENT_SECRET", "hush")],
            "AZURE_CLIENT_SECRET is set, but AZURE_TENANT_ID is not",
        ),
        (
            principal.to_vec(),
            "AZURE_TENANT_ID is set, but neither AZURE_CLIENT_SECRET nor \
             AZURE_FEDERATED_TOKEN_FILE is",
        ),
        (
            [&principal[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/nonexistent/token")]].concat(),
            "could not read token file \"/nonexistent/token\": no such file or directory",
        ),
    ];
    for (variables, words) in cases {
        list(&allowed, &[&variables[..], &nowhere].concat()).exits(4).says(words);
    }
}

#[test]
fn a_credentials_file_of_google_that_is_not_there_is_told_with_its_variable() {
    let words = ["--cloud-provider", "google-cloud-storage", "gs://bucket/p", "main"];
    list(&words, &[("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")])
        .exits(4)
        .says("\"/nonexistent/key.json\": no such file or directory")
        .says("GOOGLE_APPLICATION_CREDENTIALS");
}

/// This machine by an address that is not known to be this machine.
fn by_another_name(server: &WebServer) -> String {
    format!("http://0.0.0.0:{}", server.port)
}

const NO_OBJECTS: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush")];

#[test]
fn signed_requests_go_over_plain_http_with_one_warning_a_day() {
    let server = WebServer::play(|_| WebAnswer::new(200, NO_OBJECTS));
    let (url, folder) = (by_another_name(&server), scratch());
    let cache = private_folder(folder.path(), "cache").display().to_string();
    let words = ["--endpoint-url", url.as_str(), "s3://bucket/p", "main"];
    let kept = [&KEYS[..], &[("BARMAN_CLOUD_CACHE", cache.as_str())]].concat();
    list(&words, &kept).exits(0).says("has no TLS").says("--allow-http");
    for (words, variables) in
        [(words.to_vec(), &kept[..]), ([&["--allow-http"][..], &words].concat(), &KEYS[..])]
    {
        let outcome = list(&words, variables).exits(0);
        assert_eq!(outcome.stderr, "", "{outcome}");
    }
    list(&words, &KEYS).exits(0).says("has no TLS");
}

#[test]
fn a_session_token_goes_over_plain_http_only_when_allowed_wherever_it_comes_from() {
    let server = WebServer::play(|_| WebAnswer::new(200, NO_OBJECTS));
    let agent = WebServer::play(|_| {
        WebAnswer::new(
            200,
            "{\"Code\":\"Success\",\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"s\",\
             \"Token\":\"t\",\"Expiration\":\"2099-01-01T00:00:00Z\"}",
        )
        .with("content-type", "application/json")
    });
    let (url, agent) = (by_another_name(&server), agent.url());
    let words = ["--endpoint-url", url.as_str(), "s3://bucket/p", "main"];
    let of_environment = [&KEYS[..], &[("AWS_SESSION_TOKEN", "token")]].concat();
    let of_a_container = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    for variables in [of_environment, of_a_container] {
        list(&words, &variables).exits(4).says("session token").says("--allow-http");
        assert!(server.requests().is_empty(), "the token was sent");
        list(&[&["--allow-http"][..], &words].concat(), &variables).exits(0);
        assert!(!server.requests().is_empty());
        server.forget();
    }
}
