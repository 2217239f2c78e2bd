//! Options whose effect is which files are read, written or chosen.

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::commands::Commands;
use crate::support::fixtures::{NEWEST, OLDEST, SERVER, put_backups};
use crate::support::process::Outcome;
use crate::support::scratch::scratch;
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use std::fs;
use std::os::unix::fs::FileExt;

fn folder() -> (Commands, StoreUnderTest) {
    (Commands::ours(), StoreUnderTest::open(StoreKind::File).expect("always there"))
}

/// Restores one of Barman's backups and says which one it was.
fn restored(
    ours: &Commands,
    store: &StoreUnderTest,
    options: &[&str],
    id: &str,
) -> (Outcome, String) {
    let target = scratch();
    let data = target.path().join("data");
    let tablespace = format!("contract_ts:{}", target.path().join("ts").display());
    let options = [&["--tablespace", tablespace.as_str()], options].concat();
    let positionals = [SERVER, id, data.to_str().expect("text")];
    let outcome = ours.run("barman-cloud-restore", store, &options, &positionals);
    let label = fs::read_to_string(data.join("backup_label")).unwrap_or_default();
    let line = label.lines().find_map(|line| line.strip_prefix("LABEL: Barman backup cloud "));
    (outcome, line.unwrap_or_default().to_string())
}

#[test]
fn auto_restores_the_newest_backup_before_the_target() {
    let (ours, store) = folder();
    put_backups(&store);
    for (options, id) in [
        (&[][..], NEWEST),
        (&["--target-time", "2026-11-20 23:59:00+00"], "20261120T235852"),
        (&["--target-lsn", "0/1500100"], "20261120T235852"),
        (&["--target-lsn", "0/15000FF"], OLDEST),
        (&["--target-tli", "1"], "20261120T235911"),
        (&["--target-tli", "latest"], NEWEST),
        (&["--target-tli", "2", "--target-time", "2026-11-21 00:00:56+00"], "20261121T000052"),
    ] {
        let (outcome, chosen) = restored(&ours, &store, options, "auto");
        assert_eq!(chosen, id, "{options:?}\n{outcome}");
    }
    // With a name the target means nothing, as with Barman.
    assert_eq!(restored(&ours, &store, &["--target-lsn", "0/1"], OLDEST).1, OLDEST);
}

#[test]
fn an_incomplete_backup_is_restored_only_when_that_is_allowed() {
    let (ours, store) = folder();
    put_backups(&store);
    let key = format!("{PREFIX}/{SERVER}/base/{OLDEST}/backup.info");
    let info = String::from_utf8(store.get(&key).to_vec()).expect("text");
    store.put(&key, info.replace("status=DONE", "status=FAILED"));
    let (refused, nothing) = restored(&ours, &store, &[], OLDEST);
    assert_eq!(nothing, "");
    refused.exits(1).says("FAILED");
    assert_eq!(restored(&ours, &store, &["--allow-incomplete"], OLDEST).1, OLDEST);
}

fn back_up(
    ours: &Commands,
    store: &StoreUnderTest,
    cluster: &Cluster,
    options: &[&str],
) -> Outcome {
    let connection = cluster.connection();
    let mut all: Vec<&str> = connection.iter().map(String::as_str).collect();
    all.extend(["--immediate-checkpoint", "--no-wal-check", "-J", "1"]);
    all.extend(options);
    ours.run("barman-cloud-backup", store, &all, &[SERVER]).exits(0)
}

fn cluster() -> Cluster {
    let settings = vec![("archive_mode", "on".into()), ("archive_command", "true".into())];
    Cluster::create(&ClusterOptions { settings, ..ClusterOptions::default() })
}

#[test]
fn a_damaged_page_is_told_unless_checksums_are_left_alone() {
    let (ours, store) = folder();
    let cluster = cluster();
    cluster.psql("create table damaged as select generate_series(1, 5000) as n");
    let file = cluster.data().join(cluster.psql("select pg_relation_filepath('damaged')"));
    cluster.stop("fast");
    let file = fs::OpenOptions::new().write(true).open(file).expect("the table");
    file.write_all_at(b"damage", 8192 + 4000).expect("write");
    cluster.start();
    back_up(&ours, &store, &cluster, &[]).says("pages have wrong checksums");
    let silent = back_up(&ours, &store, &cluster, &["--no-verify-checksums"]);
    assert!(!silent.stderr.contains("checksum"), "{silent}");
}

#[test]
fn levels_names_and_sizes_decide_what_tarballs_there_are() {
    let (ours, store) = folder();
    let cluster = cluster();
    let bytes = |name: &str, options: &[&str]| -> (usize, usize) {
        back_up(&ours, &store, &cluster, &[options, &["-n", name]].concat());
        let shown =
            ours.run("barman-cloud-backup-show", &store, &["--format=json"], &[SERVER, name]);
        let shown: serde_json::Value = serde_json::from_str(&shown.ok()).expect("JSON");
        let id = shown["cloud"]["backup_id"].as_str().expect("an ID").to_string();
        let mut tarballs = store.keys_below(&format!("{SERVER}/base/{id}"));
        tarballs.retain(|key| key.contains(".tar") && !key.contains('/'));
        let folder = format!("{PREFIX}/{SERVER}/base/{id}");
        let sizes = tarballs.iter().map(|name| store.get(&format!("{folder}/{name}")).len());
        (tarballs.len(), sizes.sum())
    };
    let (_, quick) = bytes("quick", &["--gzip", "--compression-level", "1"]);
    let (_, small) = bytes("small", &["--gzip", "--compression-level", "9"]);
    assert!(small < quick, "{small} bytes at 9, {quick} at 1");
    let (few, _) = bytes("few", &[]);
    let (many, _) = bytes("many", &["-S", "4MB"]);
    assert!(many > few, "{many} tarballs of 4 MB, {few} without a limit");
}
