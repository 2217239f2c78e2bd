//! The values of a data directory against the files and tools of a real PostgreSQL.

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::process::{run, spawn};
use crate::support::scratch::give_tree_to_postgres;
use crate::support::wait::wait_until;
use barman_cloud::pgdata::{
    ControlFile, FileFilter, Inclusion, ManifestEntry, ManifestVersion, ManifestWriter, PAGE_BYTES,
    PageVerdict, RelationFile, Root, WalRange, verify_page,
};
use barman_cloud::wal::{Lsn, TimelineId};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tables everywhere: in a tablespace of its own, in one in place, unlogged, and larger
/// than one page.
fn filled_cluster() -> Cluster {
    let cluster = Cluster::create(&ClusterOptions {
        settings: vec![("allow_in_place_tablespaces", "on".into())],
        ..ClusterOptions::default()
    });
    let location = cluster.folder_beside("space").display().to_string();
    cluster.psql(&format!("create tablespace outside location '{location}'"));
    cluster.psql("create tablespace inside location ''");
    for (name, place) in [("t", "pg_default"), ("o", "outside"), ("i", "inside")] {
        cluster.psql(&format!(
            "create table {name} tablespace {place} as \
             select g, md5(g::text) from generate_series(1, 20000) g"
        ));
    }
    cluster.psql("create unlogged table u as select generate_series(1, 1000)");
    cluster.psql("vacuum");
    cluster
}

/// Makes a base backup with PostgreSQL's own tool, tablespace and all.
fn base_backup(cluster: &Cluster, copy: &Cluster) {
    let moved = copy.beside("space").display().to_string();
    let original = cluster.beside("space").display().to_string();
    let mut program = cluster.program("pg_basebackup");
    program.args(cluster.connection()).arg("-D").arg(copy.data());
    program.args(["-T", &format!("{original}={moved}"), "-X", "none", "-c", "fast"]);
    run(program.arg("--manifest-checksums=CRC32C")).exits(0);
}

fn control_file(data: &Path) -> ControlFile {
    let bytes = fs::read(data.join("global/pg_control")).expect("pg_control");
    ControlFile::parse(&bytes).expect("parses")
}

/// Paths of all files below `root`, relative to it; links are followed.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("folder").flatten() {
            let path = folder.join(entry.file_name());
            let is_folder = root.join(&path).metadata().expect("metadata").is_dir();
            if is_folder { open.push(path) } else { files.push(path) }
        }
    }
    files
}

/// The path as its tablespace has it, for one below `pg_tblspc`.
fn within_tablespace(path: &Path) -> &Path {
    match path.strip_prefix("pg_tblspc") {
        Ok(rest) => rest.strip_prefix(rest.components().next().expect("oid")).expect("prefix"),
        Err(_) => path,
    }
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    let cluster = filled_cluster();
    cluster.stop("fast");
    let control = control_file(cluster.data());
    let mut program = cluster.program("pg_controldata");
    let printed = run(program.arg(cluster.data())).ok();
    let line = |key: &str| {
        let value = printed.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.expect(key).trim().to_string()
    };
    assert_eq!(line("Database system identifier"), control.system_identifier.to_string());
    assert_eq!(line("pg_control version number"), control.control_version.to_string());
    assert_eq!(line("Catalog version number"), control.catalog_version.to_string());
    assert_eq!(line("Latest checkpoint location"), control.checkpoint.to_string());
    assert_eq!(line("Latest checkpoint's REDO location"), control.redo.to_string());
    assert_eq!(line("Latest checkpoint's TimeLineID"), control.timeline.to_string());
    assert_eq!(line("Minimum recovery ending location"), control.min_recovery_point.to_string());
    assert_eq!(line("Database block size"), control.page_bytes.to_string());
    let pages = control.relation_segment_pages.to_string();
    assert_eq!(line("Blocks per segment of large relation"), pages);
    let segment = control.wal_segment_size.bytes().to_string();
    assert_eq!(line("Bytes per WAL segment"), segment);
    let checksums = control.data_checksum_version.to_string();
    assert_eq!(line("Data page checksum version"), checksums);
}

#[test]
fn every_page_of_a_cluster_has_the_checksum_that_we_compute() {
    let cluster = filled_cluster();
    cluster.stop("fast");
    let control = control_file(cluster.data());
    let everything = Lsn::new(u64::MAX);
    let mut valid = 0;
    for path in files_below(cluster.data()) {
        let Some(file) = RelationFile::from_path(within_tablespace(&path)) else { continue };
        let bytes = fs::read(cluster.data().join(&path)).expect("relation");
        let first = file.first_block(control.relation_segment_pages);
        for (block, page) in (first..).zip(bytes.chunks(PAGE_BYTES)) {
            match verify_page(page, block, everything) {
                PageVerdict::Valid => valid += 1,
                PageVerdict::New => {}
                wrong => panic!("{} block {block}: {wrong:?}", path.display()),
            }
        }
    }
    assert!(valid > 1000, "{valid} pages");
    let version = cluster.program("postgres").arg("--version").output().expect("version");
    let major = String::from_utf8_lossy(&version.stdout);
    let major: u32 = major.split([' ', '.']).nth(2).and_then(|m| m.parse().ok()).expect("major");
    let spaces = fs::read_dir(cluster.beside("space")).expect("space").flatten();
    let names: Vec<_> = spaces.map(|entry| entry.file_name()).collect();
    assert_eq!(names, [control.tablespace_version_directory(major).as_str()]);
}

#[test]
fn pg_verifybackup_accepts_a_manifest_of_ours() {
    let cluster = filled_cluster();
    let copy = Cluster::empty(&[]);
    copy.folder_beside("space");
    base_backup(&cluster, &copy);
    let path = copy.data().join("backup_manifest");
    let theirs = fs::read_to_string(&path).expect("manifest");
    let json: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
    let version = match json["PostgreSQL-Backup-Manifest-Version"].as_u64() {
        Some(1) => ManifestVersion::One,
        _ => ManifestVersion::Two(control_file(copy.data()).system_identifier),
    };
    let mut writer = ManifestWriter::new(Vec::new(), version).expect("memory");
    for file in files_below(copy.data()) {
        let name = file.to_str().expect("UTF-8");
        if name == "backup_manifest" {
            continue;
        }
        let full = copy.data().join(&file);
        let bytes = fs::read(&full).expect("file");
        let entry = ManifestEntry {
            path: name.as_bytes(),
            size_bytes: u64::try_from(bytes.len()).expect("size"),
            modified: full.metadata().expect("metadata").mtime(),
            crc32c: crc32c::crc32c(&bytes),
        };
        writer.add(&entry).expect("memory");
    }
    let range = &json["WAL-Ranges"][0];
    let lsn = |name: &str| range[name].as_str().and_then(|text| text.parse().ok()).expect("LSN");
    let range = WalRange {
        timeline: TimelineId::new(1).expect("1"),
        begin: lsn("Start-LSN"),
        end: lsn("End-LSN"),
    };
    let ours = writer.finish(&[range]).expect("memory");
    assert_eq!(
        lines_without_times(&theirs),
        lines_without_times(std::str::from_utf8(&ours).expect("UTF-8"))
    );
    fs::write(&path, ours).expect("manifest");
    let verify = || {
        let mut program = cluster.program("pg_verifybackup");
        run(program.arg("--no-parse-wal").arg(copy.data()))
    };
    verify().exits(0);
    let victim = copy.data().join("PG_VERSION");
    fs::write(&victim, "99").expect("write");
    verify().exits(1).says("PG_VERSION");
}

/// Sorted lines; the copy's files have other times, hence another checksum.
fn lines_without_times(manifest: &str) -> Vec<String> {
    let without_time = |line: &str| match line.split_once(", \"Last-Modified\": \"") {
        Some((before, after)) => format!("{before}{}", &after["2026-11-20 23:58:52 GMT\"".len()..]),
        None => line.to_string(),
    };
    let mut lines: Vec<_> = manifest
        .lines()
        .filter(|line| !line.contains("\"Manifest-Checksum\""))
        .map(|line| without_time(line.trim_end_matches(',')))
        .collect();
    lines.sort();
    lines
}

#[test]
fn files_are_left_out_exactly_where_pg_basebackup_leaves_them_out() {
    let cluster = filled_cluster();
    let litter = [
        "base/pgsql_tmp/pgsql_tmp1.0",
        "postgresql.auto.conf.tmp",
        "backup_manifest",
        ".DS_Store",
        "pg_replslot/x/state",
        "pg_stat_tmp/x",
        "pg_notify/x",
        "base/1/pg_internal.init.12",
    ];
    for path in litter {
        let path = cluster.data().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, "x").expect("write");
    }
    give_tree_to_postgres(cluster.data());
    let mut holder = cluster.program("psql");
    holder.args(cluster.connection()).args(["-d", "postgres", "-c"]);
    holder.arg("create temp table x as select 1; select pg_sleep(600)");
    let holder = spawn(&mut holder);
    let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_until("the temporary table", Duration::from_secs(60), || cluster.psql(asleep) == "1");
    let copy = Cluster::empty(&[]);
    copy.folder_beside("space");
    base_backup(&cluster, &copy);
    let ours = included(&cluster);
    holder.signal(rustix::process::Signal::TERM);
    holder.wait();
    let made_by_backup = ["backup_label", "tablespace_map", "backup_manifest"];
    let theirs: BTreeSet<PathBuf> = files_below(copy.data())
        .into_iter()
        .filter(|path| !made_by_backup.iter().any(|name| path == Path::new(name)))
        // PostgreSQL 15 does not leave it out yet, later ones do.
        .filter(|path| path != Path::new(".DS_Store"))
        .collect();
    assert_eq!(ours, theirs);
    let has_temporary = files_below(cluster.data()).iter().any(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('t'))
            && path.starts_with("base")
    });
    assert!(has_temporary, "the temporary table had a file");
}

/// The files that the filter includes, as a manifest names them.
fn included(cluster: &Cluster) -> BTreeSet<PathBuf> {
    let outside = cluster.psql("select oid from pg_tablespace where spcname = 'outside'");
    let control = control_file(cluster.data());
    let major = cluster.psql("show server_version_num").parse::<u32>().expect("version") / 10_000;
    let filter = FileFilter {
        version_directory: control.tablespace_version_directory(major),
        linked_tablespaces: vec![outside.parse().expect("oid")],
        emptied_directories: Vec::new(),
    };
    let mut files = BTreeSet::new();
    collect(&filter, Root::DataDirectory, cluster.data(), Path::new(""), &mut files);
    let mut beside = BTreeSet::new();
    collect(&filter, Root::Tablespace, &cluster.beside("space"), Path::new(""), &mut beside);
    let link = Path::new("pg_tblspc").join(outside);
    files.extend(beside.into_iter().map(|path| link.join(path)));
    files
}

fn collect(
    filter: &FileFilter,
    root: Root,
    top: &Path,
    folder: &Path,
    files: &mut BTreeSet<PathBuf>,
) {
    let entries: Vec<_> = fs::read_dir(top.join(folder)).expect("folder").flatten().collect();
    let names: Vec<_> = entries.iter().map(|entry| entry.file_name()).collect();
    let rules = filter.directory(root, folder, names.iter().map(|name| name.as_os_str()));
    for entry in entries {
        let path = folder.join(entry.file_name());
        let is_folder = entry.file_type().expect("type").is_dir();
        match rules.decide(&entry.file_name()) {
            Inclusion::Skip | Inclusion::SkipContents => {}
            Inclusion::Include | Inclusion::Last if is_folder => {
                collect(filter, root, top, &path, files);
            }
            Inclusion::Include | Inclusion::Last => {
                files.insert(path);
            }
        }
    }
}
