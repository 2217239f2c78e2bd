//! What CloudNativePG demands of the commands, each point a test named by the fact.
//!
//! Points that other files prove: exit codes and doubtful answers in `exit_codes`, identities,
//! regions and certificate authorities in `identities`, crossings with Barman in
//! `interop_barman`, cut and cancelled fetches in `wal_faults`, refused replacements in
//! `wal_stores`.

use crate::support::bare_image::{BareImage, STRANGER, WRITABLE};
use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::fixtures::{NEWEST, OLDEST, SERVER, put_backups, segment, segment_name};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{give_to_postgres, postgres_user, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
    let id = Path::new("backup-20261127010203");
    let show = ["--format", "json"];
    let shown = ours
        .run("barman-cloud-backup-show", &store, &show, &[SERVER, id.to_str().expect("text")])
        .ok();
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
    let left = files_below(Path::new(&spool));
    let whole = |name: &String| segment_names_of_spool(name) || name == "suffix";
    assert!(left.iter().all(whole), "no temporary and no lock files: {left:?}");
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
