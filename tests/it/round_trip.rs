//! The main story on every kind of store: archive, back up under load, destroy, restore, recover.

use crate::support::cluster::{Cluster, ClusterOptions, options_for};
use crate::support::commands::Commands;
use crate::support::emptied::{StoredBackup, recovered_again};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{private_folder, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const SERVER: &str = "main";

#[test]
fn rows_committed_before_the_disaster_are_recovered_from_a_folder() {
    story(StoreKind::File, &[], &["--zstd"]);
}

#[test]
fn rows_committed_before_the_disaster_are_recovered_from_s3() {
    story(StoreKind::S3, &["--gzip"], &["--gzip"]);
}

#[test]
fn rows_committed_before_the_disaster_are_recovered_from_a_strict_s3() {
    story(StoreKind::S3Strict, &["--zstd"], &["--lz4"]);
}

#[test]
fn rows_committed_before_the_disaster_are_recovered_from_azure() {
    story(StoreKind::Azure, &["--lz4"], &["--xz"]);
}

#[test]
fn rows_committed_before_the_disaster_are_recovered_from_google() {
    story(StoreKind::Gcs, &["--snappy"], &["--snappy"]);
}

/// pgbench runs from before the backup until after it; what the tables hold at the end must be
/// what the recovered tables hold.
fn story(kind: StoreKind, backup_options: &[&str], wal_options: &[&str]) {
    let Some(store) = StoreUnderTest::open(kind) else { return };
    let ours = Commands::ours();
    let cluster = Cluster::create(&options_for(&store));
    archive(&ours, &store, &cluster, wal_options);
    cluster.pgbench_fill(5);

    let mut load = cluster.pgbench_start();
    let before = cluster.transactions();
    backup(&ours, &store, &cluster, &[backup_options, &["-S", "20MB", "-n", "story"]].concat());
    let after = cluster.transactions();
    assert!(load.is_running(), "pgbench ended during the backup");
    assert!(after > before, "no transaction was committed during the backup");
    load.stop();

    cluster.psql("create table witness as select 'the last transaction' as said");
    cluster.archive_everything();
    let expected = cluster.table_checksums();
    cluster.destroy();

    let restored = restore(&ours, &store, "story", &[]);
    recover(&ours, &store, &restored, "");
    assert_eq!(restored.table_checksums(), expected);

    if kind == StoreKind::File {
        // The same on every store: without any one of its tarballs this story ends otherwise.
        let stored = StoredBackup::last(&store, SERVER);
        let tarballs = stored.tarballs();
        assert!(tarballs.len() > 3, "{tarballs:?}");
        stored.is_missed(&tarballs, &expected, || {
            let cluster = Cluster::empty(&store.environment);
            recovered_again(&ours, &store, &cluster, [SERVER, "story"], &[])
        });
    }
}

#[test]
fn tablespaces_symlinks_unlogged_tables_and_many_files_survive() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let cluster = Cluster::create(&ClusterOptions {
        separate_wal: true,
        settings: vec![
            ("allow_in_place_tablespaces", "on".into()),
            ("max_locks_per_transaction", "1024".into()),
        ],
        ..options_for(&store)
    });
    archive(&ours, &store, &cluster, &["--lz4"]);
    // One tablespace goes back to its own place, which outlives the cluster; one is relocated.
    let outside = scratch();
    let stays = private_folder(outside.path(), "stays");
    create_the_odd_tables(&cluster, &stays);
    cluster.settle();
    let files = count_files(cluster.data());
    assert!(files > 20_000, "{files} files");

    backup(&ours, &store, &cluster, &["--lz4", "-J", "4"]);
    cluster.psql("insert into on_place select 1, 'after the backup'");
    cluster.psql("insert into moved select 1, 'after the backup'");
    cluster.archive_everything();
    let mut expected = cluster.table_checksums();
    expected.insert("public.fleeting".into(), "0 rows, 0".into());
    cluster.destroy();
    empty_folder(&stays);

    let restored = Cluster::empty(&store.environment);
    let relocation = format!("going:{}", restored.beside("elsewhere").display());
    let restored = restore_into(restored, &ours, &store, "last", &["--tablespace", &relocation]);
    assert!(restored.beside("elsewhere").join(version_folder(&restored)).is_dir());
    assert!(stays.join(version_folder(&restored)).is_dir());
    recover(&ours, &store, &restored, "");
    assert_eq!(restored.table_checksums(), expected);
    assert_eq!(restored.psql("select count(*) from small_4999"), "1");
    restored.psql("insert into fleeting values (1)");
    drop(restored);

    let stored = StoredBackup::last(&store, SERVER);
    let mut tablespaces = stored.tarballs();
    tablespaces.retain(|name| !name.starts_with("data"));
    assert!(tablespaces.len() >= 2, "{tablespaces:?}");
    stored.is_missed(&tablespaces, &expected, || {
        empty_folder(&stays);
        let cluster = Cluster::empty(&store.environment);
        let relocation = format!("going:{}", cluster.beside("elsewhere").display());
        let options = ["--tablespace", &*relocation];
        recovered_again(&ours, &store, &cluster, [SERVER, "last"], &options)
    });
}

/// Archived eight files at a time, fetched eight segments ahead, onto a second timeline and along
/// both again.
#[test]
fn batches_and_look_ahead_carry_a_cluster_across_a_timeline_switch() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let spools = scratch();
    let receipts = private_folder(spools.path(), "receipts").display().to_string();
    let ahead = private_folder(spools.path(), "ahead").display().to_string();
    let archiving = ["--lz4", "--jobs", "8", "--spool-dir", &receipts];
    let fetching = ["-p", "8", "--spool-dir", &ahead];
    let cluster = Cluster::create(&options_for(&store));
    archive(&ours, &store, &cluster, &archiving);
    backup(&ours, &store, &cluster, &["-n", "before"]);
    cluster.pgbench_fill(3);
    cluster.archive_everything();
    cluster.destroy();

    let second = restore(&ours, &store, "before", &[]);
    // It must archive from the first moment on, or its history file would never be archived.
    let words = [SERVER, "%p"];
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &archiving, &words);
    let archiving = format!("archive_mode = on\narchive_command = '{line}'");
    recover_by(&ours, &store, &second, &fetching, &archiving);
    second.psql("create table witness as select 'on the second timeline' as said");
    second.archive_everything();
    let expected = second.table_checksums();
    second.destroy();

    let third = restore(&ours, &store, "before", &[]);
    recover_by(&ours, &store, &third, &fetching, "");
    assert_eq!(third.table_checksums(), expected);
}

fn create_the_odd_tables(cluster: &Cluster, stays: &Path) {
    let going = cluster.folder_beside("going");
    for (name, location) in [("stays", stays), ("going", &*going), ("inside", Path::new(""))] {
        let location = location.display();
        cluster.psql(&format!("create tablespace {name} location '{location}'"));
    }
    let rows = "select g as id, md5(g::text) as payload from generate_series(1, 5000) g";
    cluster.psql(&format!("create table on_place tablespace stays as {rows}"));
    cluster.psql(&format!("create table moved tablespace going as {rows}"));
    cluster.psql(&format!("create table in_place tablespace inside as {rows}"));
    cluster.psql(&format!("create unlogged table fleeting as {rows}"));
    // Four files each: table, TOAST table, its index, primary key.
    cluster.psql(
        "do $$ begin for n in 1..5000 loop \
           execute format('create table small_%s (id int primary key, said text)', n); \
           execute format('insert into small_%s values (1, %L)', n, n); \
           if n % 100 = 0 then commit; end if; \
         end loop; end $$",
    );
}

/// The checks of size in one test, because filling two gigabytes takes its time.
#[test]
fn a_table_of_several_segments_survives_and_needs_no_more_memory_than_a_small_one() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let cluster = Cluster::create(&ClusterOptions {
        wal_segment_mebibytes: 16,
        // The table is filled before archiving begins, without WAL.
        settings: vec![("wal_level", "minimal".into()), ("max_wal_senders", "0".into())],
        ..options_for(&store)
    });
    let fill = |table: &str, rows: u32| {
        cluster.psql(&format!(
            "create table {table} as select g as id, repeat(md5(g::text), 30) as payload \
             from generate_series(1, {rows}) g"
        ));
    };
    // About a kilobyte a row; two tables, so that there is work for both jobs.
    fill("small", 250_000);
    fill("other", 250_000);
    cluster.configure("wal_level = replica\nmax_wal_senders = 4\n");
    archive(&ours, &store, &cluster, &["--zstd"]);
    let small = backup(&ours, &store, &cluster, &["--lz4", "-n", "small"]);

    cluster.configure("wal_level = minimal\nmax_wal_senders = 0\narchive_mode = off\n");
    cluster.stop("fast");
    cluster.start();
    fill("big", 2_100_000);
    cluster.configure("wal_level = replica\nmax_wal_senders = 4\narchive_mode = on\n");
    cluster.stop("fast");
    cluster.start();
    assert!(cluster.psql("select pg_relation_size('big') / (1 << 30)") == "2");
    let big = backup(&ours, &store, &cluster, &["--lz4", "-n", "big"]);
    same_memory(&small, &big);

    // Uncompressed, every part is full; the budget and what the process needs anyway is the limit.
    let full = backup(&ours, &store, &cluster, &["--max-memory", "64MB", "-n", "full"]);
    within_192_mebibytes(&full);
    // What it has when nothing is said is enough for eight jobs, with the program itself.
    let eight = backup(&ours, &store, &cluster, &["-J", "8", "--zstd", "-n", "eight"]);
    assert!(eight.peak_memory_bytes < 256 << 20, "{} bytes", eight.peak_memory_bytes);

    cluster.archive_everything();
    let expected = cluster.table_checksums();
    cluster.destroy();
    // A restore fetches ahead as far as its budget goes: the budget is the promise.
    let (_, big) = restore_measured(&ours, &store, "big", &["--max-memory", "64MB"]);
    within_192_mebibytes(&big);
    let (restored, full) = restore_measured(&ours, &store, "full", &["--max-memory", "64MB"]);
    within_192_mebibytes(&full);
    recover(&ours, &store, &restored, "");
    assert_eq!(restored.table_checksums(), expected);
}

fn within_192_mebibytes(outcome: &Outcome) {
    assert!(outcome.peak_memory_bytes < 192 << 20, "{} bytes", outcome.peak_memory_bytes);
}

/// Peaks vary a little with the scheduling of threads.
fn same_memory(small: &Outcome, big: &Outcome) {
    let (small, big) = (small.peak_memory_bytes, big.peak_memory_bytes);
    assert!(small > 0 && big > 0, "the memory was not seen");
    assert!(
        big * 10 < small * 13,
        "peak memory grew from {small} bytes at 500 MB to {big} bytes at 2 GB"
    );
}

/// Begins archiving, to a place that was checked before (and, being a folder, is created so).
fn archive(ours: &Commands, store: &StoreUnderTest, cluster: &Cluster, options: &[&str]) {
    ours.run("barman-cloud-check-wal-archive", store, &[], &[SERVER]).exits(0);
    let line = ours.shell_line("barman-cloud-wal-archive", store, options, &[SERVER, "%p"]);
    cluster.archive_with(&line);
}

fn backup(ours: &Commands, store: &StoreUnderTest, cluster: &Cluster, options: &[&str]) -> Outcome {
    let connection = cluster.connection();
    let mut all: Vec<&str> = connection.iter().map(String::as_str).collect();
    all.push("--immediate-checkpoint");
    all.extend(options);
    spawn(&mut ours.command("barman-cloud-backup", store, &all, &[SERVER]))
        .wait_watching_memory()
        .exits(0)
}

fn restore(ours: &Commands, store: &StoreUnderTest, id: &str, options: &[&str]) -> Cluster {
    restore_into(Cluster::empty(&store.environment), ours, store, id, options)
}

/// Restores, and lets PostgreSQL check each file against the manifest.
fn restore_into(
    cluster: Cluster,
    ours: &Commands,
    store: &StoreUnderTest,
    id: &str,
    options: &[&str],
) -> Cluster {
    let data = cluster.data().display().to_string();
    ours.run("barman-cloud-restore", store, options, &[SERVER, id, &data]).exits(0);
    verify(&cluster);
    cluster
}

fn restore_measured(
    ours: &Commands,
    store: &StoreUnderTest,
    id: &str,
    options: &[&str],
) -> (Cluster, Outcome) {
    let cluster = Cluster::empty(&store.environment);
    let data = cluster.data().display().to_string();
    let mut command = ours.command("barman-cloud-restore", store, options, &[SERVER, id, &data]);
    let outcome = spawn(&mut command).wait_watching_memory().exits(0);
    verify(&cluster);
    (cluster, outcome)
}

fn verify(cluster: &Cluster) {
    let mut verify = cluster.program("pg_verifybackup");
    // The WAL is in the archive, not beside the files.
    run(verify.arg("--no-parse-wal").arg(cluster.data())).exits(0);
}

fn recover(ours: &Commands, store: &StoreUnderTest, cluster: &Cluster, target: &str) {
    recover_by(ours, store, cluster, &[], target);
}

fn recover_by(
    ours: &Commands,
    store: &StoreUnderTest,
    cluster: &Cluster,
    options: &[&str],
    target: &str,
) {
    let line = ours.shell_line("barman-cloud-wal-restore", store, options, &[SERVER, "%f", "%p"]);
    cluster.recover_with(&line, target);
    cluster.start_and_recover();
}

/// `PG_15_202209061`: the folder that PostgreSQL makes in a tablespace.
fn version_folder(cluster: &Cluster) -> String {
    let tablespaces = fs::read_dir(cluster.data().join("pg_tblspc")).expect("pg_tblspc");
    let names: BTreeSet<String> = tablespaces
        .flatten()
        .flat_map(|entry| fs::read_dir(entry.path()).expect("a tablespace").flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.len(), 1, "one version folder in every tablespace");
    names.into_iter().next().expect("one")
}

fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn empty_folder(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        // A restore that failed leaves its mark beside the folders.
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.expect("rm");
    }
}
