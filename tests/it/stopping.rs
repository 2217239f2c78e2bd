//! What a signal does to commands whose store is slow or silent: they end, and clean up.

use crate::support::commands::barman_cloud;
use crate::support::process::{Outcome, Running, spawn};
use crate::support::scratch::scratch;
use crate::support::wait::wait_until;
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use rustix::process::Signal;
use std::fs;
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
