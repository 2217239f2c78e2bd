//! `backup.info`: one `key=value` per line, keys in alphabetical order (contract §7).
//!
//! The reader takes any subset of the keys and passes over keys it does not know. The writer
//! writes every key that Barman 3.19.1 knows and never another: one unknown key makes all of
//! Barman's commands fail on the whole catalog.

use crate::catalog::format::FormatError;
use crate::catalog::format::python::Literal;
use crate::catalog::format::time;
use crate::catalog::{BackupInfo, BackupStatus, Tablespace};
use crate::wal::{SegmentSize, TimelineId};
use jiff::Zoned;
use std::str::FromStr;

/// Reads the text of a `backup.info`. A line without `=` or a value of the wrong kind makes the
/// whole file unreadable, as for Barman; an unknown key does not.
pub fn parse(text: &str) -> Result<BackupInfo, FormatError> {
    let mut info = BackupInfo::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| FormatError::new(format!("line {number} has no \"=\"")))?;
        let (key, value) = (key.trim(), value.trim());
        if value != "None" {
            set(&mut info, key, value)
                .map_err(|error| FormatError::new(format!("line {number}, {key}: {error}")))?;
        }
    }
    Ok(info)
}

/// Writes every key in Barman's order. `backup_name` and `snapshots_info` have a line only when
/// they are set; empty containers are written as `None`.
pub fn print(info: &BackupInfo) -> String {
    let mut text = String::new();
    for (key, value) in values(info) {
        let optional = matches!(key, "backup_name" | "snapshots_info");
        if value.is_some() || !optional {
            text.push_str(key);
            text.push('=');
            text.push_str(value.as_deref().unwrap_or("None"));
            text.push('\n');
        }
    }
    text
}

fn set(info: &mut BackupInfo, key: &str, value: &str) -> Result<(), FormatError> {
    match key {
        "backup_label" => info.backup_label = Some(literal_text(value)?),
        "backup_name" => info.backup_name = Some(value.into()),
        "begin_offset" => info.begin_offset = Some(number(value)?),
        "begin_time" => info.begin_time = Some(time::parse(value)?),
        "begin_wal" => info.begin_wal = Some(value.into()),
        "begin_xlog" => info.begin_xlog = Some(number(value)?),
        "children_backup_ids" => info.children_backup_ids = comma_list(value),
        "cluster_size" => info.cluster_size = Some(number(value)?),
        "compression" => info.compression = Some(value.into()),
        "config_file" => info.config_file = Some(value.into()),
        "copy_stats" => info.copy_stats = Some(literal(value)?.into_json()),
        "data_checksums" => info.data_checksums = Some(value.into()),
        "deduplicated_size" => info.deduplicated_size = Some(number(value)?),
        "encryption" => info.encryption = Some(value.into()),
        "end_offset" => info.end_offset = Some(number(value)?),
        "end_time" => info.end_time = Some(time::parse(value)?),
        "end_wal" => info.end_wal = Some(value.into()),
        "end_xlog" => info.end_xlog = Some(number(value)?),
        "error" => info.error = Some(value.into()),
        "hba_file" => info.hba_file = Some(value.into()),
        "ident_file" => info.ident_file = Some(value.into()),
        "included_files" => info.included_files = Some(literal_texts(value)?),
        "mode" => info.mode = Some(value.into()),
        "parent_backup_id" => info.parent_backup_id = Some(value.into()),
        "pgdata" => info.pgdata = Some(value.into()),
        "server_name" => info.server_name = Some(value.into()),
        "size" => info.size = Some(number(value)?),
        "snapshots_info" => info.snapshots_info = Some(literal(value)?.into_json()),
        "status" => info.status = Some(status(value)?),
        "summarize_wal" => info.summarize_wal = Some(value.into()),
        "systemid" => info.systemid = Some(value.into()),
        "tablespaces" => info.tablespaces = Some(tablespaces(value)?),
        "timeline" => info.timeline = Some(timeline(value)?),
        "version" => info.version = Some(number(value)?),
        "xlog_segment_size" => info.xlog_segment_size = Some(segment_size(value)?),
        // A newer Barman's key, or one of those it accepts and does not use.
        _ => {}
    }
    Ok(())
}

fn values(info: &BackupInfo) -> Vec<(&'static str, Option<String>)> {
    let time = |time: &Option<Zoned>| time.as_ref().map(time::python);
    let label = info.backup_label.as_ref().map(|label| Literal::Text(label.clone()).to_string());
    vec![
        ("backup_label", label),
        ("backup_name", plain(&info.backup_name)),
        ("begin_offset", text(&info.begin_offset)),
        ("begin_time", time(&info.begin_time)),
        ("begin_wal", plain(&info.begin_wal)),
        ("begin_xlog", text(&info.begin_xlog)),
        ("children_backup_ids", joined(&info.children_backup_ids)),
        ("cluster_size", text(&info.cluster_size)),
        ("compression", plain(&info.compression)),
        ("config_file", plain(&info.config_file)),
        ("copy_stats", container(&info.copy_stats)),
        ("data_checksums", plain(&info.data_checksums)),
        ("deduplicated_size", text(&info.deduplicated_size)),
        ("encryption", plain(&info.encryption)),
        ("end_offset", text(&info.end_offset)),
        ("end_time", time(&info.end_time)),
        ("end_wal", plain(&info.end_wal)),
        ("end_xlog", text(&info.end_xlog)),
        ("error", plain(&info.error)),
        ("hba_file", plain(&info.hba_file)),
        ("ident_file", plain(&info.ident_file)),
        ("included_files", text_list(&info.included_files)),
        ("mode", plain(&info.mode)),
        ("parent_backup_id", plain(&info.parent_backup_id)),
        ("pgdata", plain(&info.pgdata)),
        ("server_name", plain(&info.server_name)),
        ("size", text(&info.size)),
        ("snapshots_info", container(&info.snapshots_info)),
        ("status", Some(info.status().to_string())),
        ("summarize_wal", plain(&info.summarize_wal)),
        ("systemid", plain(&info.systemid)),
        ("tablespaces", tablespace_list(&info.tablespaces)),
        ("timeline", text(&info.timeline)),
        ("version", text(&info.version)),
        ("xlog_segment_size", Some(info.segment_size().bytes().to_string())),
    ]
}

/// A text on one line: a line break would begin another key.
fn plain(text: &Option<String>) -> Option<String> {
    text.as_ref().map(|text| text.replace(['\n', '\r'], " ").trim().to_string())
}

fn text<T: ToString>(value: &Option<T>) -> Option<String> {
    value.as_ref().map(T::to_string)
}

fn joined(ids: &Option<Vec<String>>) -> Option<String> {
    ids.as_ref().filter(|ids| !ids.is_empty()).map(|ids| ids.join(","))
}

fn container(value: &Option<serde_json::Value>) -> Option<String> {
    let literal = Literal::from_json(value.as_ref()?);
    match &literal {
        Literal::None => None,
        Literal::List(items) if items.is_empty() => None,
        Literal::Dict(entries) if entries.is_empty() => None,
        _ => Some(literal.to_string()),
    }
}

fn text_list(texts: &Option<Vec<String>>) -> Option<String> {
    let texts = texts.as_ref().filter(|texts| !texts.is_empty())?;
    Some(Literal::List(texts.iter().cloned().map(Literal::Text).collect()).to_string())
}

fn tablespace_list(tablespaces: &Option<Vec<Tablespace>>) -> Option<String> {
    let tablespaces = tablespaces.as_ref().filter(|list| !list.is_empty())?;
    let item = |tablespace: &Tablespace| {
        Literal::Tuple(vec![
            Literal::Text(tablespace.name.clone()),
            Literal::Int(i128::from(tablespace.oid)),
            Literal::Text(tablespace.location.clone()),
        ])
    };
    Some(Literal::List(tablespaces.iter().map(item).collect()).to_string())
}

fn number<T: FromStr>(text: &str) -> Result<T, FormatError> {
    text.parse().map_err(|_| FormatError::new(format!("\"{text}\" is not a number")))
}

fn literal(text: &str) -> Result<Literal, FormatError> {
    Literal::parse(text).map_err(|error| FormatError::new(error.to_string()))
}

fn literal_text(text: &str) -> Result<String, FormatError> {
    match literal(text)? {
        Literal::Text(text) => Ok(text),
        _ => Err(FormatError::new("not a text in quotes")),
    }
}

fn literal_texts(text: &str) -> Result<Vec<String>, FormatError> {
    let refused = || FormatError::new("not a list of texts");
    let (Literal::List(items) | Literal::Tuple(items)) = literal(text)? else {
        return Err(refused());
    };
    let text = |item| match item {
        Literal::Text(text) => Ok(text),
        _ => Err(refused()),
    };
    items.into_iter().map(text).collect()
}

fn tablespaces(text: &str) -> Result<Vec<Tablespace>, FormatError> {
    let refused = || FormatError::new("not a list of (name, oid, location)");
    let (Literal::List(items) | Literal::Tuple(items)) = literal(text)? else {
        return Err(refused());
    };
    let tablespace = |item| {
        let (Literal::Tuple(fields) | Literal::List(fields)) = item else { return Err(refused()) };
        match fields.as_slice() {
            [Literal::Text(name), Literal::Int(oid), Literal::Text(location)] => Ok(Tablespace {
                name: name.clone(),
                oid: u32::try_from(*oid).map_err(|_| refused())?,
                location: location.clone(),
            }),
            _ => Err(refused()),
        }
    };
    items.into_iter().map(tablespace).collect()
}

fn comma_list(text: &str) -> Option<Vec<String>> {
    Some(text.split(',').map(|id| id.trim().to_string()).collect())
}

fn status(text: &str) -> Result<BackupStatus, FormatError> {
    BackupStatus::parse(text)
        .ok_or_else(|| FormatError::new(format!("\"{text}\" is not the status of a backup")))
}

fn timeline(text: &str) -> Result<TimelineId, FormatError> {
    TimelineId::new(number(text)?).map_err(|error| FormatError::new(error.to_string()))
}

fn segment_size(text: &str) -> Result<SegmentSize, FormatError> {
    SegmentSize::new(number(text)?).map_err(|error| FormatError::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::catalog::format::backup_info::{parse, print};
    use crate::catalog::{BackupInfo, BackupStatus, Tablespace};
    use proptest::prelude::{any, proptest};
    use std::path::{Path, PathBuf};

    fn fixtures() -> Vec<PathBuf> {
        fn below(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("folder") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    below(&path, found);
                } else if path.ends_with("backup.info") {
                    found.push(path);
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1");
        let mut found = Vec::new();
        below(&root, &mut found);
        found
    }

    #[test]
    fn every_file_of_barman_3_19_is_written_again_to_the_byte() {
        let fixtures = fixtures();
        assert_eq!(fixtures.len(), 9);
        for path in fixtures {
            let text = std::fs::read_to_string(&path).expect("fixture");
            let info = parse(&text).expect("readable");
            assert_eq!(print(&info), text, "{}", path.display());
        }
    }

    #[test]
    fn unknown_keys_and_missing_keys_are_never_fatal() {
        let info = parse("# comment\n\n status = DONE \nbackup_id=x\nfrom_the_future={1: }\n")
            .expect("readable");
        assert_eq!(info.status(), BackupStatus::Done);
        assert_eq!(parse("").expect("empty").status(), BackupStatus::Empty);
    }

    #[test]
    fn a_malformed_line_or_value_makes_the_file_unreadable() {
        for (text, reason) in [
            ("status", "line 1 has no \"=\""),
            ("\nversion=fifteen", "line 2, version: \"fifteen\" is not a number"),
            ("status=GONE", "line 1, status: \"GONE\" is not the status of a backup"),
            ("tablespaces=[1]", "line 1, tablespaces: not a list of (name, oid, location)"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), reason);
        }
    }

    #[test]
    fn values_never_begin_a_line_of_their_own() {
        let info = BackupInfo {
            error: Some("one\nstatus=DONE".into()),
            status: Some(BackupStatus::Failed),
            tablespaces: Some(vec![Tablespace {
                name: "a\nb".into(),
                oid: 1,
                location: "/x".into(),
            }]),
            ..BackupInfo::default()
        };
        let read = parse(&print(&info)).expect("readable");
        assert_eq!(read.status(), BackupStatus::Failed);
        assert_eq!(read.tablespaces, info.tablespaces);
        assert_eq!(read.error.as_deref(), Some("one status=DONE"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
