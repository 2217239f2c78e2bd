//! Checks everything that can be known before the first byte is written.

use crate::disk::{self, Space};
use crate::restore::journal::{JOURNAL_NEW, Journal};
use crate::restore::plan::disk_bytes;
use crate::restore::{PlannedTablespace, RestoreError, RestorePlan};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// How the target was found.
#[derive(Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Absent or empty, and so are the tablespaces' places.
    Fresh,
    /// Holds an interrupted run of the same restore.
    Resumable(Journal),
    /// Holds the complete result of this restore, untouched by PostgreSQL; only the journal
    /// was not removed any more.
    Complete,
}

/// Looks at the target, the tablespaces' places and the space; writes nothing.
///
/// `wanted` is the journal that this restore would begin with.
pub fn preflight(
    plan: &RestorePlan,
    target: &Path,
    wanted: &Journal,
) -> Result<TargetState, RestoreError> {
    check_places(&plan.tablespaces, target)?;
    let found = Journal::read(target)?;
    match found {
        Some(found) if !found.is_same_restore(wanted) => {
            Err(RestoreError::OtherRestore { path: target.into(), found: found.backup })
        }
        Some(found) if exists(&target.join("global/pg_control"))? => {
            // PostgreSQL renames the label when it starts: then this is a cluster, not a restore.
            let untouched = exists(&target.join("backup_label"))?;
            match untouched && plan.tarballs.iter().all(|tarball| found.has_finished(tarball)) {
                true => Ok(TargetState::Complete),
                false => Err(RestoreError::TargetNotEmpty { path: target.into() }),
            }
        }
        // Space is not counted again: what was written before is not known to the byte.
        Some(found) => Ok(TargetState::Resumable(found)),
        None => {
            if !is_absent_or_empty(target)? {
                return Err(RestoreError::TargetNotEmpty { path: target.into() });
            }
            for PlannedTablespace { name, location, .. } in &plan.tablespaces {
                if !is_absent_or_empty(location)? {
                    let (name, path) = (name.clone(), location.clone());
                    return Err(RestoreError::TablespaceNotEmpty { name, path });
                }
            }
            check_space(plan, target)?;
            Ok(TargetState::Fresh)
        }
    }
}

/// The place where `path` really is: links resolved as far as it exists.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = path.as_path();
    loop {
        match existing.canonicalize() {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            _ => return Ok(path.clone()),
        }
    }
}

/// No two of them may share a directory, and none may hold another or the data directory. One
/// inside the data directory is odd, but Barman and PostgreSQL accept it.
fn check_places(tablespaces: &[PlannedTablespace], target: &Path) -> Result<(), RestoreError> {
    let mut earlier: Vec<&PlannedTablespace> = Vec::new();
    for tablespace in tablespaces {
        let place = &tablespace.location;
        let refused = |reason: String| RestoreError::TablespaceLocation {
            name: tablespace.name.clone(),
            path: place.clone(),
            reason,
        };
        if target.starts_with(place) {
            return Err(refused("the data directory lies in it".into()));
        }
        for other in &earlier {
            if place.starts_with(&other.location) || other.location.starts_with(place) {
                return Err(refused(format!("it overlaps with tablespace \"{}\"", other.name)));
            }
        }
        earlier.push(tablespace);
    }
    Ok(())
}

fn check_space(plan: &RestorePlan, target: &Path) -> Result<(), RestoreError> {
    let mut needs: BTreeMap<u64, (PathBuf, Space, u64)> = BTreeMap::new();
    for tarball in &plan.tarballs {
        let path = plan.place_of(tarball.name.target, target);
        let space = disk::space(path).map_err(RestoreError::disk(path))?;
        let need = needs.entry(space.device).or_insert_with(|| (path.into(), space, 0));
        need.2 = need.2.saturating_add(disk_bytes(tarball));
    }
    for (path, space, needed) in needs.into_values() {
        if needed > space.available_bytes {
            let available = space.available_bytes;
            return Err(RestoreError::NoSpace { path, needed, available });
        }
    }
    Ok(())
}

/// A file in its place is neither, and an error. A journal that was never finished is nothing:
/// a run was killed while it wrote its very first bytes.
fn is_absent_or_empty(path: &Path) -> Result<bool, RestoreError> {
    match std::fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries {
                if entry.map_err(RestoreError::disk(path))?.file_name() != JOURNAL_NEW {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(RestoreError::NotADirectory { path: path.into() })
        }
        Err(error) => Err(RestoreError::Disk { path: path.into(), source: error }),
    }
}

fn exists(path: &Path) -> Result<bool, RestoreError> {
    path.try_exists().map_err(RestoreError::disk(path))
}
