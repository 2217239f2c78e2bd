//! The clusters that an archive belonged to, one after the other.
//!
//! `archive.json` names the present one where it always did, so that every reader knows it, and
//! the earlier ones below it. It is written once by the first segment; only an adoption replaces
//! it, which is asked for by name, once, after `pg_upgrade` or when a new cluster takes the place of
//! an old one. A store that lets no object be replaced allows no adoption.

use crate::catalog::format::side_json;
use crate::catalog::{ArchiveIdentity, Catalog, CatalogError};
use crate::store::{PutMode, PutOptions, PutOutcome};
use crate::wal::Lsn;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// All that `archive.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRecord {
    pub present: ArchiveEra,
    /// Newest first.
    pub earlier: Vec<ArchiveEra>,
    /// Keys of other versions, kept.
    pub other: Map<String, Value>,
}

/// One cluster, from when on the archive was its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveEra {
    pub identity: ArchiveIdentity,
    /// `None`: it began the archive.
    pub adoption: Option<Adoption>,
}

/// When an archive was handed over, and where the WAL of its new cluster begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    pub at: Timestamp,
    pub from: Lsn,
}

impl Catalog {
    /// Whose archive it is and was; `None` before the first segment of ours.
    pub async fn archive_record(&self) -> Result<Option<ArchiveRecord>, CatalogError> {
        let key = self.layout().archive_json();
        let Some(content) = self.store().get(&key).await? else { return Ok(None) };
        side_json::parse_archive_record(&content).map(Some).map_err(|error| {
            let object = self.store().url_of(&key);
            CatalogError::Malformed { object, reason: error.to_string() }
        })
    }

    /// Hands the archive over to `ours`. `former` is the cluster that `archive.json` does not
    /// name because it is not there yet.
    ///
    /// The caller has made sure that no file of an earlier cluster has a name that `ours` will
    /// use. Read back afterwards: of two adoptions at once one fails.
    pub async fn adopt(
        &self,
        ours: ArchiveIdentity,
        adoption: Adoption,
        former: Option<ArchiveIdentity>,
    ) -> Result<ArchiveRecord, CatalogError> {
        let stored = self.archive_record().await?;
        let mode = if stored.is_some() { PutMode::Overwrite } else { PutMode::Create };
        let (earlier, other) = match stored {
            Some(record) if record.present.identity.system_identifier == ours.system_identifier => {
                return Ok(record);
            }
            Some(record) => {
                let earlier = std::iter::once(record.present).chain(record.earlier).collect();
                (earlier, record.other)
            }
            None => {
                let former = former.map(|identity| ArchiveEra { identity, adoption: None });
                (former.into_iter().collect(), Map::new())
            }
        };
        let present = ArchiveEra { identity: ours, adoption: Some(adoption) };
        let record = ArchiveRecord { present, earlier, other };
        let key = self.layout().archive_json();
        let content = Bytes::from(side_json::print_archive_record(&record));
        let written = self.store().put(&key, content.clone(), mode, &PutOptions::default()).await?;
        let there = self.store().get(&key).await?;
        if written == PutOutcome::AlreadyThere || there != Some(content) {
            return Err(CatalogError::WrittenOtherwise { object: self.store().url_of(&key) });
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{empty_catalog, write};
    use crate::catalog::{Adoption, ArchiveIdentity, CatalogError};
    use crate::pgdata::SystemIdentifier;
    use crate::wal::{Lsn, SegmentSize, TimelineId};

    fn identity(system_identifier: u64) -> ArchiveIdentity {
        ArchiveIdentity {
            system_identifier: SystemIdentifier::new(system_identifier),
            first_timeline: TimelineId::new(1).expect("1"),
            segment_size: SegmentSize::DEFAULT,
        }
    }

    fn adoption(second: i64) -> Adoption {
        Adoption { at: jiff::Timestamp::constant(second, 0), from: Lsn::new(0x500_0028) }
    }

    #[tokio::test]
    async fn an_adopted_archive_belongs_to_the_new_cluster_and_remembers_the_old_one() {
        let catalog = empty_catalog();
        catalog.claim_identity(&identity(7301)).await.expect("claims");
        let record = catalog.adopt(identity(7388), adoption(1), None).await.expect("adopts");
        assert_eq!(catalog.archive_record().await.expect("reads"), Some(record.clone()));
        assert_eq!(record.earlier[0].identity, identity(7301));
        assert_eq!(record.present.adoption, Some(adoption(1)));
        // What asks for the owner alone knows it too, as every earlier version does.
        assert_eq!(catalog.identity().await.expect("reads"), Some(identity(7388)));
        let refused = catalog.claim_identity(&identity(7301)).await.expect_err("the old cluster");
        assert!(matches!(refused, CatalogError::OtherCluster { .. }));
        // Once is enough, and again is no change.
        let again = catalog.adopt(identity(7388), adoption(2), None).await.expect("again");
        assert_eq!(again, record);
        let third = catalog.adopt(identity(7400), adoption(3), None).await.expect("adopts");
        let earlier: Vec<_> = third.earlier.iter().map(|era| era.identity).collect();
        assert_eq!(earlier, [identity(7388), identity(7301)]);
    }

    #[tokio::test]
    async fn an_archive_of_barman_remembers_who_wrote_it() {
        let catalog = empty_catalog();
        let former = Some(identity(7301));
        let record = catalog.adopt(identity(7388), adoption(1), former).await.expect("adopts");
        assert_eq!(record.earlier.len(), 1);
        assert_eq!(catalog.archive_record().await.expect("reads"), Some(record));
    }

    #[tokio::test]
    async fn keys_of_other_versions_survive_an_adoption() {
        let catalog = empty_catalog();
        let text = "{\"format\":1,\"systemid\":\"7301\",\"first_timeline\":1,\
                    \"segment_size\":16777216,\"dialect\":{\"conditional\":false}}\n";
        write(catalog.store(), "p/main/archive.json", text).await;
        catalog.adopt(identity(7388), adoption(1), None).await.expect("adopts");
        let record = catalog.archive_record().await.expect("reads").expect("there");
        assert_eq!(record.other["dialect"]["conditional"], false);
        let content = catalog.store().get(&catalog.layout().archive_json()).await;
        assert_eq!(
            String::from_utf8_lossy(&content.expect("reads").expect("there")),
            "{\"format\":1,\"systemid\":\"7388\",\"first_timeline\":1,\"segment_size\":16777216,\
             \"adopted\":\"1970-01-01T00:00:01Z\",\"adopted_lsn\":\"0/5000028\",\
             \"earlier\":[{\"systemid\":\"7301\",\"first_timeline\":1,\"segment_size\":16777216}],\
             \"dialect\":{\"conditional\":false}}\n"
        );
    }
}
