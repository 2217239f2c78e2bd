//! The main story on other major versions of PostgreSQL than the one of all other tests, and on
//! a standby.

use crate::support::cluster::{Cluster, ClusterOptions, options_for};
use crate::support::commands::Commands;
use crate::support::emptied::{StoredBackup, recovered_again};
use crate::support::outside;
use crate::support::process::{run, spawn};
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::path::{Path, PathBuf};

const SERVER: &str = "main";

#[test]
fn every_installed_version_is_backed_up_restored_and_recovered() {
    let Some(folders) = outside::optional(outside::MORE_POSTGRES, "a further PostgreSQL") else {
        return;
    };
    let majors: Vec<String> =
        folders.split(':').map(PathBuf::from).map(|programs| story(&programs)).collect();
    for major in ["16", "17", "18"].iter().filter(|major| !majors.contains(&major.to_string())) {
        outside::not_here(&format!("PostgreSQL {major} is missing"));
    }
}

/// Returns the major version that it was told of.
fn story(programs: &Path) -> String {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let mut settings = vec![("allow_in_place_tablespaces", "on".to_string())];
    if programs.join("pg_walsummary").exists() {
        settings.push(("summarize_wal", "on".into()));
    }
    let programs_of = Some(programs.to_path_buf());
    let options = ClusterOptions { settings, programs: programs_of, ..options_for(&store) };
    let cluster = Cluster::create(&options);
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &["--zstd"], &[SERVER, "%p"]);
    cluster.archive_with(&line);
    let place = cluster.folder_beside("place");
    cluster.psql(&format!("create tablespace far location '{}'", place.display()));
    cluster.psql("create tablespace near location ''");
    cluster.psql("create table moved tablespace far as select generate_series(1, 3000) as n");
    cluster.psql("create table in_place tablespace near as select n from moved");
    cluster.psql("create unlogged table fleeting as select n from moved");
    // Freezes and writes out all of it: what is not written to again, only the backup has.
    cluster.pgbench_fill(1);
    let load = cluster.pgbench_start();
    back_up(&ours, &store, &cluster, &["--gzip", "--immediate-checkpoint", "-S", "5MB"]);
    load.stop();
    let version = cluster.psql("show server_version_num");
    let shown = ours.run("barman-cloud-backup-show", &store, &["--format=json"], &[SERVER, "last"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.ok()).expect("JSON");
    let backup = &shown["cloud"];
    assert_eq!(backup["version"].to_string(), version);
    let summarizes = if programs.join("pg_walsummary").exists() { "on" } else { "" };
    assert_eq!(backup["summarize_wal"].as_str().unwrap_or_default(), summarizes, "{version}");
    cluster.archive_everything();
    let mut expected = cluster.table_checksums();
    expected.insert("public.fleeting".into(), "0 rows, 0".into());
    cluster.destroy();

    let restored = Cluster::empty(&store.environment).with_programs(programs);
    restore(&ours, &store, &restored, &["--tablespace", &relocated(&restored)]);
    assert_eq!(restored.table_checksums(), expected, "{version}");
    drop(restored);
    let stored = StoredBackup::last(&store, SERVER);
    let mut tarballs = stored.tarballs();
    // One of the tablespace, and one of the data directory that is not the first.
    tarballs.retain(|name| !name.starts_with("data") || name.starts_with("data_0001"));
    assert_eq!(tarballs.len(), 2, "{version}: {tarballs:?}");
    stored.is_missed(&tarballs, &expected, || {
        let restored = Cluster::empty(&store.environment).with_programs(programs);
        let options = ["--tablespace", &relocated(&restored)];
        recovered_again(&ours, &store, &restored, [SERVER, "last"], &options)
    });
    version[..2].to_string()
}

fn relocated(cluster: &Cluster) -> String {
    format!("far:{}", cluster.folder_beside("place").display())
}

fn back_up(ours: &Commands, store: &StoreUnderTest, cluster: &Cluster, options: &[&str]) {
    let connection = cluster.connection();
    let connection: Vec<&str> = connection.iter().map(String::as_str).collect();
    let options = [&connection[..], options].concat();
    ours.run("barman-cloud-backup", store, &options, &[SERVER]).exits(0);
}

fn restore(ours: &Commands, store: &StoreUnderTest, restored: &Cluster, options: &[&str]) {
    let data = restored.data().display().to_string();
    ours.run("barman-cloud-restore", store, options, &[SERVER, "last", &data]).exits(0);
    // One package of PostgreSQL 18 has a program that does not even tell its version.
    if run(restored.program("pg_verifybackup").arg("--version")).status.success() {
        let mut verify = restored.program("pg_verifybackup");
        run(verify.arg("--no-parse-wal").arg(restored.data())).exits(0);
    }
    let line = ours.shell_line("barman-cloud-wal-restore", store, &[], &[SERVER, "%f", "%p"]);
    restored.recover_with(&line, "primary_conninfo = ''");
    restored.start_and_recover();
}

/// The primary archives; the backup waits until what it needs has come from there.
#[test]
fn a_backup_of_a_standby_is_restored_and_recovered() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let primary = Cluster::create(&options_for(&store));
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &["--lz4"], &[SERVER, "%p"]);
    primary.archive_with(&line);
    primary.pgbench_fill(1);
    let standby = Cluster::empty(&store.environment);
    let mut copy = primary.program("pg_basebackup");
    copy.args(primary.connection()).arg("-D").arg(standby.data());
    run(copy.args(["-R", "-X", "stream", "-c", "fast"])).exits(0);
    standby.start();
    let connection = standby.connection();
    let mut options: Vec<&str> = connection.iter().map(String::as_str).collect();
    options.extend(["--immediate-checkpoint", "--zstd", "-n", "from-standby"]);
    let mut backup = ours.command("barman-cloud-backup", &store, &options, &[SERVER]);
    let mut running = spawn(&mut backup);
    while !running.ended() {
        primary.psql("insert into pgbench_history (tid) values (1); select pg_switch_wal()");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    running.wait().exits(0);
    primary.archive_everything();
    let expected = primary.table_checksums();
    standby.destroy();
    primary.destroy();
    let restored = Cluster::empty(&store.environment);
    restore(&ours, &store, &restored, &[]);
    assert_eq!(restored.table_checksums(), expected);
}
