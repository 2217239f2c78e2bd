//! Commands that are killed at random moments, on a real server and a real PostgreSQL.
//!
//! `scripts/crash-campaign --runs N --seed S` makes it long; a run of the tests makes it short.
//! After each command the catalog must be sound, and at the end (and on the way) every row that
//! was archived must come back.

use crate::support::cluster::{Cluster, ClusterOptions, options_for};
use crate::support::commands::Commands;
use crate::support::outside::{not_here, variable};
use crate::support::process::{Outcome, run, spawn};
use crate::support::scratch::{private_folder, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const RUNS: u64 = 30;
const SEED: u64 = 20_261_128;
/// Between two recoveries of everything.
const RUNS_PER_RECOVERY: u64 = 100;
const REDUNDANCY: usize = 2;

#[test]
fn commands_that_are_killed_at_random_moments_lose_nothing() {
    let number = |name: &str| variable(name).map(|text| text.parse::<u64>().expect("a number"));
    let runs = number("BARMAN_CLOUD_CRASH_RUNS").unwrap_or(RUNS);
    let seed = number("BARMAN_CLOUD_CRASH_SEED").unwrap_or(SEED);
    let strict = crate::support::outside::S3_STRICT;
    let kind = if variable(strict).is_some() { StoreKind::S3Strict } else { StoreKind::File };
    let Some(store) = StoreUnderTest::open(kind) else { return };
    let mut campaign = Campaign::begin(store, seed);
    for run in 1..=runs {
        campaign.run(run);
        if run % RUNS_PER_RECOVERY == 0 {
            campaign.recover();
        }
    }
    campaign.recover();
    eprintln!("{} of {runs} commands were stopped on their way", campaign.stopped);
    assert!(campaign.stopped > runs / 20, "hardly any signal came in time");
}

struct Campaign {
    ours: Commands,
    store: StoreUnderTest,
    cluster: Cluster,
    state: u64,
    stopped: u64,
    kept: BTreeSet<String>,
    done: BTreeSet<String>,
}

impl Campaign {
    fn begin(store: StoreUnderTest, seed: u64) -> Self {
        let ours = Commands::ours();
        let options = options_for(&store);
        let cluster = Cluster::create(&ClusterOptions {
            // A killed archiver's file is tried again at once, not after a minute.
            settings: vec![("checkpoint_timeout", "30s".into())],
            ..options
        });
        let words = ["main", "%p"];
        let line = ours.shell_line("barman-cloud-wal-archive", &store, &["--lz4"], &words);
        // One in five is killed; 137 would make PostgreSQL restart its archiver.
        cluster.archive_with(&format!(
            "timeout -s KILL $(shuf -n 1 -e 0.01 0.03 9 9 9 9 9 9 9 9) {line} || exit 1"
        ));
        cluster.psql("create table log (run bigint primary key, said text)");
        cluster.psql(
            "create table still as select g as id, md5(g::text) as said \
             from generate_series(1, 20000) g",
        );
        // Nothing but a backup brings this table back: later WAL has no page of it.
        cluster.psql("vacuum (freeze) still");
        cluster.psql("checkpoint");
        let (kept, done) = (BTreeSet::new(), BTreeSet::new());
        Self { ours, store, cluster, state: seed, stopped: 0, kept, done }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 33) % below
    }

    fn run(&mut self, run: u64) {
        self.cluster
            .psql(&format!("insert into log select {run}, repeat(md5(random()::text), 500)"));
        self.cluster.psql("select pg_switch_wal()");
        match self.draw(100) {
            0..40 => self.back_up(),
            40..58 => self.delete(),
            58..68 => self.keep(),
            68..84 => self.restore(),
            84..96 => self.fetch(),
            _ => self.restore_to_a_full_disk(),
        }
        self.look(run);
    }

    /// Runs a command, and stops it somewhere within `longest` three times out of four.
    fn stop_on_the_way(&mut self, command: &mut Command, longest: Duration) -> Outcome {
        let spared = self.draw(4) == 0;
        let signal = [Signal::KILL, Signal::TERM, Signal::INT];
        let signal = signal[usize::try_from(self.draw(3)).expect("small")];
        let permille = u32::try_from(self.draw(1000)).expect("small");
        let mut running = spawn(command);
        if !spared {
            // Not a wait for something: the moment is what is varied.
            std::thread::sleep(longest * permille / 1000);
            if !running.ended() {
                running.signal(signal);
                self.stopped += 1;
            }
        }
        running.wait()
    }

    fn command(&self, name: &str, options: &[&str], words: &[&str]) -> Command {
        self.ours.command(name, &self.store, options, words)
    }

    fn back_up(&mut self) {
        let connection = self.cluster.connection();
        let mut options: Vec<&str> = connection.iter().map(String::as_str).collect();
        options.extend(["--immediate-checkpoint", "-J", "2", "-S", "4MB"]);
        let compressions = ["--gzip", "--lz4", "--snappy"];
        options.push(compressions[usize::try_from(self.draw(3)).expect("small")]);
        let mut command = self.command("barman-cloud-backup", &options, &["main"]);
        let outcome = self.stop_on_the_way(&mut command, Duration::from_millis(1500));
        if outcome.status.success() {
            let ids = self.listed("DONE");
            assert!(!ids.is_subset(&self.done), "a backup that succeeded is not listed\n{outcome}");
        }
    }

    fn delete(&mut self) {
        let policy = format!("REDUNDANCY {REDUNDANCY}");
        let options = ["--retention-policy", &policy];
        let mut command = self.command("barman-cloud-backup-delete", &options, &["main"]);
        self.stop_on_the_way(&mut command, Duration::from_millis(250));
        // What the policy may have taken is not missed; what it must leave is looked at.
        let left = self.listed("DONE");
        let promised = self.done.len().min(REDUNDANCY);
        assert!(left.len() >= promised, "{} of {promised} backups are left", left.len());
        self.done = left;
    }

    fn keep(&mut self) {
        let ids: Vec<String> = self.done.iter().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let count = u64::try_from(ids.len()).expect("few");
        let id = ids[usize::try_from(self.draw(count)).expect("small")].clone();
        let release = self.kept.contains(&id);
        let options: &[&str] = if release { &["--release"] } else { &["--target", "full"] };
        let mut command = self.command("barman-cloud-backup-keep", options, &["main", &id]);
        if release {
            self.kept.remove(&id);
        }
        let outcome = self.stop_on_the_way(&mut command, Duration::from_millis(60));
        if !release && outcome.status.success() {
            self.kept.insert(id);
        }
    }

    /// A restore that is stopped never starts; run again, it is whole.
    fn restore(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let place = Cluster::empty(&[]);
        let data = place.data().display().to_string();
        let words = ["main", "latest", &data];
        let mut command = self.command("barman-cloud-restore", &["-J", "2"], &words);
        let first = self.stop_on_the_way(&mut command, Duration::from_millis(400));
        let started = place.data().join("global/pg_control").exists();
        let journal = place.data().join(".barman-cloud-restore.json").exists();
        assert!(first.status.success() || !started || journal, "half a restore starts\n{first}");
        if !first.status.success() {
            run(&mut self.command("barman-cloud-restore", &["-J", "2"], &words)).exits(0);
        }
        let mut verify = place.program("pg_verifybackup");
        run(verify.args(["-n", &data])).exits(0);
    }

    /// A segment is delivered whole or not at all.
    fn fetch(&mut self) {
        let archived =
            self.cluster.psql("select coalesce(last_archived_wal, '') from pg_stat_archiver");
        if archived.len() != 24 {
            return;
        }
        let folder = scratch();
        let place = private_folder(folder.path(), "pg_wal").join("RECOVERYXLOG");
        let destination = place.display().to_string();
        let words = ["main", &archived, &destination];
        let mut command = self.command("barman-cloud-wal-restore", &[], &words);
        self.stop_on_the_way(&mut command, Duration::from_millis(40));
        if !place.exists() {
            run(&mut self.command("barman-cloud-wal-restore", &[], &words)).exits(0);
        }
        let delivered = std::fs::read(&place).expect("what was delivered");
        let own = std::fs::read(self.cluster.data().join("pg_wal").join(&archived));
        assert!(own.is_err() || own.is_ok_and(|own| own == delivered), "{archived} differs");
    }

    fn restore_to_a_full_disk(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let folder = scratch();
        let Some(disk) = SmallDisk::mount(&private_folder(folder.path(), "disk")) else { return };
        let data = disk.path.join("data").display().to_string();
        let words = ["main", "latest", &data];
        let mut restore = self.command("barman-cloud-restore", &["-J", "2"], &words);
        let outcome = run(&mut restore);
        assert!(!outcome.status.success(), "a full disk went unnoticed\n{outcome}");
        assert!(!disk.path.join("data/global/pg_control").exists(), "half a restore starts");
    }

    fn listed(&self, status: &str) -> BTreeSet<String> {
        let mut list = self.command("barman-cloud-backup-list", &["--format", "json"], &["main"]);
        let listed: Value = serde_json::from_str(&run(&mut list).ok()).expect("JSON");
        let backups = listed["backups_list"].as_array().expect("a list");
        let chosen = backups.iter().filter(|backup| backup["status"] == status);
        chosen.map(|backup| backup["backup_id"].as_str().expect("an id").to_string()).collect()
    }

    fn look(&mut self, run: u64) {
        let done = self.listed("DONE");
        for id in self.kept.iter().chain(&self.done) {
            assert!(done.contains(id), "run {run}: backup {id} is gone");
        }
        self.done = done;
    }

    /// Archives everything, destroys nothing, and recovers beside it from the latest backup.
    fn recover(&mut self) {
        let mut delete = self.command(
            "barman-cloud-backup-delete",
            &["--retention-policy", &format!("REDUNDANCY {REDUNDANCY}")],
            &["main"],
        );
        run(&mut delete).exits(0);
        self.done = self.listed("DONE");
        if self.done.is_empty() {
            return;
        }
        self.cluster.archive_everything();
        let expected = self.cluster.table_checksums();
        let place = Cluster::empty(&self.store.environment);
        let data = place.data().display().to_string();
        run(&mut self.command("barman-cloud-restore", &[], &["main", "latest", &data])).exits(0);
        let words = ["main", "%f", "%p"];
        let line = self.ours.shell_line("barman-cloud-wal-restore", &self.store, &[], &words);
        place.recover_with(&line, "");
        place.start_and_recover();
        assert_eq!(place.table_checksums(), expected);
    }
}

/// Two megabytes that are soon full.
struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        let owner = path.display().to_string();
        mount.args(["-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs", &owner]);
        if !run(&mut mount).status.success() {
            not_here("mounting is not allowed");
            return None;
        }
        Some(Self { path: path.into() })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
