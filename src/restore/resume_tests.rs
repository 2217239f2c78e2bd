//! An interrupted restore run again: with the same source, with another, and after what it had
//! finished was changed.

use crate::catalog::BackupStatus;
use crate::catalog::fixtures::limits;
use crate::flow::{Cancel, Limits};
use crate::monitor::{Monitor, Silent};
use crate::restore::journal::JOURNAL;
use crate::restore::receipts::RECEIPTS;
use crate::restore::restore_tests::{
    ID, Scene, Tarball, cluster, content, interrupted, options, simple,
};
use crate::restore::{RestoreError, RestoreOptions, RestoreSelection, restore};
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

/// Restores what another scene holds into this one's directory.
async fn restore_into(target: &Scene, source: &Scene) -> Result<(), RestoreError> {
    let named = RestoreSelection::Named(ID.into());
    let (target, limits, cancel) = (target.target(), limits(), Cancel::new());
    let silent: Arc<dyn Monitor> = Arc::new(Silent);
    let options: RestoreOptions = options();
    restore(&source.catalog, &named, &target, &options, &limits, &silent, &cancel).await.map(|_| ())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn another_backup_with_the_same_id_is_never_mixed_in() {
    let (scene, whole) = interrupted().await;
    let before = names(&scene.target());
    let other = Scene::new()
        .tarball("data.tar", cluster().file("base/9", b"another cluster"))
        .await
        .tarball("data_0001.tar", Tarball::new().file("base/2", b"its"))
        .await
        .publish(BackupStatus::Done)
        .await;
    let refused = restore_into(&scene, &other).await.expect_err("another source");
    assert!(matches!(refused, RestoreError::OtherRestore { .. }), "{refused}");
    assert!(refused.hint().is_some());
    assert_eq!(names(&scene.target()), before);
    assert!(!scene.target().join("base/9").exists());
    // The first one still ends well.
    scene.put("data_0001.tar", whole).await;
    assert_eq!(scene.restore().await.expect("restored").tarballs_resumed, 1);
}

#[tokio::test]
async fn what_a_journal_says_of_another_source_place_or_version_is_refused() {
    let (scene, _) = interrupted().await;
    let journal = scene.target().join(JOURNAL);
    let text = content(&journal);
    for (from, to) in [
        (ID, "20261120T235833"),
        ("memory:", "s3:"),
        ("7710407064033732751", "1"),
        ("\"tablespaces\":{}", "\"tablespaces\":{\"16384\":\"/ts\"}"),
    ] {
        let other = text.replace(from, to);
        assert_ne!(other, text, "{from}");
        fs::write(&journal, other).expect("written");
        let refused = scene.restore().await.expect_err("another restore");
        assert!(matches!(refused, RestoreError::OtherRestore { .. }), "{from}: {refused}");
    }
    fs::write(&journal, text.replace("\"format\":2", "\"format\":1")).expect("written");
    assert!(matches!(scene.restore().await, Err(RestoreError::Journal { .. })));
}

#[tokio::test]
async fn a_finished_file_that_was_changed_is_restored_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("flipped", |path| {
            let mut bytes = fs::read(path).expect("read");
            bytes[150_000] ^= 1;
            fs::write(path, bytes).expect("written");
        }),
        ("truncated", |path| {
            let file = fs::File::options().write(true).open(path).expect("open");
            file.set_len(299_999).expect("truncated");
        }),
        ("longer", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, [&bytes[..], b"x"].concat()).expect("written");
        }),
        ("removed", |path| fs::remove_file(path).expect("removed")),
        ("a link", |path| {
            fs::rename(path, path.with_extension("elsewhere")).expect("moved");
            symlink(path.with_extension("elsewhere"), path).expect("link");
        }),
        ("without receipt", |path| {
            let receipts = path.ancestors().nth(2).expect("data").join(RECEIPTS);
            fs::remove_file(receipts.join("data.tar")).expect("removed");
        }),
    ];
    for (told, damage) in damages {
        let (scene, whole) = interrupted().await;
        damage(&scene.target().join("base/1"));
        scene.put("data_0001.tar", whole).await;
        let summary = scene.restore().await.expect(told);
        assert_eq!((summary.tarballs_resumed, summary.counts.tarballs), (0, 2), "{told}");
        let path = scene.target().join("base/1");
        assert!(!path.is_symlink() && fs::read(&path).expect("read") == [7; 300_000], "{told}");
        assert!(!scene.target().join(RECEIPTS).exists() && scene.starts(), "{told}");
    }
}

#[tokio::test]
async fn a_receipt_that_was_cut_or_changed_is_not_believed() {
    for damage in [(|text: &str| text[..text.len() / 2].into()) as fn(&str) -> String, |text| {
        let lines: Vec<_> = text.lines().skip(1).collect();
        lines.join("\n")
    }] {
        let (scene, whole) = interrupted().await;
        let receipt = scene.target().join(RECEIPTS).join("data.tar");
        fs::write(&receipt, damage(&content(&receipt))).expect("written");
        scene.put("data_0001.tar", whole).await;
        assert_eq!(scene.restore().await.expect("restored").tarballs_resumed, 0);
    }
}

/// A tablespace is done when the data directory fails.
async fn interrupted_after_a_tablespace() -> (Scene, Vec<u8>) {
    let big = Tarball::new().file("PG_15_1/1", &[5; 900_000]);
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tarball("data.tar", cluster())
        .await
        .tarball("16384.tar", big)
        .await
        .publish(BackupStatus::Done)
        .await;
    let key = scene.key("data.tar");
    let whole = scene.catalog.store().get(&key).await.expect("read").expect("there").to_vec();
    let mut damaged = whole.clone();
    damaged[600] ^= 1;
    scene.put("data.tar", damaged).await;
    let limits = Limits { jobs: NonZeroUsize::MIN, ..limits() };
    let silent: Arc<dyn Monitor> = Arc::new(Silent);
    let failed = scene.restore_with(&options(), &limits, &silent, &Cancel::new()).await;
    assert!(matches!(failed, Err(RestoreError::Corrupt { .. })));
    assert!(content(&scene.target().join(JOURNAL)).contains("16384.tar"));
    scene.put("data.tar", whole.clone()).await;
    (scene, whole)
}

#[tokio::test]
async fn a_tablespace_directory_that_was_replaced_is_filled_again_or_refused() {
    let (scene, _) = interrupted_after_a_tablespace().await;
    assert_eq!(scene.restore().await.expect("restored").tarballs_resumed, 1);

    let (scene, _) = interrupted_after_a_tablespace().await;
    let place = scene.place("one");
    fs::remove_dir_all(&place).expect("removed");
    fs::create_dir(&place).expect("another one");
    if crate::disk::is_root() {
        let owner =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(scene.folder.path()).expect("f"));
        std::os::unix::fs::chown(&place, Some(owner), Some(owner)).expect("chown");
    }
    assert_eq!(scene.restore().await.expect("restored").tarballs_resumed, 0);
    assert_eq!(fs::read(place.join("PG_15_1/1")).expect("read"), [5; 900_000]);
    assert_eq!(names(&place), ["PG_15_1"]);

    let (scene, _) = interrupted_after_a_tablespace().await;
    let place = scene.place("one");
    fs::remove_dir_all(&place).expect("removed");
    fs::create_dir_all(place.join("PG_15_1")).expect("another one");
    fs::write(place.join("PG_15_1/1"), "of somebody else").expect("written");
    assert!(matches!(scene.restore().await, Err(RestoreError::TablespaceNotEmpty { .. })));
    assert_eq!(content(&place.join("PG_15_1/1")), "of somebody else");
}

#[tokio::test]
async fn a_restore_that_only_left_its_traces_is_complete() {
    let (scene, whole) = interrupted().await;
    let journal = scene.target().join(JOURNAL);
    let interrupted = content(&journal);
    scene.put("data_0001.tar", whole).await;
    scene.restore().await.expect("restored");
    let all = interrupted.replace("\"data.tar\"", "\"data.tar\",\"data_0001.tar\"");
    assert_ne!(all, interrupted);
    let ready = all.replace("\"ready\":false", "\"ready\":true");
    assert_ne!(ready, all);
    fs::write(&journal, &ready).expect("written");
    fs::create_dir(scene.target().join(RECEIPTS)).expect("mkdir");
    assert_eq!(scene.restore().await.expect("complete").tarballs_resumed, 2);
    assert!(!journal.exists() && !scene.target().join(RECEIPTS).exists());
    // Without the word that all is ready nothing is believed.
    fs::write(&journal, &all).expect("written");
    fs::write(scene.target().join("base/2"), "changed").expect("written");
    assert_eq!(scene.restore().await.expect("again").tarballs_resumed, 0);
    assert_eq!(content(&scene.target().join("base/2")), "two");
    assert!(scene.starts() && !journal.exists());
    // PostgreSQL renames the label when it starts: from then on it is a cluster.
    fs::write(&journal, &ready).expect("written");
    fs::remove_file(scene.target().join("backup_label")).expect("removed");
    assert!(matches!(scene.restore().await, Err(RestoreError::TargetNotEmpty { .. })));
}

#[tokio::test]
async fn a_restore_leaves_no_trace_in_any_directory() {
    let scene = Scene::new()
        .tablespace("one", 16384)
        .tarball("data.tar", cluster())
        .await
        .tarball("16384.tar", Tarball::new().file("PG_15_1/1", b"row"))
        .await
        .publish(BackupStatus::Done)
        .await;
    scene.restore().await.expect("restored");
    assert_eq!(names(&scene.place("one")), ["PG_15_1"]);
    assert!(names(&scene.target()).iter().all(|name| !name.starts_with('.')));
    assert_eq!(names(&scene.target().join("global")), ["pg_control"]);
    let scene = simple(cluster()).await;
    scene.restore().await.expect("restored");
    assert!(names(&scene.target()).iter().all(|name| !name.starts_with('.')));
}
