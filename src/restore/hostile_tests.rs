//! What a hostile store can put into a backup: nothing of it is written outside of the target.

use crate::catalog::BackupStatus;
use crate::restore::restore_tests::{Scene, Tarball, cluster, simple};
use crate::restore::{RestoreError, RestoreSummary};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use proptest::sample::select;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::EntryType;
use tempfile::TempDir;

/// Something that must stay as it is: a file that everybody may read, in a directory.
struct Canary(TempDir);

impl Canary {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        fs::write(folder.path().join("file"), "mine").expect("write");
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(folder.path().join("file"), mode).expect("mode");
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("file")
    }

    fn is_untouched(&self) -> bool {
        let file = fs::metadata(self.file()).expect("the canary");
        let me = fs::metadata("/proc/self").expect("me").uid();
        let facts = (file.mode() & 0o777, file.uid(), file.nlink());
        let names = fs::read_dir(self.0.path()).expect("list").count();
        facts == (0o644, me, 1) && names == 1 && fs::read(self.file()).expect("read") == b"mine"
    }
}

/// Everything beside the label.
fn without_label() -> Tarball {
    Tarball::new().file("PG_VERSION", b"15\n").file("global/pg_control", b"control")
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_that_the_restore_touches_is_refused() {
    let canary = Canary::new();
    let path = canary.file().display().to_string();
    let link = |tarball: Tarball, name: &str| tarball.link(EntryType::Symlink, name, &path);
    let bare = Tarball::new;
    for tarball in [
        link(without_label(), "backup_label"),
        link(bare().file("backup_label", b"x").file("PG_VERSION", b"15\n"), "global/pg_control"),
        link(bare().file("backup_label", b"x").file("global/pg_control", b"c"), "PG_VERSION"),
        without_label().link(EntryType::Link, "backup_label", "PG_VERSION"),
    ] {
        let scene = simple(tarball).await;
        let error = scene.restore().await.expect_err("refused");
        assert!(matches!(error, RestoreError::EscapingMember { .. }), "{error}");
        assert!(!scene.starts() && canary.is_untouched());
    }
}

#[tokio::test]
async fn links_in_the_places_of_what_a_restore_makes_are_replaced_or_left_out() {
    let canary = Canary::new();
    let (file, folder) =
        (canary.file().display().to_string(), canary.0.path().display().to_string());
    let mut tarball = cluster();
    for name in [
        "backup_manifest",
        ".barman-cloud-restore.json",
        ".barman-cloud-restore.json.new",
        ".barman-cloud-restore.d",
        "global/pg_control.barman-cloud-restore",
        "tablespace_map",
        "postmaster.pid",
    ] {
        tarball = tarball.link(EntryType::Symlink, name, &file);
    }
    for name in ["pg_wal", "pg_stat", "pg_multixact/members", "pg_tblspc/16999"] {
        tarball = tarball.link(EntryType::Symlink, name, &folder);
    }
    let scene = simple(tarball).await;
    scene.restore().await.expect("restored");
    let target = scene.target();
    for name in ["pg_wal", "pg_stat", "pg_multixact/members"] {
        assert!(target.join(name).symlink_metadata().expect(name).is_dir(), "{name}");
    }
    assert!(target.join("backup_manifest").symlink_metadata().expect("manifest").is_file());
    for name in ["pg_tblspc/16999", "postmaster.pid", "tablespace_map"] {
        assert!(target.join(name).symlink_metadata().is_err(), "{name}");
    }
    assert!(canary.is_untouched());
}

#[tokio::test]
async fn a_folder_for_tablespaces_that_is_a_link_is_refused() {
    let canary = Canary::new();
    let folder = canary.0.path().display().to_string();
    for link in ["base", "global", "pg_xact", "pg_multixact"] {
        let tarball = without_label()
            .file("backup_label", b"x")
            .link(EntryType::Symlink, link, &folder)
            .file(&format!("{link}/members"), b"evil");
        let scene = simple(tarball).await;
        assert!(scene.restore().await.is_err(), "{link}");
        assert!(canary.is_untouched() && !scene.starts(), "{link}");
    }
}

#[tokio::test]
async fn a_tablespace_holds_nothing_but_postgresqls_own_directories() {
    let hostile = Tarball::new()
        .file("PG_15_1/1", b"row")
        .file("authorized_keys", b"evil")
        .file(".barman-cloud-restore.mark", b"evil")
        .directory("lost+found");
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tarball("data.tar", cluster())
        .await
        .tarball("16384.tar", hostile)
        .await
        .publish(BackupStatus::Done)
        .await;
    scene.restore().await.expect("restored");
    let names: Vec<_> = fs::read_dir(scene.place("one")).expect("list").flatten().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].file_name(), "PG_15_1");
}

/// As root, with the data directory beside: the place is root's, and nobody confirmed it.
#[tokio::test]
async fn root_makes_no_directory_where_only_the_backup_says_so() {
    if !crate::disk::is_root() {
        return;
    }
    let outside = tempfile::tempdir().expect("temp");
    for exists in [false, true] {
        let place = outside.path().join("etc/cron.d");
        if exists {
            fs::create_dir_all(&place).expect("mkdir");
        }
        let scene = Scene::new()
            .tablespace_at("one", 16384, &place)
            .tarball("data.tar", cluster())
            .await
            .tarball("16384.tar", Tarball::new().file("PG_15_1/1", b"row"))
            .await
            .publish(BackupStatus::Done)
            .await;
        let refused = scene.restore().await.expect_err("refused");
        assert!(matches!(refused, RestoreError::TablespaceOwner { .. }), "{refused}");
        let hint = refused.hint().expect("hint");
        assert!(hint.contains(&format!("--tablespace \"one:{}\"", place.display())), "{hint}");
        assert!(!scene.target().exists());
        assert_eq!(place.exists(), exists);
        if exists {
            // With the operator's word it is done.
            scene.restore_with_tablespace("one", &place).await.expect("restored");
            assert!(place.join("PG_15_1/1").exists());
        }
    }
}

#[tokio::test]
async fn names_without_end_do_not_fill_the_memory() {
    let mut tarball = cluster();
    for number in 0..10_100 {
        tarball = tarball.file(&format!("file{number}"), b"");
    }
    let scene = simple(tarball).await;
    let refused = scene.restore().await.expect_err("refused");
    assert!(matches!(refused, RestoreError::Corrupt { .. }), "{refused}");
}

#[derive(Clone, Debug)]
struct HostileMember {
    kind: EntryType,
    name: String,
    target: String,
}

fn names() -> impl Strategy<Value = String> {
    let part = select(vec![
        "base",
        "global",
        "pg_control",
        "PG_VERSION",
        "backup_label",
        "pg_wal",
        "pg_tblspc",
        "16384",
        "..",
        ".",
        "",
        "a",
        "pg_stat",
        ".barman-cloud-restore.json",
        ".barman-cloud-restore.d",
        "data.tar",
        "backup_manifest",
        "PG_15_1",
        "A",
        "postmaster.pid",
    ]);
    let parts = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    parts.prop_filter("a name", |name| !name.is_empty() && name.len() < 90)
}

fn members() -> impl Strategy<Value = Vec<HostileMember>> {
    let kind = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
        Just(EntryType::Fifo),
    ];
    // "@" stands for the canary.
    let target = prop_oneof![names(), Just("@/file".into()), Just("@".into()), Just("/".into())];
    let member = (kind, names(), target).prop_map(|(kind, name, target)| HostileMember {
        kind,
        name,
        target,
    });
    proptest::collection::vec(member, 1..12)
}

fn restore_hostile(
    members: &[HostileMember],
    canary: &Canary,
) -> Result<RestoreSummary, RestoreError> {
    let outside = canary.0.path().display().to_string();
    let fill = |mut tarball: Tarball| {
        for HostileMember { kind, name, target } in members {
            let target = target.replace('@', &outside);
            tarball = match kind {
                EntryType::Symlink | EntryType::Link => tarball.raw_link(*kind, name, &target),
                _ => tarball.add(*kind, name, 0o6777, b""),
            };
        }
        tarball
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(async {
        let scene = Scene::new()
            .tablespace("one", 16384)
            .tarball("data.tar", fill(cluster()))
            .await
            .tarball("16384.tar", fill(Tarball::new().file("PG_15_1/1", b"row")))
            .await
            .publish(BackupStatus::Done)
            .await;
        let restored = scene.restore().await;
        only_known(scene.folder.path());
        restored
    })
}

/// Beside the data directory and the tablespace nothing was made.
fn only_known(folder: &Path) {
    for entry in fs::read_dir(folder).expect("list").flatten() {
        let name = entry.file_name();
        assert!(name == "data" || name == "one", "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn no_tarball_reaches_anything_outside(members in members()) {
        let canary = Canary::new();
        let _ = restore_hostile(&members, &canary);
        assert!(canary.is_untouched());
    }
}
