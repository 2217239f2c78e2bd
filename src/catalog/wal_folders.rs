//! The WAL archive folder by folder, for who does not need all of it.
//!
//! ```text
//! wals/                    history files; one request tells them and the names of the folders
//! wals/0000000100000007/   4 GiB of log: 256 segments of 16 MiB
//! ```
//!
//! An archive of 200,000 files has less than 800 folders: what can be told from their names saves
//! the listing of the files. Memory: the names of the folders, and a page of files for each of
//! the folders that are read at once.

use crate::catalog::{Catalog, CatalogError, WalObject};
use crate::wal::{TimelineId, WalFileName};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::cmp::Reverse;

/// LISTs in flight, whatever `--jobs` says.
const FOLDERS_AT_ONCE: usize = 16;

/// What lies directly in `wals/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalTop {
    /// History files, and WAL files that somebody put in the wrong place.
    pub files: Vec<WalObject>,
    pub folders: Vec<WalFolder>,
}

/// A folder below `wals/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalFolder {
    name: String,
    log: Option<WalLog>,
}

/// The WAL files whose names begin with the same sixteen digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalLog {
    pub timeline: TimelineId,
    /// The eight digits in the middle of a file's name.
    pub number: u32,
}

impl WalFolder {
    fn new(name: String) -> Self {
        Self { log: WalLog::parse(&name), name }
    }

    /// Which WAL files belong here; `None` for a folder that is not the archive's.
    pub fn log(&self) -> Option<WalLog> {
        self.log
    }
}

impl WalLog {
    /// The log of a file; `None` for a history file.
    pub fn of(name: &WalFileName) -> Option<Self> {
        Self::parse(&name.hash_directory()?)
    }

    fn parse(name: &str) -> Option<Self> {
        if name.len() != 16 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
        let timeline = TimelineId::new(number(&name[..8])?).ok()?;
        Some(Self { timeline, number: number(&name[8..])? })
    }
}

impl Catalog {
    /// What lies directly in `wals/`. One LIST per thousand folders.
    pub async fn wal_top(&self) -> Result<WalTop, CatalogError> {
        let listed = self.store().list_folder(&self.layout().wals()).await?;
        let files = listed.objects.into_iter().filter_map(WalObject::parse).collect();
        let folders = listed.folders.into_iter().map(WalFolder::new).collect();
        Ok(WalTop { files, folders })
    }

    /// Every WAL file of these folders, in no order, several folders at once. Objects that are no
    /// WAL files are passed over.
    pub fn wals_in(
        &self,
        folders: Vec<WalFolder>,
    ) -> BoxStream<'static, Result<WalObject, CatalogError>> {
        let catalog = self.clone();
        stream::iter(folders)
            .map(move |folder| catalog.wals_of(&folder))
            .flatten_unordered(FOLDERS_AT_ONCE)
            .boxed()
    }

    fn wals_of(&self, folder: &WalFolder) -> BoxStream<'static, Result<WalObject, CatalogError>> {
        self.wals_below(&format!("{}/{}", self.layout().wals(), folder.name))
    }

    /// The timeline of the highest name in the archive; `None` when it is empty. Two LISTs.
    pub async fn newest_timeline(&self) -> Result<Option<TimelineId>, CatalogError> {
        let WalTop { files, mut folders } = self.wal_top().await?;
        let mut newest = files.iter().map(|object| object.name.timeline()).max();
        // Folders of others first: their names tell nothing.
        folders.sort_by_key(|folder| {
            Reverse(folder.log.map_or(u32::MAX, |log| log.timeline.number()))
        });
        for folder in folders {
            if folder.log.is_some_and(|log| Some(log.timeline) <= newest) {
                break;
            }
            let timelines = self.wals_of(&folder).map_ok(|object| object.name.timeline());
            let found: Vec<TimelineId> = timelines.try_collect().await?;
            newest = newest.max(found.into_iter().max());
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{self, write};
    use crate::catalog::{Catalog, Layout, ServerName, WalTop};
    use crate::store::Store;
    use crate::store::recording::Requests;
    use crate::wal::TimelineId;
    use futures::stream::TryStreamExt;

    fn recording() -> (Catalog, Requests) {
        let (store, requests) = Store::recording();
        let server = ServerName::parse("main").expect("server name");
        (Catalog::new(store, Layout::new("p", &server).expect("layout")), requests)
    }

    #[tokio::test]
    async fn folders_hold_what_the_whole_archive_holds() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        for key in ["somebodys/000000010000000000000099.gz", "000000010000000000000098", "notes"] {
            write(catalog.store(), &format!("pg15/main/wals/{key}"), "").await;
        }
        let WalTop { files, folders } = catalog.wal_top().await.expect("lists");
        assert_eq!(folders.len(), 3);
        let foreign = folders.iter().filter(|folder| folder.log().is_none()).count();
        assert_eq!(foreign, 1);
        let below: Vec<_> = catalog.wals_in(folders).try_collect().await.expect("lists");
        let mut all: Vec<_> = files.into_iter().chain(below).collect();
        let mut expected: Vec<_> = catalog.wals().try_collect().await.expect("lists");
        all.sort_by(|one, other| one.key.cmp(&other.key));
        expected.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn the_newest_timeline_takes_two_listings_whatever_the_size_of_the_archive() {
        let (catalog, requests) = recording();
        for key in [
            "p/main/wals/0000000100000000/000000010000000000000001",
            "p/main/wals/0000000100000001/000000010000000100000001",
            "p/main/wals/0000000200000001/000000020000000100000001.gz",
            "p/main/wals/00000002.history",
        ] {
            write(catalog.store(), key, "").await;
        }
        write(catalog.store(), "p/main/wals/0000000900000001/notes", "").await;
        requests.take();
        let newest = catalog.newest_timeline().await.expect("lists");
        assert_eq!(newest, Some(TimelineId::new(2).expect("non-zero")));
        assert_eq!(requests.take(), ["LIST p/main/wals", "LIST p/main/wals/0000000900000001"]);
    }
}
