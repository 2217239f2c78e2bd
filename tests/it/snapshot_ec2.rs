//! What EC2 does and LocalStack does not: pages, throttling, snapshots that are not seen yet,
//! calls that are not allowed. A scripted server answers, and checks what it is asked.

use crate::control_planes::model;
use crate::control_planes::server::{Server, lock};
use crate::gcs_fake::http::{Answer, Request, query};
use crate::support::snapshots::{PATIENCE, options, plan};
use barman_cloud::cloud::Environment;
use barman_cloud::snapshot::{
    AwsSnapshot, CreateRequest, Deletion, DiskFilter, Instance, LockMode, LockTerm, SnapshotCloud,
    SnapshotErrorKind, SnapshotLock, SnapshotPlace, SnapshotRecord, VolumeRequest, open,
};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// What is expected next, and the answer to it.
struct Line {
    action: &'static str,
    /// Parameters that the call must have.
    with: Vec<(&'static str, &'static str)>,
    status: u16,
    answer: String,
}

/// A server that plays its lines in order.
struct Script {
    server: Server,
    open: Arc<Mutex<VecDeque<Line>>>,
}

impl Script {
    fn play(lines: Vec<Line>) -> Self {
        let open = Arc::new(Mutex::new(VecDeque::from(lines)));
        let serving = Arc::clone(&open);
        let handler = move |request: &Request, _: &str| {
            let parameters = query(&String::from_utf8_lossy(&request.body));
            answer(&parameters, lock(&serving).pop_front())
        };
        Self { server: Server::start(Box::new(handler)).expect("a free port"), open }
    }

    fn cloud(&self) -> Arc<dyn SnapshotCloud> {
        let endpoint = self.server.endpoint();
        let environment = Environment::of([
            ("AWS_ENDPOINT_URL_EC2", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        let place = SnapshotPlace::Aws { region: Some("eu-west-1".into()) };
        open(&place, &options(), &environment).expect("a cloud")
    }

    fn is_played(&self) {
        assert_eq!(lock(&self.open).len(), 0, "calls that were expected did not come");
    }
}

/// A call that is not in the script gets a refusal that no test expects.
fn answer(parameters: &HashMap<String, String>, line: Option<Line>) -> Answer {
    let unexpected = |why: String| Answer::new(400).body("text/xml", refusal("Unexpected", &why));
    let Some(line) = line else { return unexpected(format!("{parameters:?}")) };
    let action = parameters.get("Action").map(String::as_str).unwrap_or_default();
    if action != line.action {
        return unexpected(format!("{action} came where {} was expected", line.action));
    }
    let checked = model::ec2().check_query(parameters);
    let checked = checked.and_then(|()| match line.status {
        200 => model::ec2().check_answer(action, &line.answer),
        _ => Ok(()),
    });
    if let Err(why) = checked {
        return unexpected(why);
    }
    for (name, value) in &line.with {
        if parameters.get(*name).map(String::as_str) != Some(*value) {
            return unexpected(format!("{name} is not {value}: {parameters:?}"));
        }
    }
    Answer::new(line.status).body("text/xml", line.answer)
}

fn line(action: &'static str, answer: impl Into<String>) -> Line {
    Line { action, with: Vec::new(), status: 200, answer: answer.into() }
}

fn refused(action: &'static str, status: u16, code: &str) -> Line {
    Line { action, with: Vec::new(), status, answer: refusal(code, "No.") }
}

fn refusal(code: &str, message: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         </Response>"
    )
}

fn instances() -> Line {
    line(
        "DescribeInstances",
        "<R><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
         <rootDeviceName>/dev/xvda</rootDeviceName><placement><availabilityZone>eu-west-1a\
         </availabilityZone></placement></item></instancesSet></item></reservationSet></R>",
    )
}

fn volume(id: &str, name: &str, device: &str) -> String {
    format!(
        "<item><volumeId>{id}</volumeId><attachmentSet><item><instanceId>i-1</instanceId>\
         <device>{device}</device></item></attachmentSet><tagSet><item><key>Name</key>\
         <value>{name}</value></item></tagSet></item>"
    )
}

fn volumes(items: &[String], token: &str) -> String {
    format!("<R><volumeSet>{}</volumeSet><nextToken>{token}</nextToken></R>", items.concat())
}

fn record(id: &str) -> SnapshotRecord {
    SnapshotRecord::Aws(AwsSnapshot {
        device_name: None,
        snapshot_id: id.into(),
        snapshot_name: None,
        lock_mode: None,
        account_id: None,
    })
}

fn two_disks() -> Vec<Line> {
    let disks = [volume("vol-1", "a", "/dev/sdf"), volume("vol-2", "b", "/dev/sdg")];
    let others = [volume("vol-3", "c", "/dev/sdh"), volume("vol-0", "root", "/dev/xvda")];
    let second =
        Line { with: vec![("NextToken", "more")], ..line("DescribeVolumes", volumes(&others, "")) };
    vec![instances(), line("DescribeVolumes", volumes(&disks, "more")), second]
}

/// Asks for snapshots of the disks `a` and `b`, after [`two_disks`].
async fn create(cloud: &dyn SnapshotCloud) -> Result<Vec<SnapshotRecord>, SnapshotErrorKind> {
    let filter = DiskFilter::Named(vec!["a".into(), "b".into()]);
    let instance = cloud.instance("pg", &filter).await.expect("an instance");
    assert_eq!(
        (instance.zone.as_str(), instance.others.as_slice()),
        ("eu-west-1a", &["vol-3".to_string()][..])
    );
    let planned = plan(&instance, &["a", "b"]).expect("both");
    let (marker, tags) = ("marker", Vec::new());
    let request = CreateRequest { instance: &instance, planned: &planned, marker, tags: &tags };
    cloud.create(&request).await.map_err(|error| error.kind)
}

fn created(snapshots: &[(&str, &str)]) -> String {
    let items = snapshots.iter().map(|(id, volume)| {
        format!(
            "<item><snapshotId>{id}</snapshotId><volumeId>{volume}</volumeId>\
             <ownerId>1</ownerId><description>marker</description></item>"
        )
    });
    format!("<R><snapshotSet>{}</snapshotSet></R>", items.collect::<String>())
}

fn names(records: &[SnapshotRecord]) -> Vec<&str> {
    records.iter().map(SnapshotRecord::identifier).collect()
}

const BOTH: [(&str, &str); 2] = [("snap-2", "vol-2"), ("snap-1", "vol-1")];

#[tokio::test]
async fn pages_of_volumes_are_followed_and_other_volumes_are_left_out_of_the_snapshots() {
    let mut lines = two_disks();
    lines.push(Line {
        with: vec![
            ("InstanceSpecification.InstanceId", "i-1"),
            ("InstanceSpecification.ExcludeBootVolume", "true"),
            ("InstanceSpecification.ExcludeDataVolumeId.1", "vol-3"),
            ("Description", "marker"),
        ],
        ..line("CreateSnapshots", created(&BOTH))
    });
    lines.extend([line("CreateTags", "<R/>"), line("CreateTags", "<R/>")]);
    let script = Script::play(lines);
    let records = create(&*script.cloud()).await.expect("created");
    assert_eq!(names(&records), ["snap-1", "snap-2"], "in the order of the disks");
    script.is_played();
}

#[tokio::test]
async fn without_the_right_to_create_them_together_snapshots_are_created_one_by_one() {
    let mut lines = two_disks();
    lines.push(refused("CreateSnapshots", 403, "UnauthorizedOperation"));
    let one = "<R><snapshotId>snap-9</snapshotId><status>pending</status></R>";
    lines.extend([line("CreateSnapshot", one), line("CreateSnapshot", one)]);
    let script = Script::play(lines);
    create(&*script.cloud()).await.expect("created");
    script.is_played();
}

#[tokio::test]
async fn snapshots_of_a_call_that_failed_doubtfully_are_found_and_not_made_twice() {
    let mut lines = two_disks();
    lines.push(refused("CreateSnapshots", 500, "InternalError"));
    lines.push(line("DescribeSnapshots", "<R><snapshotSet/></R>"));
    lines.push(line("DescribeSnapshots", created(&BOTH)));
    lines.extend([line("CreateTags", "<R/>"), line("CreateTags", "<R/>")]);
    let script = Script::play(lines);
    assert_eq!(names(&create(&*script.cloud()).await.expect("found")), ["snap-1", "snap-2"]);
    script.is_played();
}

#[tokio::test]
async fn throttling_is_waited_for_and_a_new_snapshot_may_not_be_seen_yet() {
    let mut lines = two_disks();
    lines.push(refused("CreateSnapshots", 503, "RequestLimitExceeded"));
    lines.push(refused("CreateSnapshots", 400, "SnapshotCreationPerVolumeRateExceeded"));
    lines.push(line("CreateSnapshots", created(&BOTH)));
    lines.push(refused("CreateTags", 400, "InvalidSnapshot.NotFound"));
    lines.extend([line("CreateTags", "<R/>"), line("CreateTags", "<R/>")]);
    let script = Script::play(lines);
    assert_eq!(names(&create(&*script.cloud()).await.expect("created")), ["snap-1", "snap-2"]);
    script.is_played();

    let script = Script::play(vec![
        refused("LockSnapshot", 400, "InvalidSnapshot.NotFound"),
        Line {
            with: vec![
                ("SnapshotId", "snap-1"),
                ("LockMode", "compliance"),
                ("ExpirationDate", "2030-01-01T00:00:00Z"),
                ("CoolOffPeriod", "5"),
            ],
            ..line("LockSnapshot", "<R/>")
        },
    ]);
    let term = LockTerm::Until("2030-01-01T00:00:00Z".parse().expect("time"));
    let lock = SnapshotLock { mode: LockMode::Compliance, term, cool_off_hours: Some(5) };
    let locked = script.cloud().lock(&record("snap-1"), &lock).await.expect("locked");
    assert!(matches!(&locked, SnapshotRecord::Aws(aws) if aws.lock_mode.is_some()), "{locked:?}");
    script.is_played();
}

#[tokio::test]
async fn deletions_tell_locked_absent_and_forbidden_apart() {
    let script = Script::play(vec![
        refused("DeleteSnapshot", 400, "InvalidSnapshot.NotFound"),
        refused("DeleteSnapshot", 400, "SnapshotLocked"),
        refused("DeleteSnapshot", 403, "UnauthorizedOperation"),
    ]);
    let cloud = script.cloud();
    assert_eq!(cloud.delete(&record("snap-1")).await, Ok(Deletion::Absent));
    let locked = cloud.delete(&record("snap-1")).await.expect_err("locked");
    assert_eq!(locked.kind, SnapshotErrorKind::Locked);
    let denied = cloud.delete(&record("snap-1")).await.expect_err("denied");
    assert_eq!(denied.kind, SnapshotErrorKind::Denied);
    assert_eq!(
        denied.hint.as_deref(),
        Some("Allow ec2:DeleteSnapshot for this identity in this region.")
    );
}

#[tokio::test]
async fn a_volume_that_was_attached_meanwhile_loses_its_snapshot_again() {
    let mut lines = two_disks();
    let set = created(&[BOTH[0], ("snap-9", "vol-9"), BOTH[1]]);
    lines.push(line("CreateSnapshots", set));
    let with = vec![("SnapshotId", "snap-9")];
    lines.push(Line { with, ..line("DeleteSnapshot", "<R><return>true</return></R>") });
    lines.extend([line("CreateTags", "<R/>"), line("CreateTags", "<R/>")]);
    let script = Script::play(lines);
    assert_eq!(names(&create(&*script.cloud()).await.expect("created")), ["snap-1", "snap-2"]);
    script.is_played();
}

#[tokio::test]
async fn a_snapshot_beyond_the_plan_that_cannot_be_deleted_fails_the_backup_and_is_found_again() {
    let mut lines = two_disks();
    lines.push(line("CreateSnapshots", created(&[BOTH[0], ("snap-9", "vol-9"), BOTH[1]])));
    lines.push(refused("DeleteSnapshot", 403, "UnauthorizedOperation"));
    // Nothing is seen yet, and yet all three are known.
    lines.push(line("DescribeSnapshots", "<R><snapshotSet/></R>"));
    let script = Script::play(lines);
    let cloud = script.cloud();
    assert_eq!(create(&*cloud).await, Err(SnapshotErrorKind::Denied));
    let found = cloud.find(&[], "marker").await.expect("looked");
    assert_eq!(names(&found), ["snap-1", "snap-2", "snap-9"]);
    script.is_played();
}

#[tokio::test]
async fn leftovers_are_found_by_their_marker_whatever_volume_they_are_of() {
    let found = created(&[BOTH[0], ("snap-9", "vol-9")]);
    let other = found.replace("<description>marker<", "<description>marker of another<");
    let script = Script::play(vec![
        Line {
            with: vec![
                ("Filter.1.Name", "description"),
                ("Filter.1.Value.1", "marker"),
                ("Owner.1", "self"),
            ],
            ..line("DescribeSnapshots", found)
        },
        line("DescribeSnapshots", other),
    ]);
    let cloud = script.cloud();
    assert_eq!(names(&cloud.find(&[], "marker").await.expect("found")), ["snap-2", "snap-9"]);
    assert_eq!(cloud.find(&[], "marker").await, Ok(Vec::new()));
    script.is_played();
}

#[tokio::test]
async fn beyond_the_limit_of_volumes_that_can_be_left_out_snapshots_are_created_one_by_one() {
    let (a, b) = (volume("vol-1", "a", "/dev/sdf"), volume("vol-2", "b", "/dev/sdg"));
    let others = (3..44).map(|number| volume(&format!("vol-{number}"), "x", "/dev/sdh"));
    let all: Vec<String> = [a, b].into_iter().chain(others).collect();
    let snapshot = |volume: &'static str| Line {
        with: vec![("VolumeId", volume), ("Description", "marker")],
        ..line("CreateSnapshot", "<R><snapshotId>snap-9</snapshotId><status>pending</status></R>")
    };
    let lines = vec![
        instances(),
        line("DescribeVolumes", volumes(&all, "")),
        snapshot("vol-1"),
        snapshot("vol-2"),
    ];
    let script = Script::play(lines);
    let cloud = script.cloud();
    let filter = DiskFilter::Named(vec!["a".into(), "b".into()]);
    let instance = cloud.instance("pg", &filter).await.expect("an instance");
    assert_eq!(instance.others.len(), 41);
    let planned = plan(&instance, &["a", "b"]).expect("both");
    let request =
        CreateRequest { instance: &instance, planned: &planned, marker: "marker", tags: &[] };
    assert_eq!(cloud.create(&request).await.expect("created").len(), 2);
    script.is_played();
}

#[tokio::test]
async fn limits_of_the_account_are_told_at_once_and_not_waited_for() {
    for code in ["SnapshotLimitExceeded", "ResourceLimitExceeded", "VolumeLimitExceeded"] {
        let mut lines = two_disks();
        lines.push(refused("CreateSnapshots", 400, code));
        let script = Script::play(lines);
        assert_eq!(create(&*script.cloud()).await, Err(SnapshotErrorKind::Call), "{code}");
        script.is_played();
    }
}

#[tokio::test]
async fn a_snapshot_that_an_image_needs_is_named_and_a_new_one_is_deleted_although_unseen() {
    let script = Script::play(vec![refused("DeleteSnapshot", 400, "InvalidSnapshot.InUse")]);
    let error = script.cloud().delete(&record("snap-1")).await.expect_err("in use");
    assert!(error.message.contains("an image was made of it"), "{error}");
    assert!(error.hint.expect("hint").contains("AMI"));

    let mut lines = two_disks();
    lines.push(line("CreateSnapshots", created(&BOTH)));
    lines.extend([line("CreateTags", "<R/>"), line("CreateTags", "<R/>")]);
    lines.push(refused("DeleteSnapshot", 400, "InvalidSnapshot.NotFound"));
    lines.push(line("DeleteSnapshot", "<R><return>true</return></R>"));
    let script = Script::play(lines);
    let cloud = script.cloud();
    let records = create(&*cloud).await.expect("created");
    assert_eq!(cloud.delete(&records[0]).await, Ok(Deletion::Deleted));
    script.is_played();
}

#[tokio::test]
async fn a_volume_that_refuses_to_be_deleted_for_a_moment_is_deleted_after_it() {
    let found = "<R><volumeSet><item><volumeId>vol-5</volumeId><status>creating</status></item>\
                 </volumeSet></R>";
    let script = Script::play(vec![
        line("DescribeVolumes", found),
        refused("DeleteVolume", 400, "IncorrectState"),
        refused("DeleteVolume", 400, "VolumeInUse"),
        line("DeleteVolume", "<R><return>true</return></R>"),
    ]);
    let cloud = script.cloud();
    let instance = Instance {
        id: "i-1".into(),
        name: "pg".into(),
        zone: "eu-west-1a".into(),
        volumes: Vec::new(),
        others: Vec::new(),
    };
    let snapshot = record("snap-1");
    let request = VolumeRequest {
        instance: &instance,
        snapshot: &snapshot,
        name: "restored",
        patience: PATIENCE,
    };
    cloud.discard_volume(&request).await.expect("discarded");
    script.is_played();
}
