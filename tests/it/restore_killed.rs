//! A restore that is killed at any moment, and run again.

use crate::support::cluster::Cluster;
use crate::support::commands::Commands;
use crate::support::process::{run, spawn};
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Seven tarballs of the data directory and one of a tablespace, plain.
const ID: &str = "20261120T235852";

/// Path to mode and content (or text of the link).
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

#[test]
fn a_killed_restore_never_starts_and_ends_well_when_it_is_run_again() {
    let (ours, store) = (Commands::ours(), stored());
    let whole = Cluster::empty(&[]);
    run(&mut restore(&ours, &store, &whole)).exits(0);
    let expected = tree(&whole);
    let mut killed_on_the_way = 0;
    for after in (0..16).map(|step| Duration::from_millis(step * 2)) {
        let cluster = Cluster::empty(&[]);
        let journal = cluster.data().join(".barman-cloud-restore.json");
        let mut running = spawn(&mut restore(&ours, &store, &cluster));
        while !journal.exists() && !running.ended() {
            std::thread::yield_now();
        }
        // Not a wait for something: the moment is what this test varies.
        std::thread::sleep(after);
        let was_on_its_way = !running.ended();
        if was_on_its_way {
            running.signal(rustix::process::Signal::KILL);
        }
        running.wait();

        let started = cluster.data().join("global/pg_control").exists();
        let journal = journal.exists();
        if was_on_its_way && journal && !started {
            killed_on_the_way += 1;
        }
        if started && !journal {
            assert_eq!(tree(&cluster), expected, "complete after {after:?}");
            break;
        }
        run(&mut restore(&ours, &store, &cluster)).exits(0);
        assert_eq!(tree(&cluster), expected, "killed after {after:?}");
    }
    assert!(killed_on_the_way > 0, "no kill came in time");
}

/// The backup in a folder of its own.
fn stored() -> StoreUnderTest {
    let store = StoreUnderTest::open(StoreKind::File).expect("a folder is always there");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1");
    let backup = fixtures.join("contract/pg15/main/base").join(ID);
    for entry in std::fs::read_dir(&backup).expect("fixtures").flatten() {
        let name = entry.file_name().into_string().expect("utf-8");
        let content = std::fs::read(entry.path()).expect("an object");
        store.put(&format!("{PREFIX}/main/base/{ID}/{name}"), content);
    }
    store
}

fn restore(ours: &Commands, store: &StoreUnderTest, cluster: &Cluster) -> Command {
    let tablespace = format!("contract_ts:{}", cluster.beside("ts").display());
    let data = cluster.data().display().to_string();
    let options = ["--tablespace", &tablespace, "--jobs", "2"];
    ours.command("barman-cloud-restore", store, &options, &["main", ID, &data])
}

/// Everything below the data directory and the tablespace; their own place is cut off.
fn tree(cluster: &Cluster) -> Tree {
    let mut tree = Tree::new();
    for (name, root) in [("data", cluster.data().to_path_buf()), ("ts", cluster.beside("ts"))] {
        let mut open = vec![root.clone()];
        while let Some(path) = open.pop() {
            let metadata = path.symlink_metadata().expect("metadata");
            let below = Path::new(name).join(path.strip_prefix(&root).expect("below"));
            let content = if metadata.is_dir() {
                open.extend(std::fs::read_dir(&path).expect("list").flatten().map(|e| e.path()));
                Vec::new()
            } else if metadata.is_symlink() {
                assert_eq!(std::fs::read_link(&path).expect("link"), cluster.beside("ts"));
                Vec::new()
            } else {
                std::fs::read(&path).expect("content")
            };
            tree.insert(below, (metadata.permissions().mode(), content));
        }
    }
    tree
}
