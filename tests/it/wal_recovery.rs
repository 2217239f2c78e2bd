//! `wal-restore` as PostgreSQL runs it, in a data directory: which exit codes end a recovery, what
//! signals leave, and how long a source of credentials is asked.

use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::{Commands, clean_environment};
use crate::support::fixtures::{segment, segment_name};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{as_postgres, give_to_postgres, give_tree_to_postgres, scratch};
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// What PostgreSQL takes for the end of recovery and not for the end of the archive.
const STOPS: i32 = 250;
const NOTHING: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";

/// Files of a data directory and what a failure there exits with, or the contract's code.
const CALLERS: [(&[(&str, &str)], bool); 7] = [
    (&[], false),
    (&[("recovery.signal", "")], true),
    (&[("standby.signal", "")], false),
    (&[("recovery.signal", ""), ("standby.signal", "")], false),
    (&[("recovery.conf", "restore_command = 'x'\n")], true),
    (&[("recovery.conf", "standby_mode = 'on'\n")], false),
    (&[("recovery.conf", "standby_mode = 'off'\n")], true),
];

fn data_directory(files: &[(&str, &str)]) -> TempDir {
    let folder = scratch();
    for directory in ["global", "pg_wal"] {
        fs::create_dir(folder.path().join(directory)).expect("create");
    }
    for (name, content) in files.iter().chain(&[("global/pg_control", "x")]) {
        fs::write(folder.path().join(name), content).expect("write");
    }
    give_tree_to_postgres(folder.path());
    folder
}

/// As PostgreSQL calls it, `%p` relative to the data directory.
fn command(commands: &Commands, data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(commands.program("barman-cloud-wal-restore"));
    clean_environment(&mut command, Path::new("/nonexistent"));
    command.envs([
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ]);
    as_postgres(&mut command).current_dir(data).args(words);
    command
}

fn restored(s3: &WebServer, data: &Path, options: &[&str]) -> Outcome {
    let (endpoint, name) = (s3.url(), segment_name(1));
    let place = ["--endpoint-url", &endpoint, "s3://b/p", "main", &name, "pg_wal/RECOVERYXLOG"];
    run(&mut command(&Commands::ours(), data, &[options, &place].concat()))
}

fn is_list(request: &WebRequest) -> bool {
    request.target.contains("list-type=2")
}

/// An archive without WAL, with or without anything else below the server's name.
fn archive_without_wal(holds_a_backup: bool) -> WebServer {
    WebServer::play(move |request| match (is_list(request), holds_a_backup) {
        (true, true) if !request.target.contains("wals") => WebAnswer::new(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>\
             <Key>p/main/base/20261120T000000/backup.info</Key><Size>1</Size><ETag>x</ETag>\
             <LastModified>2026-11-20T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
        ),
        (true, _) => WebAnswer::new(200, NOTHING),
        (false, _) => WebAnswer::error(404, "NoSuchKey"),
    })
}

#[test]
fn in_archive_recovery_a_doubtful_answer_stops_postgresql_and_elsewhere_the_contract_holds() {
    let denied = WebServer::play(|_| WebAnswer::error(403, "AccessDenied"));
    let no_bucket = WebServer::play(|_| WebAnswer::error(404, "NoSuchBucket"));
    let damaged = WebServer::play(|request| match is_list(request) {
        true => WebAnswer::new(200, NOTHING),
        false => WebAnswer::new(200, "<html>")
            .with("etag", "\"x\"")
            .with("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT"),
    });
    let cases: [(&WebServer, &[&str], i32); 4] = [
        (&denied, &[], 4),
        (&no_bucket, &[], 4),
        (&damaged, &[], 4),
        (&denied, &["--nonsense"], 3),
    ];
    for (files, recovers) in CALLERS {
        let data = data_directory(files);
        for (s3, options, contract) in cases {
            let outcome = restored(s3, data.path(), options);
            match recovers {
                true => outcome.exits(STOPS).says("promote"),
                false => outcome.exits(contract),
            };
            let left = fs::read_dir(data.path().join("pg_wal")).expect("pg_wal").count();
            assert_eq!(left, 0, "{files:?} {options:?}");
        }
    }
    // Whoever asks for a test is no server.
    let data = data_directory(&[("recovery.signal", "")]);
    restored(&denied, data.path(), &["--test"]).exits(4);
}

#[test]
fn the_end_of_the_archive_ends_a_recovery_only_where_there_is_an_archive() {
    let (archive, nothing) = (archive_without_wal(true), archive_without_wal(false));
    for (files, recovers) in CALLERS {
        let data = data_directory(files);
        restored(&archive, data.path(), &[]).exits(1);
        let outcome = restored(&nothing, data.path(), &[]);
        match recovers {
            true => outcome.exits(STOPS).says("there is nothing below"),
            false => outcome.exits(1),
        };
    }
}

#[test]
fn a_signal_ends_a_command_that_asks_again_at_once() {
    let s3 = WebServer::play(|_| WebAnswer::error(503, "SlowDown"));
    let commands = Commands::ours();
    let data = data_directory(&[("recovery.signal", "")]);
    let (endpoint, name) = (s3.url(), segment_name(1));
    let words = ["--endpoint-url", &endpoint, "s3://b/p", "main", &name, "pg_wal/RECOVERYXLOG"];
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let asked = s3.requests().len();
        let mut running = spawn(&mut command(&commands, data.path(), &words));
        wait_until("some requests", PATIENCE, || s3.requests().len() > asked + 3);
        running.signal(signal);
        wait_until("the command's end", Duration::from_secs(10), || running.ended());
        running.wait().exits(code);
    }
}

#[test]
fn a_killed_command_leaves_nothing_that_the_next_one_does_not_remove() {
    let full = segment(1);
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    // A body of half the length that was announced, and then nothing for a long time.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let (full, count) = (full.clone(), Arc::clone(&count));
            std::thread::spawn(move || half_of(connection, &full, &count));
        }
    });
    let commands = Commands::ours();
    let data = data_directory(&[]);
    let name = segment_name(1);
    let words = ["--endpoint-url", &endpoint, "s3://b/p", "main", &name, "pg_wal/RECOVERYXLOG"];
    for signal in [Signal::KILL, Signal::QUIT] {
        let before = sent.load(Ordering::SeqCst);
        let running = spawn(&mut command(&commands, data.path(), &words));
        wait_until("half a segment", PATIENCE, || sent.load(Ordering::SeqCst) > before);
        running.signal(signal);
        assert!(!running.wait().status.success());
        assert!(!data.path().join("pg_wal/RECOVERYXLOG").exists());
    }
    // As a file system without nameless files would have it.
    let left = data.path().join("pg_wal/.RECOVERYXLOG.4711.0123456789abcdef.tmp");
    fs::write(&left, "half a segment").expect("write");
    give_to_postgres(&left);
    let store = scratch();
    let wals = store.path().join("main/wals/0000000100000000");
    fs::create_dir_all(&wals).expect("create");
    fs::write(wals.join(&name), segment(1)).expect("write");
    give_tree_to_postgres(store.path());
    let url = format!("file://{}", store.path().display());
    let words = [url.as_str(), "main", &name, "pg_wal/RECOVERYXLOG"];
    run(&mut command(&commands, data.path(), &words)).exits(0);
    let found = fs::read_dir(data.path().join("pg_wal")).expect("pg_wal").flatten();
    let found: Vec<_> = found.map(|entry| entry.file_name()).collect();
    assert_eq!(found, ["RECOVERYXLOG"]);
}

fn half_of(mut connection: std::net::TcpStream, full: &[u8], count: &AtomicUsize) {
    use std::io::{BufRead, BufReader, Write};
    let mut reader = BufReader::new(connection.try_clone().expect("clone"));
    let (mut first, mut line) = (String::new(), String::from("x"));
    let _ = reader.read_line(&mut first);
    while !line.trim_end().is_empty() {
        line.clear();
        let _ = reader.read_line(&mut line);
    }
    // The guess is for gzip; the plain name is what the list shows.
    let list = format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>\
         <Key>p/main/wals/0000000100000000/{}</Key><Size>{}</Size><ETag>x</ETag>\
         <LastModified>2026-11-20T00:00:00.000Z</LastModified></Contents></ListBucketResult>",
        segment_name(1),
        full.len()
    );
    let missing = "<Error><Code>NoSuchKey</Code></Error>".to_string();
    let told = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    if first.contains("list-type=2") {
        let _ = connection.write_all(told("200 OK", &list).as_bytes());
        return;
    }
    if first.contains(".gz") {
        let _ = connection.write_all(told("404 Not Found", &missing).as_bytes());
        return;
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"x\"\r\n\
         Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n",
        full.len()
    );
    let _ = connection.write_all(head.as_bytes());
    let _ = connection.write_all(&full[..full.len() / 2]);
    let _ = connection.flush();
    count.fetch_add(1, Ordering::SeqCst);
    // Until the other side is gone.
    let _ = reader.read_line(&mut line);
}

#[test]
fn a_busy_source_of_credentials_is_asked_again_until_it_answers() {
    for status in [503, 429, 500] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let identity = WebServer::play(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            // More often than any library asks by itself.
            0..=7 => WebAnswer::new(status, "busy"),
            _ => WebAnswer::new(
                200,
                "{\"AccessKeyId\":\"found\",\"SecretAccessKey\":\"hush\",\"Token\":\"t\",\
                 \"Expiration\":\"2099-01-01T00:00:00Z\"}",
            )
            .with("content-type", "application/json"),
        });
        let s3 = archive_without_wal(true);
        let data = data_directory(&[]);
        let (endpoint, name) = (s3.url(), segment_name(1));
        let words = ["--endpoint-url", &endpoint, "s3://b/p", "main", &name, "pg_wal/RECOVERYXLOG"];
        let commands = Commands::ours();
        let mut command = command(&commands, data.path(), &words);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/keys", identity.url()));
        run(&mut command).exits(1);
        assert!(asked.load(Ordering::SeqCst) > 8, "{status}");
    }
}

/// PostgreSQL itself says what a code means: a segment that is archived and cannot be used stops
/// the recovery instead of ending it, and nothing is lost once it is repaired.
#[test]
fn a_damaged_segment_stops_recovery_until_it_is_repaired_and_promotes_nothing() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let cluster = Cluster::create(&options_for(&store));
    let words = ["main", "%p"];
    cluster.archive_with(&ours.shell_line("barman-cloud-wal-archive", &store, &["--gzip"], &words));
    let connection = cluster.connection();
    let mut options: Vec<&str> = connection.iter().map(String::as_str).collect();
    options.extend(["--immediate-checkpoint", "-n", "before"]);
    ours.run("barman-cloud-backup", &store, &options, &["main"]).exits(0);
    cluster.psql("create table rows_after_the_backup as select generate_series(1, 1000) as id");
    cluster.archive_everything();
    let expected = cluster.table_checksums();
    cluster.destroy();

    let folder = "main/wals/0000000100000000";
    let mut archived = store.keys_below(folder);
    archived.retain(|key| key.len() == 27);
    let newest = format!("{PREFIX}/{folder}/{}", archived.iter().max().expect("archived"));
    let whole = store.get(&newest);
    store.put(&newest, "<html>");
    let restored = Cluster::empty(&store.environment);
    let data = restored.data().display().to_string();
    ours.run("barman-cloud-restore", &store, &[], &["main", "before", &data]).exits(0);
    let line = ours.shell_line("barman-cloud-wal-restore", &store, &[], &["main", "%f", "%p"]);
    restored.recover_with(&line, "");
    // It may let readers in before it comes to the damage.
    let _ = restored.try_start();
    let running = restored.data().join("postmaster.pid");
    wait_until("the server's end", PATIENCE, || !running.exists());
    let log = restored.log();
    assert!(log.contains("exit code 250"), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
    assert!(restored.data().join("recovery.signal").exists());

    store.put(&newest, whole);
    restored.start_and_recover();
    assert_eq!(restored.table_checksums(), expected);
}
