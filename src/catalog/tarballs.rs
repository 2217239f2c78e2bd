//! The tarballs of one backup: found, and checked for completeness.

use crate::catalog::{Backup, BackupId, BackupMethod, TarballName, TarballRecord, TarballTarget};
use crate::store::{ListEntry, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};

/// One tarball that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tarball {
    pub name: TarballName,
    pub key: ObjectKey,
    pub stored_bytes: u64,
    /// What was recorded when it was written; absent for backups of Barman.
    pub record: Option<TarballRecord>,
}

/// Why a backup cannot be restored from what lies in its folder.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TarballError {
    #[error("backup \"{id}\" is incomplete: tarball \"{name}\" is missing")]
    Missing { id: BackupId, name: String },
    #[error(
        "backup \"{id}\" is damaged: tarball \"{name}\" has {found} bytes, {recorded} were written"
    )]
    OtherSize { id: BackupId, name: String, found: u64, recorded: u64 },
    #[error("backup \"{id}\" is ambiguous: \"{one}\" and \"{other}\" hold the same part of it")]
    Twice { id: BackupId, one: String, other: String },
    #[error("backup \"{id}\" is recorded with tarball \"{name}\", which is not the name of one")]
    BadName { id: BackupId, name: String },
}

impl Backup {
    /// All tarballs in the order they are to be extracted: `data` first, then the tablespaces,
    /// each by number.
    ///
    /// Our own backups are checked against their record: names and sizes. For those of Barman,
    /// which records nothing, the numbers must have no gap and each tablespace must have one.
    pub fn tarballs(&self) -> Result<Vec<Tarball>, TarballError> {
        match &self.record {
            Some(record) if record.method == BackupMethod::Snapshot => Ok(Vec::new()),
            Some(record) => recorded_tarballs(&self.id, &self.objects, &record.tarballs),
            None if self.info.snapshots_info.is_some() => Ok(Vec::new()),
            None => self.listed_tarballs(),
        }
    }

    fn listed_tarballs(&self) -> Result<Vec<Tarball>, TarballError> {
        let mut found: BTreeMap<(TarballTarget, u32), Tarball> = BTreeMap::new();
        for entry in self.objects.iter().filter(|entry| lies_in_folder_itself(&self.id, entry)) {
            let Some(name) = TarballName::parse(entry.key.file_name()) else { continue };
            let tarball =
                Tarball { name, key: entry.key.clone(), stored_bytes: entry.bytes, record: None };
            if let Some(other) = found.insert((name.target, name.number), tarball) {
                return Err(TarballError::Twice {
                    id: self.id.clone(),
                    one: other.name.file_name(),
                    other: name.file_name(),
                });
            }
        }
        let tablespaces = self.info.tablespaces.iter().flatten();
        let expected: BTreeSet<TarballTarget> = tablespaces
            .map(|tablespace| TarballTarget::Tablespace(tablespace.oid))
            .chain([TarballTarget::Data])
            .chain(found.keys().map(|(target, _)| *target))
            .collect();
        for target in expected {
            self.check_numbers(target, &found)?;
        }
        Ok(found.into_values().collect())
    }

    /// Numbers run from 0 without a gap. The end cannot be checked: nothing tells it.
    fn check_numbers(
        &self,
        target: TarballTarget,
        found: &BTreeMap<(TarballTarget, u32), Tarball>,
    ) -> Result<(), TarballError> {
        let mut next = 0;
        for tarball in found.range((target, 0)..=(target, u32::MAX)).map(|(_, tarball)| tarball) {
            if tarball.name.number != next {
                break;
            }
            next += 1;
        }
        let last = found.range((target, 0)..=(target, u32::MAX)).next_back();
        match last {
            Some(((_, number), _)) if *number < next => Ok(()),
            other => {
                let compression = other.and_then(|(_, tarball)| tarball.name.compression);
                let name = TarballName { target, number: next, compression }.file_name();
                Err(TarballError::Missing { id: self.id.clone(), name })
            }
        }
    }
}

/// The recorded tarballs among the objects of a folder, each with the size it was written with.
pub(crate) fn recorded_tarballs(
    id: &BackupId,
    objects: &[ListEntry],
    records: &[TarballRecord],
) -> Result<Vec<Tarball>, TarballError> {
    let listed: BTreeMap<&str, &ListEntry> =
        objects.iter().map(|entry| (entry.key.file_name(), entry)).collect();
    let mut tarballs = Vec::with_capacity(records.len());
    for record in records {
        let (id, name) = (id.clone(), record.name.clone());
        let Some(parsed) = TarballName::parse(&record.name) else {
            return Err(TarballError::BadName { id, name });
        };
        let Some(entry) = listed.get(record.name.as_str()) else {
            return Err(TarballError::Missing { id, name });
        };
        if entry.bytes != record.stored_bytes {
            let (found, recorded) = (entry.bytes, record.stored_bytes);
            return Err(TarballError::OtherSize { id, name, found, recorded });
        }
        tarballs.push(Tarball {
            name: parsed,
            key: entry.key.clone(),
            stored_bytes: entry.bytes,
            record: Some(record.clone()),
        });
    }
    Ok(tarballs)
}

/// Side objects lie in sub-folders and are never tarballs, whatever their names.
pub(crate) fn lies_in_folder_itself(id: &BackupId, entry: &ListEntry) -> bool {
    let folder = entry.key.as_str().rsplit('/').nth(1);
    folder == Some(id.as_str())
}

#[cfg(test)]
mod tests {
    use crate::catalog::{
        Backup, BackupId, BackupInfo, BackupMethod, BackupRecord, Tablespace, TarballError,
        TarballRecord,
    };
    use crate::store::{ListEntry, ObjectKey};
    use jiff::Timestamp;

    const ID: &str = "20261120T235852";

    fn backup(objects: &[(&str, u64)]) -> Backup {
        let entry = |(name, bytes): &(&str, u64)| ListEntry {
            key: ObjectKey::parse(&format!("p/main/base/{ID}/{name}")).expect("key"),
            bytes: *bytes,
            modified: Timestamp::UNIX_EPOCH,
        };
        Backup {
            id: BackupId::parse(ID).expect("id"),
            info: BackupInfo {
                tablespaces: Some(vec![Tablespace {
                    name: "ts".into(),
                    oid: 16384,
                    location: "/srv/ts".into(),
                }]),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: objects.iter().map(entry).collect(),
            keep: None,
        }
    }

    fn names(backup: &Backup) -> Result<Vec<String>, String> {
        let tarballs = backup.tarballs().map_err(|error| error.to_string())?;
        Ok(tarballs.iter().map(|tarball| tarball.name.file_name()).collect())
    }

    fn with_record(mut backup: Backup, tarballs: &[(&str, u64)]) -> Backup {
        let record = |(name, stored_bytes): &(&str, u64)| TarballRecord {
            name: name.to_string(),
            stored_bytes: *stored_bytes,
            raw_bytes: 0,
            members: 0,
            sha256: String::new(),
            index: None,
        };
        backup.record = Some(BackupRecord {
            id: backup.id.clone(),
            tool: "test".into(),
            method: BackupMethod::Files,
            info: backup.info.clone(),
            compression: None,
            tarballs: tarballs.iter().map(record).collect(),
            statistics: None,
            damaged_files: Vec::new(),
            warnings: Vec::new(),
            other: serde_json::Map::new(),
        });
        backup
    }

    #[test]
    fn tarballs_of_barman_come_data_first_and_by_number() {
        let backup = backup(&[
            ("16384.tar", 1),
            ("backup.info", 1),
            ("data.tar", 1),
            ("data_0001.tar", 1),
            ("data_0002.tar", 1),
            ("index/data_0007.tar", 1),
        ]);
        assert_eq!(
            names(&backup).expect("complete"),
            ["data.tar", "data_0001.tar", "data_0002.tar", "16384.tar"]
        );
    }

    #[test]
    fn a_gap_in_the_numbers_of_barman_is_an_error() {
        for (objects, missing) in [
            (
                &[("data.tar.gz", 1), ("data_0002.tar.gz", 1), ("16384.tar.gz", 1)][..],
                "data_0001.tar.gz",
            ),
            (&[("data_0001.tar", 1), ("16384.tar", 1)], "data.tar"),
            (&[("data.tar", 1)], "16384.tar"),
            (&[("16384.tar", 1)], "data.tar"),
        ] {
            let error = backup(objects).tarballs().expect_err(missing);
            let id = BackupId::parse(ID).expect("id");
            assert_eq!(error, TarballError::Missing { id, name: missing.into() });
        }
    }

    #[test]
    fn the_same_part_in_two_compressions_is_an_error() {
        let backup = backup(&[("data.tar", 1), ("data.tar.gz", 1), ("16384.tar", 1)]);
        assert!(matches!(backup.tarballs(), Err(TarballError::Twice { .. })));
    }

    #[test]
    fn our_own_backups_are_checked_against_their_record() {
        let objects = [("16384.tar", 5), ("data.tar", 7)];
        let recorded = [("data.tar", 7), ("16384.tar", 5)];
        assert_eq!(
            names(&with_record(backup(&objects), &recorded)).expect("complete"),
            ["data.tar", "16384.tar"]
        );
        assert_eq!(
            names(&with_record(backup(&objects), &[("data.tar", 8)])).expect_err("size"),
            format!("backup \"{ID}\" is damaged: tarball \"data.tar\" has 7 bytes, 8 were written")
        );
        let one_more = [("data.tar", 7), ("data_0001.tar", 1)];
        assert_eq!(
            names(&with_record(backup(&objects), &one_more)).expect_err("missing"),
            format!("backup \"{ID}\" is incomplete: tarball \"data_0001.tar\" is missing")
        );
    }
}
