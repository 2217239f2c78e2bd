//! EC2 with disks that exist: LocalStack keeps the books, loop devices hold the bytes.
//!
//! ```text
//! command ── lab ── LocalStack       instances, volumes, snapshots as records
//!             │
//!             └── images             a snapshot copies them while the file system is frozen;
//!                                    an attached volume is a loop device on such a copy
//! ```
//!
//! The lab adds what LocalStack lacks: locks, snapshots that are pending for some looks, and
//! faults at chosen calls.

use crate::control_planes::model;
use crate::control_planes::server::{Fault, Server, lock};
use crate::gcs_fake::http::{Answer, Request, query};
use crate::support::http;
use crate::support::outside;
use crate::support::process::run;
use crate::support::scratch::{give_to_postgres, postgres_user, unique};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A mounted disk of the instance.
#[derive(Clone, Debug)]
pub struct LabDisk {
    /// Its name tag.
    pub name: String,
    pub volume_id: String,
    pub point: PathBuf,
    image: PathBuf,
}

/// An instance with its disks, and the way to it.
pub struct Ec2Lab {
    pub instance: String,
    server: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    endpoint: String,
    folder: TempDir,
    disks: Vec<LabDisk>,
    /// The bytes of each snapshot.
    copies: HashMap<String, PathBuf>,
    locks: BTreeSet<String>,
    /// How many looks at snapshots still see them pending.
    pending_looks: u32,
    loops: Vec<String>,
    points: Vec<PathBuf>,
    actions: Vec<String>,
    lock_calls: Vec<String>,
    late_volume: Option<LateVolume>,
}

/// A volume that is attached only while snapshots are created.
#[derive(Clone, Debug)]
struct LateVolume {
    volume_id: String,
    instance_id: String,
}

const REGION: &str = "us-east-1";
const IMAGE_BYTES: u64 = 192 << 20;

impl Ec2Lab {
    /// `None` (after saying so) without an emulator, or without the rights to mount.
    pub fn open() -> Option<Self> {
        let endpoint = outside::required(outside::S3, "the EC2 emulator")?;
        let folder = tempfile::Builder::new().prefix("bc-ec2-").tempdir().expect("a folder");
        if postgres_user().is_none() || !has_loop_devices(folder.path()) {
            outside::not_here("disks need root, loop devices and mkfs.ext4");
            return None;
        }
        let instance = unique("pg");
        let state = Arc::new(Mutex::new(State {
            endpoint,
            folder,
            disks: Vec::new(),
            copies: HashMap::new(),
            locks: BTreeSet::new(),
            pending_looks: 0,
            loops: Vec::new(),
            points: Vec::new(),
            actions: Vec::new(),
            lock_calls: Vec::new(),
            late_volume: None,
        }));
        let serving = Arc::clone(&state);
        let handler = move |request: &Request, _: &str| respond(request, &mut lock(&serving));
        let server = Server::start(Box::new(handler)).expect("a free port");
        let lab = Self { instance, server, state };
        let tags = name_tag("instance", &lab.instance);
        lab.direct(&format!("Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1{tags}"));
        Some(lab)
    }

    /// What leads a command here.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("AWS_ENDPOINT_URL_EC2".into(), self.server.endpoint())]
    }

    pub fn instance_id(&self) -> String {
        let query = format!("Action=DescribeInstances&{}", filter("tag:Name", &self.instance));
        between(&self.direct(&query), "<instanceId>", "</instanceId>").remove(0)
    }

    /// Makes a disk with a file system, attaches it and mounts it at `point`.
    pub fn add_disk(&self, name: &str, point: &Path) -> LabDisk {
        let image = lock(&self.state).folder.path().join(format!("{name}.img"));
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(IMAGE_BYTES).expect("a size");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image)).exits(0);
        let device = lock(&self.state).loop_of(&image);
        std::fs::create_dir_all(point).expect("a mount point");
        run(Command::new("mount").args(["-o", "noatime", &device]).arg(point)).exits(0);
        std::fs::remove_dir(point.join("lost+found")).expect("lost+found");
        give_to_postgres(point);
        let size = IMAGE_BYTES >> 30;
        let tags = name_tag("volume", name);
        let made = self.direct(&format!(
            "Action=CreateVolume&AvailabilityZone={REGION}a&Size={}{tags}",
            size.max(1)
        ));
        let volume_id = between(&made, "<volumeId>", "</volumeId>").remove(0);
        let attach = format!(
            "Action=AttachVolume&VolumeId={volume_id}&InstanceId={}&Device={device}",
            self.instance_id()
        );
        self.direct(&attach);
        let disk = LabDisk { name: name.into(), volume_id, point: point.into(), image };
        let mut state = lock(&self.state);
        state.points.push(disk.point.clone());
        state.disks.push(disk.clone());
        disk
    }

    /// Takes the disks from the instance as a disaster would: unmounted, detached, deleted.
    pub fn lose_disks(&self) {
        let disks = std::mem::take(&mut lock(&self.state).disks);
        for disk in disks {
            run(Command::new("umount").arg(&disk.point)).exits(0);
            let instance = self.instance_id();
            let volume = &disk.volume_id;
            self.direct(&format!("Action=DetachVolume&VolumeId={volume}&InstanceId={instance}"));
            self.direct(&format!("Action=DeleteVolume&VolumeId={}", disk.volume_id));
        }
    }

    /// Identifiers and names of all snapshots of the disks.
    pub fn snapshots(&self, disks: &[LabDisk]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for disk in disks {
            let query =
                format!("Action=DescribeSnapshots&{}", filter("volume-id", &disk.volume_id));
            for item in items(&self.direct(&query), "snapshotSet") {
                let id = between(&item, "<snapshotId>", "</snapshotId>").remove(0);
                let names = between(&item, "<key>Name</key><value>", "</value>");
                found.push((id, names.first().cloned().unwrap_or_default()));
            }
        }
        found.sort();
        found
    }

    /// From now on another volume is attached after the instance was described, each time just
    /// before snapshots are created. Returns it as a disk that is nowhere mounted.
    pub fn attach_another_too_late(&self) -> LabDisk {
        let name = unique("late");
        let tags = name_tag("volume", &name);
        let made =
            self.direct(&format!("Action=CreateVolume&AvailabilityZone={REGION}a&Size=1{tags}"));
        let volume_id = between(&made, "<volumeId>", "</volumeId>").remove(0);
        let instance_id = self.instance_id();
        let late = LateVolume { volume_id: volume_id.clone(), instance_id };
        lock(&self.state).late_volume = Some(late);
        LabDisk { name, volume_id, point: PathBuf::new(), image: PathBuf::new() }
    }

    /// The tags of a snapshot.
    pub fn has_tag(&self, snapshot_id: &str, key: &str, value: &str) -> bool {
        let query = format!("Action=DescribeSnapshots&{}", filter("snapshot-id", snapshot_id));
        self.direct(&query).contains(&format!("<key>{key}</key><value>{value}</value>"))
    }

    /// What there is of volumes that were made of the lab's snapshots.
    pub fn volumes_of_snapshots(&self) -> Vec<String> {
        let ids: Vec<String> = lock(&self.state).copies.keys().cloned().collect();
        let found = ids.iter().flat_map(|id| {
            let query = format!("Action=DescribeVolumes&{}", filter("snapshot-id", id));
            items(&self.direct(&query), "volumeSet")
        });
        found.collect()
    }

    /// Lets the next looks at snapshots see them pending.
    pub fn stay_pending(&self, looks: u32) {
        lock(&self.state).pending_looks = looks;
    }

    /// Makes the call with this number (from 0, of those to come) fail.
    pub fn fail_call(&self, number: usize, times: usize, fault: Fault) {
        self.server.fail("POST", "", number, times, fault);
    }

    /// The names of all calls so far.
    pub fn actions(&self) -> Vec<String> {
        lock(&self.state).actions.clone()
    }

    pub fn locks(&self) -> Vec<String> {
        lock(&self.state).lock_calls.clone()
    }

    fn direct(&self, query: &str) -> String {
        let endpoint = lock(&self.state).endpoint.clone();
        let (status, body) = forward(&endpoint, &format!("{query}&Version=2016-11-15"));
        assert_eq!(status, 200, "{query}: {body}");
        body
    }
}

impl Drop for Ec2Lab {
    fn drop(&mut self) {
        let state = lock(&self.state);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for device in &state.loops {
            for line in mounts.lines().filter(|line| line.starts_with(&format!("{device} "))) {
                let point = line.split(' ').nth(1).unwrap_or_default();
                let _ = Command::new("umount").args(["-l", point]).status();
            }
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        // The cluster could not remove its folder while disks were mounted inside of it.
        for folder in state.points.iter().filter_map(|point| point.parent()) {
            if folder.starts_with(std::env::temp_dir()) {
                let _ = std::fs::remove_dir_all(folder);
            }
        }
    }
}

impl State {
    fn loop_of(&mut self, image: &Path) -> String {
        let outcome = run(Command::new("losetup").args(["--find", "--show"]).arg(image));
        let device = outcome.ok().trim().to_string();
        self.loops.push(device.clone());
        device
    }

    /// Copies all images at one instant.
    fn copy_disks(&self) -> HashMap<String, PathBuf> {
        let freeze = |flag: &str, disk: &LabDisk| {
            run(Command::new("fsfreeze").arg(flag).arg(&disk.point)).exits(0);
        };
        self.disks.iter().for_each(|disk| freeze("--freeze", disk));
        let copied = self.disks.iter().map(|disk| {
            let copy = self.folder.path().join(unique("copy"));
            std::fs::copy(&disk.image, &copy).expect("a copy");
            (disk.volume_id.clone(), copy)
        });
        let copied = copied.collect();
        self.disks.iter().for_each(|disk| freeze("--unfreeze", disk));
        copied
    }
}

/// Makes a file system on a loop device and mounts it, once, to see whether that is allowed.
fn has_loop_devices(folder: &Path) -> bool {
    let (image, point) = (folder.join("probe.img"), folder.join("probe"));
    let made = std::fs::File::create(&image).and_then(|file| file.set_len(4 << 20));
    let succeeds = |program: &str, words: &[&str], path: &Path| {
        let outcome = Command::new(program).args(words).arg(path).output();
        outcome.is_ok_and(|output| output.status.success())
    };
    let image_name = image.display().to_string();
    let mounted = made.is_ok()
        && std::fs::create_dir(&point).is_ok()
        && succeeds("mkfs.ext4", &["-q"], &image)
        && succeeds("mount", &["-o", "loop", &image_name], &point);
    mounted && succeeds("umount", &[], &point)
}

fn respond(request: &Request, state: &mut State) -> Answer {
    let authorization = request.header("authorization").unwrap_or_default();
    assert!(authorization.contains("/ec2/aws4_request"), "not signed for EC2: {authorization}");
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let parameters = query(&body);
    let value = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    let action = value("Action");
    state.actions.push(action.clone());
    if let Err(why) = model::ec2().check_query(&parameters) {
        return refusal("NotInTheModel", &why);
    }
    match action.as_str() {
        "LockSnapshot" => return lock_snapshot(state, &parameters),
        "DeleteSnapshot" if state.locks.contains(&value("SnapshotId")) => {
            return refusal("SnapshotLocked", "The snapshot is locked.");
        }
        "AttachVolume" => return attach(state, &body, &value("VolumeId"), &value("Device")),
        _ => {}
    }
    let copies = match action.as_str() {
        "CreateSnapshot" | "CreateSnapshots" => state.copy_disks(),
        _ => HashMap::new(),
    };
    let late = state.late_volume.clone().filter(|_| action == "CreateSnapshots");
    let change_late = |action: &str| {
        if let Some(LateVolume { volume_id, instance_id }) = &late {
            let device = if action == "AttachVolume" { "&Device=/dev/sdz" } else { "" };
            let query =
                format!("Action={action}&VolumeId={volume_id}&InstanceId={instance_id}{device}");
            let (status, body) = forward(&state.endpoint, &format!("{query}&Version=2016-11-15"));
            assert_eq!(status, 200, "{query}: {body}");
        }
    };
    change_late("AttachVolume");
    let (status, mut answer) = forward(&state.endpoint, &body);
    change_late("DetachVolume");
    if status == 200 && !copies.is_empty() {
        let ids = between(&answer, "<snapshotId>", "</snapshotId>");
        let volumes = between(&answer, "<volumeId>", "</volumeId>");
        for (id, volume) in ids.into_iter().zip(volumes) {
            if let Some(copy) = copies.get(&volume) {
                state.copies.insert(id, copy.clone());
            }
        }
    }
    if action == "DescribeSnapshots" && state.pending_looks > 0 {
        state.pending_looks -= 1;
        answer = answer
            .replace("<status>completed</status>", "<status>pending</status>")
            .replace("<progress>100%</progress>", "<progress>40%</progress>");
    }
    Answer::new(status).body("text/xml", answer)
}

fn lock_snapshot(state: &mut State, parameters: &HashMap<String, String>) -> Answer {
    let value = |name: &str| parameters.get(name).cloned();
    let mode = value("LockMode").unwrap_or_default();
    let terms = [value("LockDuration"), value("ExpirationDate")].into_iter().flatten().count();
    if !["governance", "compliance"].contains(&mode.as_str()) || terms != 1 {
        return refusal("InvalidParameterValue", "LockMode and one term are needed.");
    }
    let id = value("SnapshotId").unwrap_or_default();
    let cool_off = value("CoolOffPeriod").unwrap_or_default();
    let term = value("LockDuration").or_else(|| value("ExpirationDate")).unwrap_or_default();
    state.locks.insert(id.clone());
    state.lock_calls.push(format!("{mode} {term} {cool_off}").trim().to_string());
    let text = format!(
        "<LockSnapshotResponse><snapshotId>{id}</snapshotId><lockState>{mode}</lockState>\
         </LockSnapshotResponse>"
    );
    Answer::new(200).body("text/xml", text)
}

/// A volume made of a snapshot appears as a loop device on the snapshot's copy.
fn attach(state: &mut State, body: &str, volume: &str, device: &str) -> Answer {
    let query = format!("Action=DescribeVolumes&Version=2016-11-15&VolumeId.1={volume}");
    let (_, described) = forward(&state.endpoint, &query);
    let snapshot = between(&described, "<snapshotId>", "</snapshotId>").remove(0);
    let copy = state.copies.get(&snapshot).cloned().expect("a snapshot of the lab");
    let image = state.folder.path().join(unique("volume"));
    std::fs::copy(copy, &image).expect("a copy");
    let loop_device = state.loop_of(&image);
    let encoded = |text: &str| text.replace('/', "%2F");
    let body = body.replace(
        &format!("Device={}", encoded(device)),
        &format!("Device={}", encoded(&loop_device)),
    );
    let (status, answer) = forward(&state.endpoint, &body);
    Answer::new(status).body("text/xml", answer)
}

fn refusal(code: &str, message: &str) -> Answer {
    let text = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         </Response>"
    );
    Answer::new(400).body("text/xml", text)
}

/// An answer of EC2 that refuses a call.
pub fn denied() -> Answer {
    let answer = refusal("UnauthorizedOperation", "You are not authorized.");
    Answer { status: 403, ..answer }
}

/// EC2 is too busy; nothing was done.
pub fn throttled() -> Answer {
    Answer { status: 503, ..refusal("RequestLimitExceeded", "Request limit exceeded.") }
}

fn forward(endpoint: &str, body: &str) -> (u16, String) {
    let credential = format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, \
         Signature=0"
    );
    let headers = [
        ("Authorization", credential.as_str()),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    http::request("POST", endpoint, "/", &headers, body)
}

fn name_tag(kind: &str, name: &str) -> String {
    format!(
        "&TagSpecification.1.ResourceType={kind}&TagSpecification.1.Tag.1.Key=Name\
         &TagSpecification.1.Tag.1.Value={name}"
    )
}

fn filter(name: &str, value: &str) -> String {
    format!("Filter.1.Name={}&Filter.1.Value.1={value}", name.replace(':', "%3A"))
}

/// The texts between two marks, in order.
fn between(text: &str, begin: &str, end: &str) -> Vec<String> {
    text.split(begin)
        .skip(1)
        .filter_map(|rest| rest.split_once(end))
        .map(|(found, _)| found.to_string())
        .collect()
}

/// The items of an answer's set, each with what is inside of it.
fn items(answer: &str, set: &str) -> Vec<String> {
    let set = between(answer, &format!("<{set}>"), &format!("</{set}>"));
    let set = set.first().cloned().unwrap_or_default();
    let mut depth = 0;
    let mut items = Vec::new();
    let mut current = String::new();
    for piece in set.split_inclusive('>') {
        if piece.ends_with("</item>") {
            depth -= 1;
        }
        current.push_str(piece);
        if piece.ends_with("<item>") {
            depth += 1;
        }
        if depth == 0 && !current.trim().is_empty() {
            items.push(std::mem::take(&mut current));
        }
    }
    items
}
