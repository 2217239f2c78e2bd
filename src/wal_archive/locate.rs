//! Which object holds a requested file?
//!
//! The order is fixed (contract §21.1): a complete segment under any suffix before a partial one,
//! the suffix seen last first, then plain, then the algorithms.

use crate::catalog::{Catalog, WalObject};
use crate::codec::Compression;
use crate::wal::{WalFileKind, WalFileName};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::fetch::PartialSegments;

/// The suffix of a WAL archive's objects: an algorithm, or none.
pub type Suffix = Option<Compression>;

/// Asks the store for all objects of a name, in one LIST, and returns those to fetch, the one to
/// try first in front: copies of the same file under other suffixes follow it.
///
/// None at all is a positive answer: the archive does not hold the file.
pub async fn locate(
    catalog: &Catalog,
    name: &WalFileName,
    partial: PartialSegments,
    likely: Option<Suffix>,
) -> Result<Vec<WalObject>, WalArchiveError> {
    let plain = catalog.layout().wal(name, None);
    let listed = catalog.store().list_starting_with(plain.as_str()).await?;
    let objects = listed.into_iter().filter_map(WalObject::parse).collect();
    Ok(choose(objects, name, partial, likely))
}

/// A partial segment is no copy of a complete one: where that is there, damaged or not, it ends
/// too early.
fn choose(
    objects: Vec<WalObject>,
    name: &WalFileName,
    partial: PartialSegments,
    likely: Option<Suffix>,
) -> Vec<WalObject> {
    let partial_of_it = |object: &WalObject| {
        partial == PartialSegments::Accept
            && name.kind() == WalFileKind::Segment
            && object.name.kind() == WalFileKind::Partial
            && object.name.segment_name() == name.segment_name()
    };
    let serves = |object: &WalObject| object.name == *name || partial_of_it(object);
    let mut objects: Vec<_> = objects.into_iter().filter(serves).collect();
    objects.sort_by_key(|object| {
        let seen_last = likely == Some(object.compression);
        (object.name != *name, !seen_last, object.compression)
    });
    if objects.first().is_some_and(|first| first.name == *name) {
        objects.retain(|object| object.name == *name);
    }
    objects
}

#[cfg(test)]
mod tests {
    use crate::catalog::WalObject;
    use crate::codec::Compression;
    use crate::store::{ListEntry, ObjectKey};
    use crate::wal::WalFileName;
    use crate::wal_archive::fetch::PartialSegments;
    use crate::wal_archive::locate::choose;

    const X: &str = "0000000100000000000000FE";

    fn chosen(
        suffixes: &[&str],
        partial: PartialSegments,
        likely: Option<Option<Compression>>,
    ) -> Option<String> {
        all_chosen(suffixes, partial, likely).into_iter().next()
    }

    fn all_chosen(
        suffixes: &[&str],
        partial: PartialSegments,
        likely: Option<Option<Compression>>,
    ) -> Vec<String> {
        let objects = suffixes.iter().filter_map(|suffix| {
            let key = ObjectKey::parse(&format!("main/wals/0000000100000000/{X}{suffix}"));
            let modified = jiff::Timestamp::UNIX_EPOCH;
            WalObject::parse(ListEntry { key: key.expect("key"), bytes: 1, modified })
        });
        let name = WalFileName::parse(X).expect("name");
        let chosen = choose(objects.collect(), &name, partial, likely).into_iter();
        chosen.map(|object| object.key.file_name()[X.len()..].to_string()).collect()
    }

    #[test]
    fn copies_follow_in_order_and_partial_ones_only_where_nothing_is_complete() {
        let all = |listed: &[&str]| all_chosen(listed, PartialSegments::Accept, None);
        assert_eq!(all(&[".zst", ".partial", ".gz", ""]), ["", ".gz", ".zst"]);
        assert_eq!(all(&[".partial.zst", ".partial"]), [".partial", ".partial.zst"]);
    }

    #[test]
    fn a_complete_segment_wins_over_a_partial_one_whatever_the_suffixes() {
        for suffix in ["", ".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"] {
            let listed = [".partial", suffix, ".partial.gz", ".00000028.backup.gz"];
            let found = chosen(&listed, PartialSegments::Accept, Some(Some(Compression::Gzip)));
            assert_eq!(found.as_deref(), Some(suffix));
        }
    }

    #[test]
    fn a_partial_segment_serves_only_where_it_may() {
        let listed = [".partial.zst", ".00000028.backup"];
        assert_eq!(chosen(&listed, PartialSegments::Accept, None).as_deref(), Some(".partial.zst"));
        assert_eq!(chosen(&listed, PartialSegments::Refuse, None), None);
    }

    #[test]
    fn the_suffix_seen_last_comes_first_then_plain() {
        let listed = [".gz", "", ".zst"];
        let with = |likely| chosen(&listed, PartialSegments::Accept, likely);
        assert_eq!(with(Some(Some(Compression::Zstd))).as_deref(), Some(".zst"));
        assert_eq!(with(None).as_deref(), Some(""));
    }

    #[test]
    fn names_of_other_files_are_no_answer() {
        let listed = [".rar", ".gz.gz", ".00000028.backup"];
        assert_eq!(chosen(&listed, PartialSegments::Accept, None), None);
    }
}
