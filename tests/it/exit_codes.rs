//! Barman's table of exit codes, row by row, on live stores: reaching them, and the command line.
//!
//! Rows about backups and WAL files are in `exit_codes_content`. The strings are the contract's;
//! a row that we answer otherwise on purpose says so, and the README's "Where it differs" has it.

use crate::gcs_fake::{Fault, GcsFake};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::commands::COMMANDS;
use crate::support::fixtures::{OLDEST, SERVER, segment, segment_name};
use crate::support::places::{Line, Place, Row, check, row};
use crate::support::scratch::{give_to_postgres, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use crate::support::web::{WebAnswer, WebServer};
use std::fs;
use tempfile::TempDir;

const BACKUP: &str = "barman-cloud-backup";
const CHECK: &str = "barman-cloud-check-wal-archive";

/// What all rows share: stores with a bucket, a PostgreSQL, a WAL file.
struct World {
    places: Vec<Place>,
    /// Keeps folders of stores.
    _stores: Vec<StoreUnderTest>,
    cluster: Cluster,
    folder: TempDir,
}

impl World {
    fn set() -> Option<Self> {
        let kinds = [StoreKind::S3, StoreKind::Azure, StoreKind::Gcs, StoreKind::File];
        let stores = kinds.map(StoreUnderTest::open).into_iter().collect::<Option<Vec<_>>>()?;
        let settings = vec![("archive_mode", "on".into()), ("archive_command", "true".into())];
        let cluster = Cluster::create(&ClusterOptions { settings, ..ClusterOptions::default() });
        cluster.psql("create role nobody login");
        let folder = scratch();
        fs::write(folder.path().join(segment_name(1)), segment(1)).expect("a segment");
        give_to_postgres(&folder.path().join(segment_name(1)));
        let places = stores.iter().map(Place::of).collect();
        Some(Self { places, _stores: stores, cluster, folder })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A command line that has nothing wrong with it but, perhaps, the place.
    fn line(&self, name: &'static str, place: &Place) -> Line {
        let (wal, there) = (segment_name(1), self.path("target"));
        let (source, spool) = (self.path(&wal), self.path("spool"));
        let line = Line { name, place: place.clone(), options: vec![], positionals: vec![] };
        let connection = self.cluster.connection();
        let connection: Vec<&str> = connection.iter().map(String::as_str).collect();
        match name.trim_start_matches("barman-cloud-") {
            "backup" => line.with(&connection).on(&[SERVER]),
            "backup-delete" => line.with(&["-b", OLDEST]).on(&[SERVER]),
            "backup-keep" => line.with(&["--status"]).on(&[SERVER, OLDEST]),
            "backup-list" | "check-wal-archive" => line.on(&[SERVER]),
            "backup-show" => line.on(&[SERVER, OLDEST]),
            "restore" => line.on(&[SERVER, OLDEST, &there]),
            "wal-archive" => line.on(&[SERVER, &source]),
            _ => line.with(&["--spool-dir", &spool]).on(&[SERVER, &wal, &there]),
        }
    }

    /// Every command but `without`, at each of `places`.
    fn lines(&self, places: &[Place], without: &[&str]) -> Vec<Line> {
        let names = COMMANDS.into_iter().filter(|name| !without.contains(name));
        names.flat_map(|name| places.iter().map(move |place| self.line(name, place))).collect()
    }

    fn tests(&self, places: &[Place], without: &[&str]) -> Vec<Line> {
        self.lines(places, without).into_iter().map(|line| line.with(&["--test"])).collect()
    }

    /// The places with a server.
    fn clouds(&self) -> Vec<Place> {
        self.places.iter().filter(|place| place.kind != StoreKind::File).cloned().collect()
    }

    fn s3(&self) -> Place {
        self.places[0].clone()
    }
}

fn all(places: &[Place], change: fn(Place) -> Place) -> Vec<Place> {
    places.iter().cloned().map(change).collect()
}

/// Stores that answer 403: two by their own judgement, Google's and a further S3 by order.
fn denying(world: &World, google: &GcsFake, s3: &WebServer) -> Vec<Place> {
    let mut places = vec![world.s3().at(&s3.url())];
    for place in world.clouds() {
        match place.kind {
            StoreKind::Azure => {
                let (_, connection) = place.environment[0].clone();
                let other = connection.replace("AccountKey=E", "AccountKey=F");
                places.push(place.with_variable("AZURE_STORAGE_CONNECTION_STRING", &other));
            }
            StoreKind::Gcs => {
                for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
                    google.fail(method, "/", 0, usize::MAX, Fault::Status(403));
                }
                places.push(place.at(&google.endpoint()));
            }
            _ => {}
        }
    }
    if let Some(strict) = StoreUnderTest::open(StoreKind::S3Strict) {
        places.push(Place::of(&strict).with_variable("AWS_SECRET_ACCESS_KEY", "wrong"));
    }
    places
}

fn without_credentials(world: &World) -> Vec<Place> {
    let s3 = world.s3().without_variable("AWS_ACCESS_KEY_ID");
    let s3 = s3.without_variable("AWS_SECRET_ACCESS_KEY");
    let azure = world.places[1].clone().without_variable("AZURE_STORAGE_CONNECTION_STRING");
    let google = world.places[2].clone().without_variable("STORAGE_EMULATOR_HOST");
    vec![s3, azure, google.with_variable("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")]
}

#[test]
fn a_store_that_is_there_or_not_has_the_exit_codes_of_the_contract() {
    let Some(world) = World::set() else { return };
    let google = GcsFake::start().expect("the fake starts");
    let s3 = WebServer::play(|_| WebAnswer::error(403, "AccessDenied"));
    let denied = denying(&world, &google, &s3);
    let unresolvable = world.s3().at("https://nobody.invalid");
    let silent = WebServer::play(|_| WebAnswer::Silence);
    let silent = [world.s3().at(&silent.url())];
    let refusing = all(&world.clouds(), Place::refusing);
    let missing = all(&world.places, Place::without_bucket);
    let nobody = without_credentials(&world);
    let timed = |lines: Vec<Line>| -> Vec<Line> {
        lines.into_iter().map(|line| line.with(&["--read-timeout", "1"])).collect()
    };
    let not_resolved = world.tests(&[unresolvable], &[]);
    let unanswered = [refusing.clone(), denied.clone()].concat();
    let told_apart = [BACKUP, CHECK];
    check(vec![
        row("--test, bucket exists: all", 0, world.tests(&world.places, &[])),
        row("--test, bucket missing: all but check", 1, world.tests(&missing, &[CHECK])),
        row("--test, bucket missing: check", 0, tests_of(&world, CHECK, &missing)),
        row("--test, endpoint refuses: all", 2, world.tests(&refusing, &[])),
        row("--test, DNS fails: all", 2, not_resolved),
        row("--test, no credentials: all", 4, world.tests(&nobody, &[])),
        row("--test, HTTP 403: all", 4, world.tests(&denied, &[])),
        row("--test, read timeout (S3): all", 4, timed(world.tests(&silent, &[]))),
        row("endpoint refuses or HTTP 403: seven", 4, world.lines(&unanswered, &told_apart)),
        row("endpoint refuses: check", 2, lines_of(&world, CHECK, &refusing)),
        row("HTTP 403: check", 4, lines_of(&world, CHECK, &denied)),
        row("endpoint refuses: backup", 1, lines_of(&world, BACKUP, &refusing)),
        row("bucket missing: backup", 1, lines_of(&world, BACKUP, &missing)),
        row("bucket missing: seven", 4, world.lines(&missing, &told_apart)),
        row("no credentials: all but backup", 4, world.lines(&nobody, &[BACKUP])),
        row("no credentials: backup", 1, lines_of(&world, BACKUP, &nobody[..2])),
        // That row means what fails inside of the backup; a bad file is seen before it.
        row("no usable settings: backup", 4, lines_of(&world, BACKUP, &nobody[2..])),
    ]);
    let created = all(&world.places, Place::without_bucket);
    check(vec![row("bucket missing: check creates it", 0, lines_of(&world, CHECK, &created))]);
    check(vec![row("bucket created by check", 0, world.tests(&created, &[]))]);
    check(vec![row("bucket not created by others", 1, world.tests(&missing, &[CHECK]))]);
}

fn lines_of(world: &World, name: &'static str, places: &[Place]) -> Vec<Line> {
    places.iter().map(|place| world.line(name, place)).collect()
}

fn tests_of(world: &World, name: &'static str, places: &[Place]) -> Vec<Line> {
    lines_of(world, name, places).into_iter().map(|line| line.with(&["--test"])).collect()
}

/// Everything that can be wrong before a store is asked; `cli` has many more such lines.
#[test]
fn a_wrong_command_line_has_the_exit_codes_of_the_contract() {
    let Some(world) = World::set() else { return };
    let s3 = world.s3();
    let bad =
        |urls: &[&str]| -> Vec<Place> { urls.iter().map(|url| s3.clone().with_url(url)).collect() };
    let with = |options: &[&str], without: &[&str]| -> Vec<Line> {
        world
            .lines(std::slice::from_ref(&s3), without)
            .into_iter()
            .map(|line| line.with(options))
            .collect()
    };
    let backup = |options: &[&str]| world.line(BACKUP, &s3).with(options);
    let mut rows: Vec<Row> = vec![
        row("bad URL: all", 4, world.lines(&bad(&["b", "https://b", "s3:///x"]), &[])),
        row("bad profile: all but backup", 4, with(&["-P", "nobody"], &[BACKUP])),
        row("usage error: all", 3, with(&["--nonsense"], &[])),
        row("bad choice: all", 3, with(&["--cloud-provider", "aws"], &[])),
        row("bad int: all", 3, with(&["--read-timeout", "x"], &[])),
    ];
    rows.extend([
        row(
            "bad size, tag, name: backup",
            3,
            vec![backup(&["-S", "5M"]), backup(&["--tag", "a"]), backup(&["--name", "latest"])],
        ),
        row(
            "cannot connect to PostgreSQL: backup",
            1,
            vec![
                backup(&["-p", "1"]),
                backup(&["-U", "stranger"]),
                backup(&["-d", "nothing"]),
                backup(&["-h", "/nonexistent"]),
            ],
        ),
        row("malformed conninfo: backup", 4, vec![backup(&["-d", "host=/x words"])]),
        row(
            "conninfo that libpq refuses: backup",
            1,
            vec![
                backup(&["-d", "host=/x nonsense=1"]),
                backup(&["-p", "x"]),
                backup(&[]).with_variable("PGSSLMODE", "perhaps"),
                backup(&[]).with_variable("PGSERVICE", "nobody"),
            ],
        ),
        row("missing privileges: backup", 1, vec![backup(&["-U", "nobody"])]),
        row(
            "bad option combination: backup",
            4,
            vec![backup(&["--sse-kms-key-id", "k"]), backup(&["--tag", "a,b", "--tag", "a,c"])],
        ),
    ]);
    check(rows);
}

/// The rest of the rows of `backup`: what ends one that has begun.
#[test]
fn a_backup_that_fails_on_its_way_exits_1_and_is_recorded_as_failed() {
    let Some(world) = World::set() else { return };
    let google = GcsFake::start().expect("the fake starts");
    let bucket = world.places[2].url.split('/').nth(2).expect("a bucket").to_string();
    google.create_bucket(&bucket);
    google.fail("POST", "%2Fdata", 0, usize::MAX, Fault::Status(403));
    google.fail("PUT", "%2Fdata", 0, usize::MAX, Fault::Status(403));
    let broken = world.places[2].clone().at(&google.endpoint());
    let options = ["--no-wal-check", "--immediate-checkpoint"];
    let upload = world.line(BACKUP, &broken).with(&options);
    // The cluster's archive_command archives nowhere. Barman: 0.
    let waiting = world.line(BACKUP, &world.places[3]).with(&["--wal-timeout", "1", options[1]]);
    check(vec![
        row("upload error: backup", 1, vec![upload]),
        row("the WAL does not arrive: backup", 1, vec![waiting]),
    ]);
    let told = google.names(&bucket);
    let info = told.iter().find(|name| name.ends_with("backup.info")).expect("a record");
    let info = google.object(&bucket, info).expect("it is there");
    let info = String::from_utf8_lossy(&info).into_owned();
    assert!(info.contains("status=FAILED") && info.contains("error=failure uploading"), "{info}");
    assert!(info.contains("end_time=None"), "{info}");

    let unreadable = world.cluster.data().join("base/unreadable");
    fs::create_dir(&unreadable).expect("mkdir");
    let line = world.line(BACKUP, &world.places[0]).with(&options);
    match rustix::process::geteuid().is_root() {
        // The commands run as PostgreSQL's user; this folder is root's.
        true => {
            fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        }
        false => {
            fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o0))
        }
    }
    .expect("chmod");
    check(vec![row("unreadable file: backup", 1, vec![line])]);
}
