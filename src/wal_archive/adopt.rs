//! Whose archive is one that has no `archive.json` yet?
//!
//! Asked once in an archive's life, when this tool archives into it for the first time: a full
//! LIST with flat memory, then the first bytes of the segment that was stored last. The last one
//! counts, because an older one may be from before a `pg_upgrade`.

use crate::catalog::{Catalog, WalObject};
use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::wal::{WalFileKind, WalPageHeader};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::plain;
use crate::wal_archive::source::header_of;
use crate::wal_archive::transfer::read_object;
use futures::stream::TryStreamExt;
use std::io::Read;

/// The cluster that wrote the newest segment; `None` when there is none, or it does not tell.
pub async fn newest_writer(
    catalog: &Catalog,
    cancel: &Cancel,
) -> Result<Option<SystemIdentifier>, WalArchiveError> {
    let Some(newest) = newest_segment(catalog).await? else { return Ok(None) };
    let (name, compression) = (newest.name, newest.compression);
    let first_page = read_object(catalog.store(), &newest.key, cancel, move |feed| {
        let limit = u64::try_from(WalPageHeader::BYTES).expect("a small number");
        let mut first = Vec::new();
        plain(compression, feed)?.take(limit).read_to_end(&mut first).ok();
        Ok::<_, WalArchiveError>(header_of(&name, &first))
    });
    let header = first_page.await?.transpose()?.flatten();
    Ok(header.map(|header| SystemIdentifier::new(header.system_identifier)))
}

async fn newest_segment(catalog: &Catalog) -> Result<Option<WalObject>, WalArchiveError> {
    let segments = catalog.wals().try_filter(|object| {
        let segment = object.name.kind() == WalFileKind::Segment;
        async move { segment }
    });
    let newest = segments.try_fold(None, |newest: Option<WalObject>, object| async move {
        let newer = newest
            .as_ref()
            .is_none_or(|newest| (newest.modified, &newest.name) < (object.modified, &object.name));
        Ok(if newer { Some(object) } else { newest })
    });
    Ok(newest.await?)
}
