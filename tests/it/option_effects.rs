//! Options whose effect is what is sent to the cloud: the test is the cloud, and looks.

use crate::gcs_fake::GcsFake;
use crate::identities::{HOSTS, certificates};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::commands::{Commands, clean_environment};
use crate::support::fixtures::{segment, segment_name};
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, give_to_postgres};
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A cloud that holds nothing and takes everything.
fn answer(request: &WebRequest) -> WebAnswer {
    let azure = request.header("host").contains("windows.net");
    let told = |status: u16| {
        WebAnswer::new(status, "")
            .with("ETag", "\"x\"")
            .with("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
    };
    match request.method.as_str() {
        "PUT" if azure => told(201),
        "PUT" => told(200),
        _ if request.target.contains("list") && azure => {
            WebAnswer::new(200, "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
        }
        _ if request.target.contains("list") => WebAnswer::new(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>",
        ),
        _ if azure => WebAnswer::error(404, "BlobNotFound"),
        _ => WebAnswer::error(404, "NoSuchKey"),
    }
}

/// A cloud behind a proxy, with the files that the commands need.
struct Cloud {
    server: WebServer,
    folder: TempDir,
}

impl Cloud {
    fn new() -> Option<Self> {
        let folder = certificates(HOSTS)?;
        let path = |name: &str| folder.path().join(name);
        let server = WebServer::play_encrypted(&path("cloud.crt"), &path("cloud.key"), answer);
        Some(Self { server, folder })
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("write");
        give_to_postgres(&path);
        path.display().to_string()
    }

    /// Archives a file and returns the request that brought it.
    fn archive(
        &self,
        options: &[&str],
        url: &str,
        file: &str,
        variables: &[(&str, &str)],
    ) -> Vec<WebRequest> {
        let before = self.server.requests().len();
        let commands = Commands::ours();
        let mut command = Command::new(commands.program("barman-cloud-wal-archive"));
        clean_environment(&mut command, Path::new("/nonexistent"));
        command.env("HTTPS_PROXY", self.server.url());
        for variable in ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
            command.env(variable, self.folder.path().join("ca.crt"));
        }
        as_postgres(&mut command).envs(variables.iter().copied());
        run(command.args(options).args([url, "main", file])).exits(0);
        let name = Path::new(file).file_name().expect("a name").to_string_lossy().into_owned();
        let mut requests = self.server.requests().split_off(before);
        requests.retain(|request| request.method == "PUT" && request.target.contains(&name));
        assert!(!requests.is_empty(), "{name} was not written");
        requests
    }
}

const HISTORY: &[u8] = b"1\t0/700000\tno reason\n";

#[test]
fn tags_encryption_addressing_and_profile_reach_s3() {
    let Some(cloud) = Cloud::new() else { return };
    let segment = cloud.file(&segment_name(1), &segment(1));
    let history = cloud.file("00000002.history", HISTORY);
    let keys = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let url = "s3://bucket/p";
    let one = |options: &[&str], file: &str| cloud.archive(options, url, file, &keys).remove(0);
    let tags = ["--history-tags", "kind,history", "--tags", "app,db", "team,x"];
    let words = [&tags[..], &["-e", "aws:kms", "--sse-kms-key-id", "key"]].concat();
    let request = one(&words, &segment);
    assert_eq!(request.header("x-amz-tagging"), "app=db&team=x");
    assert_eq!(request.header("x-amz-server-side-encryption"), "aws:kms");
    assert_eq!(request.header("x-amz-server-side-encryption-aws-kms-key-id"), "key");
    assert_eq!(request.header("if-none-match"), "*");
    assert_eq!(one(&words, &history).header("x-amz-tagging"), "kind=history");
    let request = one(&["--tag", "app,db", "-e", "AES256"], &history);
    assert_eq!(request.header("x-amz-tagging"), "app=db", "where there are no others");
    assert_eq!(request.header("x-amz-server-side-encryption"), "AES256");
    let host =
        |style: &str| one(&["--addressing-style", style], &segment).header("host").to_string();
    assert_eq!(host("path"), "s3.us-east-1.amazonaws.com");
    assert_eq!(host("virtual"), "bucket.s3.us-east-1.amazonaws.com");
    assert_eq!(host("auto"), "bucket.s3.us-east-1.amazonaws.com");
    let profile = "[profile nightly]\naws_access_key_id = other\naws_secret_access_key = hush\n";
    let profiles = cloud.file("config", profile.as_bytes());
    let variables = [&keys[..], &[("AWS_CONFIG_FILE", &profiles)]].concat();
    for option in ["-P", "--aws-profile", "--profile"] {
        let request = cloud.archive(&[option, "nightly"], url, &segment, &variables).remove(0);
        assert!(request.header("authorization").contains("Credential=other/"), "{option}");
    }
}

#[test]
fn tags_scope_and_block_sizes_reach_azure() {
    let Some(cloud) = Cloud::new() else { return };
    let segment = cloud.file(&segment_name(1), &segment(1));
    let url = "https://account.blob.core.windows.net/container/p";
    let variables = [("AZURE_STORAGE_SAS_TOKEN", "sv=2024-11-04&sp=rwl&sig=c2ln")];
    let send = |options: &[&str]| {
        let options = [&["--cloud-provider=azure-blob-storage"], options].concat();
        cloud.archive(&options, url, &segment, &variables)
    };
    let request = send(&["--tags", "app,db", "--encryption-scope", "scope"]).remove(0);
    assert_eq!(request.header("x-ms-tags"), "app=db");
    assert_eq!(request.header("x-ms-encryption-scope"), "scope");
    assert!(request.target.contains("sig=c2ln"), "{}", request.target);
    assert_eq!(send(&[]).len(), 1);
    let blocks = send(&[
        "--max-single-put-size",
        "512KB",
        "--max-block-size",
        "256KB",
        "--max-concurrency",
        "2",
    ]);
    let is_block = |request: &&WebRequest| request.target.contains("comp=block&");
    assert_eq!(blocks.iter().filter(is_block).count(), 4, "1 MiB in blocks of 256 KiB");
}

#[test]
fn tags_and_the_key_reach_google() {
    let Some(cloud) = Cloud::new() else { return };
    let segment = cloud.file(&segment_name(1), &segment(1));
    let metadata = WebServer::play(|_| {
        WebAnswer::new(
            200,
            "{\"access_token\":\"machine\",\"expires_in\":3599,\"token_type\":\"Bearer\"}",
        )
    });
    let host = format!("127.0.0.1:{}", metadata.port);
    let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let options =
        ["--cloud-provider=google-cloud-storage", "--tag", "app,db", "--kms-key-name", key];
    let requests =
        cloud.archive(&options, "gs://bucket/p", &segment, &[("GCE_METADATA_HOST", &host)]);
    assert_eq!(requests[0].header("x-goog-meta-app"), "db");
    assert_eq!(requests[0].header("x-goog-encryption-kms-key-name"), key);
    assert_eq!(requests[0].header("x-goog-if-generation-match"), "0");
}

#[test]
fn bandwidth_and_part_sizes_hold_in_a_backup() {
    let fake = GcsFake::start().expect("the fake starts");
    fake.create_bucket("bucket");
    let settings = vec![("archive_mode", "on".into()), ("archive_command", "true".into())];
    let cluster = Cluster::create(&ClusterOptions { settings, ..ClusterOptions::default() });
    let connection = cluster.connection();
    let commands = Commands::ours();
    let back_up = |server: &str, options: &[&str]| -> (Outcome, usize) {
        let before = fake.requests().len();
        let mut command = Command::new(commands.program("barman-cloud-backup"));
        clean_environment(&mut command, Path::new("/nonexistent"));
        as_postgres(&mut command).env("STORAGE_EMULATOR_HOST", fake.endpoint()).args(&connection);
        command.args(["--cloud-provider=google-cloud-storage", "--immediate-checkpoint"]);
        command.args(["--no-wal-check", "-J", "1"]).args(options).args(["gs://bucket", server]);
        let outcome = run(&mut command);
        assert!(outcome.status.success(), "{outcome}");
        let requests = fake.requests().split_off(before);
        (outcome, requests.iter().filter(|request| request.contains("partNumber=")).count())
    };
    let (quick, many) = back_up("many", &["--min-chunk-size", "5MB"]);
    let (_, few) = back_up("few", &["--min-chunk-size", "64MB"]);
    assert!(many > few, "{many} parts of 5 MB, {few} of 64 MB");
    let (slow, _) = back_up("slow", &["--max-bandwidth", "4MB"]);
    let names = fake.names("bucket").into_iter().filter(|name| name.starts_with("slow/"));
    let bytes: usize = names.filter_map(|name| fake.object("bucket", &name)).map(|o| o.len()).sum();
    // A first part goes at once.
    let least = Duration::from_secs(u64::try_from(bytes >> 22).expect("small") / 2);
    assert!(least.as_secs() >= 2, "{bytes} bytes");
    assert!(slow.elapsed > least && slow.elapsed > quick.elapsed, "{slow} {quick}");
}
