//! Keeps and deletions on real stores: what goes, what stays, what is refused.

use crate::support::commands::Commands;
use crate::support::http;
use crate::support::process::{Outcome, run};
use crate::support::stores::{PREFIX, StoreKind, StoreUnderTest};
use std::fs;
use std::path::{Path, PathBuf};

const SERVER: &str = "main";

/// Backups of the fixtures, oldest first; the third has a standalone keep.
const BACKUPS: [&str; 5] =
    ["20261120T235832", "20261120T235852", "20261120T235911", "20261121T000052", "20261121T000057"];

/// A bucket with everything Barman wrote for the fixtures' main server, under its names.
/// Tarballs and segments are empty: only what they are called matters here.
fn with_fixtures(kind: StoreKind) -> Option<StoreUnderTest> {
    let store = StoreUnderTest::open(kind)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/barman-3.19.1/contract/pg15/main");
    for file in files_below(&root) {
        let name = file.strip_prefix(&root).expect("below").to_str().expect("utf-8");
        let told = ["backup.info", "keep", ".history"].iter().any(|part| name.contains(part));
        let content = if told { fs::read(&file).expect("fixture") } else { Vec::new() };
        store.put(&format!("{PREFIX}/{SERVER}/{name}"), content);
    }
    Some(store)
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

fn delete(store: &StoreUnderTest, options: &[&str]) -> Outcome {
    Commands::ours().run("barman-cloud-backup-delete", store, options, &[SERVER])
}

/// The backups that have anything left.
fn backups_left(store: &StoreUnderTest) -> Vec<String> {
    let keys = store.keys_below(&format!("{SERVER}/base"));
    let mut ids: Vec<String> =
        keys.iter().filter_map(|key| key.split('/').next()).map(String::from).collect();
    ids.dedup();
    ids
}

/// The WAL files that are left, without folders and suffixes.
fn wal_left(store: &StoreUnderTest) -> Vec<String> {
    let keys = store.keys_below(&format!("{SERVER}/wals"));
    let name = |key: &String| {
        let name = key.rsplit('/').next().expect("a name");
        name.strip_suffix(".gz").unwrap_or(name).to_string()
    };
    keys.iter().map(name).collect()
}

fn a_policy_deletes_what_no_remaining_backup_needs(kind: StoreKind) {
    let Some(store) = with_fixtures(kind) else { return };
    let before = store.keys();
    let options = ["-r", "redundancy 1", "--batch-size", "3"];
    let planned = delete(&store, &[&options[..], &["--dry-run"]].concat()).ok();
    assert_eq!(store.keys(), before, "a dry run deletes nothing");
    delete(&store, &options).exits(0);
    let after = store.keys();
    for key in &before {
        // The prefix is part of the folder, not of the key, in a store that is one.
        let name = key.strip_prefix(PREFIX).expect("below the prefix").trim_start_matches('/');
        assert_eq!(after.contains(key), !planned.contains(&format!("{name}'")), "{key}");
    }
    assert_eq!(backups_left(&store), [BACKUPS[2], BACKUPS[4]]);
    let mut left = wal_left(&store);
    left.sort();
    assert_eq!(
        left,
        [
            "000000010000000000000019",
            "000000010000000000000019.00000028.backup",
            "00000002.history",
            "00000002000000000000001E",
            "00000002000000000000001E.00000028.backup",
            "00000002000000000000001F",
        ]
    );
    assert_eq!(delete(&store, &options).ok(), "");
}

#[test]
fn a_policy_deletes_what_no_remaining_backup_needs_from_a_folder() {
    a_policy_deletes_what_no_remaining_backup_needs(StoreKind::File);
}

#[test]
fn a_policy_deletes_what_no_remaining_backup_needs_from_s3() {
    a_policy_deletes_what_no_remaining_backup_needs(StoreKind::S3);
}

#[test]
fn a_policy_deletes_what_no_remaining_backup_needs_from_strict_s3() {
    a_policy_deletes_what_no_remaining_backup_needs(StoreKind::S3Strict);
}

#[test]
fn a_policy_deletes_what_no_remaining_backup_needs_from_azure() {
    a_policy_deletes_what_no_remaining_backup_needs(StoreKind::Azure);
}

#[test]
fn a_policy_deletes_what_no_remaining_backup_needs_from_google() {
    a_policy_deletes_what_no_remaining_backup_needs(StoreKind::Gcs);
}

#[test]
fn refused_deletions_have_the_codes_of_the_contract_and_delete_nothing() {
    let Some(store) = with_fixtures(StoreKind::File) else { return };
    let before = store.keys();
    for (options, code, words) in [
        (&["-b", "archival-bz2"][..], 1, "it has a keep annotation (standalone)"),
        (&["-b", BACKUPS[4], "-m", "5"], 1, "5 DONE backups exist, minimum redundancy is 5"),
        (&["-b", "nobody"], 4, "backup \"nobody\" does not exist"),
        (&["-r", "REDUNDANCY x"], 3, "\"X\" is not a number"),
    ] {
        delete(&store, options).exits(code).says(words);
    }
    delete(&store, &["-b", "20200101T000000"]).exits(0).says("20200101T000000");
    assert_eq!(store.keys(), before);
}

#[test]
fn an_unreadable_backup_holds_all_wal_but_not_the_other_backups() {
    let Some(store) = with_fixtures(StoreKind::File) else { return };
    store.put(&format!("{PREFIX}/{SERVER}/base/{}/backup.info", BACKUPS[0]), "status");
    let wal = wal_left(&store);
    delete(&store, &["-r", "REDUNDANCY 1"]).exits(1).says("line 1 has no \"=\"");
    assert_eq!(backups_left(&store), [BACKUPS[0], BACKUPS[2], BACKUPS[4]]);
    assert_eq!(wal_left(&store), wal);
}

/// The same command through another spelling of the store's URL.
fn keep(tool: &Commands, store: &StoreUnderTest, url: &str, options: &[&str]) -> Outcome {
    let mut command = tool.bare("barman-cloud-backup-keep", store);
    run(command.args(&store.options).args(options).args([url, SERVER, BACKUPS[0]]))
}

fn keeps_hold_in_both_spellings_of_the_url(kind: StoreKind) {
    let (Some(barman), Some(store)) = (Commands::barman(), with_fixtures(kind)) else { return };
    let ours = Commands::ours();
    let with_slash = format!("{}/", store.url);
    keep(&barman, &store, &with_slash, &["--target", "full"]).exits(0);
    for url in [&store.url, &with_slash] {
        assert_eq!(keep(&ours, &store, url, &["--status"]).ok(), "Keep: full\n");
    }
    let list = || ours.run("barman-cloud-backup-list", &store, &[], &[SERVER]).ok();
    assert!(list().lines().any(|row| row.starts_with(BACKUPS[0]) && row.contains("KEEP:FULL")));
    delete(&store, &["-b", BACKUPS[0]]).exits(1).says("keep annotation (full)");
    delete(&store, &["-r", "REDUNDANCY 1"]).exits(0);
    let listed = list();
    let ids: Vec<&str> = listed.lines().skip(1).filter_map(|row| row.split(' ').next()).collect();
    assert_eq!(ids, [BACKUPS[0], BACKUPS[2], BACKUPS[4]]);
    keep(&ours, &store, &store.url, &["--release"]).exits(0);
    assert_eq!(keep(&barman, &store, &with_slash, &["--status"]).ok(), "Keep: nokeep\n");
    assert_eq!(keep(&ours, &store, &store.url, &["--status"]).ok(), "Keep: nokeep\n");
}

#[test]
fn keeps_of_barman_hold_in_both_spellings_of_the_url_on_s3() {
    keeps_hold_in_both_spellings_of_the_url(StoreKind::S3);
}

#[test]
fn keeps_of_barman_hold_in_both_spellings_of_the_url_on_azure() {
    keeps_hold_in_both_spellings_of_the_url(StoreKind::Azure);
}

/// On the strict S3 server, which keeps objects as files, `a//b` and `a/b` are one object.
fn a_keep_survives_its_own_setting(kind: StoreKind) {
    let Some(store) = with_fixtures(kind) else { return };
    let ours = Commands::ours();
    for target in ["full", "standalone", "full"] {
        keep(&ours, &store, &store.url, &["--target", target]).exits(0);
        let status = keep(&ours, &store, &store.url, &["--status"]).ok();
        assert_eq!(status, format!("Keep: {target}\n"));
    }
    delete(&store, &["-r", "REDUNDANCY 1"]).exits(0);
    assert_eq!(backups_left(&store), [BACKUPS[0], BACKUPS[2], BACKUPS[4]]);
    keep(&ours, &store, &store.url, &["--release"]).exits(0);
    assert_eq!(keep(&ours, &store, &store.url, &["--status"]).ok(), "Keep: nokeep\n");
}

#[test]
fn a_keep_survives_its_own_setting_on_s3() {
    a_keep_survives_its_own_setting(StoreKind::S3);
}

#[test]
fn a_keep_survives_its_own_setting_on_strict_s3() {
    a_keep_survives_its_own_setting(StoreKind::S3Strict);
}

#[test]
fn a_keep_survives_its_own_setting_in_a_folder() {
    a_keep_survives_its_own_setting(StoreKind::File);
}

#[test]
fn what_root_keeps_in_a_folder_belongs_to_the_owner_of_the_folder() {
    use std::os::unix::fs::MetadataExt;
    let Some(store) = with_fixtures(StoreKind::File) else { return };
    let backup = Path::new(&store.bucket).join(format!("{PREFIX}/{SERVER}/base/{}", BACKUPS[0]));
    let owner = fs::metadata(&backup).expect("the backup's folder").uid();
    // Run by root where the tests are, else by the owner itself.
    keep(&Commands::ours(), &store, &store.url, &["--target", "full"]).exits(0);
    for name in ["annotations", "annotations/keep"] {
        let made = fs::metadata(backup.join(name)).expect(name);
        assert_eq!(made.uid(), owner, "{name}");
    }
}

#[test]
fn temporary_files_of_killed_runs_are_told_and_swept_by_age() {
    let Some(store) = with_fixtures(StoreKind::File) else { return };
    let base = Path::new(&store.bucket).join(format!("{PREFIX}/{SERVER}/base"));
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let put = |name: &str, age: Option<std::time::SystemTime>| {
        let path = base.join(BACKUPS[4]).join(name);
        let file = fs::File::create(&path).expect("a file");
        if let Some(time) = age {
            file.set_modified(time).expect("a time");
        }
        path
    };
    let old = put("data.tar#4711000001", Some(long_ago));
    let young = put("data.tar#4711000002", None);
    let other = put("notes#1a", Some(long_ago));
    let planned = delete(&store, &["-r", "REDUNDANCY 5", "--dry-run"]).ok();
    let name = format!("{SERVER}/base/{}/data.tar#4711000001", BACKUPS[4]);
    assert_eq!(
        planned,
        format!("Skipping deletion of temporary file {name} due to --dry-run option\n")
    );
    assert!(old.exists());
    delete(&store, &["-r", "REDUNDANCY 5"]).exits(0);
    assert!(!old.exists() && young.exists() && other.exists());
    assert_eq!(backups_left(&store).len(), 5);
}

#[test]
fn an_upload_in_progress_is_never_aborted_by_a_deletion() {
    let Some(store) = with_fixtures(StoreKind::S3) else { return };
    let endpoint = store.options.last().expect("--endpoint-url");
    let signed = "AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1/s3/aws4_request, \
                  SignedHeaders=host, Signature=none";
    let headers = [("Authorization", signed)];
    let key = format!("{PREFIX}/{SERVER}/base/{}/data_0009.tar", BACKUPS[4]);
    let target = format!("/{}/{key}?uploads", store.bucket);
    let (status, answer) = http::request("POST", endpoint, &target, &headers, "");
    assert_eq!(status, 200, "{answer}");
    delete(&store, &["-r", "REDUNDANCY 5"]).exits(0);
    let target = format!("/{}?uploads", store.bucket);
    let (status, answer) = http::request("GET", endpoint, &target, &headers, "");
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("data_0009.tar"), "{answer}");
}

#[test]
fn a_backup_that_lost_a_tarball_is_failed_and_neither_counted_nor_picked() {
    let Some(store) = with_fixtures(StoreKind::File) else { return };
    store.delete(&format!("{PREFIX}/{SERVER}/base/{}/data.tar.lz4", BACKUPS[4]));
    let ours = Commands::ours();
    let list = ours.run("barman-cloud-backup-list", &store, &["--format", "json"], &[SERVER]);
    let list: serde_json::Value = serde_json::from_str(&list.ok()).expect("json");
    let last = &list["backups_list"][4];
    assert_eq!((last["status"].as_str(), last["end_time"].as_str()), (Some("FAILED"), None));
    let shown = ours.run("barman-cloud-backup-show", &store, &[], &[SERVER, BACKUPS[4]]).ok();
    assert!(shown.contains("tarball \"data.tar") && shown.contains("is missing"), "{shown}");
    let latest = ours.run("barman-cloud-backup-show", &store, &[], &[SERVER, "latest"]).ok();
    assert!(latest.contains(BACKUPS[3]), "{latest}");
    delete(&store, &["-r", "REDUNDANCY 1"]).exits(0);
    assert_eq!(backups_left(&store), [BACKUPS[2], BACKUPS[3], BACKUPS[4]]);
}

/// Asks the S3 emulator for something that object_store has no call for. It reads the key id
/// and checks no signature.
fn tell_s3(store: &StoreUnderTest, target: &str, body: &str) {
    let endpoint = store.options.last().expect("--endpoint-url");
    let signed = "AWS4-HMAC-SHA256 Credential=test/20261121/us-east-1/s3/aws4_request, \
                  SignedHeaders=host, Signature=none";
    let target = format!("/{}{target}", store.bucket);
    let headers = [("Authorization", signed)];
    let (status, answer) = http::request("PUT", endpoint, &target, &headers, body);
    assert_eq!(status, 200, "{target}: {answer}");
}

const XML: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";

#[test]
fn a_locked_tarball_spares_its_whole_backup_and_the_wal_it_needs() {
    let Some(store) = with_fixtures(StoreKind::S3) else { return };
    let versions = format!(
        "<VersioningConfiguration {XML}><Status>Enabled</Status></VersioningConfiguration>"
    );
    tell_s3(&store, "?versioning", &versions);
    let locks = format!(
        "<ObjectLockConfiguration {XML}><ObjectLockEnabled>Enabled</ObjectLockEnabled>\
         </ObjectLockConfiguration>"
    );
    tell_s3(&store, "?object-lock", &locks);
    let tarball = format!("{PREFIX}/{SERVER}/base/{}/data_0003.tar", BACKUPS[1]);
    store.put(&tarball, "x");
    let hold = format!("<LegalHold {XML}><Status>ON</Status></LegalHold>");
    tell_s3(&store, &format!("/{tarball}?legal-hold"), &hold);

    let locked = store.keys_below(&format!("{SERVER}/base/{}", BACKUPS[1]));
    delete(&store, &["-r", "REDUNDANCY 1", "--check-object-lock"])
        .exits(1)
        .says("data_0003.tar\" is locked by a legal hold");
    assert_eq!(backups_left(&store), [BACKUPS[1], BACKUPS[2], BACKUPS[4]]);
    assert_eq!(store.keys_below(&format!("{SERVER}/base/{}", BACKUPS[1])), locked);
    let left = wal_left(&store);
    let needed = ["000000010000000000000015", "00000001000000000000001A"];
    assert!(needed.iter().all(|name| left.contains(&name.to_string())), "{left:?}");
    assert!(!left.contains(&"000000010000000000000014".to_string()), "{left:?}");
}
