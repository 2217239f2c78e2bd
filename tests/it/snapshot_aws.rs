//! Backups by EBS snapshots: real PostgreSQL on real disks, EC2's records in LocalStack, and the
//! crossings with Barman 3.19.1.

use crate::control_planes::server::Fault;
use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::ec2::{Ec2Lab, LabDisk, denied, throttled};
use crate::support::process::{Outcome, run};
use crate::support::scratch::unique;
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::wait::wait_until;
use std::time::Duration;

const SERVER: &str = "main";

/// A cluster on two disks of an instance: the data directory and a tablespace.
struct Scene {
    ours: Commands,
    store: StoreUnderTest,
    // Stopped before its disks go.
    cluster: Cluster,
    lab: Ec2Lab,
    disks: Vec<LabDisk>,
    late: Option<LabDisk>,
}

impl Scene {
    fn set() -> Option<Self> {
        let mut store = StoreUnderTest::open(StoreKind::S3)?;
        let lab = Ec2Lab::open()?;
        store.environment.extend(lab.environment());
        let mut disks = Vec::new();
        let cluster = Cluster::create_on(&options_for(&store), |cluster| {
            disks.push(lab.add_disk(&unique("pgdata"), cluster.data()));
            disks.push(lab.add_disk(&unique("pgts"), &cluster.beside("ts")));
        });
        let ours = Commands::ours();
        let line = ours.shell_line("barman-cloud-wal-archive", &store, &[], &[SERVER, "%p"]);
        cluster.archive_with(&line);
        let ts = cluster.beside("ts");
        cluster.psql(&format!("create tablespace ts location '{}'", ts.display()));
        cluster.psql("create table items (id serial, payload text) tablespace ts");
        cluster.psql(
            "insert into items (payload) select md5(n::text) from generate_series(1, 9000) n",
        );
        Some(Self { ours, store, cluster, lab, disks, late: None })
    }

    fn backup_options(&self) -> Vec<String> {
        let mut options = self.cluster.connection();
        options.push("--immediate-checkpoint".into());
        options.push(format!("--snapshot-instance={}", self.lab.instance));
        options.extend(self.disks.iter().map(|disk| format!("--snapshot-disk={}", disk.name)));
        options
    }

    fn backup(&self, tool: &Commands, more: &[&str]) -> Outcome {
        let options = self.backup_options();
        let options: Vec<&str> =
            options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        tool.run("barman-cloud-backup", &self.store, &options, &[SERVER])
    }

    fn run(&self, tool: &Commands, name: &str, options: &[&str], more: &[&str]) -> Outcome {
        let positionals: Vec<&str> = [SERVER].into_iter().chain(more.iter().copied()).collect();
        tool.run(name, &self.store, options, &positionals)
    }

    fn snapshots(&self) -> Vec<(String, String)> {
        let disks: Vec<LabDisk> = self.disks.iter().chain(&self.late).cloned().collect();
        self.lab.snapshots(&disks)
    }

    /// Each backup meets a volume that was attached after it had looked; its snapshots count.
    fn attach_another_too_late(&mut self) {
        self.late = Some(self.lab.attach_another_too_late());
    }

    /// The only backup's ID.
    fn id(&self) -> String {
        let listed = self.run(&self.ours, "barman-cloud-backup-list", &[], &[]).ok();
        listed.lines().nth(1).expect("a backup")[..15].to_string()
    }

    fn no_session_of_ours(&self) {
        wait_until("the end of backup mode", Duration::from_secs(30), || {
            let sessions = "select count(*) from pg_stat_activity \
                            where application_name = 'barman_cloud_backup'";
            self.cluster.psql(sessions) == "0"
        });
    }

    fn delete_by_id(&self, tool: &Commands, id: &str) -> Outcome {
        self.run(tool, "barman-cloud-backup-delete", &["-b", id], &[])
    }
}

#[test]
fn a_fresh_machine_recovers_from_snapshots_with_one_command() {
    let Some(scene) = Scene::set() else { return };
    let Scene { lab, cluster, .. } = &scene;
    scene.backup(&scene.ours, &["-n", "snap", "--tag=team,db"]).exits(0);
    let id = scene.id();
    let mut names: Vec<String> = scene.snapshots().into_iter().map(|(_, name)| name).collect();
    names.sort();
    let mut expected: Vec<String> =
        scene.disks.iter().map(|disk| format!("{}-{}", disk.name, id.to_lowercase())).collect();
    expected.sort();
    assert_eq!(names, expected, "one name each, although both were asked for in one call");
    assert!(lab.actions().contains(&"CreateSnapshots".to_string()));
    for (snapshot, _) in scene.snapshots() {
        assert!(lab.has_tag(&snapshot, "team", "db"), "{snapshot}");
    }

    cluster.psql("insert into items (payload) select 'later' from generate_series(1, 500)");
    cluster.archive_everything();
    let before = cluster.table_checksums();
    cluster.stop("immediate");
    lab.lose_disks();

    let data = cluster.data().display().to_string();
    let root = Commands::ours_as_caller();
    let instance = format!("--snapshot-recovery-instance={}", lab.instance);
    let restore = |options: &[&str]| {
        let positionals = ["snap", data.as_str()];
        scene.run(&root, "barman-cloud-restore", options, &positionals)
    };
    restore(&[]).exits(4).says("--snapshot-recovery-instance");
    restore(&[&instance]).exits(4).says("--create-volumes");
    restore(&[&instance, "--tablespace=ts:/x"]).exits(4);
    restore(&[&instance, "--create-volumes"]).exits(0);
    // Everything is there now: the checks alone pass, and no volume is made twice.
    restore(&[&instance]).exits(0);
    restore(&[&instance, "--create-volumes"]).exits(0);
    assert_eq!(lab.volumes_of_snapshots().len(), 2);
    // Barman compares the mount options that we recorded to the letter.
    if let Some(barman) = Commands::barman() {
        let positionals = ["snap", data.as_str()];
        scene.run(&barman, "barman-cloud-restore", &[&instance], &positionals).exits(0);
    }

    let line =
        scene.ours.shell_line("barman-cloud-wal-restore", &scene.store, &[], &[SERVER, "%f", "%p"]);
    cluster.recover_with(&line, "");
    restore(&[&instance]).exits(0);
    cluster.start_and_recover();
    assert_eq!(cluster.table_checksums(), before);
    restore(&[&instance]).exits(4).says("is running");
}

#[test]
fn a_restore_that_fails_takes_the_volumes_it_made_with_it() {
    let Some(scene) = Scene::set() else { return };
    scene.backup(&scene.ours, &[]).exits(0);
    scene.cluster.stop("immediate");
    scene.lab.lose_disks();
    let instance = format!("--snapshot-recovery-instance={}", scene.lab.instance);
    let nowhere = scene.cluster.data().join("nowhere").display().to_string();
    let root = Commands::ours_as_caller();
    let options = [instance.as_str(), "--create-volumes"];
    scene
        .run(&root, "barman-cloud-restore", &options, &["last", &nowhere])
        .exits(4)
        .says("does not exist");
    assert_eq!(scene.lab.volumes_of_snapshots(), Vec::<String>::new());
}

#[test]
fn postgresql_is_free_before_the_snapshots_are_complete_and_locks_come_last() {
    let Some(scene) = Scene::set() else { return };
    scene.lab.stay_pending(4);
    let lock = ["--aws-snapshot-lock-mode=governance", "--aws-snapshot-lock-duration=3"];
    scene.backup(&scene.ours, &[&lock[..], &["-vv"]].concat()).exits(0);
    let actions = scene.lab.actions();
    let looks = actions.iter().filter(|action| *action == "DescribeSnapshots").count();
    assert!(looks > 4, "{actions:?}");
    assert_eq!(&actions[actions.len() - 2..], ["LockSnapshot", "LockSnapshot"]);
    assert_eq!(scene.lab.locks(), ["governance 3", "governance 3"]);
    let shown = scene.run(&scene.ours, "barman-cloud-backup-show", &[], &["last"]).ok();
    assert!(shown.contains("    snapshot_lock_mode   : governance\n"), "{shown}");
    assert!(shown.contains("  Server Name            : main\n"), "{shown}");

    // A locked snapshot keeps the backup whole.
    let id = scene.id();
    let keys = scene.store.keys();
    scene.delete_by_id(&scene.ours, &id).exits(1).says("locked");
    assert_eq!(scene.store.keys(), keys);
    assert_eq!(scene.snapshots().len(), 2);
}

#[test]
fn a_snapshot_backup_is_refused_with_exit_4_before_anything_is_touched() {
    let Some(scene) = Scene::set() else { return };
    let connection = scene.cluster.connection();
    let try_with = |options: &[&str]| {
        let options: Vec<&str> =
            connection.iter().map(String::as_str).chain(options.iter().copied()).collect();
        scene.ours.run("barman-cloud-backup", &scene.store, &options, &[SERVER])
    };
    let instance = format!("--snapshot-instance={}", scene.lab.instance);
    let disk = |index: usize| format!("--snapshot-disk={}", scene.disks[index].name);
    let (data, ts) = (disk(0), disk(1));
    try_with(&["--snapshot-instance=nobody", &data]).exits(4).says("does not exist");
    try_with(&["--snapshot-instance=i-00000000", &data]).exits(4).says("does not exist");
    try_with(&[&instance, "--snapshot-disk=nothing"]).exits(4).says("is not attached");
    try_with(&[&instance, &data[..data.len() - 1]]).exits(4).says("is not attached");
    try_with(&[&instance, &data]).exits(4).says("of which no snapshot would be taken");
    try_with(&[&instance, &ts]).exits(4).says("of which no snapshot would be taken");
    try_with(&[&instance, &data, &ts, "--gzip"]).exits(4);
    try_with(&[&instance, &data, &ts, "--aws-snapshot-lock-duration=3"]).exits(4);
    run(std::process::Command::new("umount").args(["-l"]).arg(&scene.disks[1].point)).exits(0);
    try_with(&[&instance, &data, &ts]).exits(4).says("is not mounted");
    assert_eq!(scene.snapshots(), []);
    assert_eq!(scene.store.keys_below("main/base"), Vec::<String>::new());
    // The instance's and the volumes' IDs are names too.
    let by_id = format!("--snapshot-instance={}", scene.lab.instance_id());
    let volume = format!("--snapshot-disk={}", scene.disks[0].volume_id);
    try_with(&[&by_id, &volume]).exits(4).says("of which no snapshot would be taken");
}

#[test]
fn whatever_call_fails_no_snapshot_is_left_and_backup_mode_has_ended() {
    let Some(mut scene) = Scene::set() else { return };
    scene.attach_another_too_late();
    scene.backup(&scene.ours, &[]).exits(0);
    let calls = scene.lab.actions().len();
    assert!(calls >= 6, "{:?}", scene.lab.actions());
    let id = scene.id();
    scene.delete_by_id(&scene.ours, &id).exits(0);
    assert_eq!(scene.snapshots(), []);
    for number in 0..calls {
        for (fault, times) in
            [(Fault::Refuse(denied()), 1), (Fault::LoseAnswer, 1), (Fault::Refuse(throttled()), 2)]
        {
            let what = format!("call {number}: {fault:?}");
            scene.lab.fail_call(number, times, fault);
            let outcome = scene.backup(&scene.ours, &[]);
            scene.no_session_of_ours();
            let left = scene.snapshots().len();
            match outcome.status.success() {
                true => assert_eq!(left, 2, "{what}\n{outcome}"),
                false => assert_eq!(left, 0, "{what}\n{outcome}"),
            }
            // A fault that was not met must not wait for the next run.
            let keys = scene.store.keys_below("main/base");
            let ids: std::collections::BTreeSet<&str> =
                keys.iter().filter_map(|key| key.split('/').next()).collect();
            for id in ids {
                scene.delete_by_id(&scene.ours, id).exits(0);
            }
            assert_eq!(scene.snapshots(), [], "{what}");
        }
    }
}

#[test]
fn a_volume_that_is_attached_during_the_checkpoint_leaves_no_snapshot() {
    let Some(mut scene) = Scene::set() else { return };
    scene.attach_another_too_late();
    scene.backup(&scene.ours, &[]).exits(0).says("a volume was attached meanwhile");
    let deleted = scene.lab.actions().iter().filter(|action| *action == "DeleteSnapshot").count();
    assert_eq!((deleted, scene.snapshots().len()), (1, 2));
    let id = scene.id();
    scene.delete_by_id(&scene.ours, &id).exits(0);
    assert_eq!(scene.snapshots(), []);
}

#[test]
fn the_snapshots_of_a_killed_run_are_found_and_deleted() {
    let Some(scene) = Scene::set() else { return };
    scene.lab.stay_pending(1000);
    let options = scene.backup_options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut command = scene.ours.command("barman-cloud-backup", &scene.store, &options, &[SERVER]);
    let running = crate::support::process::spawn(&mut command);
    wait_until("the snapshots", Duration::from_secs(60), || {
        scene.snapshots().iter().filter(|(_, name)| name.contains("-20")).count() == 2
    });
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    scene.no_session_of_ours();
    scene.lab.stay_pending(0);
    let id = scene.id();
    assert_eq!(scene.store.keys_below("main/base"), [format!("{id}/started.json")]);
    scene.delete_by_id(&scene.ours, &id).exits(0);
    assert_eq!(scene.snapshots(), []);
    assert_eq!(scene.store.keys_below("main/base"), Vec::<String>::new());
}

#[test]
fn snapshots_that_are_not_complete_in_time_fail_the_backup_and_go() {
    let Some(scene) = Scene::set() else { return };
    scene.lab.stay_pending(1000);
    let failed = scene.backup(&scene.ours, &["--aws-await-snapshots-timeout=2"]).exits(1);
    failed.says("2 of 2 snapshots were not complete after 2 s");
    assert_eq!(scene.snapshots(), []);
    scene.no_session_of_ours();
}

#[test]
fn a_run_that_is_told_to_stop_deletes_its_snapshots() {
    let Some(scene) = Scene::set() else { return };
    scene.lab.stay_pending(1000);
    let options = scene.backup_options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut command = scene.ours.command("barman-cloud-backup", &scene.store, &options, &[SERVER]);
    let running = crate::support::process::spawn(&mut command);
    wait_until("the snapshots", Duration::from_secs(60), || {
        scene.snapshots().iter().filter(|(_, name)| name.contains("-20")).count() == 2
    });
    running.signal(rustix::process::Signal::TERM);
    running.wait().exits(143);
    assert_eq!(scene.snapshots(), []);
    let listed = scene.run(&scene.ours, "barman-cloud-backup-list", &[], &[]).ok();
    assert!(listed.contains("FAILED"), "{listed}");
}

#[test]
fn barman_lists_shows_keeps_and_deletes_our_snapshot_backup() {
    let (Some(barman), Some(scene)) = (Commands::barman(), Scene::set()) else { return };
    scene.backup(&scene.ours, &["-n", "ours"]).exits(0);
    let id = scene.id();
    for (name, more) in
        [("barman-cloud-backup-list", vec![]), ("barman-cloud-backup-show", vec!["ours"])]
    {
        for format in ["console", "json"] {
            let options = ["--format", format];
            let barmans = scene.run(&barman, name, &options, &more).ok();
            assert_eq!(
                scene.run(&scene.ours, name, &options, &more).ok(),
                barmans,
                "{name} {format}"
            );
        }
    }
    let keep = ["--target", "full"];
    // Barman finds the mounts to be what we recorded, to the letter, where they are found at all.
    scene.run(&barman, "barman-cloud-backup-keep", &keep, &[&id]).exits(0);
    scene.delete_by_id(&scene.ours, &id).exits(1);
    scene.run(&scene.ours, "barman-cloud-backup-keep", &["--release"], &[&id]).exits(0);
    scene.delete_by_id(&barman, &id).exits(0);
    assert_eq!(scene.snapshots(), []);
}

#[test]
fn we_list_show_and_delete_barmans_snapshot_backup() {
    let (Some(barman), Some(scene)) = (Commands::barman(), Scene::set()) else { return };
    scene.backup(&barman, &["-n", "theirs"]).exits(0);
    assert_eq!(scene.snapshots().len(), 2);
    for name in ["console", "json"] {
        let options = ["--format", name];
        let show = |tool: &Commands| {
            scene.run(tool, "barman-cloud-backup-show", &options, &["theirs"]).ok()
        };
        assert_eq!(show(&scene.ours), show(&barman), "{name}");
    }
    let policy = ["--retention-policy", "REDUNDANCY 0"];
    let dry = [policy[0], policy[1], "--dry-run"];
    let printed = |tool: &Commands| scene.run(tool, "barman-cloud-backup-delete", &dry, &[]).ok();
    assert_eq!(printed(&scene.ours), printed(&barman));
    assert_eq!(scene.snapshots().len(), 2);
    scene.run(&scene.ours, "barman-cloud-backup-delete", &policy, &[]).exits(0);
    assert_eq!(scene.snapshots(), []);
    assert_eq!(scene.store.keys_below("main/base"), Vec::<String>::new());
}
