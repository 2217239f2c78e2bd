//! Our commands as the hook scripts of a running Barman 3.19.1 server: its backups and its WAL
//! go to the store, and are recovered from there without it.

use crate::support::barman_server::BarmanServer;
use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::emptied::{StoredBackup, recovered_again};
use crate::support::process::run;
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SERVER: &str = "main";
const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster with a tablespace that Barman looks after, and the store that its hook scripts
/// write to.
struct Scene {
    ours: Commands,
    store: StoreUnderTest,
    cluster: Cluster,
    barman: BarmanServer,
}

impl Scene {
    /// `backup_hook` is the name of the setting that our `barman-cloud-backup` stands in.
    fn set(kind: StoreKind, backup_hook: &str, options: &[&str]) -> Option<Self> {
        let store = StoreUnderTest::open(kind)?;
        let ours = Commands::ours();
        let cluster = Cluster::create(&options_for(&store));
        let place = cluster.folder_beside("place");
        cluster.psql(&format!("create tablespace ts location '{}'", place.display()));
        cluster.psql("create table far tablespace ts as select g, md5(g::text) from generate_series(1, 5000) g");
        cluster.psql("create table near as select * from far");
        cluster.settle();
        let backup = ours.shell_line("barman-cloud-backup", &store, options, &[SERVER]);
        let archive = ours.shell_line("barman-cloud-wal-archive", &store, &["--gzip"], &[SERVER]);
        let hooks = format!("{backup_hook} = {backup}\npre_archive_retry_script = {archive}\n");
        let barman = BarmanServer::set_up(&cluster, &store, &hooks)?;
        let scene = Self { ours, store, cluster, barman };
        // Barman begins no backup before it has seen WAL arrive.
        scene.archive_everything();
        Some(scene)
    }

    /// Archives everything into Barman's folder, lets `barman cron` archive it from there, and
    /// waits until the store has it.
    fn archive_everything(&self) {
        self.cluster.archive_everything();
        let last = self.cluster.psql("select last_archived_wal from pg_stat_archiver");
        wait_until(&format!("WAL {last} in the store"), PATIENCE, || {
            self.barman.run(&["cron"]).exits(0);
            let archived = self.store.keys_below(&format!("{SERVER}/wals"));
            archived.iter().any(|key| key.contains(&last))
        });
    }
}

#[test]
fn a_barman_servers_backup_and_wal_are_recovered_from_the_store_that_its_hooks_wrote_to() {
    hooks_carry(StoreKind::S3, "post_backup_retry_script", &["--gzip", "-J", "2", "-S", "5MB"]);
}

#[test]
fn a_plain_hook_script_carries_a_backup_to_a_folder() {
    hooks_carry(StoreKind::File, "post_backup_script", &["--zstd"]);
}

fn hooks_carry(kind: StoreKind, backup_hook: &str, options: &[&str]) {
    let Some(scene) = Scene::set(kind, backup_hook, options) else { return };
    let Scene { ours, store, cluster, barman } = &scene;
    barman.run(&["backup", "--wait", "main"]).exits(0);
    let id = barman.backups().remove(0);
    let told = store.get(&format!("{PREFIX}/{SERVER}/base/{id}/backup.info"));
    assert_eq!(told, fs::read(barman.backup_info(&id)).expect("Barman's"), "verbatim");
    let list = ours.run("barman-cloud-backup-list", store, &["--format", "json"], &[SERVER]).ok();
    assert!(list.contains(&format!("\"backup_id\": \"{id}\"")), "{list}");
    assert!(list.contains("\"server_name\": \"main\""), "{list}");
    if kind != StoreKind::File
        && let Some(real) = Commands::barman()
    {
        for name in ["barman-cloud-backup-list", "barman-cloud-backup-show"] {
            let positionals = if name.ends_with("show") { vec![SERVER, &id] } else { vec![SERVER] };
            let theirs = real.run(name, store, &[], &positionals).ok();
            assert_eq!(ours.run(name, store, &[], &positionals).ok(), theirs);
        }
    }
    cluster.psql("insert into far select g, 'later' from generate_series(1, 700) g");
    scene.archive_everything();
    let expected = cluster.table_checksums();

    let Scene { ours, store, cluster, barman } = scene;
    cluster.destroy();
    drop(barman);
    let restored = Cluster::empty(&store.environment);
    let data = restored.data().display().to_string();
    let tablespace = format!("ts:{}", restored.folder_beside("place").display());
    let options = ["--tablespace", tablespace.as_str()];
    ours.run("barman-cloud-restore", &store, &options, &[SERVER, &id, &data]).exits(0);
    let mut verify = restored.program("pg_verifybackup");
    run(verify.arg("--no-parse-wal").arg(restored.data())).exits(0);
    let line = ours.shell_line("barman-cloud-wal-restore", &store, &[], &[SERVER, "%f", "%p"]);
    restored.recover_with(&line, "");
    restored.start_and_recover();
    assert_eq!(restored.table_checksums(), expected);

    let stored = StoredBackup::last(&store, SERVER);
    stored.is_missed(&stored.tarballs(), &expected, || {
        let restored = Cluster::empty(&store.environment);
        let tablespace = format!("ts:{}", restored.folder_beside("place").display());
        let options = ["--tablespace", tablespace.as_str()];
        recovered_again(&ours, &store, &restored, [SERVER, &id], &options)
    });
}

/// Barman repeats a retry script until it succeeds or says that there is no use: a run that was
/// killed after its last write must not be repeated for ever.
#[test]
fn a_hook_that_is_run_again_replaces_what_is_half_there_and_accepts_what_is_whole() {
    let options = ["--lz4"];
    let scene = Scene::set(StoreKind::S3, "post_backup_retry_script", &options);
    let Some(Scene { ours, store, barman, cluster: _cluster }) = scene else { return };
    barman.run(&["backup", "--wait", "main"]).exits(0);
    let id = barman.backups().remove(0);
    let whole = store.contents();
    let again = |info: &Path, status: &str| {
        let mut command = ours.command("barman-cloud-backup", &store, &options, &[SERVER]);
        let directory = info.with_file_name("").join("../base").join(&id);
        command.env("BARMAN_HOOK", "backup_retry_script").env("BARMAN_PHASE", "post");
        command.env("BARMAN_BACKUP_DIR", directory).env("BARMAN_BACKUP_ID", &id);
        command.env("BARMAN_STATUS", status).env("BARMAN_BACKUP_INFO_PATH", info);
        run(&mut command)
    };
    let info = barman.backup_info(&id);
    again(&info, "DONE").exits(0);
    assert!(store.contents() == whole, "nothing is written twice");
    again(&info, "FAILED").exits(63);
    again(&info, "WAITING_FOR_WALS").exits(63);

    // As a kill before the record leaves it.
    for key in store.keys() {
        if key.ends_with("/backup.info")
            || key.ends_with("/backup.json")
            || key.ends_with("_0001.tar.lz4")
        {
            store.delete(&key);
        }
    }
    again(&info, "DONE").exits(0);
    let names = |contents: &std::collections::BTreeMap<String, bytes::Bytes>| -> Vec<String> {
        contents.keys().cloned().collect()
    };
    assert_eq!(names(&store.contents()), names(&whole));

    // Another backup under this ID is never replaced.
    let text = fs::read_to_string(&info).expect("backup.info");
    let other = info.with_file_name("other-backup.info");
    fs::write(&other, text.replace("end_offset=", "end_offset=1")).expect("write");
    again(&other, "DONE").exits(1).says("is already there");
    assert_eq!(names(&store.contents()), names(&whole));
}

/// 63 ends the retries: without it this test would never come to its end.
#[test]
fn a_backup_that_barman_did_not_complete_is_not_uploaded_and_not_tried_again() {
    let scene = Scene::set(StoreKind::S3, "post_backup_retry_script", &[]);
    let Some(Scene { store, cluster: _cluster, barman, .. }) = scene else { return };
    barman.break_pg_basebackup();
    let failed = barman.run(&["backup", "main"]);
    assert!(!failed.status.success(), "{failed}");
    let log = barman.log();
    assert!(log.contains("its status is FAILED, not DONE"), "{log}");
    assert!(log.contains("63"), "{log}");
    let stored = store.keys_below(&format!("{SERVER}/base"));
    assert!(stored.is_empty(), "{stored:?}");
}
