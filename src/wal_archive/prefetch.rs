//! The segments that follow a requested one, fetched into the spool.
//!
//! They follow on the same timeline and in the same compression; whatever that misses (a switch
//! of either, the end of the archive) is simply not there when it is asked for and is then
//! fetched like any other. Nothing here can fail the request that it runs beside.

use crate::catalog::Catalog;
use crate::disk::Spool;
use crate::flow::Cancel;
use crate::wal::{WalFileName, WalPageHeader};
use crate::wal_archive::locate::Suffix;
use crate::wal_archive::receive::{Destination, ObjectToFetch, receive};
use crate::wal_archive::source::segment_of;
use futures::stream::{self, StreamExt};
use tracing::{debug, warn};

/// What the first page of the requested segment tells about those that follow.
#[derive(Clone, Copy, Debug)]
pub struct FirstPage {
    pub header: WalPageHeader,
    pub compression: Suffix,
}

/// Fetches up to `files_max - 1` segments behind `name`, all at once, and tidies the spool.
pub async fn prefetch(
    name: &WalFileName,
    page: &FirstPage,
    catalog: &Catalog,
    spool: &Spool,
    files_max: usize,
    cancel: &Cancel,
) {
    let missing: Vec<WalFileName> = following(name, page)
        .take(files_max.saturating_sub(1))
        .filter(|name| !spool.holds(name.as_str()))
        .collect();
    stream::iter(missing)
        .map(|name| fetch_ahead(name, page.compression, catalog, spool, cancel))
        .buffer_unordered(files_max)
        .for_each(|()| async {})
        .await;
    if let Err(error) = spool.evict(files_max.saturating_mul(2)) {
        debug!(%error, "the spool was not tidied");
    }
}

/// The names behind `name`, into the next 4 GiB logs as well.
fn following(name: &WalFileName, page: &FirstPage) -> impl Iterator<Item = WalFileName> {
    let size = page.header.segment_size;
    let first = segment_of(name, size).map(|segment| segment.next());
    std::iter::successors(first, |segment| Some(segment.next()))
        .map(move |segment| WalFileName::of_segment(segment, size))
}

async fn fetch_ahead(
    name: WalFileName,
    compression: Suffix,
    catalog: &Catalog,
    spool: &Spool,
    cancel: &Cancel,
) {
    let key = catalog.layout().wal(&name, compression);
    let object = ObjectToFetch { key, compression, name };
    let destination = Destination::Spool(spool.clone());
    match receive(catalog.store(), &object, destination, None, cancel).await {
        Ok(Some(bytes)) => debug!(wal = %object.name, bytes, "fetched ahead"),
        Ok(None) => debug!(wal = %object.name, "not there yet"),
        Err(error) => warn!(wal = %object.name, %error, "could not fetch ahead"),
    }
}

#[cfg(test)]
mod tests {
    use crate::wal::{Lsn, SegmentSize, WalFileName, WalPageHeader};
    use crate::wal_archive::prefetch::{FirstPage, following};

    #[test]
    fn the_segments_that_follow_cross_into_the_next_log() {
        let header = WalPageHeader {
            magic: 0xD110,
            timeline: 2,
            address: Lsn::new(0),
            system_identifier: 1,
            segment_size: SegmentSize::DEFAULT,
        };
        let page = FirstPage { header, compression: None };
        let name = WalFileName::parse("0000000200000001000000FE").expect("name");
        let names: Vec<_> = following(&name, &page).take(2).map(|name| name.to_string()).collect();
        assert_eq!(names, ["0000000200000001000000FF", "000000020000000200000000"]);
    }
}
