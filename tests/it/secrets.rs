//! What commands say when they say all they can: no key, token, signature or password, whatever
//! was typed and whatever servers answer; and no core dump that holds one.

use crate::support::commands::{COMMANDS, Commands, clean_environment};
use crate::support::fixtures::{SERVER, put_backups, segment, segment_name};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{as_postgres, give_to_postgres, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// In every secret below, and nowhere else.
const MARK: &str = "MARKED";
/// base64 of `MARKED-azure-storage-key`.
const AZURE_KEY: &str = "TUFSS0VELWF6dXJlLXN0b3JhZ2Uta2V5";
const AWS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "MARKED-aws-secret"),
    ("AWS_SESSION_TOKEN", "MARKED-aws-session"),
    ("PGPASSWORD", "MARKED-pgpassword"),
];

/// The words that each command needs besides options and URL.
fn positionals(name: &str) -> Vec<&'static str> {
    match name {
        "barman-cloud-backup-show" | "barman-cloud-backup-keep" => {
            vec!["main", "20261120T235832"]
        }
        "barman-cloud-restore" => vec!["main", "20261120T235832", "/nonexistent/pgdata"],
        "barman-cloud-wal-archive" => vec!["main", "/nonexistent/000000010000000000000001"],
        "barman-cloud-wal-restore" => {
            vec!["main", "000000010000000000000001", "/nonexistent/target"]
        }
        _ => vec!["main"],
    }
}

fn options(name: &str) -> Vec<&'static str> {
    match name {
        "barman-cloud-backup" => {
            vec!["-d", "host=127.0.0.1 port=1 user=u password=MARKED-conninfo"]
        }
        "barman-cloud-backup-delete" => vec!["-b", "20261120T235832"],
        "barman-cloud-backup-keep" => vec!["--target", "full"],
        _ => vec![],
    }
}

fn command(ours: &Commands, name: &str, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(ours.program(name));
    clean_environment(&mut command, Path::new("/nonexistent"));
    as_postgres(&mut command).args(words).envs(variables.iter().copied());
    command
}

fn start(name: &str, words: &[&str], variables: &[(&str, &str)]) -> Outcome {
    run(&mut command(&Commands::ours(), name, words, variables))
}

#[track_caller]
fn says_no_secret(outcome: Outcome) -> Outcome {
    for secret in [MARK, AZURE_KEY] {
        assert!(!outcome.stdout.contains(secret), "{outcome}");
        assert!(!outcome.stderr.contains(secret), "{outcome}");
    }
    outcome
}

/// Every command, as loud as it can be, as text and as JSON.
#[track_caller]
fn all_are_silent_about_secrets(place: &[&str], variables: &[(&str, &str)]) {
    for name in COMMANDS {
        for format in ["text", "json"] {
            let (options, positionals) = (options(name), positionals(name));
            let talk = ["-vvv", "--log-format", format];
            let (url, place) = place.split_last().expect("a URL");
            let words = [&talk[..], place, &options, &[*url], &positionals].concat();
            let outcome = says_no_secret(start(name, &words, variables));
            assert!(!outcome.status.success(), "nothing here can succeed\n{outcome}");
        }
    }
}

/// A server that refuses everything and repeats all that it was sent.
fn parrot() -> WebServer {
    WebServer::play(|request: &WebRequest| {
        let said = format!("{} {:?} {}", request.target, request.headers, request.body);
        let said = said.replace(['<', '>', '&', '\n'], " ");
        WebAnswer::new(
            400,
            format!("<Error><Code>InvalidArgument</Code><Message>{said}</Message></Error>"),
        )
        .with("x-ms-error-code", "InvalidArgument")
    })
}

#[test]
fn no_command_says_a_secret_of_s3_though_the_server_repeats_it() {
    let server = parrot();
    let endpoint = server.url();
    all_are_silent_about_secrets(&["--endpoint-url", &endpoint, "s3://bucket/p"], &AWS);
    assert!(!server.requests().is_empty());
}

#[test]
fn no_command_says_a_secret_of_azure_though_the_server_repeats_it() {
    let server = parrot();
    let url = format!("{}/account/container/p", server.url());
    let place = ["--cloud-provider", "azure-blob-storage", url.as_str()];
    let connection =
        format!("AccountName=account;AccountKey={AZURE_KEY};BlobEndpoint={}/account", server.url());
    for variable in [
        ("AZURE_STORAGE_SAS_TOKEN", "sv=2022-11-02&sig=MARKED%2Bsignature%3D"),
        ("AZURE_STORAGE_KEY", AZURE_KEY),
        ("AZURE_STORAGE_CONNECTION_STRING", connection.as_str()),
    ] {
        all_are_silent_about_secrets(&place, &[variable]);
    }
    assert!(!server.requests().is_empty());
}

#[test]
fn no_command_says_the_secret_of_a_service_principal_or_service_account() {
    let folder = scratch();
    let key = folder.path().join("key.json");
    let account = "{\"type\":\"service_account\",\"private_key\":\"MARKED-private-key\",\
        \"private_key_id\":\"MARKED-id\",\"client_email\":\"a@b\",\"project_id\":\"p\"}";
    fs::write(&key, account).expect("write");
    give_to_postgres(&key);
    let key = key.display().to_string();
    let google = ["--cloud-provider", "google-cloud-storage", "gs://bucket/p"];
    all_are_silent_about_secrets(&google, &[("GOOGLE_APPLICATION_CREDENTIALS", &key)]);
    let url = "https://account.blob.core.windows.net/container/p";
    let principal = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_CLIENT_SECRET", "MARKED-client-secret"),
        ("AZURE_AUTHORITY_HOST", "http://127.0.0.1:1"),
    ];
    let list = ["-vvv", "--cloud-provider", "azure-blob-storage", url, "main"];
    says_no_secret(start("barman-cloud-backup-list", &list, &principal)).exits(4);
}

#[test]
fn what_is_typed_in_the_wrong_place_is_not_repeated_with_its_password() {
    let parrot = parrot();
    let with_user = parrot.url().replace("://", "://me:MARKED-user@");
    let lines: [&[&str]; 7] = [
        &["s3://me:MARKED-user@bucket/p", "main"],
        &["--endpoint-url", &with_user, "s3://bucket/p", "main"],
        &["--endpoint-url", "me:MARKED-user@minio", "s3://bucket/p", "main"],
        &["s3://bucket/p", "main", "postgresql://me:MARKED-uri@h/db"],
        &["https://account.blob.core.windows.net/c?sig=MARKED-signature", "main"],
        &["--cloud-provider", "https://me:MARKED-user@h", "s3://bucket/p", "main"],
        &["--endpoint=postgresql://me:MARKED-uri@h/db", "s3://bucket/p", "main"],
    ];
    for line in lines {
        let words = [&["-vvv"][..], line].concat();
        let outcome = start("barman-cloud-backup-list", &words, &AWS);
        says_no_secret(outcome);
    }
    for conninfo in [
        "postgresql://me:MARKED-uri@127.0.0.1:1/db",
        "postgresql://me:MARKED-uri@[::1/db",
        "postgresql://me:MARKED/slash@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?password=MARKED-parameter&x",
        "host=127.0.0.1 port=1 password='MARKED quoted",
        "host=127.0.0.1 port=x password=MARKED-plain",
    ] {
        let words = ["-vvv", "-d", conninfo, "s3://bucket/p", "main"];
        let outcome = start("barman-cloud-backup", &words, &AWS);
        assert!(!says_no_secret(outcome).status.success());
    }
}

#[test]
fn the_password_of_a_proxy_is_not_said() {
    let server = parrot();
    let proxy = server.url().replace("://", "://me:MARKED-proxy@");
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("HTTP_PROXY", proxy.as_str())];
    let variables = [&AWS[..], &variables].concat();
    for endpoint in ["https://s3.example", "http://s3.example"] {
        let words = ["-vvv", "--endpoint-url", endpoint, "--allow-http", "s3://bucket/p", "main"];
        says_no_secret(start("barman-cloud-backup-list", &words, &variables));
    }
}

#[test]
fn commands_that_succeed_say_no_secret_either() {
    let Some(store) = StoreUnderTest::open(StoreKind::S3) else { return };
    put_backups(&store);
    let folder = scratch();
    let source = folder.path().join(segment_name(300));
    fs::write(&source, segment(300)).expect("write");
    give_to_postgres(&source);
    let source = source.display().to_string();
    let lines: [(&str, &[&str]); 4] = [
        ("barman-cloud-wal-archive", &["walmain", &source]),
        ("barman-cloud-backup-list", &[SERVER]),
        ("barman-cloud-backup-show", &[SERVER, "20261120T235832"]),
        ("barman-cloud-check-wal-archive", &["other"]),
    ];
    for (name, positionals) in lines {
        let ours = Commands::ours();
        let mut command = ours.command(name, &store, &["-vvv"], positionals);
        says_no_secret(run(command.envs(AWS))).exits(0);
    }
}

#[test]
fn a_command_leaves_no_core_dump_and_its_memory_to_nobody() {
    let server = WebServer::play(|_| WebAnswer::Silence);
    let endpoint = server.url();
    let words = ["--endpoint-url", endpoint.as_str(), "s3://bucket/p", "main"];
    let ours = Commands::ours();
    let running = spawn(&mut command(&ours, "barman-cloud-backup-list", &words, &AWS));
    let limit = Duration::from_secs(60);
    wait_until("a request", limit, || !server.requests().is_empty());
    let process = format!("/proc/{}", running.id());
    let limits = fs::read_to_string(format!("{process}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let soft = core.expect("a limit").split_whitespace().nth(4);
    assert_eq!(soft, Some("0"), "{limits}");
    let owner = fs::metadata(format!("{process}/environ")).expect("metadata").uid();
    assert_eq!(owner, 0, "the memory of the process is open to its user's other processes");
    running.signal(Signal::KILL);
    running.wait();
}
