//! Which files of a data directory belong into a base backup.
//!
//! The rules are those of PostgreSQL's own base backup, `sendDir` with its lists
//! `excludeDirContents` and `excludeFiles` (PostgreSQL src/backend/backup/basebackup.c,
//! versions 10 to 18), and what Barman leaves out besides (contract §6.4), with Barman's
//! leaks closed: temporary relations, unlogged main forks and nested contents stay out.
//! Entries that only newer versions leave out (`.DS_Store`) are left out for all: no
//! PostgreSQL gives them a meaning.
//!
//! Names alone decide. What depends on the kind of a file (sockets, links to directories)
//! is for who reads the directory.

use crate::pgdata::relation_file::{Fork, RelationFile, is_number, is_temporary_relation};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What becomes of one directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inclusion {
    Include,
    /// The directory itself is kept, empty: PostgreSQL needs it but refills it.
    SkipContents,
    Skip,
    /// `global/pg_control`: read and stored after everything else, so that a copy that
    /// was cut short has none and does not start.
    Last,
}

/// Which directory a relative path starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    DataDirectory,
    /// The location of a tablespace, the directory above `PG_15_202209061`.
    Tablespace,
}

/// The rules for one cluster.
#[derive(Clone, Debug)]
pub struct FileFilter {
    /// The only directory of a tablespace location that is this cluster's; see
    /// [`crate::pgdata::ControlFile::tablespace_version_directory`].
    pub version_directory: String,
    /// Tablespaces that are backed up from their own location, not through `pg_tblspc`.
    pub linked_tablespaces: Vec<u32>,
    /// Directories, relative to PGDATA, whose contents stay out: locations of tablespaces
    /// inside PGDATA, and `stats_temp_directory` of PostgreSQL 14 and older.
    pub emptied_directories: Vec<PathBuf>,
}

/// The rules for the entries of one directory.
#[derive(Clone, Debug)]
pub struct DirectoryFilter<'a> {
    cluster: &'a FileFilter,
    root: Root,
    directory: &'a Path,
    is_database: bool,
    unlogged: HashSet<u32>,
}

/// Kept as empty directories wherever they appear. Source: `excludeDirContents`.
const EMPTIED_ANYWHERE: [&str; 7] = [
    // Temporary statistics, rewritten from the permanent ones at start.
    "pg_stat_tmp",
    // Slots are this server's own; on a copy they would hold back WAL for nobody.
    "pg_replslot",
    // Each of these is emptied or rebuilt at start.
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];

/// Kept as empty directories directly below PGDATA: WAL comes from the archive, and
/// Barman leaves out server logs.
const EMPTIED_AT_ROOT: [&str; 3] = ["pg_wal", "log", "pg_log"];

/// Left out wherever they appear. Source: `excludeFiles`, and `sendDir` for `.DS_Store`.
const SKIPPED_ANYWHERE: [&str; 10] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    // Of the running server, not of its data.
    "postmaster.pid",
    "postmaster.opts",
    // This backup gets its own; older ones would describe another.
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "backup_label.old",
    "tablespace_map.old",
    ".DS_Store",
];

/// Left out directly below PGDATA, as Barman does: a standby's settings would turn the
/// restored cluster into a standby. `recovery.signal` stays, as in Barman and PostgreSQL.
const SKIPPED_AT_ROOT: [&str; 2] = ["recovery.conf", "standby.signal"];

/// Left out wherever a name begins so: temporary files and directories
/// (`PG_TEMP_FILE_PREFIX`), and the relation cache with its `.<pid>` drafts.
const SKIPPED_PREFIXES: [&str; 2] = ["pgsql_tmp", "pg_internal.init"];

impl FileFilter {
    /// The rules for `directory`, relative to `root` and empty for the root itself, which
    /// holds entries of these `names`.
    ///
    /// All names must be given: whether a relation is unlogged shows in its `_init` file,
    /// which may come after the others.
    pub fn directory<'a, 'n>(
        &'a self,
        root: Root,
        directory: &'a Path,
        names: impl IntoIterator<Item = &'n OsStr>,
    ) -> DirectoryFilter<'a> {
        let is_database = self.is_database(root, directory);
        let unlogged = if is_database { unlogged(names) } else { HashSet::new() };
        DirectoryFilter { cluster: self, root, directory, is_database, unlogged }
    }

    /// Whether `directory` holds the relations of one database.
    fn is_database(&self, root: Root, directory: &Path) -> bool {
        let is_number = directory.file_name().and_then(OsStr::to_str).is_some_and(is_number);
        let Some(parent) = directory.parent().filter(|_| is_number) else { return false };
        (root == Root::DataDirectory && parent == Path::new("base"))
            || parent.file_name() == Some(OsStr::new(&self.version_directory))
    }
}

fn unlogged<'n>(names: impl IntoIterator<Item = &'n OsStr>) -> HashSet<u32> {
    names
        .into_iter()
        .filter_map(|name| RelationFile::from_name(name.to_str()?))
        .filter(|file| file.fork == Fork::Init && file.segment == 0)
        .map(|file| file.number)
        .collect()
}

impl DirectoryFilter<'_> {
    /// What becomes of the entry `name`.
    pub fn decide(&self, name: &OsStr) -> Inclusion {
        // PostgreSQL's own names are ASCII; whatever else lies there is somebody's file.
        let Some(text) = name.to_str() else { return Inclusion::Include };
        if self.is_skipped(text) {
            return Inclusion::Skip;
        }
        if self.is_emptied(text) {
            return Inclusion::SkipContents;
        }
        if self.root == Root::DataDirectory
            && self.directory == Path::new("global")
            && text == "pg_control"
        {
            return Inclusion::Last;
        }
        Inclusion::Include
    }

    fn is_skipped(&self, name: &str) -> bool {
        let at_top = self.directory.as_os_str().is_empty();
        if at_top && self.root == Root::Tablespace {
            return name != self.cluster.version_directory;
        }
        SKIPPED_ANYWHERE.contains(&name)
            || SKIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || at_top && SKIPPED_AT_ROOT.contains(&name)
            || self.is_linked_tablespace(name)
            || self.is_database && (is_temporary_relation(name) || self.is_unlogged_data(name))
    }

    fn is_emptied(&self, name: &str) -> bool {
        if EMPTIED_ANYWHERE.contains(&name) {
            return true;
        }
        if self.root != Root::DataDirectory {
            return false;
        }
        self.directory.as_os_str().is_empty() && EMPTIED_AT_ROOT.contains(&name)
            || self.cluster.emptied_directories.contains(&self.directory.join(name))
    }

    fn is_linked_tablespace(&self, name: &str) -> bool {
        self.root == Root::DataDirectory
            && self.directory == Path::new("pg_tblspc")
            && name.parse().is_ok_and(|oid| self.cluster.linked_tablespaces.contains(&oid))
    }

    /// Recovery makes an unlogged relation anew from its init fork, so its other forks
    /// would be read and stored for nothing.
    fn is_unlogged_data(&self, name: &str) -> bool {
        RelationFile::from_name(name)
            .is_some_and(|file| file.fork != Fork::Init && self.unlogged.contains(&file.number))
    }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::{FileFilter, Inclusion, Root};
    use std::ffi::OsStr;
    use std::path::{Path, PathBuf};

    fn cluster() -> FileFilter {
        FileFilter {
            version_directory: "PG_15_202209061".into(),
            linked_tablespaces: vec![16384],
            emptied_directories: vec![PathBuf::from("inner/space"), PathBuf::from("stats")],
        }
    }

    /// Decides on the last part of `path`, whose directory holds also `neighbours`.
    fn decide_beside(root: Root, path: &str, neighbours: &[&str]) -> Inclusion {
        let path = Path::new(path);
        let name = path.file_name().expect("name");
        let names = neighbours.iter().map(OsStr::new).chain([name]);
        let cluster = cluster();
        let directory = path.parent().expect("parent");
        cluster.directory(root, directory, names).decide(name)
    }

    fn in_data_directory(path: &str) -> Inclusion {
        decide_beside(Root::DataDirectory, path, &[])
    }

    #[test]
    fn files_of_the_running_server_are_skipped() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "tablespace_map.old",
            "backup_manifest",
            "recovery.conf",
            "standby.signal",
            ".DS_Store",
            "base/.DS_Store",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.4711",
            "global/pg_internal.init",
            "base/pgsql_tmp",
            "base/5/pgsql_tmp12.0",
            "pg_tblspc/16384",
        ] {
            assert_eq!(in_data_directory(path), Inclusion::Skip, "{path}");
        }
    }

    #[test]
    fn transient_directories_are_kept_empty() {
        for path in [
            "pg_stat_tmp",
            "pg_replslot",
            "pg_dynshmem",
            "pg_notify",
            "pg_serial",
            "pg_snapshots",
            "pg_subtrans",
            "pg_wal",
            "log",
            "pg_log",
            "inner/space",
            "stats",
        ] {
            assert_eq!(in_data_directory(path), Inclusion::SkipContents, "{path}");
        }
    }

    #[test]
    fn everything_else_is_included_and_pg_control_comes_last() {
        for path in [
            "PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "recovery.signal",
            "base",
            "base/5",
            "base/5/16384",
            "base/5/16384_init",
            "global/1262",
            "pg_tblspc",
            "pg_tblspc/16399",
            "current_logfiles",
            "pg_xact/0000",
            "x/log",
            "x/pg_wal",
            "x/standby.signal",
            "pg_stat",
            "base/t3_16384",
            "core",
        ] {
            assert_eq!(in_data_directory(path), Inclusion::Include, "{path}");
        }
        assert_eq!(in_data_directory("global/pg_control"), Inclusion::Last);
        assert_eq!(in_data_directory("x/global/pg_control"), Inclusion::Include);
    }

    #[test]
    fn temporary_relations_are_skipped_where_databases_lie() {
        for path in
            ["base/5/t3_16826", "base/5/t3_16826_fsm", "pg_tblspc/16399/PG_15_202209061/5/t1_2"]
        {
            assert_eq!(in_data_directory(path), Inclusion::Skip, "{path}");
        }
        let tablespace = |path| decide_beside(Root::Tablespace, path, &[]);
        assert_eq!(tablespace("PG_15_202209061/5/t3_16826"), Inclusion::Skip);
        assert_eq!(tablespace("PG_15_202209061/5/16826"), Inclusion::Include);
    }

    #[test]
    fn only_the_init_forks_of_unlogged_relations_are_included() {
        let beside = |name: &str| {
            decide_beside(Root::DataDirectory, &format!("base/5/{name}"), &["700_init", "800"])
        };
        for name in ["700", "700.1", "700_fsm", "700_vm"] {
            assert_eq!(beside(name), Inclusion::Skip, "{name}");
        }
        for name in ["700_init", "800", "800_fsm", "70"] {
            assert_eq!(beside(name), Inclusion::Include, "{name}");
        }
        let elsewhere = decide_beside(Root::DataDirectory, "pg_xact/700", &["700_init"]);
        assert_eq!(elsewhere, Inclusion::Include);
    }

    #[test]
    fn other_clusters_in_a_tablespace_location_are_skipped() {
        let tablespace = |path| decide_beside(Root::Tablespace, path, &[]);
        assert_eq!(tablespace("PG_15_202209061"), Inclusion::Include);
        for name in ["PG_14_202107181", "PG_15_202209060", "lost+found", "file"] {
            assert_eq!(tablespace(name), Inclusion::Skip, "{name}");
        }
    }
}
