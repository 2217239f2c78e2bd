//! Barman's table of exit codes, row by row, on live stores: backups and WAL files.
//!
//! The other rows are in `exit_codes`. Where we answer otherwise on purpose the row says what
//! Barman answers, and the README's "Where it differs" has the reason.

use crate::gcs_fake::{Fault, GcsFake};
use crate::support::commands::Commands;
use crate::support::fixtures::{NEWEST, OLDEST, SERVER, put_backups, segment, segment_name};
use crate::support::http;
use crate::support::places::{Line, Place, check, row};
use crate::support::scratch::{give_to_postgres, scratch};
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const DELETE: &str = "barman-cloud-backup-delete";
const KEEP: &str = "barman-cloud-backup-keep";
const LIST: &str = "barman-cloud-backup-list";
const SHOW: &str = "barman-cloud-backup-show";
const RESTORE: &str = "barman-cloud-restore";
const ARCHIVE: &str = "barman-cloud-wal-archive";
const FETCH: &str = "barman-cloud-wal-restore";

const ABSENT: &str = "20200101T000000";
/// The fixtures' backup with a standalone keep.
const KEPT: &str = "20261120T235911";

/// A store and a folder of the test's own.
struct Scene {
    store: StoreUnderTest,
    place: Place,
    folder: TempDir,
}

impl Scene {
    fn empty(kind: StoreKind) -> Option<Self> {
        let store = StoreUnderTest::open(kind)?;
        let place = Place::of(&store);
        Some(Self { store, place, folder: scratch() })
    }

    fn with_backups(kind: StoreKind) -> Option<Self> {
        let scene = Self::empty(kind)?;
        put_backups(&scene.store);
        Some(scene)
    }

    fn line(&self, name: &'static str, options: &[&str], positionals: &[&str]) -> Line {
        let line = Line { name, place: self.place.clone(), options: vec![], positionals: vec![] };
        line.with(options).on(&[&[SERVER], positionals].concat())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A file of PostgreSQL's user.
    fn file(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).expect("write");
        give_to_postgres(Path::new(&self.path(name)));
        self.path(name)
    }

    fn restore(&self, options: &[&str], id: &str) -> Line {
        self.line(RESTORE, options, &[id, &self.path("target")])
    }

    fn key(&self, id: &str, name: &str) -> String {
        format!("{PREFIX}/{SERVER}/base/{id}/{name}")
    }

    /// Changes a line of a `backup.info`.
    fn edit(&self, id: &str, from: &str, to: &str) {
        let key = self.key(id, "backup.info");
        let text = String::from_utf8(self.store.get(&key).to_vec()).expect("text");
        assert!(text.contains(from), "{from} in {text}");
        self.store.put(&key, text.replace(from, to));
    }
}

const CLOUDS: [StoreKind; 3] = [StoreKind::S3, StoreKind::Azure, StoreKind::Gcs];

#[test]
fn a_backup_that_is_not_there_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some(scene) = Scene::with_backups(kind) else { return };
        let Scene { store, .. } = &scene;
        let before = store.keys();
        let named = |name: &str| {
            vec![
                scene.line(SHOW, &[], &[name]),
                scene.line(KEEP, &["--status"], &[name]),
                scene.line(DELETE, &["-b", name], &[]),
                scene.restore(&[], name),
            ]
        };
        let absent = vec![scene.line(SHOW, &[], &[ABSENT]), scene.restore(&[], ABSENT)];
        check(vec![
            row("unknown name: show, keep, delete, restore", 4, named("nobody")),
            row("unknown shortcut: show, keep, delete, restore", 4, named("last-failed")),
            row("absent ID: show, restore", 1, absent),
            row("absent ID: keep --status", 0, vec![scene.line(KEEP, &["--status"], &[ABSENT])]),
            row(
                "absent ID: keep --target",
                4,
                vec![scene.line(KEEP, &["--target", "full"], &[ABSENT])],
            ),
            // Barman: 4 on Google.
            row("absent ID: keep --release", 0, vec![scene.line(KEEP, &["--release"], &[ABSENT])]),
            row("absent ID: delete", 0, vec![scene.line(DELETE, &["-b", ABSENT], &[])]),
        ]);
        let ours = Commands::ours();
        let status = ours.run(KEEP, store, &["--status"], &[SERVER, ABSENT]).ok();
        assert_eq!(status, "Keep: nokeep\n");
        ours.run(DELETE, store, &["-b", ABSENT], &[SERVER]).exits(0).says("does not exist");
        assert_eq!(store.keys(), before, "{kind:?}");
    }
}

#[test]
fn a_refused_deletion_or_keep_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some(scene) = Scene::with_backups(kind) else { return };
        scene.store.put(&scene.key("20261122T000000", "backup.info"), "status=FAILED\n");
        scene.store.put(&scene.key("20261123T000000", "backup.info"), "status=STARTED\n");
        let delete = |options: &[&str]| vec![scene.line(DELETE, options, &[])];
        let keep = |id| scene.line(KEEP, &["--target", "full"], &[id]);
        let not_done = vec![keep("20261122T000000"), keep("20261123T000000")];
        let before = scene.store.keys();
        check(vec![
            row("keep on a backup that is not DONE: keep", 1, not_done),
            row("delete of a kept backup: delete", 1, delete(&["-b", KEPT])),
            row("minimum redundancy not met: delete", 1, delete(&["-b", OLDEST, "-m", "5"])),
            row("unparsable retention policy: delete", 3, delete(&["-r", "7days"])),
            // Barman crashes: 4.
            row("retention policy main: delete", 3, delete(&["-r", "main"])),
        ]);
        assert_eq!(scene.store.keys(), before, "{kind:?}: nothing was deleted");
        scene.store.put(&scene.key(KEPT, "backup.info"), "no sense");
        let wal = || scene.store.keys_below(&format!("{SERVER}/wals"));
        let wal_before = wal();
        // Barman spares the backup too; to us it is not the one that cannot be read.
        let unreadable = delete(&["-b", OLDEST]);
        check(vec![row("unreadable backup.info in the catalog: delete", 1, unreadable)]);
        assert_eq!(wal(), wal_before, "{kind:?}: no WAL was deleted");
    }
}

/// An object lock is shown in `retention`; here the store itself refuses.
#[test]
fn a_deletion_that_the_store_refuses_exits_1_whatever_it_concerns() {
    for part in ["base", "wals"] {
        let fake = GcsFake::start().expect("the fake starts");
        let Some(mut scene) = Scene::empty(StoreKind::Gcs) else { return };
        let bucket = scene.store.bucket.clone();
        fake.create_bucket(&bucket);
        scene.place = scene.place.clone().at(&fake.endpoint());
        let Some(source) = Scene::with_backups(StoreKind::Gcs) else { return };
        for (key, content) in source.store.contents() {
            let told = String::from_utf8_lossy(&content).into_owned();
            let target = format!("/{bucket}/{}", key.replace('/', "%2F"));
            let (status, _) = http::request("PUT", &fake.endpoint(), &target, &[], &told);
            assert_eq!(status, 200);
        }
        // In the key's spelling on the wire.
        fake.fail("DELETE", &format!("%2F{part}%2F"), 0, usize::MAX, Fault::Status(403));
        let line = scene.line(DELETE, &["-b", OLDEST], &[]);
        // Barman: 0 when it concerns WAL.
        check(vec![row("object deletion failed; WAL deletion fails: delete", 1, vec![line])]);
    }
}

#[test]
fn a_catalog_with_odd_entries_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some(scene) = Scene::with_backups(kind) else { return };
        scene.edit(NEWEST, "status=DONE", "status=DONE\nof_the_future=1");
        let policy = ["-r", "REDUNDANCY 4", "--dry-run"];
        let show = |id| scene.line(SHOW, &[], &[id]);
        check(vec![
            // Barman: 1, the whole catalog is unreadable to it.
            row(
                "unknown key in any backup.info: list, delete, by name",
                0,
                vec![scene.line(LIST, &[], &[]), scene.line(DELETE, &policy, &[]), show("latest")],
            ),
            // Barman: 1.
            row(
                "unknown key in that of the given ID: show, keep --target",
                0,
                vec![show(NEWEST), scene.line(KEEP, &["--target", "full"], &[NEWEST])],
            ),
        ]);
        scene.edit(NEWEST, "timeline=", "timeline=x");
        let listed = Commands::ours().run(LIST, &scene.store, &[], &[SERVER]);
        assert!(!listed.stdout.contains(NEWEST) && listed.stderr.contains(NEWEST), "{listed}");
        check(vec![
            row("malformed value in backup.info: list", 0, vec![scene.line(LIST, &[], &[])]),
            row("malformed value: show of that ID", 4, vec![show(NEWEST)]),
        ]);
    }
}

#[test]
fn a_restore_that_cannot_be_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some(scene) = Scene::with_backups(kind) else { return };
        let full = scene.path("full");
        fs::create_dir_all(format!("{full}/x")).expect("mkdir");
        give_to_postgres(Path::new(&full));
        let place = format!("contract_ts:{}", scene.path("ts"));
        let lost = "20261121T000052";
        scene.store.delete(&scene.key(lost, "data.tar.snappy"));
        scene.store.put(&scene.key(OLDEST, "data.tar.gz"), vec![7; 5000]);
        let auto = |options: &[&str]| scene.restore(options, "auto");
        let occupied = scene.line(RESTORE, &["--tablespace", &place], &[NEWEST, &full]);
        check(vec![
            row(
                "no candidate for auto: restore",
                1,
                vec![
                    auto(&["--target-tli", "9"]),
                    auto(&["--target-time", "2020-01-01 00:00:00+00"]),
                    auto(&["--target-lsn", "0/1"]),
                ],
            ),
            row("main tarball missing: restore", 1, vec![scene.restore(&[], lost)]),
            row("target not empty: restore", 1, vec![occupied]),
            row(
                "bad --tablespace rule: restore",
                3,
                vec![scene.restore(&["--tablespace", "x"], NEWEST)],
            ),
            row(
                "bad --target-time, --target-lsn: restore",
                4,
                vec![
                    auto(&["--target-time", "tomorrow-ish"]),
                    auto(&["--target-lsn", "x"]),
                    auto(&["--target-tli", "current"]),
                ],
            ),
            row(
                "corrupt tarball: restore",
                4,
                vec![scene.restore(&["--tablespace", &place], OLDEST)],
            ),
            // The snapshot checks have files of their own.
        ]);
    }
}

/// A store with one segment, and that segment as a file.
fn with_a_segment(kind: StoreKind) -> Option<(Scene, String)> {
    let scene = Scene::empty(kind)?;
    let source = scene.file(&segment_name(1), &segment(1));
    let words = [SERVER, &source];
    Commands::ours().run(ARCHIVE, &scene.store, &["--gzip"], &words).exits(0);
    Some((scene, source))
}

#[test]
fn a_wal_file_that_cannot_be_fetched_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some((scene, _)) = with_a_segment(kind) else { return };
        let name = segment_name(1);
        let broken = format!("{PREFIX}/{SERVER}/wals/0000000100000000/{}.gz", segment_name(2));
        scene.store.put(&broken, "no gzip");
        let (target, file) = (scene.path("out"), scene.file("file", b"x"));
        let there = scene.path("there");
        let spool = ["--spool-dir", &scene.path("spool")];
        let fetch = |options: &[&str], name: &str, target: &str| {
            scene.line(FETCH, &[&spool[..], options].concat(), &[name, target])
        };
        // `-p` makes the folder, which a file stands in the way of.
        let no_spool = ["-p", "2", "--spool-dir", &file];
        let absent = vec![
            fetch(&[], &segment_name(9), &target),
            fetch(&["-p", "4"], &segment_name(9), &target),
            fetch(&[], "00000009.history", &target),
            fetch(&["--no-partial"], &format!("{name}.partial"), &target),
            fetch(&[], &format!("{name}.00000028.backup"), &target),
        ];
        let no_name = vec![fetch(&[], "x", &target), fetch(&["--test"], "x", &target)];
        let corrupt = vec![fetch(&[], &segment_name(2), &target)];
        let no_target = vec![fetch(&[], &name, "/nonexistent/x")];
        check(vec![
            row("WAL not found: wal-restore", 1, absent),
            row("name is not a WAL name: wal-restore", 3, no_name),
            // Barman: 2, which ends a recovery; a spool is there for speed.
            row("spool dir cannot be made: wal-restore", 0, vec![fetch(&no_spool, &name, &there)]),
            row("corrupt object: wal-restore", 4, corrupt),
            row("destination not writable: wal-restore", 4, no_target),
        ]);
        assert!(!Path::new(&target).exists(), "Barman leaves a part of the file there");
    }
}

#[test]
fn a_wal_file_that_cannot_be_archived_has_the_exit_codes_of_the_contract() {
    for kind in CLOUDS {
        let Some((scene, _)) = with_a_segment(kind) else { return };
        let file = scene.file("file", b"x");
        let archive = |words: &[&str]| scene.line(ARCHIVE, &[], words);
        let occupied =
            |options: &[&str]| vec![scene.line("barman-cloud-check-wal-archive", options, &[])];
        let hook = |phase: &str| {
            let line = archive(&[]).with_variable("BARMAN_HOOK", "archive_script");
            line.with_variable("BARMAN_PHASE", phase)
        };
        let missing = vec![archive(&[&scene.path(&segment_name(3))])];
        let no_name = vec![archive(&[&file]), archive(&[&file]).with(&["--test"])];
        let no_path = vec![archive(&[]), hook("post"), hook("pre")];
        check(vec![
            row("name is not a WAL name: wal-archive", 3, no_name),
            row("local WAL missing: wal-archive", 4, missing),
            row("no wal_path; wrong phase; BARMAN_FILE missing: wal-archive", 1, no_path),
            row("WAL archive not empty: check-wal-archive", 1, occupied(&[])),
            row("WALs at --timeline: check-wal-archive", 1, occupied(&["--timeline", "1"])),
            row("no WALs at --timeline: check-wal-archive", 0, occupied(&["--timeline", "2"])),
        ]);
    }
}
