//! Whose archive is this? `archive.json` says so: one small GET for each segment.
//!
//! An archive without it is that of whoever wrote its newest segment; this is asked once in an archive's life, when this tool archives into it for the first time: a full
//! LIST with flat memory, then the first bytes of the segment that was stored last. The last one
//! counts, because an older one may be from before a `pg_upgrade`.

use crate::catalog::{ArchiveIdentity, Catalog, CatalogError, WalObject};
use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::wal::{WalFileKind, WalPageHeader};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::plain;
use crate::wal_archive::push::{OtherContent, Push};
use crate::wal_archive::source::header_of;
use crate::wal_archive::transfer::read_object;
use futures::stream::TryStreamExt;
use std::io::Read;
use tracing::warn;

impl Push<'_> {
    /// Refuses a segment of another cluster than the archive's; the first segment of all
    /// decides whose it is.
    pub async fn check_owner(&self) -> Result<(), WalArchiveError> {
        let (Some(header), Some(ours)) = (self.source.header(), self.source.system_identifier())
        else {
            return self.check_neighbour().await;
        };
        match self.catalog.identity().await {
            Ok(Some(identity)) if identity.system_identifier == ours => return Ok(()),
            Ok(Some(identity)) => return self.foreign(identity.system_identifier, ours),
            Ok(None) => {}
            Err(error) => return self.unless_denied(error.into(), "archive.json"),
        }
        // No record yet, but Barman may have archived here for years.
        match newest_writer(self.catalog, self.cancel).await {
            Ok(Some(stored)) if stored != ours => return self.foreign(stored, ours),
            Ok(_) => {}
            Err(error) => self.unless_denied(error, "whose WAL is there")?,
        }
        let claim = ArchiveIdentity {
            system_identifier: ours,
            first_timeline: self.source.name().timeline(),
            segment_size: header.segment_size,
        };
        match self.catalog.claim_identity(&claim).await {
            Ok(_) => Ok(()),
            Err(CatalogError::OtherCluster { stored, ours, .. }) => self.foreign(stored, ours),
            Err(error) => self.unless_denied(error.into(), "archive.json"),
        }
    }

    /// A timeline history does not tell whose it is, but the data directory that it lies in does.
    /// One of another cluster would lead recoveries and standbys astray.
    async fn check_neighbour(&self) -> Result<(), WalArchiveError> {
        let Some(ours) = self.source.data_directory_identifier() else { return Ok(()) };
        match self.catalog.identity().await {
            Ok(Some(identity)) if identity.system_identifier != ours => {
                self.foreign(identity.system_identifier, ours)
            }
            Ok(_) => Ok(()),
            Err(error) => self.unless_denied(error.into(), "archive.json"),
        }
    }

    fn foreign(
        &self,
        stored: SystemIdentifier,
        ours: SystemIdentifier,
    ) -> Result<(), WalArchiveError> {
        let name = self.source.name().clone();
        if self.options.other_content == OtherContent::Overwrite {
            warn!(wal = %name, %stored, %ours, "archiving into another cluster's archive");
            return Ok(());
        }
        Err(WalArchiveError::OtherCluster { name, server: self.catalog.server(), stored, ours })
    }
}

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
