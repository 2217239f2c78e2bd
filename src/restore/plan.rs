//! Which objects go where: pure, from the backup as the catalog knows it.

use crate::catalog::{Backup, BackupId, BackupMethod, Tablespace, Tarball, TarballTarget};
use crate::restore::{RestoreError, TablespaceMapping};
use crate::store::ObjectKey;
use std::cmp::Reverse;
use std::path::{Path, PathBuf};

/// Everything that a restore will do, decided before the first byte is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    pub id: BackupId,
    /// The largest first, so that no job is left alone with it at the end.
    pub tarballs: Vec<Tarball>,
    /// Only those with a place of their own; in-place ones lie in the data directory.
    pub tablespaces: Vec<PlannedTablespace>,
    /// PostgreSQL's manifest of the backup, where there is one.
    pub manifest: Option<PlannedObject>,
    /// `pg_wal`, or `pg_xlog` before PostgreSQL 10.
    pub wal_directory: &'static str,
    /// Odd, but no reason to stop: for the operator's eyes.
    pub warnings: Vec<String>,
}

/// An object as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedObject {
    pub key: ObjectKey,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTablespace {
    pub name: String,
    pub oid: u32,
    pub location: PathBuf,
}

impl RestorePlan {
    /// Bytes of all tarballs as stored.
    pub fn stored_bytes(&self) -> u64 {
        let sizes = self.tarballs.iter().map(|tarball| tarball.stored_bytes);
        // A record may say anything.
        sizes.fold(0, u64::saturating_add)
    }

    /// The place of a tarball, given that of the data directory.
    pub fn place_of<'a>(&'a self, target: TarballTarget, data: &'a Path) -> &'a Path {
        match target {
            TarballTarget::Data => data,
            TarballTarget::Tablespace(oid) => self
                .tablespaces
                .iter()
                .find(|tablespace| tablespace.oid == oid)
                .map_or(data, |tablespace| &tablespace.location),
        }
    }
}

/// Bytes that a tarball takes on disk, nearly: for Barman's, which do not tell, at least.
pub fn disk_bytes(tarball: &Tarball) -> u64 {
    tarball.record.as_ref().map_or(tarball.stored_bytes, |record| record.raw_bytes)
}

/// Plans the restore of `backup`; `url_of` names objects in errors.
pub fn plan(
    backup: &Backup,
    mappings: &[TablespaceMapping],
    url_of: &dyn Fn(&ObjectKey) -> String,
) -> Result<RestorePlan, RestoreError> {
    let recorded = backup.record.as_ref().map(|record| record.method);
    if backup.info.snapshots_info.is_some() || recorded == Some(BackupMethod::Snapshot) {
        return Err(RestoreError::Snapshot { id: backup.id.clone() });
    }
    let mut warnings = Vec::new();
    let tablespaces = tablespaces(backup, mappings, &mut warnings);
    let mut tarballs = Vec::new();
    for tarball in backup.tarballs().map_err(RestoreError::Tarballs)? {
        let homeless = match tarball.name.target {
            TarballTarget::Data => false,
            TarballTarget::Tablespace(oid) => !tablespaces.iter().any(|known| known.oid == oid),
        };
        let damaged = |reason: &str| RestoreError::Corrupt {
            object: url_of(&tarball.key),
            reason: reason.into(),
        };
        match (&tarball.record, homeless) {
            (Some(_), true) => return Err(damaged("it belongs to a tablespace without a place")),
            (None, true) => {
                warnings.push(format!("\"{}\" belongs to no tablespace", tarball.key));
            }
            (_, false) if tarball.stored_bytes == 0 => return Err(damaged("it is empty")),
            (_, false) => tarballs.push(tarball),
        }
    }
    if !tarballs.iter().any(|tarball| tarball.name.target == TarballTarget::Data) {
        return Err(RestoreError::Incomplete { id: backup.id.clone(), file: "data.tar" });
    }
    tarballs.sort_by_key(|tarball| Reverse(tarball.stored_bytes));
    let manifest = manifest(backup);
    // Source: PostgreSQL 10 release notes.
    let before_10 = backup.info.version.is_some_and(|version| version < 100_000);
    let wal_directory = if before_10 { "pg_xlog" } else { "pg_wal" };
    let id = backup.id.clone();
    Ok(RestorePlan { id, tarballs, tablespaces, manifest, wal_directory, warnings })
}

/// Applies the mappings. An empty or relative location is an in-place tablespace.
fn tablespaces(
    backup: &Backup,
    mappings: &[TablespaceMapping],
    warnings: &mut Vec<String>,
) -> Vec<PlannedTablespace> {
    let known = backup.info.tablespaces.as_deref().unwrap_or_default();
    for mapping in mappings {
        if !known.iter().any(|tablespace| tablespace.name == mapping.name) {
            warnings.push(format!("the backup has no tablespace \"{}\"", mapping.name));
        }
    }
    let place = |tablespace: &Tablespace| {
        let mapped = mappings.iter().rev().find(|mapping| mapping.name == tablespace.name);
        let original = Path::new(&tablespace.location);
        original.is_absolute().then(|| PlannedTablespace {
            name: tablespace.name.clone(),
            oid: tablespace.oid,
            location: mapped.map_or(original, |mapping| &mapping.location).into(),
        })
    };
    known.iter().filter_map(place).collect()
}

/// `backup_manifest` in the backup's folder itself.
fn manifest(backup: &Backup) -> Option<PlannedObject> {
    let name = format!("{}/backup_manifest", backup.id);
    let entry = backup.objects.iter().find(|entry| {
        let key = entry.key.as_str();
        key.strip_suffix(&name).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    })?;
    Some(PlannedObject { key: entry.key.clone(), bytes: entry.bytes })
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, Tablespace, TarballTarget};
    use crate::restore::{RestoreError, RestorePlan, TablespaceMapping};
    use crate::store::{ListEntry, ObjectKey};
    use jiff::Timestamp;
    use std::path::Path;

    const ID: &str = "20261120T235852";

    fn backup(objects: &[(&str, u64)]) -> Backup {
        let entry = |(name, bytes): &(&str, u64)| ListEntry {
            key: ObjectKey::parse(&format!("p/main/base/{ID}/{name}")).expect("key"),
            bytes: *bytes,
            modified: Timestamp::UNIX_EPOCH,
        };
        let tablespace = |name: &str, oid, location: &str| Tablespace {
            name: name.into(),
            oid,
            location: location.into(),
        };
        Backup {
            id: BackupId::parse(ID).expect("id"),
            info: BackupInfo {
                status: Some(BackupStatus::Done),
                tablespaces: Some(vec![tablespace("fast", 16384, "/srv/fast")]),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: objects.iter().map(entry).collect(),
            keep: None,
        }
    }

    fn plan(backup: &Backup, mappings: &[&str]) -> Result<RestorePlan, RestoreError> {
        let mappings: Vec<_> =
            mappings.iter().map(|text| TablespaceMapping::parse(text).expect(text)).collect();
        crate::restore::plan::plan(backup, &mappings, &ToString::to_string)
    }

    #[test]
    fn the_largest_tarball_comes_first_and_the_manifest_is_found() {
        let objects = [("16384.tar", 9), ("data.tar", 5), ("data_0001.tar", 7)];
        let objects = [&objects[..], &[("backup_manifest", 3)]].concat();
        let plan = plan(&backup(&objects), &[]).expect("plan");
        let sizes: Vec<u64> = plan.tarballs.iter().map(|tarball| tarball.stored_bytes).collect();
        assert_eq!(sizes, [9, 7, 5]);
        assert_eq!(plan.stored_bytes(), 21);
        assert_eq!(plan.manifest.expect("manifest").bytes, 3);
    }

    #[test]
    fn tablespaces_go_where_they_were_or_where_the_last_mapping_says() {
        let backup = backup(&[("16384.tar", 1), ("data.tar", 1)]);
        let place = |mappings: &[&str]| {
            let plan = plan(&backup, mappings).expect("plan");
            let target = TarballTarget::Tablespace(16384);
            plan.place_of(target, Path::new("/data")).to_path_buf()
        };
        assert_eq!(place(&[]), Path::new("/srv/fast"));
        assert_eq!(place(&["fast:/a", "fast:/b"]), Path::new("/b"));
        assert_eq!(place(&["slow:/a"]), Path::new("/srv/fast"));
    }

    #[test]
    fn an_unknown_tablespace_name_is_a_warning() {
        let backup = backup(&[("16384.tar", 1), ("data.tar", 1)]);
        let plan = plan(&backup, &["slow:/a"]).expect("plan");
        assert_eq!(plan.warnings, ["the backup has no tablespace \"slow\""]);
    }

    #[test]
    fn in_place_tablespaces_have_no_place_of_their_own() {
        let mut backup = backup(&[("data.tar", 1)]);
        backup.info.tablespaces.as_mut().expect("one")[0].location = "pg_tblspc/16384".into();
        // Barman has no tarball for it, and its catalog says that there must be one.
        assert!(matches!(plan(&backup, &[]), Err(RestoreError::Tarballs(_))));
        backup.info.tablespaces = None;
        assert_eq!(plan(&backup, &[]).expect("plan").tablespaces, []);
    }

    #[test]
    fn an_empty_tarball_is_damage() {
        let backup = backup(&[("16384.tar", 1), ("data.tar", 0)]);
        assert!(matches!(plan(&backup, &[]), Err(RestoreError::Corrupt { .. })));
    }

    #[test]
    fn snapshot_backups_are_refused() {
        let mut backup = backup(&[("16384.tar", 1), ("data.tar", 1)]);
        backup.info.snapshots_info = Some(serde_json::json!({"provider": "aws"}));
        assert!(matches!(plan(&backup, &[]), Err(RestoreError::Snapshot { .. })));
    }
}
