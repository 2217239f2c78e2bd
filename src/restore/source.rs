//! Who a backup is: for the journal, and one record compared with the other.

use crate::catalog::format::{backup_info, backup_json};
use crate::catalog::{Backup, BackupInfo, Catalog};
use crate::restore::journal::Source;
use crate::restore::{RestoreError, RestorePlan, Unfinished};
use crate::store::hex;
use sha2::{Digest, Sha256};

const BACKUP_INFO: &str = "backup.info";
const BACKUP_JSON: &str = "backup.json";

/// What tells this backup from any other, one with the same id elsewhere included.
pub fn source(catalog: &Catalog, backup: &Backup, plan: &RestorePlan) -> Source {
    let mut hash = Sha256::new();
    match &backup.record {
        Some(record) => hash.update(backup_json::print(record)),
        None => hash.update(backup_info::print(&backup.info)),
    }
    for tarball in &plan.tarballs {
        hash.update(format!("\n{} {}", tarball.name.file_name(), tarball.stored_bytes));
    }
    let url = url_of(catalog, backup, BACKUP_INFO);
    Source {
        url: url.strip_suffix(BACKUP_INFO).unwrap_or(&url).trim_end_matches('/').into(),
        server_name: catalog.layout().root().into(),
        system_identifier: backup.info.systemid.clone(),
        record_sha256: hex(&hash.finalize()),
    }
}

/// Compares our record with what we wrote for Barman: nothing else proves that neither was
/// changed. What PostgreSQL or the restore depends on must be the same.
pub async fn compare_records(
    catalog: &Catalog,
    backup: &Backup,
    unfinished: Unfinished,
) -> Result<(), RestoreError> {
    let Some(record) = &backup.record else { return Ok(()) };
    let key = catalog.layout().backup_object(&backup.id, BACKUP_INFO);
    let stored = catalog.store().get(&key).await.map_err(RestoreError::Store)?;
    let Some(stored) = stored else {
        return Err(RestoreError::MissingObject { object: catalog.store().url_of(&key) });
    };
    let other = std::str::from_utf8(&stored).map_err(|error| error.to_string());
    let other = other.and_then(|text| backup_info::parse(text).map_err(|error| error.to_string()));
    let reason = match other {
        Ok(other) => difference(&record.info, &other)
            .map(|what| format!("it names another {what} than {BACKUP_JSON} beside it")),
        Err(reason) => Some(reason),
    };
    let Some(reason) = reason else { return Ok(()) };
    let object = catalog.store().url_of(&key);
    match unfinished {
        Unfinished::Refuse => Err(RestoreError::Corrupt { object, reason }),
        Unfinished::Restore => {
            tracing::warn!(object, reason, "the records of the backup contradict each other");
            Ok(())
        }
    }
}

/// The first fact that differs.
fn difference(one: &BackupInfo, other: &BackupInfo) -> Option<&'static str> {
    // What Barman has no word for comes back as its default.
    let facts = [
        ("status", one.status() == other.status()),
        ("system identifier", one.systemid == other.systemid),
        ("PostgreSQL version", one.version == other.version),
        ("timeline", one.timeline == other.timeline),
        ("begin_xlog", one.begin_xlog == other.begin_xlog),
        ("end_xlog", one.end_xlog == other.end_xlog),
        ("begin_wal", one.begin_wal == other.begin_wal),
        ("end_wal", one.end_wal == other.end_wal),
        ("WAL segment size", one.segment_size() == other.segment_size()),
        (
            "set of tablespaces",
            one.tablespaces.as_deref().unwrap_or_default()
                == other.tablespaces.as_deref().unwrap_or_default(),
        ),
    ];
    facts.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}

fn url_of(catalog: &Catalog, backup: &Backup, name: &str) -> String {
    catalog.store().url_of(&catalog.layout().backup_object(&backup.id, name))
}
