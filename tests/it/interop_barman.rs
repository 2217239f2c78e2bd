//! Crossings with the real Barman 3.19.1: each tool restores, lists, keeps and deletes what the
//! other wrote, on S3, Azure and Google servers.

use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::fixtures::put_backups;
use crate::support::process::Outcome;
use crate::support::scratch::{give_tree_to_postgres, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const SERVER: &str = "main";

/// What both tools can write and read; "" is no compression.
const BACKUP_COMPRESSIONS: [&str; 5] = ["", "--gzip", "--bzip2", "--snappy", "--lz4"];
const WAL_COMPRESSIONS: [&str; 7] =
    ["", "--gzip", "--bzip2", "--xz", "--snappy", "--zstd", "--lz4"];

type Checksums = BTreeMap<String, String>;

/// A cluster whose backups and WAL the test writes with whichever tool it likes.
struct Scene {
    ours: Commands,
    barman: Commands,
    store: StoreUnderTest,
    cluster: Cluster,
    /// Where `archive_command` puts segments until the test archives them. It outlives clusters.
    outbox: TempDir,
}

impl Scene {
    fn set(kind: StoreKind) -> Option<Self> {
        let barman = Commands::barman()?;
        let store = StoreUnderTest::open(kind)?;
        let cluster = Cluster::create(&options_for(&store));
        let outbox = scratch();
        cluster.archive_with(&format!("cp %p {}/%f", outbox.path().display()));
        let going = cluster.folder_beside("going");
        cluster.psql(&format!("create tablespace going location '{}'", going.display()));
        cluster.psql("create table plain (id serial, payload text)");
        cluster.psql("create table moved (id serial, payload text) tablespace going");
        Some(Self { ours: Commands::ours(), barman, store, cluster, outbox })
    }

    /// Adds some rows, so that each backup holds others.
    fn write_rows(&self) {
        for table in ["plain", "moved"] {
            self.cluster.psql(&format!(
                "insert into {table} (payload) select repeat(md5(random()::text), 20) \
                 from generate_series(1, 2000)"
            ));
        }
    }

    /// Takes a backup in several tarballs and returns what the tables hold in it.
    fn backup(&self, tool: &Commands, compression: &str, name: &str) -> Checksums {
        self.write_rows();
        self.cluster.settle();
        let checksums = self.cluster.table_checksums();
        let connection = self.cluster.connection();
        let mut options: Vec<&str> = connection.iter().map(String::as_str).collect();
        options.extend(["--immediate-checkpoint", "-S", "5MB", "-n", name]);
        options.extend((!compression.is_empty()).then_some(compression));
        if tool.is_ours() {
            // The WAL is archived by the test, afterwards.
            options.push("--no-wal-check");
        }
        tool.run("barman-cloud-backup", &self.store, &options, &[SERVER]).exits(0);
        checksums
    }

    /// Archives what has gathered in the outbox; the tool and the options change from file to file.
    fn archive(&self, writers: &[(&Commands, &str)]) {
        self.cluster.archive_everything();
        let files = fs::read_dir(self.outbox.path()).expect("outbox").flatten();
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
        files.sort();
        for (file, (tool, compression)) in files.iter().zip(writers.iter().cycle()) {
            let options: &[&str] = if compression.is_empty() { &[] } else { &[compression] };
            let path = file.display().to_string();
            tool.run("barman-cloud-wal-archive", &self.store, options, &[SERVER, &path]).exits(0);
            fs::remove_file(file).expect("rm");
        }
    }

    /// Restores with `tool`, its tablespace too, and recovers with the WAL that `tool` fetches.
    fn recover(&self, tool: &Commands, backup: &str, target: &str) -> Checksums {
        let restored = self.restore(tool, backup);
        let line = if tool.is_ours() {
            tool.shell_line("barman-cloud-wal-restore", &self.store, &[], &[SERVER, "%f", "%p"])
        } else {
            format!("cp {}/%f %p", self.inbox(tool, &restored).display())
        };
        restored.recover_with(&line, target);
        restored.start_and_recover();
        restored.table_checksums()
    }

    fn restore(&self, tool: &Commands, backup: &str) -> Cluster {
        let restored = Cluster::empty(&self.store.environment);
        let data = restored.data().display().to_string();
        let tablespace = format!("going:{}", restored.folder_beside("going").display());
        let options = ["--tablespace", &*tablespace];
        let positionals = [SERVER, backup, &data];
        tool.run("barman-cloud-restore", &self.store, &options, &positionals).exits(0);
        give_tree_to_postgres(&restored.beside("going"));
        restored
    }

    /// A folder with the whole WAL archive as `tool` reads it. Barman may be installed where
    /// PostgreSQL's user cannot run it, so that it cannot be the `restore_command` itself.
    fn inbox(&self, tool: &Commands, restored: &Cluster) -> PathBuf {
        let inbox = restored.folder_beside("inbox");
        for key in self.store.keys_below(&format!("{SERVER}/wals")) {
            let name = key.rsplit('/').next().expect("a name");
            let name = ["gz", "bz2", "xz", "snappy", "zst", "lz4"]
                .iter()
                .find_map(|suffix| name.strip_suffix(&format!(".{suffix}")))
                .unwrap_or(name);
            if name.ends_with(".backup") || name.ends_with(".partial") {
                continue;
            }
            let path = inbox.join(name).display().to_string();
            let positionals = [SERVER, name, &path];
            tool.run("barman-cloud-wal-restore", &self.store, &[], &positionals).exits(0);
        }
        give_tree_to_postgres(&inbox);
        inbox
    }

    fn say(&self, tool: &Commands, name: &str, options: &[&str], positionals: &[&str]) -> String {
        tool.run(name, &self.store, options, &[&[SERVER], positionals].concat()).ok()
    }

    fn delete(&self, tool: &Commands, options: &[&str]) -> Outcome {
        tool.run("barman-cloud-backup-delete", &self.store, options, &[SERVER])
    }
}

const IMMEDIATE: &str = "recovery_target = 'immediate'";

/// One backup in each compression by `writer`, each restored and recovered by `reader`; then
/// the last one recovered to the end of an archive that is in every WAL compression.
fn crossing(kind: StoreKind, choose: fn(&Scene) -> (&Commands, &Commands)) {
    let Some(scene) = Scene::set(kind) else { return };
    let (writer, reader) = choose(&scene);
    let mut expected = Vec::new();
    for compression in BACKUP_COMPRESSIONS {
        let name = format!("with{compression}");
        expected.push((scene.backup(writer, compression, &name), name));
    }
    scene.write_rows();
    let end = scene.cluster.table_checksums();
    scene.archive(&WAL_COMPRESSIONS.map(|compression| (writer, compression)));
    for (checksums, name) in &expected {
        assert_eq!(&scene.recover(reader, name, IMMEDIATE), checksums, "backup {name}");
    }
    assert_eq!(scene.recover(reader, "last", ""), end);
}

fn barman_reads_us(scene: &Scene) -> (&Commands, &Commands) {
    (&scene.ours, &scene.barman)
}

fn we_read_barman(scene: &Scene) -> (&Commands, &Commands) {
    (&scene.barman, &scene.ours)
}

#[test]
fn barman_recovers_our_backups_of_every_compression_from_s3() {
    crossing(StoreKind::S3, barman_reads_us);
}

#[test]
fn barman_recovers_our_backups_of_every_compression_from_azure() {
    crossing(StoreKind::Azure, barman_reads_us);
}

#[test]
fn barman_recovers_our_backups_of_every_compression_from_google() {
    crossing(StoreKind::Gcs, barman_reads_us);
}

#[test]
fn we_recover_barmans_backups_of_every_compression_from_s3() {
    crossing(StoreKind::S3, we_read_barman);
}

#[test]
fn we_recover_barmans_backups_of_every_compression_from_azure() {
    crossing(StoreKind::Azure, we_read_barman);
}

#[test]
fn we_recover_barmans_backups_of_every_compression_from_google() {
    crossing(StoreKind::Gcs, we_read_barman);
}

#[test]
fn both_tools_share_one_archive_on_s3() {
    sharing(StoreKind::S3);
}

#[test]
fn both_tools_share_one_archive_on_azure() {
    sharing(StoreKind::Azure);
}

#[test]
fn both_tools_share_one_archive_on_google() {
    sharing(StoreKind::Gcs);
}

/// Both write backups and WAL in turn; both see, keep, recover and delete all of it.
fn sharing(kind: StoreKind) {
    let Some(scene) = Scene::set(kind) else { return };
    let (ours, barman) = (&scene.ours, &scene.barman);
    for (tool, name) in [(ours, "a-ours"), (barman, "b-barmans"), (ours, "c-ours")] {
        scene.backup(tool, "--gzip", name);
        scene.archive(&[(ours, "--gzip"), (barman, "--zstd"), (ours, ""), (barman, "--lz4")]);
    }
    let end = scene.cluster.table_checksums();
    same_words(&scene, &["a-ours", "b-barmans", "c-ours"]);

    for tool in [ours, barman] {
        assert_eq!(scene.recover(tool, "a-ours", ""), end);
        assert_eq!(scene.recover(tool, "b-barmans", ""), end);
    }

    keeps_cross(&scene);
    let policy = ["-r", "REDUNDANCY 1", "--dry-run"];
    let planned = scene.delete(ours, &policy).ok();
    assert_eq!(without_side_objects(&planned), scene.delete(barman, &policy).ok());
    deletions_cross(&scene, &end);
}

/// list and show answer with the same bytes, whoever is asked.
fn same_words(scene: &Scene, names: &[&str]) {
    for format in ["console", "json"] {
        let options = ["--format", format];
        let ask = |tool| scene.say(tool, "barman-cloud-backup-list", &options, &[]);
        assert_eq!(ask(&scene.ours), ask(&scene.barman), "list --format {format}");
        for name in names {
            let ask = |tool| scene.say(tool, "barman-cloud-backup-show", &options, &[name]);
            assert_eq!(ask(&scene.ours), ask(&scene.barman), "show {name} --format {format}");
        }
    }
}

/// Our plan names everything that goes; Barman does not know these and leaves them.
fn without_side_objects(planned: &str) -> String {
    let is_side_object = |key: &&str| {
        ["backup_manifest'", "started.json'", "backup.json'"].iter().any(|end| key.ends_with(end))
            || key.contains("/index/")
    };
    let line = |line: &str| {
        let keys: Vec<&str> = line.split(", ").filter(|key| !is_side_object(key)).collect();
        keys.join(", ") + "\n"
    };
    planned.lines().map(line).collect()
}

fn keeps_cross(scene: &Scene) {
    let keep = |tool: &Commands, options: &[&str], name: &str| {
        scene.say(tool, "barman-cloud-backup-keep", options, &[name])
    };
    for (setter, getter, name) in
        [(&scene.ours, &scene.barman, "b-barmans"), (&scene.barman, &scene.ours, "a-ours")]
    {
        keep(setter, &["--target", "standalone"], name);
        assert_eq!(keep(getter, &["--status"], name).trim(), "Keep: standalone");
        same_words(scene, &[]);
        scene.delete(getter, &["-b", name]).exits(1);
        keep(getter, &["--release"], name);
        assert_eq!(keep(setter, &["--status"], name).trim(), "Keep: nokeep");
    }
}

/// Barman deletes ours, we delete Barman's; what is left is whole.
fn deletions_cross(scene: &Scene, end: &Checksums) {
    scene.delete(&scene.barman, &["-b", "a-ours"]).exits(0);
    same_words(scene, &["b-barmans", "c-ours"]);
    scene.delete(&scene.ours, &["-b", "b-barmans"]).exits(0);
    same_words(scene, &["c-ours"]);
    let left = scene.store.keys_below(&format!("{SERVER}/base"));
    let mut folders: Vec<&str> = left.iter().filter_map(|key| key.split('/').next()).collect();
    folders.dedup();
    assert_eq!(folders.len(), 1, "leftovers of deleted backups: {left:#?}");
    assert_eq!(&scene.recover(&scene.barman, "c-ours", ""), end);
    assert_eq!(&scene.recover(&scene.ours, "c-ours", ""), end);
}

#[test]
fn a_timeline_switch_in_the_middle_is_followed_by_both_tools() {
    let Some(scene) = Scene::set(StoreKind::S3) else { return };
    let (ours, barman) = (&scene.ours, &scene.barman);
    scene.backup(ours, "--lz4", "before");
    scene.archive(&[(ours, "--gzip"), (barman, "--gzip")]);

    // The restored cluster goes on as timeline 2, into the same archive.
    let promoted = scene.restore(barman, "before");
    let inbox = scene.inbox(barman, &promoted);
    promoted.recover_with(&format!("cp {}/%f %p", inbox.display()), "");
    promoted.configure(&format!(
        "archive_mode = on\narchive_command = 'cp %p {}/%f'\n",
        scene.outbox.path().display()
    ));
    promoted.start_and_recover();
    let Scene { ours, barman, store, cluster, outbox } = scene;
    cluster.destroy();
    let scene = Scene { ours, barman, store, cluster: promoted, outbox };
    let (ours, barman) = (&scene.ours, &scene.barman);
    scene.write_rows();
    scene.archive(&[(ours, "--snappy"), (barman, "--bzip2")]);
    scene.backup(ours, "", "on-two");
    scene.archive(&[(barman, ""), (ours, "")]);
    let end = scene.cluster.table_checksums();
    for tool in [ours, barman] {
        for backup in ["before", "on-two"] {
            let found = scene.recover(tool, backup, "recovery_target_timeline = 'latest'");
            assert_eq!(found, end, "from backup {backup}");
        }
    }
}

/// One row of the point-in-time table in the fixtures' README. (`restore_fixtures` has the
/// backups alone.)
struct Recovery {
    backup: &'static str,
    target: &'static str,
    items: (&'static str, &'static str),
    items_ts: (&'static str, &'static str),
}

const RP1: &str = "recovery_target_name = 'contract_rp1'\nrecovery_target_timeline = 'current'";
const RP2: &str = "recovery_target_name = 'contract_rp2'\nrecovery_target_timeline = 'latest'";
const LATEST: &str = "recovery_target_timeline = 'latest'";

const RECOVERIES: [Recovery; 3] = [
    Recovery {
        backup: "20261120T235832",
        target: RP1,
        items: ("4200", "b64201ed23615bb380f6b18e38f4766b"),
        items_ts: ("1400", "4fdec9a8299a1f390ab33c2ef916ccda"),
    },
    Recovery {
        backup: "20261120T235832",
        target: RP2,
        items: ("5000", "c3e9a8fa4655533865d6d428a6e0f835"),
        items_ts: ("1600", "a4c818d1f21734dac734e821c9f9c724"),
    },
    Recovery {
        backup: "20261121T000052",
        target: LATEST,
        items: ("5000", "c3e9a8fa4655533865d6d428a6e0f835"),
        items_ts: ("1600", "a4c818d1f21734dac734e821c9f9c724"),
    },
];

/// The fixtures were written by Barman on PostgreSQL 15, whose programs this needs.
#[test]
fn the_fixtures_are_recovered_to_points_in_time_and_across_a_timeline_switch() {
    let store = StoreUnderTest::open(StoreKind::File).expect("always there");
    put_backups(&store);
    let ours = Commands::ours();
    for recovery in &RECOVERIES {
        let restored = Cluster::empty(&[]);
        let data = restored.data().display().to_string();
        let tablespace = format!("contract_ts:{}", restored.folder_beside("ts").display());
        let options = ["--tablespace", &*tablespace];
        ours.run("barman-cloud-restore", &store, &options, &[SERVER, recovery.backup, &data])
            .exits(0);
        let line = ours.shell_line("barman-cloud-wal-restore", &store, &[], &[SERVER, "%f", "%p"]);
        restored.recover_with(&line, &format!("primary_conninfo = ''\n{}", recovery.target));
        restored.start_and_recover();
        let what = format!("{} {}", recovery.backup, recovery.target);
        for (table, (count, md5)) in
            [("contract.items", recovery.items), ("contract.items_ts", recovery.items_ts)]
        {
            let found = restored.psql(&format!(
                "select count(*), md5(string_agg(id||payload, ',' order by id)) from {table}"
            ));
            assert_eq!(found, format!("{count}|{md5}"), "{what}: {table}");
        }
        assert_eq!(restored.psql("select count(*) from contract.unlogged_items"), "0", "{what}");
    }
}
