//! Whole commands with volume snapshots on Azure and Google Cloud: back up, list, show, check a
//! recovery, fail, delete, retain.
//!
//! The clouds are strict stand-ins, and a snapshot holds no data there: that the copy of a disk
//! can be recovered from is not proved here.

use crate::control_planes::azure::{self, AzureFake, GROUP, LOCATION, SUBSCRIPTION};
use crate::control_planes::google::{self, GoogleFake, PROJECT, ZONE};
use crate::control_planes::server::Fault;
use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::process::{Outcome, run};
use crate::support::scratch::unique;
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::volumes::Volume;
use serde_json::{Value, json};
use std::fs;

const SERVER: &str = "main";
const DISKS: [&str; 2] = ["pg-data", "pg-wal"];

/// What a story needs of a cloud.
trait Cloud {
    /// How a machine of this cloud links its disks, in the order of [`DISKS`].
    fn links(&self) -> [String; 2];
    fn environment(&self) -> Vec<(String, String)>;
    fn backup_options(&self) -> Vec<&'static str>;
    fn restore_options(&self) -> Vec<&'static str>;
    fn snapshots(&self) -> Vec<String>;
    /// A machine `recovery` with disks that are made of these snapshots.
    fn recover(&self, snapshots: &[String]);
    /// Refuses the second of the next snapshots.
    fn refuse_the_second(&self);
    /// `provider`, `provider_info` and each `provider` of `snapshots_info`.
    fn record(&self, names: &[String]) -> (Value, Value, Vec<Value>);
}

struct Azure {
    fake: AzureFake,
    /// Unlike any that another run on this machine has mounted.
    luns: [u32; 2],
}

struct Google {
    fake: GoogleFake,
    devices: [String; 2],
}

#[test]
fn a_cluster_is_backed_up_by_azure_snapshots_and_they_go_with_the_backup() {
    let Some(store) = StoreUnderTest::open(StoreKind::Azure) else { return };
    let fake = AzureFake::start().expect("the fake starts");
    fake.behave(|behaviour| behaviour.pending_polls = 1);
    let luns = [2 * std::process::id(), 2 * std::process::id() + 1];
    DISKS.iter().for_each(|disk| fake.add_disk(disk));
    fake.add_machine("pg", &[(DISKS[0], luns[0]), (DISKS[1], luns[1])]);
    story(store, &Azure { fake, luns });
}

#[test]
fn a_cluster_is_backed_up_by_google_snapshots_and_they_go_with_the_backup() {
    let Some(store) = StoreUnderTest::open(StoreKind::Gcs) else { return };
    let fake = GoogleFake::start().expect("the fake starts");
    fake.behave(|behaviour| behaviour.pending_polls = 1);
    let devices = [unique("data"), unique("wal")];
    DISKS.iter().for_each(|disk| fake.add_disk(disk));
    fake.add_machine("pg", &[(DISKS[0], &devices[0]), (DISKS[1], &devices[1])]);
    story(store, &Google { fake, devices });
}

fn story(mut store: StoreUnderTest, cloud: &dyn Cloud) {
    store.environment.extend(cloud.environment());
    let [data, wal] = cloud.links();
    let (Some(data), Some(wal)) = (Volume::mount(&data), Volume::mount(&wal)) else { return };
    let ours = Commands::ours();
    let cluster = Cluster::create(&options_for(&store));
    cluster.stop("fast");
    wal.take(&cluster.data().join("pg_wal"));
    data.take(cluster.data());
    cluster.archive_with(&ours.shell_line(
        "barman-cloud-wal-archive",
        &store,
        &["--gzip"],
        &[SERVER, "%p"],
    ));
    cluster.start();

    backup(&ours, &store, cloud, &cluster, &DISKS).exits(0);
    let first = listed(&ours, &store).remove(0);
    let id = first["backup_id"].as_str().expect("an id").to_string();
    let names = DISKS.map(|disk| format!("{disk}-{}", id.to_lowercase()));
    assert_eq!(cloud.snapshots(), names);
    let points = [&data, &wal].map(|volume| volume.point().display().to_string());
    shown_as_barman_writes_it(&ours, &store, cloud, &id, &names, &points);

    cluster.stop("fast");
    recovery_is_checked(&ours, &store, cloud, &cluster, &id, &names);
    cluster.start();

    // A backup that fails midway leaves no snapshot, and says so in the catalog.
    cloud.refuse_the_second();
    backup(&ours, &store, cloud, &cluster, &DISKS).exits(1).says("could not create snapshot");
    assert_eq!(cloud.snapshots(), names);
    assert!(listed(&ours, &store).iter().any(|backup| backup["status"] == "FAILED"));
    // What is not all of the cluster is refused before anything is touched.
    let part = backup(&ours, &store, cloud, &cluster, &DISKS[1..]);
    part.exits(4).says(&cluster.data().display().to_string());
    assert_eq!(cloud.snapshots(), names);

    backup(&ours, &store, cloud, &cluster, &DISKS).exits(0);
    assert_eq!(cloud.snapshots().len(), 4);
    let retain = ["--retention-policy", "REDUNDANCY 1", "--minimum-redundancy", "1"];
    ours.run("barman-cloud-backup-delete", &store, &retain, &[SERVER]).exits(0);
    let kept = cloud.snapshots();
    assert_eq!(kept.len(), 2);
    assert!(names.iter().all(|name| !kept.contains(name)), "{kept:?}");
    for backup in listed(&ours, &store) {
        let id = backup["backup_id"].as_str().expect("an id");
        ours.run("barman-cloud-backup-delete", &store, &["-b", id], &[SERVER]).exits(0);
    }
    assert!(cloud.snapshots().is_empty());
    assert!(store.keys_below(&format!("{SERVER}/base")).is_empty());
    cluster.destroy();
}

fn backup(
    ours: &Commands,
    store: &StoreUnderTest,
    cloud: &dyn Cloud,
    cluster: &Cluster,
    disks: &[&str],
) -> Outcome {
    let connection = cluster.connection();
    let mut options: Vec<&str> = connection.iter().map(String::as_str).collect();
    options.extend(["--immediate-checkpoint", "--snapshot-instance", "pg"]);
    options.extend(disks.iter().flat_map(|disk| ["--snapshot-disk", disk]));
    options.extend(cloud.backup_options());
    run(&mut ours.command("barman-cloud-backup", store, &options, &[SERVER]))
}

fn listed(ours: &Commands, store: &StoreUnderTest) -> Vec<Value> {
    let output = ours.run("barman-cloud-backup-list", store, &["--format", "json"], &[SERVER]);
    let output: Value = serde_json::from_str(&output.ok()).expect("JSON");
    output["backups_list"].as_array().expect("a list").clone()
}

fn shown_as_barman_writes_it(
    ours: &Commands,
    store: &StoreUnderTest,
    cloud: &dyn Cloud,
    id: &str,
    names: &[String],
    points: &[String],
) {
    let show = |commands: &Commands| -> Value {
        let positionals = [SERVER, id];
        let format = ["--format", "json"];
        let shown = commands.run("barman-cloud-backup-show", store, &format, &positionals).ok();
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        // Unlike a backup of files, one of snapshots carries its server's own name.
        shown[SERVER]["snapshots_info"].clone()
    };
    let shown = show(ours);
    let (provider, provider_info, snapshots) = cloud.record(names);
    assert_eq!((&shown["provider"], &shown["provider_info"]), (&provider, &provider_info));
    for (index, snapshot) in snapshots.iter().enumerate() {
        let entry = &shown["snapshots"][index];
        assert_eq!(entry["provider"], *snapshot);
        assert_eq!(entry["mount"]["mount_point"], points[index].as_str());
        let options = entry["mount"]["mount_options"].as_str().expect("options");
        assert!(options.starts_with("rw,noatime"), "{options}");
    }
    // Barman reads what we wrote.
    if let Some(barman) = Commands::barman() {
        assert_eq!(show(&barman), shown);
    }
}

fn recovery_is_checked(
    ours: &Commands,
    store: &StoreUnderTest,
    cloud: &dyn Cloud,
    cluster: &Cluster,
    id: &str,
    names: &[String],
) {
    let restore = |instance: &str| {
        let mut options = vec!["--snapshot-recovery-instance", instance];
        options.extend(cloud.restore_options());
        let target = cluster.data().display().to_string();
        ours.run("barman-cloud-restore", store, &options, &[SERVER, id, &target])
    };
    // The machine's own disks are not made of the snapshots.
    restore("pg").exits(4).says("no volume made of snapshot");
    restore("nobody").exits(4).says("nobody");
    cloud.recover(names);
    restore("recovery").exits(0);
    let label = cluster.data().join("backup_label");
    let written = fs::read_to_string(&label).expect("a label");
    let stored = store.keys().into_iter().find(|key| key.ends_with("/backup_label"));
    assert_eq!(written.as_bytes(), &store.get(&stored.expect("an object"))[..]);
    assert!(written.contains("START WAL LOCATION"), "{written}");
    fs::remove_file(label).expect("removed");
}

impl Cloud for Azure {
    fn links(&self) -> [String; 2] {
        self.luns.map(|lun| format!("/dev/disk/azure/scsi1/lun{lun}"))
    }

    fn environment(&self) -> Vec<(String, String)> {
        ["AZURE_RESOURCE_MANAGER_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST"]
            .map(|name| (name.to_string(), self.fake.endpoint()))
            .to_vec()
    }

    fn backup_options(&self) -> Vec<&'static str> {
        vec!["--azure-subscription-id", SUBSCRIPTION, "--azure-resource-group", GROUP]
    }

    fn restore_options(&self) -> Vec<&'static str> {
        vec!["--azure-resource-group", GROUP]
    }

    fn snapshots(&self) -> Vec<String> {
        self.fake.snapshots()
    }

    fn recover(&self, snapshots: &[String]) {
        let disks = ["restored-data", "restored-wal"];
        for (disk, snapshot) in disks.iter().zip(snapshots) {
            self.fake.add_disk_from(disk, snapshot);
        }
        let attached: Vec<(&str, u32)> = disks.into_iter().zip(self.luns).collect();
        self.fake.add_machine("recovery", &attached);
    }

    fn refuse_the_second(&self) {
        let fault: Fault = azure::forbidden("Microsoft.Compute/snapshots/write");
        self.fake.fail("PUT", "/snapshots/", 1, 1, fault);
    }

    fn record(&self, names: &[String]) -> (Value, Value, Vec<Value>) {
        let info = json!({"subscription_id": SUBSCRIPTION, "resource_group": GROUP});
        let snapshots = names
            .iter()
            .zip(self.luns)
            .map(|(name, lun)| json!({"location": LOCATION, "lun": lun, "snapshot_name": name}));
        (json!("azure"), info, snapshots.collect())
    }
}

impl Cloud for Google {
    fn links(&self) -> [String; 2] {
        self.devices.clone().map(|device| format!("/dev/disk/by-id/google-{device}"))
    }

    fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE".into(), self.fake.endpoint()),
            ("GCE_METADATA_HOST".into(), self.fake.metadata_host()),
        ]
    }

    fn backup_options(&self) -> Vec<&'static str> {
        vec!["--gcp-project", PROJECT, "--gcp-zone", ZONE]
    }

    fn restore_options(&self) -> Vec<&'static str> {
        vec!["--gcp-zone", ZONE]
    }

    fn snapshots(&self) -> Vec<String> {
        self.fake.snapshots()
    }

    fn recover(&self, snapshots: &[String]) {
        let disks = ["restored-data", "restored-wal"];
        for (disk, snapshot) in disks.iter().zip(snapshots) {
            self.fake.add_disk_from(disk, snapshot);
        }
        let devices = self.devices.iter().map(String::as_str);
        let attached: Vec<(&str, &str)> = disks.into_iter().zip(devices).collect();
        self.fake.add_machine("recovery", &attached);
    }

    fn refuse_the_second(&self) {
        let fault = google::forbidden("compute.snapshots.create", "projects/p");
        self.fake.fail("POST", "/snapshots", 1, 1, fault);
    }

    fn record(&self, names: &[String]) -> (Value, Value, Vec<Value>) {
        let info = json!({"project": PROJECT});
        let snapshots = names.iter().zip(&self.devices).map(|(name, device)| {
            json!({
                "device_name": device,
                "snapshot_name": name,
                "snapshot_project": PROJECT,
            })
        });
        (json!("gcp"), info, snapshots.collect())
    }
}
