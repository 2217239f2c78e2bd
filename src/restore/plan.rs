//! Which objects go where: pure, from the backup as the catalog knows it.

use crate::catalog::{Backup, BackupId, BackupMethod, Tarball, TarballTarget};
use crate::restore::{RestoreError, TablespaceMapping};
use crate::store::ObjectKey;
use crate::wal::Lsn;
use std::cmp::Reverse;
use std::path::{Component, Path, PathBuf};

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
    /// Where the backup's WAL begins, as recorded.
    pub begin: Option<Lsn>,
    /// Of the cluster, as recorded.
    pub system_identifier: Option<String>,
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
    pub place_from: PlaceFrom,
}

/// Who says where a tablespace lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceFrom {
    /// The backup, which may be anybody's word.
    Backup,
    /// The operator.
    Option,
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
    let tablespaces = tablespaces(backup, mappings, &mut warnings)?;
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
    Ok(RestorePlan {
        id: backup.id.clone(),
        tarballs,
        tablespaces,
        manifest,
        begin: backup.info.begin_xlog,
        system_identifier: backup.info.systemid.clone(),
        wal_directory,
        warnings,
    })
}

/// Applies the mappings. An empty or relative location is an in-place tablespace.
fn tablespaces(
    backup: &Backup,
    mappings: &[TablespaceMapping],
    warnings: &mut Vec<String>,
) -> Result<Vec<PlannedTablespace>, RestoreError> {
    let known = backup.info.tablespaces.as_deref().unwrap_or_default();
    let names: Vec<&str> = known.iter().map(|tablespace| tablespace.name.as_str()).collect();
    let mappings: Vec<_> = mappings.iter().map(|mapping| mapping.resolve(&names)).collect();
    for mapping in mappings.iter().filter(|mapping| !names.contains(&mapping.name.as_str())) {
        warnings.push(format!("the backup has no tablespace \"{}\"", mapping.name));
    }
    let mut planned: Vec<PlannedTablespace> = Vec::new();
    for tablespace in known.iter().filter(|known| Path::new(&known.location).is_absolute()) {
        let mapped = mappings.iter().rev().find(|mapping| mapping.name == tablespace.name);
        let (location, place_from) = match mapped {
            Some(mapping) => (mapping.location.clone(), PlaceFrom::Option),
            None => (PathBuf::from(&tablespace.location), PlaceFrom::Backup),
        };
        let refused = |reason: &str| RestoreError::TablespaceLocation {
            name: tablespace.name.clone(),
            path: location.clone(),
            reason: reason.into(),
        };
        if planned.iter().any(|other| other.oid == tablespace.oid) {
            return Err(refused("the backup names its OID twice"));
        }
        // PostgreSQL never records such a path; it would mean another place than it shows.
        let leads_up = location.components().any(|part| part == Component::ParentDir);
        if place_from == PlaceFrom::Backup && leads_up {
            return Err(refused("the path leads upwards"));
        }
        let (name, oid) = (tablespace.name.clone(), tablespace.oid);
        planned.push(PlannedTablespace { name, oid, location, place_from });
    }
    Ok(planned)
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
pub(crate) mod tests {
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, Tablespace, TarballTarget};
    use crate::restore::plan::PlaceFrom;
    use crate::restore::{PlannedTablespace, RestoreError, RestorePlan, TablespaceMapping};
    use crate::store::{ListEntry, ObjectKey};
    use jiff::Timestamp;
    use std::path::Path;

    const ID: &str = "20261120T235852";

    /// Nothing but a tablespace at `location`.
    pub(crate) fn bare_plan(location: &str) -> RestorePlan {
        RestorePlan {
            id: BackupId::parse(ID).expect("id"),
            tarballs: Vec::new(),
            tablespaces: vec![PlannedTablespace {
                name: "fast".into(),
                oid: 16384,
                location: location.into(),
                place_from: PlaceFrom::Backup,
            }],
            manifest: None,
            begin: None,
            system_identifier: None,
            wal_directory: "pg_wal",
            warnings: Vec::new(),
        }
    }

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
    fn a_tablespace_with_a_colon_in_its_name_is_moved() {
        let mut backup = backup(&[("16384.tar", 1), ("data.tar", 1)]);
        backup.info.tablespaces.as_mut().expect("one")[0].name = "my:ts".into();
        let plan = plan(&backup, &["my:ts:/a:b"]).expect("plan");
        assert_eq!(plan.tablespaces[0].location, Path::new("/a:b"));
        assert_eq!(plan.tablespaces[0].place_from, PlaceFrom::Option);
        assert_eq!(plan.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_hostile_list_of_tablespaces_is_refused() {
        let mut backup = backup(&[("16384.tar", 1), ("data.tar", 1)]);
        let mut twice = backup.clone();
        let list = twice.info.tablespaces.as_mut().expect("one");
        list.push(Tablespace { name: "other".into(), oid: 16384, location: "/b".into() });
        let upwards = backup.info.tablespaces.as_mut().expect("one");
        upwards[0].location = "/srv/absent/../../etc/cron.d/x".into();
        for backup in [twice, backup] {
            let refused = plan(&backup, &[]);
            assert!(matches!(refused, Err(RestoreError::TablespaceLocation { .. })));
        }
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
