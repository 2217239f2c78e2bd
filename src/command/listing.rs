//! What `barman-cloud-backup-list` prints (contract §15.1, §15.2).

use crate::catalog::format::{python, time};
use crate::catalog::{Backup, BackupInfo, BackupStatus, Branch, CatalogListing, Tablespace};
use crate::command::python_json::dumps;
use jiff::Zoned;
use serde_json::{Map, Value, json};

/// The table, sorted by id. Trailing blanks are part of it.
///
/// What cannot be restored, or not to the present, has a word of ours where Barman leaves a blank.
pub fn console(listing: &CatalogListing) -> String {
    let mut text = row(["Backup ID", "End Time", "Begin Wal", "Archival Status", "Name"]);
    for backup in sorted(&listing.backups) {
        let end_time = backup.info.end_time.as_ref().map(|time| {
            // In the zone it was written with: what the operator's clock said.
            time.strftime("%Y-%m-%d %H:%M:%S").to_string()
        });
        text.push_str(&row([
            backup.id.as_str(),
            end_time.as_deref().unwrap_or(""),
            backup.info.begin_wal.as_deref().unwrap_or(""),
            &archival_status(backup, branch_of(listing, backup)),
            backup.name().unwrap_or(""),
        ]));
    }
    text
}

/// One line: `{"backups_list": […]}`, sorted by id.
pub fn json(listing: &CatalogListing) -> String {
    let value = |backup: &Backup| backup_value(backup, branch_of(listing, backup));
    let backups: Vec<Value> = sorted(&listing.backups).into_iter().map(value).collect();
    format!("{}\n", dumps(&json!({ "backups_list": backups })))
}

fn branch_of(listing: &CatalogListing, backup: &Backup) -> Branch {
    if listing.dead.contains(&backup.id) { Branch::Dead } else { Branch::OnLine }
}

fn sorted(backups: &[Backup]) -> Vec<&Backup> {
    let mut backups: Vec<&Backup> = backups.iter().collect();
    backups.sort_by(|one, other| one.id.cmp(&other.id));
    backups
}

fn row([id, end_time, begin_wal, status, name]: [&str; 5]) -> String {
    // A blank before the name, however long the status is.
    format!("{id:<20}{end_time:<25}{begin_wal:<30}{status:<16} {name:<20}\n")
}

fn archival_status(backup: &Backup, branch: Branch) -> String {
    match backup.status() {
        BackupStatus::Done => {}
        BackupStatus::Incomplete => return "INCOMPLETE".into(),
        other => return other.to_string(),
    }
    let kept = match &backup.keep {
        Some(keep) if !keep.as_str().is_empty() => format!("KEEP:{}", keep.as_str().to_uppercase()),
        _ => String::new(),
    };
    match (branch, kept.is_empty()) {
        (Branch::Dead, true) => "DEAD BRANCH".into(),
        (Branch::Dead, false) => format!("{kept},DEAD"),
        (Branch::OnLine | Branch::Unknown, _) => kept,
    }
}

/// A backup as a JSON object: the keys of `backup.info` in their order, then what is derived, and
/// `branch` for one of a dead branch, which Barman does not know.
pub fn backup_value(backup: &Backup, branch: Branch) -> Value {
    let info = &backup.info;
    let mut object = Map::new();
    for (key, value) in info_values(info) {
        let optional = matches!(key, "backup_name" | "snapshots_info");
        if !(optional && value.is_null()) {
            object.insert(key.into(), value);
        }
    }
    object.insert("backup_id".into(), json!(backup.id.as_str()));
    if let Some(begin_time) = &info.begin_time {
        object.insert("begin_time_iso".into(), json!(time::python_iso(begin_time)));
    }
    if let Some(end_time) = &info.end_time {
        object.insert("end_time_iso".into(), json!(time::python_iso(end_time)));
    }
    if branch == Branch::Dead {
        object.insert("branch".into(), json!("dead"));
    }
    Value::Object(object)
}

fn info_values(info: &BackupInfo) -> Vec<(&'static str, Value)> {
    vec![
        // The Python literal, quotes and escapes included, not the text it stands for.
        ("backup_label", json!(info.backup_label.as_deref().map(python::quoted))),
        ("backup_name", json!(info.backup_name)),
        ("begin_offset", json!(info.begin_offset)),
        ("begin_time", json!(info.begin_time.as_ref().map(c_time))),
        ("begin_wal", json!(info.begin_wal)),
        ("begin_xlog", json!(info.begin_xlog.map(|lsn| lsn.to_string()))),
        ("children_backup_ids", json!(info.children_backup_ids.as_ref().map(|ids| ids.join(",")))),
        ("cluster_size", json!(info.cluster_size)),
        ("compression", json!(info.compression)),
        ("config_file", json!(info.config_file)),
        ("copy_stats", json!(info.copy_stats)),
        ("data_checksums", json!(info.data_checksums)),
        ("deduplicated_size", json!(info.deduplicated_size)),
        ("encryption", json!(info.encryption)),
        ("end_offset", json!(info.end_offset)),
        ("end_time", json!(info.end_time.as_ref().map(c_time))),
        ("end_wal", json!(info.end_wal)),
        ("end_xlog", json!(info.end_xlog.map(|lsn| lsn.to_string()))),
        ("error", json!(info.error)),
        ("hba_file", json!(info.hba_file)),
        ("ident_file", json!(info.ident_file)),
        ("included_files", json!(info.included_files)),
        ("mode", json!(info.mode)),
        ("parent_backup_id", json!(info.parent_backup_id)),
        ("pgdata", json!(info.pgdata)),
        ("server_name", json!(info.server_name)),
        ("size", json!(info.size)),
        ("snapshots_info", json!(info.snapshots_info)),
        ("status", json!(info.status().as_str())),
        ("summarize_wal", json!(info.summarize_wal)),
        ("systemid", json!(info.systemid)),
        ("tablespaces", tablespaces(info.tablespaces.as_deref())),
        ("timeline", json!(info.timeline.map(|timeline| timeline.number()))),
        ("version", json!(info.version)),
        ("xlog_segment_size", json!(info.segment_size().bytes())),
    ]
}

/// `Fri Nov 20 23:58:52 2026`, the day padded with a blank, the zone dropped.
fn c_time(time: &Zoned) -> String {
    time.strftime("%a %b %e %H:%M:%S %Y").to_string()
}

fn tablespaces(list: Option<&[Tablespace]>) -> Value {
    match list {
        None | Some([]) => Value::Null,
        Some(list) => list
            .iter()
            .map(|tablespace| json!([tablespace.name, tablespace.oid, tablespace.location]))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{self, empty_catalog, limits, now, write};
    use crate::catalog::{BackupMethod, Catalog, StartedRecord};
    use crate::command::listing::{console, json};

    async fn listed(catalog: &Catalog) -> (String, String) {
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        (console(&listing), json(&listing))
    }

    #[tokio::test]
    async fn lists_are_those_of_barman_3_19_to_the_byte() {
        for (bucket, prefix, server, name) in [
            ("contract", "pg15", "main", "pg15"),
            ("lab", "kill", "srv", "kill"),
            ("lab", "sigint2", "srv", "sigint2"),
            ("lab", "sb", "srv", "sb"),
        ] {
            let catalog = fixtures::catalog(bucket, prefix, server).await;
            if prefix == "sb" {
                // The fixture is without its tarballs.
                let folder = "sb/srv/base/20261121T000016";
                write(catalog.store(), &format!("{folder}/data.tar"), "x").await;
                write(catalog.store(), &format!("{folder}/16384.tar"), "x").await;
            }
            let (console, json) = listed(&catalog).await;
            let expected = |form| fixtures::expected_output(&format!("{name}-backup-list.{form}"));
            assert_eq!(console, expected("console.txt"), "{name}");
            assert_eq!(json, expected("json"), "{name}");
        }
    }

    #[tokio::test]
    async fn an_empty_list_has_a_header_and_an_empty_array() {
        let (console, json) = listed(&empty_catalog()).await;
        assert_eq!(console.lines().count(), 1);
        assert_eq!(json, "{\"backups_list\": []}\n");
    }

    #[tokio::test]
    async fn a_backup_of_ours_that_runs_is_started_and_has_no_end_time() {
        let catalog = empty_catalog();
        let started = StartedRecord {
            tool: "test".into(),
            name: Some("nächtlich".into()),
            method: BackupMethod::Files,
            started: now(),
            host: "db1".into(),
            process: 1,
            snapshots: None,
        };
        let id = catalog.claim(&started).await.expect("claims");
        let (console, json) = listed(&catalog).await;
        let row = console.lines().nth(1).expect("row");
        assert_eq!(row, format!("{:<75}{:<17}{:<20}", id.as_str(), "STARTED", "nächtlich"));
        assert!(json.contains("\"backup_name\": \"n\\u00e4chtlich\""));
        assert!(json.contains("\"end_time\": null") && !json.contains("end_time_iso"));
    }

    #[tokio::test]
    async fn a_backup_that_lost_a_tarball_is_shown_as_failed_without_an_end() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let key = "pg15/main/base/20261120T235852/data_0002.tar";
        catalog
            .delete_one(crate::store::ObjectKey::parse(key).expect("key"))
            .await
            .expect("deletes");
        let listing = catalog.load(&limits(), now()).await.expect("loads");
        let console = console(&listing);
        let row = console.lines().find(|row| row.starts_with("20261120T235852")).expect("row");
        assert!(row.contains("INCOMPLETE") && !row.contains("2026-"), "{row}");
        let json = json(&listing);
        let value: serde_json::Value = serde_json::from_str(&json).expect("json");
        let backup = &value["backups_list"][1];
        assert_eq!((&backup["status"], &backup["end_time"]), (&"FAILED".into(), &().into()));
        assert!(backup.get("end_time_iso").is_none());
        assert_eq!(
            backup["error"],
            "backup \"20261120T235852\" is incomplete: tarball \"data_0002.tar\" is missing"
        );
    }

    #[tokio::test]
    async fn a_backup_of_a_dead_branch_is_marked_in_both_forms() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let history = "1\t0/100000\tx\n2\t0/200000\tx\n";
        write(catalog.store(), "pg15/main/wals/00000003.history", history).await;
        let (console, json) = listed(&catalog).await;
        assert_eq!(console.matches("DEAD BRANCH").count(), 4, "{console}");
        assert!(console.contains("KEEP:STANDALONE,DEAD "), "{console}");
        assert_eq!(json.matches("\"branch\": \"dead\"").count(), 5, "{json}");
    }

    /// Observed with Barman 3.19.1.
    #[tokio::test]
    async fn times_stay_in_their_zone_and_unknown_values_are_null() {
        let catalog = empty_catalog();
        let text = "status=DONE\nend_time=2026-01-02 03:04:05.5+05:30\nincluded_files=['/a', '/b']\n\
                    children_backup_ids=20250102T000000,20250103T000000\n";
        write(catalog.store(), "p/main/base/20260101T000000/backup.info", text).await;
        write(catalog.store(), "p/main/base/20260101T000000/data.tar", "x").await;
        let (console, json) = listed(&catalog).await;
        let row = console.lines().nth(1).expect("row");
        assert_eq!(row.trim_end(), "20260101T000000     2026-01-02 03:04:05");
        for part in [
            "\"children_backup_ids\": \"20250102T000000,20250103T000000\"",
            "\"end_time\": \"Fri Jan  2 03:04:05 2026\"",
            "\"end_time_iso\": \"2026-01-02T03:04:05.500000+05:30\"",
            "\"included_files\": [\"/a\", \"/b\"]",
            "\"xlog_segment_size\": 16777216",
            "\"tablespaces\": null",
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }
}
