//! The WAL archive as a listing: which files are there, in which compression.
//!
//! Listings are streamed: memory does not grow with the archive.

use crate::catalog::{Catalog, CatalogError};
use crate::codec::{Compression, decoder};
use crate::flow::Limits;
use crate::store::{ListEntry, ObjectKey};
use crate::wal::{SegmentSize, TimelineHistory, TimelineId, WalFileKind, WalFileName, WalSegment};
use bytes::{Buf, Bytes};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// One object of the archive whose name is that of a WAL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalObject {
    pub name: WalFileName,
    pub compression: Option<Compression>,
    pub key: ObjectKey,
    /// As stored.
    pub bytes: u64,
    pub modified: Timestamp,
}

impl WalObject {
    /// Parses a listed object: at most one known suffix behind the name of a WAL file. `None`
    /// for anything else.
    pub fn parse(entry: ListEntry) -> Option<Self> {
        let (name, compression) = split(entry.key.file_name())?;
        let ListEntry { key, bytes, modified } = entry;
        Some(Self { name, compression, key, bytes, modified })
    }
}

fn split(file_name: &str) -> Option<(WalFileName, Option<Compression>)> {
    if let Ok(name) = WalFileName::parse(file_name) {
        return Some((name, None));
    }
    let (stem, suffix) = file_name.rsplit_once('.')?;
    let compression = Compression::from_suffix(suffix)?;
    Some((WalFileName::parse(stem).ok()?, Some(compression)))
}

impl Catalog {
    /// Every WAL file of the archive, in no promised order, page by page as it is consumed.
    /// Objects that are no WAL files are passed over.
    pub fn wals(&self) -> BoxStream<'static, Result<WalObject, CatalogError>> {
        self.wals_below(&self.layout().wals())
    }

    /// The objects that hold these segments, complete ones alone; a segment that is not in the
    /// archive is left out. One LIST per 4 GiB of WAL.
    pub async fn stored_segments(
        &self,
        segments: &[WalSegment],
        size: SegmentSize,
    ) -> Result<BTreeMap<WalSegment, Vec<WalObject>>, CatalogError> {
        let wanted: BTreeSet<WalSegment> = segments.iter().copied().collect();
        let folders: BTreeSet<String> = wanted
            .iter()
            .map(|segment| self.layout().wal_directory(&WalFileName::of_segment(*segment, size)))
            .collect();
        let mut stored: BTreeMap<WalSegment, Vec<WalObject>> = BTreeMap::new();
        for folder in folders {
            let mut found = self.wals_below(&folder);
            while let Some(object) = found.try_next().await? {
                if object.name.kind() == WalFileKind::Segment
                    && let Some(segment) = WalSegment::from_name(object.name.as_str(), size)
                    && wanted.contains(&segment)
                {
                    stored.entry(segment).or_default().push(object);
                }
            }
        }
        Ok(stored)
    }

    /// The history of a timeline; `None` when the archive holds no history file of it, in no
    /// compression. One GET when it was archived plain, at most seven.
    pub async fn history(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<TimelineHistory>, CatalogError> {
        let name = WalFileName::of_history(timeline);
        let suffixes = Compression::ALL.into_iter().map(Some);
        for compression in std::iter::once(None).chain(suffixes) {
            let key = self.layout().wal(&name, compression);
            if let Some(content) = self.store().get(&key).await? {
                let history = decode_history(timeline, content, compression);
                let object = self.store().url_of(&key);
                return history
                    .map(Some)
                    .map_err(|reason| CatalogError::Malformed { object, reason });
            }
        }
        Ok(None)
    }

    /// The history files among `files`. One that cannot be read is left out, with a warning:
    /// what is not known about a timeline must be taken as the worst.
    pub async fn histories(
        &self,
        files: &[WalObject],
        limits: &Limits,
    ) -> Result<BTreeMap<TimelineId, TimelineHistory>, CatalogError> {
        let histories = files.iter().filter(|object| object.name.kind() == WalFileKind::History);
        stream::iter(histories)
            .map(|object| async move {
                let timeline = object.name.timeline();
                let Some(content) = self.store().get(&object.key).await? else { return Ok(None) };
                match decode_history(timeline, content, object.compression) {
                    Ok(history) => Ok(Some((timeline, history))),
                    Err(reason) => {
                        tracing::warn!(object = %self.store().url_of(&object.key), reason,
                            "cannot read timeline history file");
                        Ok(None)
                    }
                }
            })
            .buffered(limits.jobs.get())
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    pub(crate) fn wals_below(
        &self,
        folder: &str,
    ) -> BoxStream<'static, Result<WalObject, CatalogError>> {
        self.store()
            .list(folder)
            .map_err(CatalogError::from)
            .try_filter_map(|entry| async move { Ok(WalObject::parse(entry)) })
            .boxed()
    }
}

/// A history file has one line per ancestor; one above this is none, whatever its name says.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// Reads a stored history file.
fn decode_history(
    timeline: TimelineId,
    content: Bytes,
    compression: Option<Compression>,
) -> Result<TimelineHistory, String> {
    let reader: Box<dyn Read + Send> = match compression {
        None => Box::new(content.reader()),
        Some(compression) => {
            decoder(compression, content.reader()).map_err(|error| error.to_string())?
        }
    };
    let mut text = String::new();
    reader.take(HISTORY_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    TimelineHistory::parse(timeline, &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{self, empty_catalog};
    use crate::wal::{SegmentSize, TimelineId, WalSegment};
    use futures::stream::TryStreamExt;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).expect("non-zero")
    }

    #[tokio::test]
    async fn the_archive_of_barman_is_listed_with_names_and_compressions() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        fixtures::write(catalog.store(), "pg15/main/wals/0000000100000000/notes.txt", "").await;
        let wals: Vec<_> = catalog.wals().try_collect().await.expect("lists");
        assert_eq!(wals.len(), 33);
        assert_eq!(catalog.newest_timeline().await.expect("lists"), Some(timeline(2)));
        assert_eq!(empty_catalog().newest_timeline().await.expect("lists"), None);
    }

    #[tokio::test]
    async fn stored_segments_are_told_and_a_partial_one_is_none() {
        let catalog = fixtures::catalog("contract", "pg15", "main").await;
        let size = SegmentSize::new(1 << 20).expect("1 MiB");
        let segments: Vec<_> =
            (0x19..=0x1C).map(|number| WalSegment { timeline: timeline(1), number }).collect();
        let stored = catalog.stored_segments(&segments, size).await.expect("lists");
        let numbers: Vec<_> = stored.keys().map(|segment| segment.number).collect();
        assert_eq!(numbers, [0x19, 0x1A]);
    }

    #[tokio::test]
    async fn histories_are_read_in_every_compression() {
        for server in ["plain", "gzip", "bzip2", "xz", "snappy", "zstd", "lz4"] {
            let catalog = fixtures::catalog("contract", "walcomp", server).await;
            let history = catalog.history(timeline(2)).await.expect(server).expect(server);
            assert_eq!(history.left_at(timeline(1)).expect("parent").to_string(), "0/1B7F8B0");
            assert_eq!(catalog.history(timeline(3)).await.expect(server), None);
        }
    }
}
