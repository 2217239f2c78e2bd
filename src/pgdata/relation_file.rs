//! Names of the files that hold relations.
//!
//! Source: `parse_filename_for_nontemp_relation` and `looks_like_temp_rel_name`,
//! PostgreSQL src/backend/storage/file/{reinit,fd}.c; the fork names are `forkNames`,
//! src/common/relpath.c.

use std::path::{Component, Path};

/// One segment file of one fork of a relation: `16384`, `16384.1`, `16384_fsm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The relation's file number (its `relfilenode`).
    pub number: u32,
    pub fork: Fork,
    /// 0 for the file without a suffix; each full segment before this one holds
    /// [`crate::pgdata::ControlFile::relation_segment_pages`] pages.
    pub segment: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fork {
    Main,
    FreeSpaceMap,
    VisibilityMap,
    /// What an unlogged relation is reset to after a crash.
    Init,
}

impl RelationFile {
    /// Parses a file name without its directory; `None` for everything that is no permanent
    /// relation (temporary relations begin with `t`).
    pub fn from_name(name: &str) -> Option<Self> {
        let (number, rest) = leading_number(name)?;
        let (fork, rest) = leading_fork(rest)?;
        Some(Self { number, fork, segment: segment_suffix(rest)? })
    }

    /// Parses a path below PGDATA (`base/5/16384.1`, `global/1262`) or below a tablespace
    /// (`PG_15_202209061/5/16384`): the files whose pages carry checksums.
    ///
    /// Source: `is_checksummed_file` and, since 17, `sendDir`, PostgreSQL
    /// src/backend/backup/basebackup.c.
    pub fn from_path(path: &Path) -> Option<Self> {
        let mut parts = path.components().rev();
        let file = Self::from_name(normal(parts.next()?)?)?;
        let directory = normal(parts.next()?)?;
        let lies_in_global = directory == "global" && parts.clone().next().is_none();
        let lies_in_database = is_number(directory)
            && parts.next().and_then(normal).is_some_and(|top| {
                top == "base" && parts.clone().next().is_none() || is_version_directory(top)
            });
        (lies_in_global || lies_in_database).then_some(file)
    }

    /// The block number of this file's first page within its fork.
    pub fn first_block(&self, relation_segment_pages: u32) -> u32 {
        self.segment.wrapping_mul(relation_segment_pages)
    }
}

/// Whether `name` is that of a temporary relation: `t<backend>_<number>[_<fork>][.<segment>]`.
pub(crate) fn is_temporary_relation(name: &str) -> bool {
    let parsed = || {
        let (_, rest) = leading_number(name.strip_prefix('t')?)?;
        RelationFile::from_name(rest.strip_prefix('_')?)
    };
    parsed().is_some()
}

/// Whether `name` is all digits, as database directories are.
pub(crate) fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `name` looks like `PG_15_202209061`.
pub(crate) fn is_version_directory(name: &str) -> bool {
    name.strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(_, catalog)| is_number(catalog))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

fn leading_fork(rest: &str) -> Option<(Fork, &str)> {
    let Some(named) = rest.strip_prefix('_') else { return Some((Fork::Main, rest)) };
    [("fsm", Fork::FreeSpaceMap), ("vm", Fork::VisibilityMap), ("init", Fork::Init)]
        .into_iter()
        .find_map(|(name, fork)| Some((fork, named.strip_prefix(name)?)))
}

fn segment_suffix(rest: &str) -> Option<u32> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.strip_prefix('.')?;
    // A leading zero is no suffix PostgreSQL would write; segment 0 has none.
    if !is_number(digits) || digits.starts_with('0') {
        return None;
    }
    digits.parse().ok()
}

fn normal<'a>(component: Component<'a>) -> Option<&'a str> {
    match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::relation_file::is_temporary_relation;
    use crate::pgdata::{Fork, RelationFile};
    use std::path::Path;

    #[test]
    fn number_fork_and_segment_are_read_from_the_name() {
        let file = |number, fork, segment| Some(RelationFile { number, fork, segment });
        for (name, expected) in [
            ("16384", file(16384, Fork::Main, 0)),
            ("16384.12", file(16384, Fork::Main, 12)),
            ("16384_fsm", file(16384, Fork::FreeSpaceMap, 0)),
            ("16384_vm.1", file(16384, Fork::VisibilityMap, 1)),
            ("16384_init", file(16384, Fork::Init, 0)),
        ] {
            assert_eq!(RelationFile::from_name(name), expected, "{name}");
        }
        for name in [
            "",
            "PG_VERSION",
            "pg_filenode.map",
            "16384.",
            "16384.0",
            "16384.01",
            "16384_",
            "16384_x",
            "16384_fsm2",
            "16384x",
            "t3_16384",
            "99999999999",
            "16384.1.2",
            "-1",
            "_init",
        ] {
            assert_eq!(RelationFile::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn only_relations_in_global_base_and_tablespaces_have_checked_pages() {
        let checked = |path: &str| RelationFile::from_path(Path::new(path)).is_some();
        for path in ["global/1262", "base/5/16384.1", "base/5/16384_vm", "PG_15_202209061/5/1"] {
            assert!(checked(path), "{path}");
        }
        assert!(checked("pg_tblspc/16390/PG_15_202209061/5/1"), "in-place tablespace");
        for path in [
            "16384",
            "global/pg_control",
            "base/5/PG_VERSION",
            "base/pgsql_tmp/16384",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "x/global/1262",
            "x/base/5/1",
            "base/5/x/1",
            "base/5/t3_1",
        ] {
            assert!(!checked(path), "{path}");
        }
    }

    #[test]
    fn block_numbers_go_on_across_segments() {
        let file = RelationFile::from_name("16384.2").expect("relation");
        assert_eq!(file.first_block(131_072), 262_144);
    }

    #[test]
    fn temporary_relations_carry_their_backend() {
        for name in ["t3_16384", "t3_16384_fsm", "t12_1.1", "t3_1_vm.2"] {
            assert!(is_temporary_relation(name), "{name}");
        }
        for name in ["t3", "t_16384", "t3_", "t3_x", "16384", "t3_16384_", "t-1_5"] {
            assert!(!is_temporary_relation(name), "{name}");
        }
    }
}
