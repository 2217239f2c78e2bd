//! Damage campaign: every object of a backup is cut, emptied, deleted, swapped, flipped, extended.
//!
//! Either the restore fails and names the object, and the directory never starts; or what is
//! restored is to the byte what the undamaged backup gives. Of our own backups nothing slips
//! through, in no compression. Barman writes no checksums: see the tests for what can be told.

use crate::catalog::fixtures::{limits, now, path as fixture, write};
use crate::catalog::{
    BackupStatus, Catalog, IndexRecord, IndexWriter, IndexedMember, Layout, ServerName,
    TarballRecord,
};
use crate::flow::Cancel;
use crate::monitor::Silent;
use crate::restore::index_tests::{count, encode, hash};
use crate::restore::restore_tests::{ID, Scene, Tarball, cluster, manifest, options};
use crate::restore::{RestoreError, RestoreOptions, RestoreSelection, TablespaceMapping, restore};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Path to mode and content (or text of the link).
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Damage {
    Emptied,
    LastByteCut,
    Halved,
    Deleted,
    Extended,
    /// One bit, at a place from a seed.
    Flipped(u64),
    SwappedWith(String),
}

impl Damage {
    /// What becomes of the content; `None` when the object goes.
    fn apply(&self, content: &[u8], objects: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
        let end = content.len();
        Some(match self {
            Self::Emptied => Vec::new(),
            Self::LastByteCut => content[..end.saturating_sub(1)].into(),
            Self::Halved => content[..end / 2].into(),
            Self::Deleted => return None,
            Self::Extended => [content, b"garbage"].concat(),
            Self::Flipped(seed) => {
                let mut content = content.to_vec();
                let random = scrambled(*seed);
                let position = random % count(end.max(1));
                let position = usize::try_from(position).expect("small");
                if let Some(byte) = content.get_mut(position) {
                    *byte ^= 1 << (random >> 61);
                }
                content
            }
            Self::SwappedWith(other) => objects[other].clone(),
        })
    }
}

/// splitmix64: the same on every machine, for ever.
fn scrambled(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A backup as objects by name, to be damaged and restored any number of times.
struct Patient {
    folder: &'static str,
    server: &'static str,
    id: String,
    objects: BTreeMap<String, Vec<u8>>,
    tablespace: &'static str,
}

impl Patient {
    fn key(&self, name: &str) -> String {
        format!("{}/{}/base/{}/{name}", self.folder, self.server, self.id)
    }

    /// Restores what these objects are; the tree, and whether PostgreSQL could start.
    async fn restored(
        &self,
        objects: &BTreeMap<String, Vec<u8>>,
    ) -> (Result<Tree, RestoreError>, bool) {
        // In memory where that can be: a thousand restores sync as many times.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("temp");
        let store = Store::memory();
        for (name, content) in objects {
            write(&store, &self.key(name), content.clone()).await;
        }
        let server = ServerName::parse(self.server).expect("server name");
        let catalog = Catalog::new(store, Layout::new(self.folder, &server).expect("layout"));
        let (data, place) = (folder.path().join("data"), folder.path().join("ts"));
        let mapping = TablespaceMapping { name: self.tablespace.into(), location: place.clone() };
        let options = RestoreOptions { tablespaces: vec![mapping], now: now(), ..options() };
        let named = RestoreSelection::Named(self.id.clone());
        let (monitor, cancel, limits) = (Arc::new(Silent) as _, Cancel::new(), limits());
        let restored = restore(&catalog, &named, &data, &options, &limits, &monitor, &cancel).await;
        let starts = data.join("global/pg_control").exists();
        assert!(outside(&folder), "something was written beside the directories");
        (restored.map(|_| tree(&data, &place)), starts)
    }

    async fn damaged(&self, name: &str, damage: &Damage) -> (Result<Tree, RestoreError>, bool) {
        let mut objects = self.objects.clone();
        match damage.apply(&self.objects[name], &self.objects) {
            Some(content) => drop(objects.insert(name.into(), content)),
            None => drop(objects.remove(name)),
        }
        self.restored(&objects).await
    }
}

fn outside(folder: &TempDir) -> bool {
    let mut names = fs::read_dir(folder.path()).expect("list").flatten();
    names.all(|entry| entry.file_name() == "data" || entry.file_name() == "ts")
}

fn tree(data: &Path, place: &Path) -> Tree {
    let mut tree = Tree::new();
    for (name, root) in [("data", data), ("ts", place)] {
        let mut open = vec![root.to_path_buf()];
        while let Some(path) = open.pop() {
            let metadata = path.symlink_metadata().expect("metadata");
            let below = Path::new(name).join(path.strip_prefix(root).expect("below"));
            let content = if metadata.is_dir() {
                open.extend(fs::read_dir(&path).expect("list").flatten().map(|e| e.path()));
                Vec::new()
            } else if metadata.is_symlink() {
                assert_eq!(fs::read_link(&path).expect("link"), place);
                Vec::new()
            } else {
                fs::read(&path).expect("content")
            };
            tree.insert(below, (metadata.permissions().mode(), content));
        }
    }
    tree
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let words = (0..count(bytes) / 8).map(|number| scrambled(seed ^ (number << 20)) & 0x1F1F_1F1F);
    words.flat_map(u64::to_le_bytes).collect()
}

/// A backup of ours with two tarballs of the data directory and one of a tablespace.
async fn ours(suffix: &str) -> Patient {
    let mut scene = Scene::new().tablespace_at("one", 16384, Path::new("/srv/one"));
    let tarballs = [
        ("data.tar", cluster().file("base/2", &noise(1_500_000, 1))),
        ("data_0001.tar", Tarball::new().file("base/3", &noise(200_000, 2)).file("base/4", b"")),
        ("16384.tar", Tarball::new().file("PG_15_1/5/6", &noise(100_000, 3))),
    ];
    let mut objects = BTreeMap::new();
    for (name, tarball) in tarballs {
        let name = format!("{name}{suffix}");
        let (raw, members) = tarball.finish();
        let (stored, marks) = encode(&name, &raw);
        let mut index = IndexWriter::new().expect("index");
        for mark in &marks {
            let member = IndexedMember { path: b"base/2".into(), offset: 512, bytes: 3 };
            index.member(member).expect("member");
            index.block(*mark).expect("block");
        }
        let index = index.finish().expect("index");
        scene.records.push(TarballRecord {
            name: name.clone(),
            stored_bytes: count(stored.len()),
            raw_bytes: count(raw.len()),
            members,
            sha256: hash(&stored),
            index: Some(IndexRecord { stored_bytes: count(index.len()), sha256: hash(&index) }),
        });
        scene.put(&name, stored.clone()).await;
        objects.insert(format!("index/{name}.jsonl.zst"), index);
        objects.insert(name, stored);
    }
    let scene = scene.publish(BackupStatus::Done).await;
    for name in ["backup.info", "backup.json", "backup_manifest"] {
        let content = scene.catalog.store().get(&scene.key(name)).await.expect("read");
        objects.insert(name.into(), content.expect("there").to_vec());
    }
    Patient { folder: "p", server: "main", id: ID.into(), objects, tablespace: "one" }
}

/// One of the backups in the fixtures.
fn barmans(id: &str) -> Patient {
    let folder = fixture("contract").join("pg15/main/base").join(id);
    let objects = fs::read_dir(&folder).expect("fixture").flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().expect("text");
        entry.path().is_file().then(|| (name, fs::read(entry.path()).expect("object")))
    });
    let objects = objects.collect();
    let (folder, server, tablespace) = ("pg15", "main", "contract_ts");
    Patient { folder, server, id: id.into(), objects, tablespace }
}

fn whole_objects(patient: &Patient) -> Vec<Damage> {
    let mut damages = vec![
        Damage::Emptied,
        Damage::LastByteCut,
        Damage::Halved,
        Damage::Deleted,
        Damage::Extended,
    ];
    damages.extend(patient.objects.keys().cloned().map(Damage::SwappedWith));
    damages
}

fn flips(number: u64) -> impl Iterator<Item = Damage> {
    (0..number).map(Damage::Flipped)
}

/// What was wrong with one damaged object, if anything slipped through.
async fn slipped(patient: &Patient, whole: &Tree, name: &str, damage: &Damage) -> Option<String> {
    let told = format!("{name} {damage:?}");
    match patient.damaged(name, damage).await {
        (Ok(tree), _) if tree == *whole => None,
        (Ok(_), _) => Some(format!("{told}: restored, and not what was backed up")),
        (Err(error), true) => Some(format!("{told}: \"{error}\", and it starts")),
        (Err(error), false) => {
            let text = error.to_string();
            let names_it = text.contains(name.trim_start_matches("index/"))
                || text.contains("backup.info")
                || text.contains(&patient.id);
            (!names_it).then(|| format!("{told}: the error does not name it: {text}"))
        }
    }
}

#[tokio::test]
async fn no_damage_to_a_backup_of_ours_slips_through_in_any_compression() {
    for suffix in ["", ".gz", ".lz4", ".snappy", ".zst", ".bz2"] {
        let patient = ours(suffix).await;
        let (whole, starts) = patient.restored(&patient.objects).await;
        let whole = whole.expect("undamaged");
        assert!(starts && whole.len() > 20);
        for name in patient.objects.keys() {
            let damages = whole_objects(&patient).into_iter().chain(flips(4));
            // What lies in which place does not depend on the compression.
            let swaps = matches!(suffix, "" | ".gz");
            let is_swap = |damage: &Damage| matches!(damage, Damage::SwappedWith(_));
            for damage in damages.filter(|damage| swaps || !is_swap(damage)) {
                let slipped = slipped(&patient, &whole, name, &damage).await;
                assert_eq!(slipped, None, "{suffix}");
            }
        }
    }
}

#[tokio::test]
async fn no_flipped_bit_of_our_records_or_manifest_slips_through() {
    let patient = ours(".gz").await;
    let whole = patient.restored(&patient.objects).await.0.expect("undamaged");
    for name in ["backup.info", "backup.json", "backup_manifest"] {
        for damage in flips(200) {
            assert_eq!(slipped(&patient, &whole, name, &damage).await, None);
        }
    }
}

#[tokio::test]
async fn the_manifest_of_another_backup_is_noticed() {
    let mut patient = ours(".gz").await;
    patient.objects.insert("backup_manifest".into(), manifest(0x0300_0028));
    let (restored, starts) = patient.restored(&patient.objects).await;
    let error = restored.expect_err("another backup's");
    assert!(matches!(error, RestoreError::Corrupt { .. }), "{error}");
    assert!(!starts);
}

/// gzip, bzip2 and snappy carry checksums of their own.
#[tokio::test]
async fn no_damage_to_a_compressed_tarball_of_barman_slips_through() {
    for id in ["20261120T235832", "20261120T235911", "20261121T000052"] {
        let patient = barmans(id);
        let whole = patient.restored(&patient.objects).await.0.expect("undamaged");
        for name in patient.objects.keys() {
            for damage in whole_objects(&patient).into_iter().chain(flips(3)) {
                assert_eq!(slipped(&patient, &whole, name, &damage).await, None, "{id}");
            }
        }
    }
}

/// In plain and lz4 tarballs of Barman nothing tells a flipped bit of a file's content; everything
/// that changes what is there, how long it is or where it lies is noticed.
#[tokio::test]
async fn tarballs_of_barman_without_checksums_are_noticed_to_be_cut_missing_or_swapped() {
    for id in ["20261120T235852", "20261121T000057"] {
        let patient = barmans(id);
        let whole = patient.restored(&patient.objects).await.0.expect("undamaged");
        for name in patient.objects.keys() {
            let swaps_alike = |damage: &Damage| match damage {
                Damage::SwappedWith(other) => {
                    // Nothing tells which part of the data directory a part is.
                    name.starts_with("data_") && other.starts_with("data")
                }
                _ => false,
            };
            let damages = whole_objects(&patient).into_iter().filter(|damage| !swaps_alike(damage));
            for damage in damages {
                assert_eq!(slipped(&patient, &whole, name, &damage).await, None, "{id}");
            }
        }
    }
}

/// The main tarball of another backup of the same cluster is whole in itself.
#[tokio::test]
async fn the_tarball_of_another_backup_of_barman_is_noticed_by_its_label() {
    let other = barmans("20261120T235911");
    let mut patient = barmans("20261120T235832");
    patient.objects.remove("data.tar.gz");
    patient.objects.insert("data.tar.bz2".into(), other.objects["data.tar.bz2"].clone());
    let (restored, starts) = patient.restored(&patient.objects).await;
    let error = restored.expect_err("another backup's");
    assert!(error.to_string().contains("backup_label"), "{error}");
    assert!(!starts);
}

#[test]
fn damages_are_what_they_say() {
    let objects = BTreeMap::from([("a".to_string(), vec![1, 2, 3]), ("b".to_string(), vec![9])]);
    let applied = |damage: Damage| damage.apply(&objects["a"], &objects);
    assert_eq!(applied(Damage::Emptied), Some(vec![]));
    assert_eq!(applied(Damage::LastByteCut), Some(vec![1, 2]));
    assert_eq!(applied(Damage::Halved), Some(vec![1]));
    assert_eq!(applied(Damage::Deleted), None);
    assert_eq!(applied(Damage::SwappedWith("b".into())), Some(vec![9]));
    for seed in 0..20 {
        let flipped = applied(Damage::Flipped(seed)).expect("kept");
        let bits = flipped.iter().zip(&objects["a"]).map(|(one, other)| (one ^ other).count_ones());
        assert_eq!(bits.sum::<u32>(), 1);
    }
}
