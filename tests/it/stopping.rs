//! What a signal does to commands whose store is slow or silent: they end, and clean up.

use crate::support::commands::barman_cloud;
use crate::support::process::{Outcome, Running, spawn};
use crate::support::scratch::scratch;
use crate::support::wait::wait_until;
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const ID: &str = "20261120T120000";
const SEGMENT: &str = "000000010000000000000001";

fn started(server: &WebServer, command: &str, options: &[&str], positionals: &[&str]) -> Command {
    let mut started = Command::new(barman_cloud());
    started.arg(command.strip_prefix("barman-cloud-").expect("one of the nine"));
    started.args(["--endpoint-url", &server.url()]).args(options).arg("s3://b/p");
    started.args(positionals).env_clear();
    started.envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")]);
    started
}

/// Sends SIGTERM as soon as the server was asked for something that `asked` knows.
fn stopped_at(
    server: &WebServer,
    running: Running,
    asked: impl Fn(&WebRequest) -> bool,
) -> Outcome {
    wait_until("the request", PATIENCE, || server.requests().iter().any(&asked));
    running.signal(Signal::TERM);
    let outcome = running.wait().exits(143);
    // The server is silent for two minutes.
    assert!(outcome.elapsed < Duration::from_secs(100), "{outcome}");
    outcome
}

#[test]
fn a_store_that_holds_its_answer_holds_no_command_after_a_signal() {
    let folder = scratch();
    let target = folder.path().join("data").display().to_string();
    let wal = folder.path().join(SEGMENT);
    fs::write(&wal, segment()).expect("a segment");
    let wal = wal.display().to_string();
    let spool = folder.path().join("spool").display().to_string();
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("barman-cloud-backup-list", &[], &["srv"]),
        ("barman-cloud-backup-show", &[], &["srv", ID]),
        ("barman-cloud-backup-keep", &["--target", "full"], &["srv", ID]),
        ("barman-cloud-backup-delete", &["-r", "REDUNDANCY 1"], &["srv"]),
        ("barman-cloud-check-wal-archive", &[], &["srv"]),
        ("barman-cloud-restore", &[], &["srv", "latest", &target]),
        ("barman-cloud-wal-archive", &["--gzip", "--spool-dir", &spool], &["srv", &wal]),
    ];
    for (command, options, positionals) in cases {
        let server = WebServer::play(|_| WebAnswer::Silence);
        let running = spawn(&mut started(&server, command, options, positionals));
        stopped_at(&server, running, |_| true);
    }
}

/// A segment of 1 MiB as PostgreSQL 15 writes it.
fn segment() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xD110u16.to_ne_bytes());
    bytes.extend(2u16.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend((1u64 << 20).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(7_388_000_000_000_000_001u64.to_ne_bytes());
    bytes.extend((1u32 << 20).to_ne_bytes());
    bytes.extend(8192u32.to_ne_bytes());
    bytes.resize(1 << 20, 0);
    bytes
}

/// A backup that Barman made, which its hook shall carry to the store.
fn local_backup(folder: &Path) {
    let data = folder.join("data");
    fs::create_dir_all(data.join("global")).expect("folders");
    fs::create_dir_all(data.join("base/5")).expect("folders");
    fs::write(data.join("global/pg_control"), control_file()).expect("control file");
    fs::write(data.join("PG_VERSION"), "15\n").expect("a file");
    fs::write(data.join("backup_label"), "START WAL LOCATION: 0/2000028\n").expect("label");
    fs::write(data.join("base/5/16384"), vec![7; 32 << 20]).expect("a large file");
    let info = "status=DONE\nserver_name=srv\nversion=150000\ntimeline=1\ntablespaces=None\n\
                begin_xlog=0/2000028\nend_xlog=0/2000100\ncompression=None\n";
    fs::write(folder.join("backup.info"), info).expect("backup.info");
}

/// As PostgreSQL 13 to 17 lay it out.
fn control_file() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let fields32 =
        [(8, 1300u32), (12, 202_209_061), (48, 1), (216, 8192), (220, 131_072), (228, 16 << 20)];
    for (at, value) in fields32 {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let float = 1234567.0f64.to_bits();
    for (at, value) in [(0, 7_388_000_000_000_000_001u64), (40, 0x0200_0028), (208, float)] {
        bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..288]).to_ne_bytes();
    bytes[288..292].copy_from_slice(&sum);
    bytes
}

/// An empty bucket that takes everything but parts, for which it has no answer.
fn slow_bucket(request: &WebRequest) -> WebAnswer {
    let target = request.target.as_str();
    match request.method.as_str() {
        "PUT" if target.contains("partNumber=") => WebAnswer::Silence,
        "PUT" => WebAnswer::new(200, "").with("ETag", "\"1\""),
        "POST" if target.contains("uploads") => WebAnswer::new(
            200,
            "<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>",
        ),
        "GET" if target.contains("list-type=2") => WebAnswer::new(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>",
        ),
        "DELETE" => WebAnswer::new(204, ""),
        _ => WebAnswer::error(404, "NoSuchKey"),
    }
}

fn carried(server: &WebServer, folder: &Path, options: &[&str]) -> Running {
    let mut command = started(server, "barman-cloud-backup", options, &["srv"]);
    command.env("BARMAN_HOOK", "backup_script").env("BARMAN_PHASE", "post");
    command.env("BARMAN_BACKUP_DIR", folder).env("BARMAN_BACKUP_ID", ID);
    command.env("BARMAN_STATUS", "DONE");
    command.env("BARMAN_BACKUP_INFO_PATH", folder.join("backup.info"));
    spawn(&mut command)
}

fn is_part(request: &WebRequest) -> bool {
    request.method == "PUT" && request.target.contains("partNumber=")
}

fn is_abort(request: &WebRequest) -> bool {
    request.method == "DELETE" && request.target.contains("uploadId=")
}

#[test]
fn a_stopped_backup_gives_its_parts_back_and_waits_for_no_part_in_flight() {
    let folder = scratch();
    local_backup(folder.path());
    let server = WebServer::play(slow_bucket);
    let running = carried(&server, folder.path(), &["-S", "5MB"]);
    stopped_at(&server, running, is_part);
    assert!(server.requests().iter().any(is_abort), "the upload was left");
}

#[test]
fn a_bandwidth_limit_does_not_hold_a_stopped_backup() {
    let folder = scratch();
    local_backup(folder.path());
    let server = WebServer::play(|request| match is_part(request) {
        true => WebAnswer::new(200, "").with("ETag", "\"1\""),
        false => slow_bucket(request),
    });
    // Two thousand seconds for the whole.
    let running = carried(&server, folder.path(), &["-S", "5MB", "--max-bandwidth", "16kB"]);
    stopped_at(&server, running, is_part);
    assert!(server.requests().iter().any(is_abort), "the upload was left");
}

#[test]
fn a_store_that_does_not_even_answer_an_abort_is_left_after_a_second_signal() {
    let folder = scratch();
    local_backup(folder.path());
    let server = WebServer::play(|request| match is_abort(request) {
        true => WebAnswer::Silence,
        false => slow_bucket(request),
    });
    let running = carried(&server, folder.path(), &["-S", "5MB"]);
    wait_until("a part", PATIENCE, || server.requests().iter().any(is_part));
    running.signal(Signal::TERM);
    wait_until("an abort", PATIENCE, || server.requests().iter().any(is_abort));
    running.signal(Signal::TERM);
    let outcome = running.wait().exits(143);
    assert!(outcome.elapsed < Duration::from_secs(100), "{outcome}");
}
