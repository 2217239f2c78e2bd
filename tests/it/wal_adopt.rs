//! An archive that is handed over to another cluster: by a real one, with the commands.

use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::process::run;
use crate::support::stores::{StoreKind, StoreUnderTest};

const SERVER: &str = "main";
const CHECK: &str = "barman-cloud-check-wal-archive";

/// A new cluster with the names of the old one, as after a migration; `pg_resetwal` moves it
/// behind them, as `pg_upgrade` does by itself.
#[test]
fn a_new_cluster_adopts_the_archive_of_an_old_one_and_is_backed_up_and_recovered() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let line = ours.shell_line("barman-cloud-wal-archive", &store, &["--gzip"], &[SERVER, "%p"]);
    let old = Cluster::create(&options_for(&store));
    old.archive_with(&line);
    old.archive_everything();
    old.archive_everything();

    let new = Cluster::create(&options_for(&store));
    // Its WAL is refused, and waits.
    new.archive_with(&line);
    new.pgbench_fill(1);
    let connection = new.connection();
    let connection: Vec<&str> = connection.iter().map(String::as_str).collect();
    let backup = [&connection[..], &["--immediate-checkpoint"]].concat();
    let backup = || ours.run("barman-cloud-backup", &store, &backup, &[SERVER]);
    backup().exits(1).says("--adopt PGDATA");
    let data = new.data().display().to_string();
    let adopt = || ours.run(CHECK, &store, &["--adopt", &data], &[SERVER]);
    let refused = adopt().exits(1).says("its archive holds WAL where this cluster's begins");
    let hint = refused.stderr.split("pg_resetwal -l ").nth(1).expect("a hint");
    let first = hint[..24].to_string();

    new.stop("fast");
    run(new.program("pg_resetwal").args(["-l", &first, "-D", &data])).exits(0);
    adopt().exits(0).says("adopted");
    adopt().exits(0);
    new.start();
    new.archive_everything();
    backup().exits(0);
    new.psql("create table later as select generate_series(1, 1000) as n");
    new.archive_everything();
    ours.run(CHECK, &store, &[], &[SERVER]).exits(1).says("before that to");

    // The old one goes on, and is told.
    old.psql("select pg_logical_emit_message(false, 'it', 'late')");
    let last = old.psql("select pg_walfile_name(pg_switch_wal())");
    let path = old.data().join("pg_wal").join(last).display().to_string();
    let late = ours.run("barman-cloud-wal-archive", &store, &["--gzip"], &[SERVER, &path]);
    late.exits(1).says("holds the WAL of another cluster");
    let history = old.data().join("pg_wal/00000009.history");
    std::fs::write(&history, "1\t0/3000000\tno recovery target specified\n").expect("write");
    let history = history.display().to_string();
    let late = ours.run("barman-cloud-wal-archive", &store, &[], &[SERVER, &history]);
    late.exits(1).says("holds the WAL of another cluster");
    old.destroy();

    let expected = new.table_checksums();
    new.destroy();
    let restored = Cluster::empty(&store.environment);
    let data = restored.data().display().to_string();
    ours.run("barman-cloud-restore", &store, &[], &[SERVER, "last", &data]).exits(0);
    let fetch = ours.shell_line("barman-cloud-wal-restore", &store, &[], &[SERVER, "%f", "%p"]);
    restored.recover_with(&fetch, "");
    restored.start_and_recover();
    assert_eq!(restored.table_checksums(), expected);
}

#[test]
fn adopting_needs_a_data_directory() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    let ours = Commands::ours();
    let adopt = ours.run(CHECK, &store, &["--adopt", "/nowhere"], &[SERVER]);
    adopt.exits(1).says("could not read control file \"/nowhere/global/pg_control\"");
    let both = ["--adopt", "/nowhere", "--timeline", "2"];
    ours.run(CHECK, &store, &both, &[SERVER]).exits(3);
}
