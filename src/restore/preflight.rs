//! Checks everything that can be known before the first byte is written.

use crate::disk::{self, ExtractRoot, Space};
use crate::restore::extract::PG_CONTROL;
use crate::restore::journal::{JOURNAL_NEW, Journal};
use crate::restore::plan::disk_bytes;
use crate::restore::roots::check_tablespace;
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
    /// Holds the complete result of this restore, untouched by PostgreSQL; only its traces were
    /// not removed any more.
    Complete(Journal),
}

/// Looks at the target, the tablespaces' places and the space; writes nothing.
///
/// `data` is the data directory, if it is there; `wanted` the journal that this restore would
/// begin with.
pub fn preflight(
    plan: &RestorePlan,
    target: &Path,
    data: Option<&ExtractRoot>,
    wanted: &Journal,
) -> Result<TargetState, RestoreError> {
    check_places(&plan.tablespaces, target)?;
    let found = match data {
        Some(data) => Journal::read(data)?,
        None => None,
    };
    let (Some(data), Some(found)) = (data, found) else {
        // A journal that was never finished is nothing: a run was killed while it wrote its very
        // first bytes.
        let empty = data.map_or(Ok(true), |data| data.is_empty_but_for(&[JOURNAL_NEW]));
        if !empty.map_err(RestoreError::disk(target))? {
            return Err(RestoreError::TargetNotEmpty { path: target.into() });
        }
        for tablespace in &plan.tablespaces {
            check_tablespace(tablespace, target, wanted)?;
        }
        check_space(plan, target)?;
        return Ok(TargetState::Fresh);
    };
    if let Some(difference) = found.difference(wanted) {
        let (path, found) = (target.into(), found.source.url);
        return Err(RestoreError::OtherRestore { path, found, difference });
    }
    let there = |path: &str| -> Result<bool, RestoreError> {
        let there = data.extractor().exists(Path::new(path));
        there.map_err(RestoreError::disk(&target.join(path)))
    };
    if there(PG_CONTROL)? {
        // PostgreSQL renames the label when it starts: then this is a cluster, not a restore.
        let all = plan.tarballs.iter().all(|tarball| found.has_finished(tarball));
        if !there("backup_label")? || !all {
            return Err(RestoreError::TargetNotEmpty { path: target.into() });
        }
        if found.ready {
            return Ok(TargetState::Complete(found));
        }
    }
    for tablespace in &plan.tablespaces {
        check_tablespace(tablespace, target, &found)?;
    }
    // Space is not counted again: what was written before is not known to the byte.
    Ok(TargetState::Resumable(found))
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
            // Where ".." leads from a directory that is not there nobody can tell.
            _ => return Err(io::Error::new(io::ErrorKind::NotFound, "\"..\" leads from nowhere")),
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
