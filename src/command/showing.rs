//! What `barman-cloud-backup-show` prints (contract §15.3, §15.4).

use crate::catalog::format::{python, time};
use crate::catalog::{Backup, BackupInfo, BackupStatus, Branch};
use crate::command::listing::backup_value;
use crate::command::python_json::dumps;
use serde_json::{Map, Value};
use std::fmt::Display;

/// Sections of labelled rows.
pub fn console(backup: &Backup, branch: Branch) -> String {
    let mut report = Report { text: format!("Backup {}:\n", backup.id) };
    let info = &backup.info;
    let ended = matches!(info.status(), BackupStatus::Done | BackupStatus::WaitingForWals);
    general(&mut report, info, ended, branch);
    server_information(&mut report, info);
    if ended {
        snapshot_information(&mut report, info);
        tablespaces(&mut report, info);
        base_backup(&mut report, info);
        if let Some(children) = info.children_backup_ids.as_ref().filter(|ids| !ids.is_empty()) {
            report.nested("Children Backup(s)", children.join(","));
        }
    } else if let Some(error) = &info.error {
        report.row("Error", error);
    }
    report.text
}

/// One line: the backup under the server name its `backup.info` has, `cloud` for object stores.
pub fn json(backup: &Backup, branch: Branch) -> String {
    // Without a server name the key is Python's null, as Barman prints it.
    let key = backup.info.server_name.as_deref().unwrap_or("null");
    let object = Map::from_iter([(key.to_string(), backup_value(backup, branch))]);
    format!("{}\n", dumps(&Value::Object(object)))
}

struct Report {
    text: String,
}

impl Report {
    fn row(&mut self, label: &str, value: impl Display) {
        self.text.push_str(&format!("  {label:<23}: {value}\n"));
    }

    fn nested(&mut self, label: &str, value: impl Display) {
        self.text.push_str(&format!("    {label:<21}: {value}\n"));
    }

    /// A row that prints `None` for what is not known.
    fn nullable(&mut self, label: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.nested(label, value),
            None => self.nested(label, "None"),
        }
    }

    fn section(&mut self, title: &str) {
        self.text.push_str(&format!("  {title}:\n"));
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }
}

fn general(report: &mut Report, info: &BackupInfo, ended: bool, branch: Branch) {
    let none = || "None".to_string();
    if let Some(name) = &info.backup_name {
        report.row("Backup Name", name);
    }
    report.row("Server Name", info.server_name.as_deref().unwrap_or("None"));
    if let Some(system_identifier) = &info.systemid {
        report.row("System Id", system_identifier);
    }
    report.row("Status", info.status());
    if branch == Branch::Dead {
        report.row("Branch", "dead, recovery cannot follow the newest timeline");
    }
    if ended {
        let version = info.version.map_or_else(none, |version| version.to_string());
        report.row("PostgreSQL Version", version);
        report.row("PGDATA directory", info.pgdata.as_deref().unwrap_or("None"));
        if let Some(bytes) = info.cluster_size.filter(|bytes| *bytes > 0) {
            report.row("Estimated Cluster Size", size_text(bytes));
        }
    }
    report.blank();
}

fn server_information(report: &mut Report, info: &BackupInfo) {
    if info.data_checksums.is_none() && info.summarize_wal.is_none() {
        return;
    }
    report.section("Server information");
    if let Some(checksums) = &info.data_checksums {
        report.nested("Checksums", checksums);
    }
    if let Some(summarizer) = &info.summarize_wal {
        report.nested("WAL summarizer", summarizer);
    }
    report.blank();
}

fn snapshot_information(report: &mut Report, info: &BackupInfo) {
    let Some(snapshots) = &info.snapshots_info else { return };
    let provider = snapshots["provider"].as_str();
    let (provider_keys, snapshot_keys) = snapshot_keys(provider);
    report.section("Snapshot information");
    report.nullable("provider", provider);
    for key in provider_keys {
        report.nested(key, python_value(&snapshots["provider_info"][key]));
    }
    report.blank();
    for snapshot in snapshots["snapshots"].as_array().into_iter().flatten() {
        for key in snapshot_keys {
            report.nested(key, python_value(&snapshot["provider"][key]));
        }
        report.nested("Mount point", python_value(&snapshot["mount"]["mount_point"]));
        report.nested("Mount options", python_value(&snapshot["mount"]["mount_options"]));
        report.blank();
    }
}

/// What Barman shows of each provider: of the whole in its own order, of a snapshot sorted.
fn snapshot_keys(provider: Option<&str>) -> (&'static [&'static str], &'static [&'static str]) {
    match provider {
        Some("aws") => (
            &["account_id", "region"],
            &["device_name", "snapshot_id", "snapshot_lock_mode", "snapshot_name"],
        ),
        Some("azure") => {
            (&["subscription_id", "resource_group"], &["location", "lun", "snapshot_name"])
        }
        Some("gcp") => (&["project"], &["device_name", "snapshot_name", "snapshot_project"]),
        _ => (&[], &[]),
    }
}

fn python_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python::Literal::from_json(other).to_string(),
    }
}

fn tablespaces(report: &mut Report, info: &BackupInfo) {
    let Some(tablespaces) = info.tablespaces.as_ref().filter(|list| !list.is_empty()) else {
        return;
    };
    report.section("Tablespaces");
    for tablespace in tablespaces {
        let place = format!("{} (oid: {})", tablespace.location, tablespace.oid);
        report.nested(&tablespace.name, place);
    }
    report.blank();
}

fn base_backup(report: &mut Report, info: &BackupInfo) {
    report.section("Base backup information");
    if let Some(mode) = &info.mode {
        report.nested("Backup Method", mode);
    }
    if let Some(encryption) = &info.encryption {
        report.nested("Encryption", encryption);
    }
    if let Some(bytes) = info.deduplicated_size.filter(|bytes| *bytes > 0) {
        report.nested("Backup Size", size_text(bytes));
    }
    if let Some(compression) = &info.compression {
        report.nested("Backup Compression", compression);
    }
    report.nullable("Timeline", info.timeline);
    report.nullable("Begin WAL", info.begin_wal.as_deref());
    report.nullable("End WAL", info.end_wal.as_deref());
    report.nullable("Begin time", info.begin_time.as_ref().map(time::python));
    report.nullable("End time", info.end_time.as_ref().map(time::python));
    if let Some(copy_time) = copy_time(info) {
        report.nested("Copy time", copy_time);
    }
    report.nullable("Begin Offset", info.begin_offset);
    report.nullable("End Offset", info.end_offset);
    report.nullable("Begin LSN", info.begin_xlog);
    report.nullable("End LSN", info.end_xlog);
    report.blank();
}

/// The time of copying, and that of the analysis before it when it took a second or more.
fn copy_time(info: &BackupInfo) -> Option<String> {
    let seconds = |key: &str| info.copy_stats.as_ref()?.get(key)?.as_f64();
    let copy_time = duration_text(seconds("copy_time")?);
    match seconds("analysis_time") {
        Some(analysis) if analysis >= 1.0 => {
            Some(format!("{copy_time} + {} startup", duration_text(analysis)))
        }
        _ => Some(copy_time),
    }
}

/// Base 1024, one decimal, whole bytes below one KiB.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = usize::try_from(bytes.ilog2() / 10).unwrap_or(UNITS.len());
    let mut value = f64_of(bytes);
    for _ in 0..power {
        value /= 1024.0;
    }
    format!("{value:.1} {}", UNITS[power - 1])
}

/// Exact up to 2^53; beyond, one printed decimal does not show the difference.
fn f64_of(number: u64) -> f64 {
    let (high, low) = (number >> 32, number & 0xFFFF_FFFF);
    let half = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    half(high) * 4_294_967_296.0 + half(low)
}

/// Non-zero units from days to seconds; rounded to microseconds first, then cut.
fn duration_text(seconds: f64) -> String {
    let seconds = (seconds * 1e6).round() / 1e6;
    let whole = std::time::Duration::try_from_secs_f64(seconds).map_or(0, |time| time.as_secs());
    if whole == 0 {
        return "less than one second".into();
    }
    let units = [
        (whole / 86400, "day"),
        (whole / 3600 % 24, "hour"),
        (whole / 60 % 60, "minute"),
        (whole % 60, "second"),
    ];
    let text = |(number, unit): (u64, &str)| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {unit}{plural}")
    };
    let parts: Vec<String> =
        units.into_iter().filter(|(number, _)| *number > 0).map(text).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use crate::catalog::Catalog;
    use crate::catalog::fixtures::{self, empty_catalog, expected_output, limits, now, write};
    use crate::command::showing::{console, duration_text, json, size_text};

    async fn shown(catalog: &Catalog, backup: &str) -> (String, String) {
        let backup = catalog.select(backup, &limits(), now()).await.expect(backup);
        let branch = catalog.branch_of(&backup, &limits()).await.expect("asks");
        (console(&backup, branch), json(&backup, branch))
    }

    #[tokio::test]
    async fn backups_are_shown_as_by_barman_3_19_to_the_byte() {
        for (prefix, server, backups) in [
            (
                "pg15",
                "main",
                &[
                    "20261120T235832",
                    "20261120T235852",
                    "20261120T235911",
                    "20261121T000052",
                    "20261121T000057",
                ][..],
            ),
            ("snap", "main", &["20261121T001847"]),
        ] {
            let catalog = fixtures::catalog("contract", prefix, server).await;
            for backup in backups {
                let (console, json) = shown(&catalog, backup).await;
                let expected =
                    |form| expected_output(&format!("{prefix}-backup-show.{backup}.{form}"));
                assert_eq!(console, expected("console.txt"), "{backup}");
                assert_eq!(json, expected("json"), "{backup}");
            }
        }
    }

    #[tokio::test]
    async fn started_failed_and_standby_backups_are_shown_as_by_barman_3_19() {
        for (prefix, backup, name) in [
            ("kill", "20261121T000425", "kill-backup-show.console.txt"),
            ("sigint2", "last-failed", "sigint2-backup-show.first.console.txt"),
            ("sb", "first", "sb-backup-show.first.console.txt"),
        ] {
            let catalog = fixtures::catalog("lab", prefix, "srv").await;
            if prefix == "sb" {
                // The fixture is without its tarballs.
                let folder = "sb/srv/base/20261121T000016";
                write(catalog.store(), &format!("{folder}/data.tar"), "x").await;
                write(catalog.store(), &format!("{folder}/16384.tar"), "x").await;
            }
            assert_eq!(shown(&catalog, backup).await.0, expected_output(name), "{name}");
        }
    }

    /// Observed with Barman 3.19.1.
    #[tokio::test]
    async fn what_other_writers_fill_is_shown_and_what_nobody_filled_is_none() {
        let catalog = empty_catalog();
        let key = "p/main/base/20260101T000000/backup.info";
        write(catalog.store(), key, "").await;
        let (text, json) = shown(&catalog, "20260101T000000").await;
        assert_eq!(
            text,
            "Backup 20260101T000000:\n  Server Name            : None\n  Status                 : EMPTY\n\n"
        );
        assert!(json.starts_with("{\"null\": {\"backup_label\": null, "));

        let filled = "status=DONE\nmode=postgres\nencryption=gpg\nsize=5000\ndeduplicated_size=1234567\n\
             compression=gzip\nsummarize_wal=on\nchildren_backup_ids=a,b\n\
             copy_stats={'copy_time': 3000000.0, 'analysis_time': 5.5}\n";
        write(catalog.store(), key, filled).await;
        write(catalog.store(), "p/main/base/20260101T000000/data.tar", "x").await;
        let (text, _) = shown(&catalog, "20260101T000000").await;
        assert_eq!(
            text,
            "Backup 20260101T000000:\n  Server Name            : None\n  Status                 : DONE\n  \
             PostgreSQL Version     : None\n  PGDATA directory       : None\n\n  Server information:\n    \
             WAL summarizer       : on\n\n  Base backup information:\n    Backup Method        : postgres\n    \
             Encryption           : gpg\n    Backup Size          : 1.2 MiB\n    \
             Backup Compression   : gzip\n    Timeline             : None\n    \
             Begin WAL            : None\n    End WAL              : None\n    \
             Begin time           : None\n    End time             : None\n    \
             Copy time            : 34 days, 17 hours, 20 minutes + 5 seconds startup\n    \
             Begin Offset         : None\n    End Offset           : None\n    \
             Begin LSN            : None\n    End LSN              : None\n\n    \
             Children Backup(s)   : a,b\n"
        );
    }

    #[test]
    fn sizes_and_durations_read_as_barman_prints_them() {
        for (bytes, text) in [
            (12, "12 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1024.0 KiB"),
            (1 << 50, "1.0 PiB"),
            (1 << 60, "1.0 EiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
        for (seconds, text) in [
            (0.999, "less than one second"),
            (0.9999999, "1 second"),
            (59.99, "59 seconds"),
            (60.0, "1 minute"),
            (3661.0, "1 hour, 1 minute, 1 second"),
            (93784.5, "1 day, 2 hours, 3 minutes, 4 seconds"),
            (604_800.0, "7 days"),
            (-1.0, "less than one second"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }
}
