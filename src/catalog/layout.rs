//! Keys: where each object of one server name lies (contract §5).

use crate::catalog::{BackupId, ServerName};
use crate::codec::Compression;
use crate::store::{ObjectKey, ObjectKeyError};
use crate::wal::WalFileName;

/// The keys of one server name below one URL's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `P/S` of the contract; empty when both are.
    root: String,
    /// `P//S`, where Barman puts the keeps of a URL that ends with a slash.
    doubled_root: Option<String>,
}

/// Which directory a tarball restores into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TarballTarget {
    /// The data directory: `data.tar`.
    Data,
    /// A tablespace by OID: `16384.tar`.
    Tablespace(u32),
}

/// The name of one tarball in its backup's folder: target, number, compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TarballName {
    pub target: TarballTarget,
    /// 0 is `data.tar`, 1 is `data_0001.tar`.
    pub number: u32,
    pub compression: Option<Compression>,
}

impl Layout {
    /// Joins as Barman does: a slash between prefix and server name unless there is one; a
    /// server name that starts with a slash replaces the prefix. Fails on what no store can
    /// address exactly (an empty path segment).
    pub fn new(prefix: &str, server_name: &ServerName) -> Result<Self, ObjectKeyError> {
        let server = server_name.as_str();
        let joined = match server.strip_prefix('/') {
            Some(absolute) => absolute.to_string(),
            None if prefix.is_empty() || prefix.ends_with('/') => format!("{prefix}{server}"),
            None => format!("{prefix}/{server}"),
        };
        let root = joined.trim_end_matches('/').to_string();
        if !root.is_empty() {
            ObjectKey::parse(&root)?;
        }
        let (prefix, server) = (prefix.trim_end_matches('/'), server.trim_matches('/'));
        let doubled_root = (!prefix.is_empty()).then(|| format!("{prefix}//{server}"));
        Ok(Self { root, doubled_root })
    }

    /// The folder of everything, without a trailing slash; empty at the top of a bucket.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The folder of all backups, without a trailing slash.
    pub fn base(&self) -> String {
        self.below("base")
    }

    /// The folder of the WAL archive, without a trailing slash.
    pub fn wals(&self) -> String {
        self.below("wals")
    }

    /// The folder of one backup, without a trailing slash.
    pub fn backup(&self, id: &BackupId) -> String {
        self.below(&format!("base/{id}"))
    }

    /// An object in a backup's folder: `backup.info`, `annotations/keep`, a tarball.
    pub fn backup_object(&self, id: &BackupId, name: &str) -> ObjectKey {
        self.key(&format!("base/{id}/{name}"))
    }

    /// The folder of keeps set by Barman through a URL that ends with a slash; `None` when the
    /// URL's prefix is empty, because then both spellings are the same.
    pub fn doubled_base(&self) -> Option<String> {
        self.doubled_root.as_ref().map(|root| format!("{root}/base"))
    }

    /// The keep of a backup in that folder.
    pub fn doubled_keep(&self, id: &BackupId) -> Option<ObjectKey> {
        let key = format!("{}/{id}/annotations/keep", self.doubled_base()?);
        ObjectKey::parse_with_empty_segments(&key).ok()
    }

    /// The folder of claims for one object, without a trailing slash: used only where the store
    /// cannot refuse to overwrite.
    pub fn claims(&self, subject: &str) -> String {
        self.below(&format!("claims/{subject}"))
    }

    pub fn archive_json(&self) -> ObjectKey {
        self.key("archive.json")
    }

    /// The folder that holds a WAL file, without a trailing slash.
    pub fn wal_directory(&self, name: &WalFileName) -> String {
        match name.hash_directory() {
            Some(hash) => self.below(&format!("wals/{hash}")),
            None => self.wals(),
        }
    }

    pub fn wal(&self, name: &WalFileName, compression: Option<Compression>) -> ObjectKey {
        let directory = match name.hash_directory() {
            Some(hash) => format!("wals/{hash}"),
            None => "wals".to_string(),
        };
        match compression {
            Some(compression) => self.key(&format!("{directory}/{name}.{}", compression.suffix())),
            None => self.key(&format!("{directory}/{name}")),
        }
    }

    /// Where a partial segment goes whose name is taken by other content: `tag` tells them apart.
    /// That is no WAL file's name, so neither this tool nor Barman lists or delivers it.
    pub fn other_partial(
        &self,
        name: &WalFileName,
        tag: &str,
        compression: Option<Compression>,
    ) -> ObjectKey {
        let suffix = compression.map_or(String::new(), |it| format!(".{}", it.suffix()));
        let folder = name.hash_directory().map_or(String::new(), |hash| format!("{hash}/"));
        self.key(&format!("wals/{folder}{name}.{tag}{suffix}"))
    }

    fn below(&self, relative: &str) -> String {
        if self.root.is_empty() {
            relative.to_string()
        } else {
            format!("{}/{relative}", self.root)
        }
    }

    fn key(&self, relative: &str) -> ObjectKey {
        ObjectKey::parse(&self.below(relative))
            .expect("the root was checked and the rest is made of checked names")
    }
}

impl TarballName {
    /// `data_0001.tar.gz`.
    pub fn file_name(&self) -> String {
        let mut name = match self.target {
            TarballTarget::Data => "data".to_string(),
            TarballTarget::Tablespace(oid) => oid.to_string(),
        };
        if self.number > 0 {
            name.push_str(&format!("_{:04}", self.number));
        }
        name.push_str(".tar");
        if let Some(compression) = self.compression {
            name.push('.');
            name.push_str(compression.suffix());
        }
        name
    }

    /// The name of its index in the backup's folder.
    pub fn index_name(&self) -> String {
        format!("index/{}.jsonl.zst", self.file_name())
    }

    /// Parses the name of an object in a backup's folder; `None` when it is no tarball.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (stem, extension) = file_name.split_once('.')?;
        let compression = match extension.strip_prefix("tar")? {
            "" => None,
            suffix => Some(Compression::from_suffix(suffix.strip_prefix('.')?)?),
        };
        let (target, number) = match stem.split_once('_') {
            None => (stem, 0),
            Some((target, digits)) => {
                let number: u32 = digits.parse().ok()?;
                (number > 0 && digits.len() >= 4).then_some((target, number))?
            }
        };
        let target = match target {
            "data" => TarballTarget::Data,
            oid => TarballTarget::Tablespace(oid.parse().ok()?),
        };
        Some(Self { target, number, compression })
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::{BackupId, Layout, ServerName, TarballName, TarballTarget};
    use crate::codec::Compression;
    use crate::wal::WalFileName;

    fn layout(prefix: &str, server: &str) -> Layout {
        Layout::new(prefix, &ServerName::parse(server).expect("server")).expect("layout")
    }

    #[test]
    fn keys_join_as_barman_joins_them() {
        assert_eq!(layout("", "srv").root(), "srv");
        assert_eq!(layout("a/b", "srv").root(), "a/b/srv");
        assert_eq!(layout("a/b/", "srv").root(), "a/b/srv");
        assert_eq!(layout("a", "/abs").root(), "abs");
        assert_eq!(layout("a", "x/y").root(), "a/x/y");
        assert_eq!(layout("", "").base(), "base");
    }

    #[test]
    fn a_prefix_with_an_empty_segment_is_refused() {
        assert!(Layout::new("a//c", &ServerName::parse("srv").expect("server")).is_err());
    }

    #[test]
    fn wal_files_lie_in_their_upper_case_folder_and_history_files_do_not() {
        let layout = layout("p", "main");
        let wal = |name| WalFileName::parse(name).expect(name);
        assert_eq!(
            layout.wal(&wal("0000000a000000bc000000fe"), Some(Compression::Zstd)).as_str(),
            "p/main/wals/0000000A000000BC/0000000a000000bc000000fe.zst"
        );
        assert_eq!(
            layout.wal(&wal("00000002.history"), None).as_str(),
            "p/main/wals/00000002.history"
        );
    }

    #[test]
    fn tarball_names_round_trip_and_side_objects_are_none() {
        for name in ["data.tar", "data_0001.tar.gz", "16384.tar.lz4", "16384_12345.tar.snappy"] {
            assert_eq!(TarballName::parse(name).expect(name).file_name(), name);
        }
        for name in [
            "backup.info",
            "backup_manifest",
            "data.txt",
            "data_x.tar",
            "data_0000.tar",
            "data.tar.rar",
        ] {
            assert_eq!(TarballName::parse(name), None, "{name}");
        }
        let id = BackupId::parse("20261120T235832").expect("id");
        let name = TarballName {
            target: TarballTarget::Data,
            number: 1,
            compression: Some(Compression::Gzip),
        };
        assert_eq!(
            layout("", "main").backup_object(&id, &name.file_name()).as_str(),
            "main/base/20261120T235832/data_0001.tar.gz"
        );
    }
}
