//! Where a member may lie: below the directory it is extracted into, and nowhere else.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A relative path of plain names: no root, no `..`, no `.`; empty for the root entry itself.
///
/// Whether one of its directories is a symbolic link only the file system knows; who writes
/// the member checks that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(PathBuf);

/// A member's name points out of the directory it is extracted into, or cannot be a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("member name \"{}\" {reason}", name.to_string_lossy())]
pub struct MemberPathError {
    name: OsString,
    reason: &'static str,
}

impl MemberPath {
    /// Takes a name as tar stores it: `.` and `./x` are the root and `x`, a trailing slash
    /// means nothing.
    pub fn parse(name: &[u8]) -> Result<Self, MemberPathError> {
        let refused = |reason| MemberPathError { name: OsStr::from_bytes(name).into(), reason };
        if name.is_empty() {
            return Err(refused("is empty"));
        }
        if name.contains(&0) {
            return Err(refused("contains a zero byte"));
        }
        if name.starts_with(b"/") {
            return Err(refused("is an absolute path"));
        }
        let mut path = PathBuf::new();
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(refused("leads out of its directory")),
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        Ok(Self(path))
    }

    /// Whether this is the extracted directory itself.
    pub fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use crate::tarball::MemberPath;
    use proptest::prelude::{any, proptest};
    use std::path::{Component, Path};

    #[test]
    fn names_as_barman_and_gnu_tar_write_them_are_understood() {
        for (name, path) in [
            (".", ""),
            ("./", ""),
            ("./PG_VERSION", "PG_VERSION"),
            ("base/5/", "base/5"),
            ("base//5/./1234", "base/5/1234"),
            ("a..b/...", "a..b/..."),
        ] {
            let parsed = MemberPath::parse(name.as_bytes()).expect(name);
            assert_eq!(parsed.as_path(), Path::new(path), "{name}");
            assert_eq!(parsed.is_root(), path.is_empty());
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["", "/", "/etc/passwd", "..", "../x", "base/../../x", "x\0y"] {
            assert!(MemberPath::parse(name.as_bytes()).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_always_below_the_root(name in any::<Vec<u8>>()) {
            if let Ok(path) = MemberPath::parse(&name) {
                let plain = path.as_path().components().all(|part| matches!(part, Component::Normal(_)));
                assert!(plain, "{path:?}");
            }
        }
    }
}
