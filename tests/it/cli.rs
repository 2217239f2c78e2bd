//! The nine command lines: argv, exit codes, streams; nothing that needs a server.

use crate::support::commands::{Commands, clean_environment};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::scratch;
use rustix::process::Signal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAMS: [&str; 9] = [
    "barman-cloud-backup",
    "barman-cloud-backup-delete",
    "barman-cloud-backup-keep",
    "barman-cloud-backup-list",
    "barman-cloud-backup-show",
    "barman-cloud-check-wal-archive",
    "barman-cloud-restore",
    "barman-cloud-wal-archive",
    "barman-cloud-wal-restore",
];

const SEGMENT: &str = "000000010000000000000001";

fn start(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    clean_environment(&mut command, Path::new("/nonexistent"));
    command.args(words);
    command
}

fn ours(name: &str, words: &[&str]) -> Outcome {
    run(&mut start(&Commands::ours().program(name), words))
}

/// A command, its words, the code it must exit with.
type Line = (&'static str, Vec<&'static str>, i32);

/// Command lines that are wrong, and some that are not.
fn table() -> Vec<Line> {
    let mut table: Vec<Line> = PROGRAMS.into_iter().flat_map(lines_of_any).collect();
    table.extend(lines_of_backup());
    table.extend(lines_of_others());
    table.extend(lines_with_bad_urls());
    table
}

fn lines_of_any(name: &'static str) -> Vec<Line> {
    let lines: [(&[&str], i32); 14] = [
        (&["--help"], 0),
        (&["--version"], 0),
        (&["-V"], 0),
        (&["--vers"], 0),
        (&[], 3),
        (&["--ver"], 3),
        (&["--nonsense", "s3://b", "srv", "x", "y"], 3),
        (&["s3://b"], 3),
        (&["-v", "-q", "s3://b", "srv", "x", "y"], 3),
        (&["--cloud-provider", "aws", "s3://b", "srv", "x", "y"], 3),
        (&["--addressing-style=x", "s3://b", "srv", "x", "y"], 3),
        (&["--read-timeout", "soon", "s3://b", "srv", "x", "y"], 3),
        (&["s3://b", "srv", "x", "y", "z", "more"], 3),
        (&["--test=yes", "s3://b", "srv", "x", "y"], 3),
    ];
    lines.into_iter().map(|(words, exit)| (name, words.to_vec(), exit)).collect()
}

fn lines_of_backup() -> Vec<Line> {
    let options: [&[&str]; 25] = [
        &["-h"],
        &["--gzip", "--bzip2"],
        &["-zj"],
        &["-z5"],
        &["--jobs", "0"],
        &["-J", "x"],
        &["-S", "5M"],
        &["-S", "0"],
        &["--max-archive-size", "1.5"],
        &["--min-chunk-size=-5"],
        &["--max-bandwidth", "fast"],
        &["--name", "latest"],
        &["--name", ""],
        &["--name=20260101T000000"],
        &["--tag", "a"],
        &["--tag", "aws:a,b"],
        &["--tag", "a,b", "--tags", "c,d", "--jobs=1"],
        &["--tags", "a,b,c", "--jobs=1"],
        &["--tags", "a,b"],
        &["-e", "aes"],
        &["--aws-snapshot-lock-mode", "x"],
        &["--aws-snapshot-lock-duration", "0"],
        &["--aws-snapshot-lock-cool-off-period", "73"],
        &["--aws-snapshot-lock-expiration-date", "2024-01-01T00:00:00Z"],
        &["--aws-await-snapshots-timeout", "0"],
    ];
    let line = |options: &[&'static str]| [options, &["s3://b", "srv"]].concat();
    options.into_iter().map(|options| ("barman-cloud-backup", line(options), 3)).collect()
}

fn lines_of_others() -> Vec<Line> {
    let (delete, keep) = ("barman-cloud-backup-delete", "barman-cloud-backup-keep");
    let (archive, fetch) = ("barman-cloud-wal-archive", "barman-cloud-wal-restore");
    let (check, restore) = ("barman-cloud-check-wal-archive", "barman-cloud-restore");
    let times = ["--target-time", "x", "--target-lsn", "y", "s3://b", "srv", "auto", "/x"];
    vec![
        (delete, vec!["s3://b", "srv"], 3),
        (delete, vec!["-b", "x", "-r", "y", "s3://b", "srv"], 3),
        (delete, vec!["-b", "x", "-m", "-1", "s3://b", "srv"], 3),
        (delete, vec!["-b", "x", "--batch-size", "x", "s3://b", "srv"], 3),
        (keep, vec!["s3://b", "srv", "id"], 3),
        (keep, vec!["-r", "-s", "s3://b", "srv", "id"], 3),
        (keep, vec!["--target", "half", "s3://b", "srv", "id"], 3),
        (check, vec!["--timeline", "0", "s3://b", "srv"], 3),
        (restore, vec!["--target-tli", "LATEST", "s3://b", "srv", "auto", "/x"], 3),
        (restore, times.to_vec(), 3),
        (archive, vec!["s3://b", "srv", "/tmp/0"], 3),
        (archive, vec!["--test", "s3://b", "srv", "/tmp/0"], 3),
        (archive, vec!["--compression-level", "x", "s3://b", "srv", "0"], 3),
        (archive, vec!["--max-concurrency", "0", "s3://b", "srv", "0"], 3),
        (archive, vec!["s3://b", "srv"], 1),
        (fetch, vec!["s3://b", "srv", "0", "/tmp/x"], 3),
        (fetch, vec!["--test", "s3://b", "srv", "0", "/tmp/x"], 3),
        (fetch, vec!["-p", "x", "s3://b", "srv", SEGMENT, "/tmp/x"], 3),
    ]
}

fn lines_with_bad_urls() -> Vec<Line> {
    let (google, azure) = ("--cloud-provider=google-cloud-storage", "--cl=azure-blob-storage");
    vec![
        ("barman-cloud-backup-list", vec!["b", "srv"], 4),
        ("barman-cloud-backup-list", vec!["https://b", "srv"], 4),
        ("barman-cloud-backup-list", vec!["s3:///x", "srv"], 4),
        ("barman-cloud-backup-list", vec![google, "s3://b", "srv"], 4),
        ("barman-cloud-backup-list", vec![azure, "s3://b", "srv"], 4),
        ("barman-cloud-backup-show", vec!["b", "srv", "id"], 4),
        ("barman-cloud-backup-delete", vec!["-b", "id", "b", "srv"], 4),
        ("barman-cloud-backup-keep", vec!["--status", "b", "srv", "id"], 4),
        ("barman-cloud-check-wal-archive", vec!["b", "srv"], 4),
        ("barman-cloud-restore", vec!["b", "srv", "id", "/nonexistent/x"], 4),
        ("barman-cloud-wal-restore", vec!["b", "srv", SEGMENT, "/nonexistent/x"], 4),
    ]
}

#[test]
fn wrong_command_lines_exit_as_barmans_do() {
    for (name, words, exit) in table() {
        let outcome = ours(name, &words).exits(exit);
        assert_eq!(outcome.stdout.is_empty(), exit != 0, "{outcome}");
        if exit == 3 && !words.iter().any(|word| *word == "0" || *word == "/tmp/0") {
            let last = outcome.stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with(&format!("{name}: error: ")), "{outcome}");
        }
    }
}

/// The table above, told by the one who knows.
#[test]
fn barman_itself_exits_as_the_table_says() {
    let Some(barman) = Commands::barman() else { return };
    let running: Vec<_> = table()
        .into_iter()
        .map(|(name, words, exit)| {
            let program = barman.program(name);
            std::thread::spawn(move || run(&mut start(&program, &words)).exits(exit))
        })
        .collect();
    for thread in running {
        thread.join().expect("Barman exits as the table says");
    }
}

#[test]
fn the_version_is_barmans_and_the_last_word() {
    for name in PROGRAMS {
        assert_eq!(ours(name, &["--version"]).ok(), format!("{name} 3.19.1\n"));
    }
}

#[test]
fn help_tells_every_option_and_who_we_are() {
    for name in PROGRAMS {
        let help = ours(name, &["--help"]).ok();
        assert!(help.starts_with(&format!("usage: {name} [options] ")), "{help}");
        for text in ["--endpoint-url", "Beyond Barman:", "Stands in for Barman 3.19.1"] {
            assert!(help.contains(text), "{text} in {help}");
        }
    }
}

#[test]
fn one_program_is_all_commands() {
    let commands = Commands::ours();
    let program = commands.program("barman-cloud");
    for name in PROGRAMS {
        let short = name.trim_start_matches("barman-cloud-");
        for first in [name, short] {
            let version = run(&mut start(&program, &[first, "--version"])).ok();
            assert_eq!(version, format!("{name} 3.19.1\n"));
        }
    }
    let overview = run(&mut start(&program, &["--help"])).ok();
    assert!(overview.contains("wal-archive") && overview.contains("backup-keep"), "{overview}");
    run(&mut start(&program, &[])).exits(3);
    run(&mut start(&program, &["nonsense"])).exits(3);
    let own_version = run(&mut start(&program, &["--version"])).ok();
    assert_eq!(own_version, format!("barman-cloud {}\n", env!("CARGO_PKG_VERSION")));
}

/// A folder as a store: whole commands without a server.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: scratch() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    fn created() -> Self {
        let folder = Self::new();
        ours("barman-cloud-check-wal-archive", &[&folder.url(), "main"]).exits(0);
        assert!(folder.path().is_dir());
        folder
    }
}

#[test]
fn a_missing_bucket_is_told_by_test_and_not_created() {
    let folder = Folder::new();
    let url = folder.url();
    let line = |name: &str| -> Vec<&str> {
        match name {
            "barman-cloud-backup" | "barman-cloud-backup-list" => vec!["-t", &url, "main"],
            "barman-cloud-check-wal-archive" => vec!["--test", &url, "main"],
            "barman-cloud-backup-delete" => vec!["-t", "-b", "x", &url, "main"],
            "barman-cloud-backup-keep" => vec!["-t", "-r", "", &url, "main", "x"],
            "barman-cloud-backup-show" => vec!["-t", &url, "main", "x"],
            "barman-cloud-wal-archive" => vec!["-t", &url, "main", SEGMENT],
            _ => vec!["-t", &url, "main", SEGMENT, "/nonexistent/x"],
        }
    };
    for name in PROGRAMS {
        let mut words = line(name);
        words.retain(|word| !word.is_empty());
        let exit = if name == "barman-cloud-check-wal-archive" { 0 } else { 1 };
        ours(name, &words).exits(exit);
        assert!(!folder.path().exists(), "{name}");
    }
    let folder = Folder::created();
    let url = folder.url();
    ours("barman-cloud-backup-list", &["--test", &url, "main"]).exits(0);
    ours("barman-cloud-backup", &["--test", &url, "main"]).exits(0);
}

#[test]
fn an_empty_archive_lists_shows_and_fetches_nothing() {
    let folder = Folder::created();
    let url = folder.url();
    let list = ours("barman-cloud-backup-list", &["--format", "json", &url, "main"]).ok();
    assert_eq!(list, "{\"backups_list\": []}\n");
    let list = ours("barman-cloud-backup-list", &[&url, "main"]).ok();
    assert_eq!(list.lines().count(), 1, "{list}");
    ours("barman-cloud-backup-show", &[&url, "main", "nobody"]).exits(4);
    ours("barman-cloud-backup-show", &[&url, "main", "20260101T000000"]).exits(1);
    ours("barman-cloud-restore", &[&url, "main", "20260101T000000", "/nonexistent/x"]).exits(1);
    ours("barman-cloud-restore", &[&url, "main", "auto", "/nonexistent/x"]).exits(1);
    let status = ours("barman-cloud-backup-keep", &["--status", &url, "main", "20260101T000000"]);
    assert_eq!(status.ok(), "Keep: nokeep\n");
    ours("barman-cloud-backup-keep", &["--target=full", &url, "main", "20260101T000000"]).exits(4);
    ours("barman-cloud-backup-keep", &["--release", &url, "main", "20260101T000000"]).exits(0);
    let delete = |options: &[&str]| {
        let words = [options, &[url.as_str(), "main"]].concat();
        ours("barman-cloud-backup-delete", &words)
    };
    for options in [
        &["-b", "20260101T000000"][..],
        &["-b", ""],
        &["--retention-policy="],
        &["-r", "REDUNDANCY 1"],
        &["-r", "RECOVERY WINDOW OF 7 DAYS", "--dry-run"],
    ] {
        assert_eq!(delete(options).ok(), "");
    }
    delete(&["-b", "nobody"]).exits(4);
    delete(&["-r", "7days"]).exits(3).says("is not a retention policy");
    let spool = folder.folder.path().join("spool").display().to_string();
    let fetch = |name: &str| {
        let destination = folder.folder.path().join("fetched").display().to_string();
        let words = ["--spool-dir", &spool, &url, "main", name, &destination];
        ours("barman-cloud-wal-restore", &words)
    };
    // The file system may not be mounted.
    fetch(SEGMENT).exits(4).says("there is nothing below");
    std::fs::create_dir(folder.path().join("main")).expect("create");
    let absent = fetch(SEGMENT).exits(1);
    assert!(absent.stderr.is_empty(), "recovery asks for what may not exist\n{absent}");
    ours("barman-cloud-wal-restore", &["file:///nonexistent/b", "main", SEGMENT, "/x"]).exits(4);
    ours("barman-cloud-backup-list", &["file:///nonexistent/b", "main"]).exits(4);
}

#[test]
fn snapshot_options_that_lack_something_exit_4_before_anything_is_touched() {
    let backup = |options: &[&str]| {
        let words: Vec<&str> = options.iter().copied().chain(["s3://b", "srv"]).collect();
        ours("barman-cloud-backup", &words).exits(4)
    };
    backup(&["--snapshot-instance", "i"]).says("--snapshot-disk");
    backup(&["--snapshot-disk", "d"]).says("--snapshot-instance");
    let both = ["--snapshot-instance", "i", "--snapshot-disk", "d"];
    backup(&both).says("--aws-region");
    backup(&[&both[..], &["--gzip"]].concat()).says("compression");
    let google = ["--cloud-provider", "google-cloud-storage"];
    let words = [&both[..], &google, &["gs://b", "srv"]].concat();
    ours("barman-cloud-backup", &words).exits(4).says("--gcp-project");
}

#[test]
fn options_that_contradict_each_other_exit_4() {
    let line = |options: &[&str]| {
        let words: Vec<&str> = options.iter().copied().chain(["file:///x/y", "srv"]).collect();
        ours("barman-cloud-backup", &words).exits(4)
    };
    line(&["--sse-kms-key-id", "k"]).says("--encryption aws:kms");
    line(&["-e", "AES256", "--sse-kms-key-id", "k"]).says("--encryption aws:kms");
    line(&["--tag", "a,b", "--tag", "a,c"]).says("given twice");
    let tags: Vec<String> = (0..11).map(|n| format!("--tag=k{n},v")).collect();
    line(&tags.iter().map(String::as_str).collect::<Vec<_>>()).says("no more than 10");
}

#[test]
fn a_hook_script_says_what_it_lacks() {
    let hook = |name: &str, words: &[&str], variables: &[(&str, &str)]| {
        let commands = Commands::ours();
        let mut command = start(&commands.program(name), words);
        run(command.envs(variables.iter().copied()))
    };
    let archive = ("BARMAN_HOOK", "archive_script");
    let place = ["file:///nonexistent/b", "srv"];
    for variables in [
        vec![archive, ("BARMAN_PHASE", "post")],
        vec![archive, ("BARMAN_PHASE", "pre")],
        vec![("BARMAN_HOOK", "backup_script"), ("BARMAN_PHASE", "post")],
    ] {
        hook("barman-cloud-wal-archive", &place, &variables).exits(1);
    }
    let named = ("BARMAN_FILE", "/nonexistent/nonsense");
    let variables = [archive, ("BARMAN_PHASE", "pre"), named];
    hook("barman-cloud-wal-archive", &place, &variables).exits(3);
    let backup = [
        ("BARMAN_HOOK", "backup_script"),
        ("BARMAN_PHASE", "post"),
        ("BARMAN_BACKUP_DIR", "/nonexistent"),
        ("BARMAN_BACKUP_ID", "20260101T000000"),
        ("BARMAN_STATUS", "FAILED"),
    ];
    hook("barman-cloud-backup", &place, &backup).exits(63);
    hook("barman-cloud-backup", &["--name=x", place[0], place[1]], &backup).exits(4);
    hook("barman-cloud-backup", &place, &backup[..4]).exits(4);
    hook("barman-cloud-backup", &place, &[archive, ("BARMAN_PHASE", "pre")]).exits(4);
}

#[test]
fn quiet_is_silent_and_json_logs_are_objects() {
    let words = |option: &'static str| [option, "b", "srv"];
    assert_eq!(ours("barman-cloud-backup-list", &words("-qqq")).exits(4).stderr, "");
    let text = ours("barman-cloud-backup-list", &words("-q")).exits(4).stderr;
    assert!(text.contains("] ERROR: "), "{text}");
    let json = ours("barman-cloud-backup-list", &words("--log-format=json")).exits(4).stderr;
    for line in json.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!((line["level"].as_str(), line["exit_code"].as_u64()), (Some("ERROR"), Some(4)));
    }
    assert_eq!(json.lines().count(), 1, "{json}");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let commands = Commands::ours();
    let mut command = start(&commands.program("barman-cloud-backup"), &["--help"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
    drop(child.stdout.take());
    assert!(child.wait().expect("wait").success());
}

#[test]
fn deprecated_options_are_told_and_work() {
    let words = ["--profile", "x", "file:///nonexistent/b", "srv"];
    ours("barman-cloud-backup-list", &words).exits(4).says("--profile is deprecated");
}

/// Starts a command whose server takes the connection and never answers (`PORT` in `words`),
/// sends it a signal there, and waits for its end.
fn interrupted(words: &[&str], signal: Signal) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let words: Vec<String> = words.iter().map(|word| word.replace("PORT", &port)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let commands = Commands::ours();
    let mut command = start(&commands.program("barman-cloud"), &words);
    command.envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")]);
    let running = spawn(&mut command);
    let connection = listener.accept().expect("the command connects");
    running.signal(signal);
    let outcome = running.wait();
    drop(connection);
    outcome
}

#[test]
fn signals_end_a_command_at_once_with_the_codes_of_a_shell() {
    let place = ["--endpoint-url", "http://127.0.0.1:PORT", "s3://b", "srv"];
    let folder = scratch();
    let destination = folder.path().join("x").display().to_string();
    let spool = folder.path().display().to_string();
    let list = [&["backup-list"][..], &place].concat();
    let fetch = ["wal-restore", "--spool-dir", &spool];
    let fetch = [&fetch[..], &place, &[SEGMENT, &destination]].concat();
    for (signal, exit) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        for words in [&list, &fetch] {
            let outcome = interrupted(words, signal).exits(exit);
            assert!(outcome.elapsed.as_secs() < 30, "{outcome}");
        }
        assert!(!Path::new(&destination).exists());
    }
}

/// Barman handles Ctrl-C in `backup` alone: the backup has failed, 1.
#[test]
fn ctrl_c_is_a_failed_backup_and_sigterm_is_not() {
    let postgres = ["backup", "-h", "127.0.0.1", "-p", "PORT", "-U", "x"];
    let words = [&postgres[..], &["file:///nonexistent/b", "srv"]].concat();
    interrupted(&words, Signal::INT).exits(1);
    interrupted(&words, Signal::TERM).exits(143);
}
