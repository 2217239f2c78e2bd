//! The WAL of a backup on real servers: what must be in the archive before a backup is DONE.

use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::process::{Outcome, run};
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use std::fs;
use std::process::Command;
use std::time::Duration;

const SERVER: &str = "main";
const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster that archives to a folder.
fn archiving() -> (Commands, StoreUnderTest, Cluster) {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let cluster = Cluster::create(&options_for(&store));
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &["--gzip"], &[SERVER, "%p"]);
    cluster.archive_with(&line);
    (ours, store, cluster)
}

fn back_up(
    ours: &Commands,
    store: &StoreUnderTest,
    cluster: &Cluster,
    options: &[&str],
) -> Outcome {
    let connection = cluster.connection();
    let mut all: Vec<&str> = connection.iter().map(String::as_str).collect();
    all.push("--immediate-checkpoint");
    all.extend(options);
    ours.run("barman-cloud-backup", store, &all, &[SERVER])
}

fn statuses(ours: &Commands, store: &StoreUnderTest) -> Vec<String> {
    let list = ours.run("barman-cloud-backup-list", store, &["--format", "json"], &[SERVER]).ok();
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let backups = list["backups_list"].as_array().cloned().unwrap_or_default();
    backups.iter().map(|backup| backup["status"].as_str().unwrap_or_default().into()).collect()
}

/// The archive rightly refuses what the server writes a second time under old names: a backup
/// that saw the old segments would be called DONE, find no checkpoint, and let a policy delete
/// the last good one.
#[test]
fn a_server_that_was_reverted_to_an_older_disk_gets_no_backup_that_is_called_done() {
    let (ours, store, cluster) = archiving();
    cluster.psql("create table t as select generate_series(1, 1000) as n");
    cluster.archive_everything();
    back_up(&ours, &store, &cluster, &[]).exits(0);
    cluster.archive_everything();
    cluster.stop("fast");
    let older = cluster.beside("older");
    run(Command::new("cp").arg("-a").arg(cluster.data()).arg(&older)).exits(0);
    cluster.start();
    for round in 1..=6 {
        cluster.psql(&format!("insert into t select {round}"));
        cluster.archive_everything();
    }

    cluster.stop("fast");
    fs::remove_dir_all(cluster.data()).expect("the disk is gone");
    fs::rename(&older, cluster.data()).expect("an older one takes its place");
    cluster.start();
    cluster.psql("insert into t select 0");
    let failed = back_up(&ours, &store, &cluster, &[]).exits(1);
    failed
        .says("as this server wrote it")
        .says("it differs from the file in pg_wal at byte")
        .says("Was this server reverted to an older state");
    assert_eq!(statuses(&ours, &store), ["DONE", "FAILED"]);
}

#[test]
fn a_backup_of_a_standby_with_an_idle_primary_says_what_to_run_there_and_ends() {
    let (ours, store, primary) = archiving();
    primary.psql("create table t as select generate_series(1, 1000) as n");
    let standby = Cluster::empty(&store.environment);
    let mut copy = primary.program("pg_basebackup");
    copy.args(primary.connection()).arg("-D").arg(standby.data());
    run(copy.args(["-R", "-X", "stream", "-c", "fast"])).exits(0);
    standby.start();
    // The last restart point, and with it the end of the backup, comes into a segment that the
    // primary does not complete.
    primary.psql("insert into t select 1");
    primary.psql("checkpoint");
    let written = primary.psql("select pg_current_wal_insert_lsn()");
    wait_until("the standby", PATIENCE, || {
        let replayed = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        standby.psql(&replayed) == "t"
    });
    standby.psql("checkpoint");
    let failed = back_up(&ours, &store, &standby, &["--wal-timeout", "5"]).exits(1);
    let statement = "SELECT pg_switch_wal();";
    assert_eq!(failed.stderr.matches(statement).count(), 2, "at once and at the end\n{failed}");
    failed.says("waiting for the primary").says("run on the primary");
    assert_eq!(statuses(&ours, &store), ["FAILED"]);
}
