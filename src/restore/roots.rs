//! The directories of a restore: where they may be, whose they are, and that they are still ours.
//!
//! Where a tablespace lies stands in the backup, which a hostile store can write. So root makes
//! or takes a directory only where the owner of the data directory could have made it, or where
//! `--tablespace` says so; and nobody writes into one that holds anything else.

use crate::disk::{ExtractRoot, Site};
use crate::restore::journal::Journal;
use crate::restore::plan::PlaceFrom;
use crate::restore::{PlannedTablespace, RestoreError, RestorePlan};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

/// In each tablespace's directory until the restore is complete: the journal's mark.
pub const MARK: &str = ".barman-cloud-restore.mark";

const ROOT: u32 = 0;

/// Whose the data directory is, or will be when it is made.
pub fn owner_of(target: &Path) -> Result<u32, RestoreError> {
    let site = Site::find(target).map_err(RestoreError::disk(target))?;
    Ok(site.owner().map_err(RestoreError::disk(target))?.user_id)
}

/// Finds the place of a tablespace, and refuses one that is not for this restore to take.
/// Writes nothing.
pub fn check_tablespace(
    tablespace: &PlannedTablespace,
    target: &Path,
    journal: &Journal,
) -> Result<Site, RestoreError> {
    let path = &tablespace.location;
    let site = match Site::find(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RestoreError::NotADirectory { path: path.clone() });
        }
        site => site.map_err(RestoreError::disk(path))?,
    };
    if site.is_there() {
        let root = ExtractRoot::open(path).map_err(RestoreError::disk(path))?;
        check_content(&root, tablespace, journal)?;
    }
    // What lies in the data directory is the restore's in any case.
    if journal.user == ROOT && !path.starts_with(target) && !is_resumed(&site, path, journal)? {
        let owner = site.owner().map_err(RestoreError::disk(path))?.user_id;
        may_take(tablespace, owner, journal.owner)?;
    }
    Ok(site)
}

/// The rule for root. `owner` is that of the directory, or of the nearest one above it.
fn may_take(
    tablespace: &PlannedTablespace,
    owner: u32,
    data_owner: u32,
) -> Result<(), RestoreError> {
    let confirmed = tablespace.place_from == PlaceFrom::Option;
    let allowed = match owner {
        ROOT => confirmed,
        owner => owner == data_owner,
    };
    if allowed {
        return Ok(());
    }
    Err(RestoreError::TablespaceOwner {
        name: tablespace.name.clone(),
        path: tablespace.location.clone(),
        owner,
        data_owner,
    })
}

/// An earlier run of this restore took the directory, and gave it to the cluster's owner.
fn is_resumed(site: &Site, path: &Path, journal: &Journal) -> Result<bool, RestoreError> {
    if !site.is_there() {
        return Ok(false);
    }
    let root = ExtractRoot::open(path).map_err(RestoreError::disk(path))?;
    is_marked(&root, journal)
}

/// Empty, or filled by an earlier run of this very restore.
fn check_content(
    root: &ExtractRoot,
    tablespace: &PlannedTablespace,
    journal: &Journal,
) -> Result<(), RestoreError> {
    let empty = root.is_empty_but_for(&[MARK]).map_err(RestoreError::disk(root.path()))?;
    if empty || is_marked(root, journal)? {
        return Ok(());
    }
    let (name, path) = (tablespace.name.clone(), tablespace.location.clone());
    Err(RestoreError::TablespaceNotEmpty { name, path })
}

fn is_marked(root: &ExtractRoot, journal: &Journal) -> Result<bool, RestoreError> {
    let read = || -> io::Result<bool> {
        let Some(file) = root.extractor().open(Path::new(MARK))? else { return Ok(false) };
        let mut mark = Vec::new();
        file.take(1 << 10).read_to_end(&mut mark)?;
        Ok(mark == journal.mark.as_bytes())
    };
    read().map_err(RestoreError::disk(root.path()))
}

/// Opens or makes the directories of all tablespaces and marks them, each checked once more on
/// what was opened. The journal must be there: what it does not name is never marked.
pub fn open_tablespaces(
    plan: &RestorePlan,
    data: &ExtractRoot,
    journal: &Journal,
) -> Result<BTreeMap<u32, ExtractRoot>, RestoreError> {
    let mut roots = BTreeMap::new();
    let identity = |root: &ExtractRoot| root.identity().map_err(RestoreError::disk(root.path()));
    let mut taken = BTreeSet::from([identity(data)?]);
    for tablespace in &plan.tablespaces {
        let path = &tablespace.location;
        let site = check_tablespace(tablespace, data.path(), journal)?;
        let root = site.open().map_err(RestoreError::disk(path))?;
        check_content(&root, tablespace, journal)?;
        // Names that differ may be one directory: mounted twice, or on a file system that
        // knows no case.
        if !taken.insert(identity(&root)?) {
            return Err(RestoreError::TablespaceLocation {
                name: tablespace.name.clone(),
                path: path.clone(),
                reason: "it is the directory of another part of the cluster".into(),
            });
        }
        mark(&root, journal).map_err(RestoreError::disk(path))?;
        roots.insert(tablespace.oid, root);
    }
    Ok(roots)
}

fn mark(root: &ExtractRoot, journal: &Journal) -> io::Result<()> {
    let mut file = root.extractor().file(Path::new(MARK), None)?;
    file.write_all(journal.mark.as_bytes())?;
    file.sync_all()
}

/// Removes the mark durably.
pub fn unmark(root: &ExtractRoot) -> Result<(), RestoreError> {
    root.extractor().remove(Path::new(MARK)).map_err(RestoreError::disk(root.path()))
}

#[cfg(test)]
mod tests {
    use crate::restore::RestoreError;
    use crate::restore::plan::PlaceFrom;
    use crate::restore::plan::tests::bare_plan;
    use crate::restore::roots::may_take;

    /// 26 owns the data directory, 1000 is somebody else.
    #[test]
    fn root_takes_only_what_the_cluster_could_have_or_the_operator_names() {
        let taken = |place_from, owner, data_owner| {
            let mut tablespace = bare_plan("/srv/ts").tablespaces.remove(0);
            tablespace.place_from = place_from;
            match may_take(&tablespace, owner, data_owner) {
                Ok(()) => true,
                Err(RestoreError::TablespaceOwner { .. }) => false,
                Err(other) => panic!("{other}"),
            }
        };
        for (place_from, owner, data_owner, allowed) in [
            (PlaceFrom::Backup, 26, 26, true),
            (PlaceFrom::Backup, 0, 26, false),
            (PlaceFrom::Backup, 0, 0, false),
            (PlaceFrom::Backup, 1000, 26, false),
            (PlaceFrom::Backup, 1000, 0, false),
            (PlaceFrom::Option, 26, 26, true),
            (PlaceFrom::Option, 0, 26, true),
            (PlaceFrom::Option, 0, 0, true),
            (PlaceFrom::Option, 1000, 26, false),
        ] {
            let told = format!("{place_from:?}, {owner} beside {data_owner}");
            assert_eq!(taken(place_from, owner, data_owner), allowed, "{told}");
        }
    }
}
