//! What CloudNativePG demands of the commands, each point a test named by the fact.
//!
//! Points that other files prove: exit codes and doubtful answers in `exit_codes`, identities,
//! regions and certificate authorities in `identities`, crossings with Barman in
//! `interop_barman`, cut and cancelled fetches in `wal_faults`, refused replacements in
//! `wal_stores`.

use crate::support::bare_image::{BareImage, STRANGER, WRITABLE};
use crate::support::cluster::{Cluster, TableChecksums, options_for};
use crate::support::commands::{Commands, clean_environment};
use crate::support::emptied::{StoredBackup, recovered_again};
use crate::support::fixtures::{NEWEST, OLDEST, SERVER, put_backups, segment, segment_name};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{give_to_postgres, postgres_user, scratch};
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The options that CloudNativePG puts in front of URL and server name.
fn place(store: &StoreUnderTest) -> Vec<&str> {
    store.options.iter().map(String::as_str).chain([store.url.as_str(), SERVER]).collect()
}

fn inside(name: &str) -> String {
    format!("{WRITABLE}/{name}")
}

#[test]
fn point_7_everything_runs_with_a_read_only_root_no_tmp_no_home_and_an_unknown_user() {
    let Some(image) = BareImage::of(STRANGER) else { return };
    let Some(store) = StoreUnderTest::open(StoreKind::S3) else { return };
    let place = place(&store);
    let run = |name: &str, before: &[&str], after: &[&str]| -> Outcome {
        run(&mut image.command(name, &store, &[before, &place, after].concat()))
    };
    let name = segment_name(1);
    fs::write(image.outside(&name), segment(1)).expect("a segment");
    run("barman-cloud-check-wal-archive", &[], &[]).exits(0);
    run("barman-cloud-wal-archive", &["--gzip"], &[&inside(&name)]).exits(0);
    // No --spool-dir: the default one, /var/tmp/walrestore, cannot be made here.
    let fetched = run("barman-cloud-wal-restore", &[], &[&name, &inside("x.tmp")]).exits(0);
    assert_eq!(fetched.stderr, "");
    assert_eq!(fs::read(image.outside("x.tmp")).expect("fetched"), segment(1));
    run("barman-cloud-wal-restore", &[], &[&segment_name(2), &inside("y")]).exits(1);
    let spool = ["-p", "4", "--spool-dir", &inside("spool")];
    run("barman-cloud-wal-restore", &spool, &[&name, &inside("z")]).exits(0);

    put_backups(&store);
    let list = run("barman-cloud-backup-list", &["--format", "json"], &[]).ok();
    assert!(list.contains(OLDEST) && list.contains(NEWEST), "{list}");
    run("barman-cloud-backup-show", &["--format", "json"], &[NEWEST]).exits(0);
    run("barman-cloud-backup-keep", &["--target", "full"], &[NEWEST]).exits(0);
    let tablespace = format!("contract_ts:{}", inside("ts"));
    run("barman-cloud-restore", &["--tablespace", &tablespace], &[OLDEST, &inside("data")])
        .exits(0);
    let owner = |path: &str| fs::metadata(image.outside(path)).expect(path).uid();
    assert_eq!((owner("data/PG_VERSION"), owner("ts")), (STRANGER.uid, STRANGER.uid));
    run("barman-cloud-backup-delete", &["-r", "REDUNDANCY 1"], &[]).exits(0);
    let list = run("barman-cloud-backup-list", &["--format", "json"], &[]).ok();
    assert!(!list.contains(OLDEST), "{list}");
    let mut left: Vec<String> = fs::read_dir(image.outside(""))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, [&name, "data", "spool", "ts", "x.tmp", "z"], "nothing else was written");
}

/// The server's image knows its user, the sidecar's does not.
#[test]
fn point_8_a_backup_connects_by_peer_authentication_without_a_passwd_entry() {
    let Some(user) = postgres_user() else { return drop(BareImage::of(STRANGER)) };
    let Some(mut image) = BareImage::of(user) else { return };
    let Some(store) = StoreUnderTest::open(StoreKind::S3) else { return };
    let cluster = Cluster::create(&options_for(&store));
    let ours = Commands::ours();
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &[], &[SERVER, "%p"]);
    cluster.archive_with(&line);
    cluster.psql("create role other login");
    cluster.psql("create table t as select generate_series(1, 1000) as n");
    let hba = cluster.data().join("pg_hba.conf");
    fs::write(hba, "local all postgres peer\nlocal all other peer\n").expect("pg_hba.conf");
    cluster.psql("select pg_reload_conf()");
    image.show(cluster.data().parent().expect("the cluster's folder"));
    let socket = cluster.socket().display().to_string();

    let words = |options: &[&'static str]| -> Vec<String> {
        options.iter().copied().chain(place(&store)).map(String::from).collect()
    };
    let backup = |options: &[&'static str], variables: &[(&str, &str)]| -> Outcome {
        let words = words(options);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = image.command("barman-cloud-backup", &store, &words);
        run(command.envs(variables.iter().copied()))
    };
    let host = ("PGHOST", socket.as_str());
    let options =
        ["--user", "postgres", "--name", "backup-20261127010203", "--immediate-checkpoint"];
    let words = [&options[..], &["--jobs", "2", "--gzip"]].concat();
    backup(&words, &[host, ("PGPORT", "5432")]).exits(0);
    let name = "backup-20261127010203";
    let show = ["--format", "json"];
    let shown = ours.run("barman-cloud-backup-show", &store, &show, &[SERVER, name]).ok();
    assert!(shown.starts_with("{\"cloud\": {"), "{shown}");
    // Peer authentication tells who calls; no name was given for the second.
    backup(&["--user", "other", "--immediate-checkpoint"], &[host])
        .exits(1)
        .says("Peer authentication failed for user \"other\"");
    backup(&["--immediate-checkpoint"], &[host]).exits(1).says("could not look up local user ID");
}

#[test]
fn point_9_sixteen_processes_share_one_spool_and_one_archive() {
    let Some(store) = StoreUnderTest::open(StoreKind::S3) else { return };
    let (ours, folder) = (Commands::ours(), scratch());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let spool = path("spool");
    fs::create_dir(&spool).expect("mkdir");
    give_to_postgres(Path::new(&spool));
    let numbers = 1..=16;
    let running: Vec<_> = numbers
        .clone()
        .map(|number| {
            let file = path(&segment_name(number));
            fs::write(&file, segment(number)).expect("a segment");
            spawn(&mut ours.command(
                "barman-cloud-wal-archive",
                &store,
                &["--zstd"],
                &[SERVER, &file],
            ))
        })
        .collect();
    for process in running {
        process.wait().exits(0);
    }
    // Twice at once for each segment, so that two processes want the same file of the spool.
    let wanted = || numbers.clone().flat_map(|number| [(number, "a"), (number, "b")]);
    let running: Vec<_> = wanted()
        .map(|(number, copy)| {
            let options = ["-p", "8", "--spool-dir", spool.as_str()];
            let name = segment_name(number);
            let positionals = [SERVER, &name, &path(&format!("{copy}{number}.tmp"))];
            spawn(&mut ours.command("barman-cloud-wal-restore", &store, &options, &positionals))
        })
        .collect();
    for process in running {
        process.wait().exits(0);
    }
    for (number, copy) in wanted() {
        let fetched = fs::read(path(&format!("{copy}{number}.tmp"))).expect("fetched");
        assert!(fetched == segment(number), "segment {number}, copy {copy}");
    }
    let note = |name: &str| ["suffix", "position"].contains(&name);
    let whole = |name: &String| segment_names_of_spool(name) || note(name);
    // What is fetched ahead may still be on its way.
    wait_until("a spool without temporary and lock files", Duration::from_secs(60), || {
        files_below(Path::new(&spool)).iter().all(whole)
    });
}

/// `<24 hex>.<8 hex of its checksum>`.
fn segment_names_of_spool(name: &str) -> bool {
    name.len() == 33 && name.starts_with("00000001") && name.as_bytes()[24] == b'.'
}

fn files_below(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries
        .flat_map(|entry| match entry.path().is_dir() {
            true => files_below(&entry.path()),
            false => vec![entry.file_name().to_string_lossy().into_owned()],
        })
        .collect()
}

/// A PostgreSQL in a pod, archiving as CloudNativePG asks for it.
struct Pod {
    ours: Commands,
    store: StoreUnderTest,
    cluster: Cluster,
}

impl Pod {
    fn start() -> Option<Self> {
        let store = StoreUnderTest::open(StoreKind::S3)?;
        let (ours, cluster) = (Commands::ours(), Cluster::create(&options_for(&store)));
        let pod = Self { ours, store, cluster };
        let mut line = pod.ours.program("barman-cloud-wal-archive").display().to_string();
        let tags = ["--tags", "app,db", "team,x", "--history-tags", "kind,history"];
        let words = [&["--gzip", "-e", "AES256"][..], &pod.endpoint(), &tags, &PROVIDER].concat();
        for word in [&words[..], &pod.place(), &["%p"]].concat() {
            line.push(' ');
            line.push_str(word);
        }
        pod.run(
            "barman-cloud-check-wal-archive",
            &[&pod.endpoint()[..], &PROVIDER, &pod.place()].concat(),
        )
        .exits(0);
        pod.cluster.archive_with(&line);
        Some(pod)
    }

    fn endpoint(&self) -> [&str; 2] {
        ["--endpoint-url", &self.store.options[3]]
    }

    /// URL and server name.
    fn place(&self) -> [&str; 2] {
        [&self.store.url, SERVER]
    }

    fn run(&self, name: &str, words: &[&str]) -> Outcome {
        let mut command = self.ours.bare(name, &self.store);
        command.env("PGHOST", self.cluster.socket()).env("PGPORT", "5432");
        run(command.args(words))
    }

    fn backup(&self, name: &str) -> Outcome {
        let first = ["--user", "postgres", "--name", name, "--gzip", "--encryption", "AES256"];
        let then = ["--immediate-checkpoint", "--jobs", "2", "--tags", "app,db", "team,x"];
        let words = [&first[..], &then, &self.endpoint(), &PROVIDER, &self.place()].concat();
        self.run("barman-cloud-backup", &words)
    }

    /// The one JSON document that list or show answers.
    fn json(&self, name: &str, before: &[&str], after: &[&str]) -> serde_json::Value {
        let words = [before, &["--format", "json"], &self.endpoint(), &PROVIDER];
        let words = [&words.concat()[..], &self.place(), after].concat();
        let answer = self.run(name, &words).ok();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

const PROVIDER: [&str; 2] = ["--cloud-provider", "aws-s3"];

#[test]
fn points_1_5_6_15_the_story_is_told_in_cloudnative_pgs_own_words() {
    let Some(pod) = Pod::start() else { return };
    let (endpoint, place) = (pod.endpoint(), pod.place());
    pod.cluster.psql("create table t as select generate_series(1, 1000) as n");
    pod.cluster.settle();
    pod.backup("backup-20261127020304").exits(0);
    // At once, and loudly: nothing but the document may be on standard output.
    let shown = pod.json("barman-cloud-backup-show", &["-vv"], &["backup-20261127020304"]);
    let backup = &shown["cloud"];
    let id = backup["backup_id"].as_str().expect("an ID").to_string();
    assert_eq!(backup["backup_name"], "backup-20261127020304");
    for field in ["systemid", "begin_wal", "end_wal", "begin_xlog", "end_xlog", "backup_label"] {
        assert!(backup[field].is_string(), "{field}: {backup}");
    }
    for field in ["begin_time_iso", "end_time_iso"] {
        let time = backup[field].as_str().expect("a time");
        time.parse::<jiff::Timestamp>().expect("RFC 3339 with a zone");
    }
    assert!(backup["timeline"].is_number() && backup["error"].is_null(), "{backup}");
    // A backup of Barman that runs, and one that failed although both times are known.
    let base = format!("{PREFIX}/{SERVER}/base");
    let begun = "begin_time=2026-11-27 00:00:00+00:00\n";
    let put = |id: &str, text: String| pod.store.put(&format!("{base}/{id}/backup.info"), text);
    put("20261127T000000", format!("{begun}status=STARTED\n"));
    put("20261127T000001", format!("{begun}end_time=2026-11-27 00:01:00+00:00\nstatus=FAILED\n"));
    let listed = pod.json("barman-cloud-backup-list", &["-vv"], &[]);
    let ids: Vec<_> = listed["backups_list"].as_array().expect("a list").iter().collect();
    assert_eq!(ids.len(), 3, "{listed}");
    for backup in ids {
        let done = backup["status"] == "DONE";
        assert_eq!(backup["end_time"].is_string(), done, "{backup}");
        assert_eq!(backup.get("end_time_iso").is_some(), done, "{backup}");
    }

    // Before a restore the first WAL is asked for, with options between the positionals.
    let begin_wal = shown["cloud"]["begin_wal"].as_str().expect("a segment").to_string();
    let restored = Cluster::empty(&pod.store.environment);
    let wal = restored.beside("test.wal").display().to_string();
    let fetch = |name: &str| {
        let words = [&endpoint[..], &PROVIDER, &place, &["--read-timeout=30"]].concat();
        pod.run("barman-cloud-wal-restore", &[&words[..], &[name, &wal]].concat())
    };
    fetch(&begin_wal).exits(0);
    let early = fetch("0000000100000000000000F0").exits(1);
    assert_eq!(early.stderr, "", "asking for what does not exist is normal");
    pod.cluster.archive_everything();
    let expected = pod.cluster.table_checksums();
    let data = restored.data().display().to_string();
    let plugin = [&PROVIDER[..], &endpoint, &["--read-timeout=30"], &place, &[&id, &data]].concat();
    pod.run("barman-cloud-restore", &plugin).exits(0);
    let other = restored.beside("other").display().to_string();
    let in_tree =
        [&endpoint[..], &place, &[&id], &PROVIDER, &["--read-timeout=30", &other]].concat();
    pod.run("barman-cloud-restore", &in_tree).exits(0);
    assert!(restored.data().join("pg_wal").is_dir());
    let line =
        pod.ours.shell_line("barman-cloud-wal-restore", &pod.store, &[], &[SERVER, "%f", "%p"]);
    restored.recover_with(&line, "");
    restored.start_and_recover();
    assert_eq!(restored.table_checksums(), expected);
    no_tarball_can_be_missed(&pod, &id, &expected);

    pod.backup("backup-20261127020305").exits(0);
    let policy = ["--retention-policy", "RECOVERY WINDOW OF 0 DAYS"];
    let words = [&endpoint[..], &PROVIDER, &policy, &place].concat();
    pod.run("barman-cloud-backup-delete", &words).exits(0);
    let left = pod.json("barman-cloud-backup-list", &[], &[]).to_string();
    assert!(!left.contains(&id) && left.contains("backup-20261127020305"), "{left}");
}

fn no_tarball_can_be_missed(pod: &Pod, id: &str, expected: &TableChecksums) {
    let stored = StoredBackup::last(&pod.store, SERVER);
    stored.is_missed(&stored.tarballs(), expected, || {
        let restored = Cluster::empty(&pod.store.environment);
        recovered_again(&pod.ours, &pod.store, &restored, [SERVER, id], &[])
    });
}

#[test]
fn points_10_11_12_a_destination_appears_whole_and_a_name_means_its_segment() {
    let Some(store) = StoreUnderTest::open(StoreKind::S3) else { return };
    let (ours, folder) = (Commands::ours(), scratch());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let name = segment_name(7);
    let archive = |file: &str, content: &[u8], options: &[&str]| {
        fs::write(path(file), content).expect("write");
        ours.run("barman-cloud-wal-archive", &store, options, &[SERVER, &path(file)])
    };
    let fetch = |name: &str, options: &[&str]| {
        ours.run("barman-cloud-wal-restore", &store, options, &[SERVER, name, &path("x.tmp")])
    };
    archive(&format!("{name}.00000028.backup"), b"START WAL LOCATION: 0/700028\n", &["--gzip"])
        .exits(0);
    archive("00000002.history", b"1\t0/700000\tno reason\n", &["--gzip"]).exits(0);
    let partial = [&segment(7)[..500_000], &[0; 548_576]].concat();
    archive(&format!("{name}.partial"), &partial, &["--snappy"]).exits(0);
    fetch(&name, &["--no-partial"]).exits(1);
    assert!(!folder.path().join("x.tmp").exists());
    fetch(&name, &[]).exits(0);
    assert!(fs::read(path("x.tmp")).expect("fetched") == partial);
    archive(&name, &segment(7), &["--zstd"]).exits(0);
    archive(&name, &segment(7), &["--zstd"]).exits(0);
    fetch(&name, &[]).exits(0);
    assert!(fs::read(path("x.tmp")).expect("fetched") == segment(7), "complete before partial");
    fetch("00000002.history", &[]).exits(0);
    // Settled otherwise than Barman has it: other content is refused unless it is asked for.
    let mut other = segment(7);
    other[900_000] ^= 1;
    archive(&name, &other, &["--zstd"]).exits(1).says("already holds other content");
    archive(&name, &other, &["--zstd", "--allow-overwrite"]).exits(0);

    let key = format!("{PREFIX}/{SERVER}/wals/0000000100000000/{}.zst", segment_name(8));
    let whole = store.get(&key.replace(&segment_name(8), &name));
    store.put(&key, whole.slice(..whole.len() / 2));
    fs::remove_file(path("x.tmp")).expect("rm");
    fetch(&segment_name(8), &[]).exits(4);
    let left = files_below(folder.path());
    assert!(left.iter().all(|name| !name.contains("tmp")), "nothing is left on failure: {left:?}");
}

#[test]
fn point_16_secrets_are_never_told_and_lines_stay_short() {
    let secret = "c2VjcmV0LW9mLW1pbmU=";
    let azure = format!(
        "DefaultEndpointsProtocol=http;AccountName=a;AccountKey={secret};BlobEndpoint=http://127.0.0.1:1/a;"
    );
    let ours = Commands::ours();
    let lines: [(&[&str], &str); 3] = [
        (&["--endpoint-url", "http://127.0.0.1:1", "s3://bucket/p"], "AWS_SECRET_ACCESS_KEY"),
        (
            &["--cloud-provider=azure-blob-storage", "http://127.0.0.1:1/a/c"],
            "AZURE_STORAGE_CONNECTION_STRING",
        ),
        (
            &["--cloud-provider=azure-blob-storage", "https://127.0.0.1:1/a/c"],
            "AZURE_STORAGE_SAS_TOKEN",
        ),
    ];
    let long = format!("--tag=k,{}", "v".repeat(250));
    for (words, variable) in lines {
        for name in ["barman-cloud-backup-list", "barman-cloud-wal-archive", "barman-cloud-backup"]
        {
            let mut command = std::process::Command::new(ours.program(name));
            clean_environment(&mut command, Path::new("/nonexistent"));
            let value = if variable.contains("CONNECTION") { azure.as_str() } else { secret };
            command.env("AWS_ACCESS_KEY_ID", "me").env("PGPASSWORD", secret).env(variable, value);
            command.arg("-vv").args(words).arg(SERVER);
            match name {
                "barman-cloud-wal-archive" => command.args([segment_name(1).as_str(), &long]),
                "barman-cloud-backup" => command.args(["-h", "127.0.0.1", "-p", "1", &long]),
                _ => &mut command,
            };
            let outcome = run(&mut command);
            assert!(!outcome.status.success() && !outcome.stderr.is_empty(), "{outcome}");
            assert!(!outcome.stderr.contains(secret), "{outcome}");
            assert!(outcome.stderr.lines().all(|line| line.len() < 1 << 16), "{outcome}");
        }
    }
}
