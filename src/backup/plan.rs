//! Cutting a cluster into tarballs: pure, and flat in the number of small files.
//!
//! Files of at least [`BIG_FILE_BYTES`] are placed one by one. The many small ones are placed
//! as shares of a directory: a file belongs to share `hash(name) % shares`, so a plan needs a
//! few words per directory, not per file, and a file that appears later belongs to exactly
//! one tarball too.

use crate::catalog::{TarballName, TarballTarget};
use crate::codec::Compression;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Files below this size are planned by directory.
pub const BIG_FILE_BYTES: u64 = 1 << 20;

/// Tarballs are not made smaller than this only to have more of them.
const TARBALL_BYTES_MIN: u64 = 64 << 20;

/// Nor larger than this: a tarball is the unit that a resumed restore repeats.
const TARBALL_BYTES_MAX: u64 = 4 << 30;

/// Tarballs per job, so that jobs that finish early find more work.
const TARBALLS_PER_JOB: u64 = 4;

/// A header block and padding, per member.
const MEMBER_OVERHEAD_BYTES: u64 = 1024;

/// What was found in one data directory or tablespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaSurvey {
    pub target: TarballTarget,
    /// Relative paths of all directories that restore must find, the area's root excluded.
    pub directories: Vec<PathBuf>,
    pub big_files: Vec<BigFile>,
    pub small_files: Vec<SmallFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BigFile {
    pub path: PathBuf,
    pub bytes: u64,
}

/// All files of one directory that are not big.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallFiles {
    pub directory: PathBuf,
    pub files: u64,
    pub bytes: u64,
}

/// Something that goes into one tarball.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Piece {
    File(PathBuf),
    Share { directory: PathBuf, share: u32, shares: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarballPlan {
    pub name: TarballName,
    pub pieces: Vec<Piece>,
    /// Estimated bytes of the tar stream.
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPlan {
    /// Biggest first: the order in which they are begun.
    pub tarballs: Vec<TarballPlan>,
    /// The tarball for what comes last: `global/pg_control` and `backup_label`.
    pub last: TarballName,
}

/// Cuts all areas so that `jobs` have work and no tarball exceeds `tarball_bytes_max`, unless
/// one file alone does. Every area gets at least one tarball, numbered from 0 without gaps.
pub fn cut(
    areas: &[AreaSurvey],
    jobs: NonZeroUsize,
    tarball_bytes_max: u64,
    compression: Option<Compression>,
) -> BackupPlan {
    let total: u64 = areas.iter().map(area_bytes).sum();
    let jobs = u64::try_from(jobs.get()).expect("a count fits 64 bits");
    let wanted = (total / (jobs * TARBALLS_PER_JOB)).clamp(TARBALL_BYTES_MIN, TARBALL_BYTES_MAX);
    let limit = wanted.min(tarball_bytes_max.max(1));
    let mut tarballs = Vec::new();
    let mut last = TarballName { target: TarballTarget::Data, number: 1, compression };
    for area in areas {
        let bins = pack(pieces(area, limit), area_bytes(area), limit);
        for (number, bin) in (0u32..).zip(bins) {
            let name = TarballName { target: area.target, number, compression };
            if area.target == TarballTarget::Data {
                last.number = number + 1;
            }
            tarballs.push(TarballPlan { name, pieces: bin.pieces, bytes: bin.bytes });
        }
    }
    tarballs.sort_by_key(|tarball| (Reverse(tarball.bytes), tarball.name));
    BackupPlan { tarballs, last }
}

/// Which share of its directory a file belongs to (FNV-1a over the name's bytes).
pub fn share_of(file_name: &Path, shares: u32) -> u32 {
    let hash = file_name
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash % shares.max(1)
}

#[derive(Debug, Default)]
struct Bin {
    bytes: u64,
    pieces: Vec<Piece>,
}

fn area_bytes(area: &AreaSurvey) -> u64 {
    let big: u64 = area.big_files.iter().map(|file| file.bytes + MEMBER_OVERHEAD_BYTES).sum();
    let small: u64 = area.small_files.iter().map(share_bytes).sum();
    big + small
}

fn share_bytes(small: &SmallFiles) -> u64 {
    small.bytes + small.files * MEMBER_OVERHEAD_BYTES
}

/// An area's pieces with their sizes; directories with many bytes of small files are shared
/// out in pieces of a quarter of a tarball.
fn pieces(area: &AreaSurvey, limit: u64) -> BTreeMap<Piece, u64> {
    let mut pieces = BTreeMap::new();
    for file in &area.big_files {
        pieces.insert(Piece::File(file.path.clone()), file.bytes + MEMBER_OVERHEAD_BYTES);
    }
    for small in area.small_files.iter().filter(|small| small.files > 0) {
        let bytes = share_bytes(small);
        let wanted = bytes.div_ceil((limit / 4).max(1)).clamp(1, small.files);
        let shares = u32::try_from(wanted).unwrap_or(u32::MAX);
        for share in 0..shares {
            let piece = Piece::Share { directory: small.directory.clone(), share, shares };
            pieces.insert(piece, bytes / u64::from(shares));
        }
    }
    pieces
}

/// Longest piece first into the emptiest tarball; a new tarball when none has room.
fn pack(pieces: BTreeMap<Piece, u64>, total: u64, limit: u64) -> Vec<Bin> {
    let count = usize::try_from(total.div_ceil(limit)).unwrap_or(1).max(1);
    let mut bins: Vec<Bin> = std::iter::repeat_with(Bin::default).take(count).collect();
    let mut emptiest: BinaryHeap<_> = (0..count).map(|index| Reverse((0u64, index))).collect();
    let mut by_size: Vec<_> = pieces.into_iter().collect();
    by_size.sort_by(|(left, left_bytes), (right, right_bytes)| {
        (right_bytes, left).cmp(&(left_bytes, right))
    });
    for (piece, bytes) in by_size {
        let Reverse((used, index)) = emptiest.pop().expect("there is at least one tarball");
        let index = if used > 0 && used + bytes > limit {
            emptiest.push(Reverse((used, index)));
            bins.push(Bin::default());
            bins.len() - 1
        } else {
            index
        };
        bins[index].bytes += bytes;
        bins[index].pieces.push(piece);
        emptiest.push(Reverse((bins[index].bytes, index)));
    }
    bins.retain(|bin| !bin.pieces.is_empty());
    if bins.is_empty() {
        bins.push(Bin::default());
    }
    // Neighbours in a directory are neighbours in a tarball: kinder to the disk.
    bins.iter_mut().for_each(|bin| bin.pieces.sort());
    bins.sort_by_key(|bin| Reverse(bin.bytes));
    bins
}

#[cfg(test)]
mod tests {
    use crate::backup::plan::{AreaSurvey, BigFile, Piece, SmallFiles, cut, share_of};
    use crate::catalog::TarballTarget;
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeSet;
    use std::num::NonZeroUsize;
    use std::path::{Path, PathBuf};

    fn jobs(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).expect("jobs")
    }

    fn areas() -> impl Strategy<Value = Vec<AreaSurvey>> {
        let sizes = proptest::collection::vec(1u64 << 20..2 << 30, 0..40);
        let small = proptest::collection::vec((0u64..20_000, 0u64..900_000), 0..6);
        proptest::collection::vec((sizes, small), 1..4).prop_map(|areas| {
            (0u32..)
                .zip(areas)
                .map(|(oid, (sizes, small))| AreaSurvey {
                    target: match oid {
                        0 => TarballTarget::Data,
                        oid => TarballTarget::Tablespace(16384 + oid),
                    },
                    directories: Vec::new(),
                    big_files: (0..)
                        .zip(sizes)
                        .map(|(n, bytes)| BigFile { path: format!("base/{n}").into(), bytes })
                        .collect(),
                    small_files: (0..)
                        .zip(small)
                        .map(|(n, (files, mean))| SmallFiles {
                            directory: format!("dir/{n}").into(),
                            files,
                            bytes: files * mean,
                        })
                        .collect(),
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn every_file_lies_in_exactly_one_tarball_of_its_area(areas in areas(), jobs_count in 1usize..16) {
            let plan = cut(&areas, jobs(jobs_count), 100 << 30, None);
            for area in &areas {
                let mut placed = BTreeSet::new();
                for tarball in plan.tarballs.iter().filter(|t| t.name.target == area.target) {
                    for piece in &tarball.pieces {
                        prop_assert!(placed.insert(piece.clone()), "{piece:?} twice");
                    }
                }
                for file in &area.big_files {
                    prop_assert!(placed.contains(&Piece::File(file.path.clone())));
                }
                for small in area.small_files.iter().filter(|small| small.files > 0) {
                    let shares: Vec<_> = placed.iter().filter_map(|piece| match piece {
                        Piece::Share { directory, share, shares } if *directory == small.directory => Some((*share, *shares)),
                        _ => None,
                    }).collect();
                    let count = u32::try_from(shares.len()).expect("few");
                    prop_assert_eq!(shares, (0..count).map(|share| (share, count)).collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn numbers_have_no_gaps_and_the_last_tarball_is_data(areas in areas(), jobs_count in 1usize..16) {
            let plan = cut(&areas, jobs(jobs_count), 1 << 30, None);
            for area in &areas {
                let mut numbers: Vec<_> = plan.tarballs.iter()
                    .filter(|t| t.name.target == area.target)
                    .map(|t| t.name.number).collect();
                numbers.sort_unstable();
                let count = u32::try_from(numbers.len()).expect("few");
                prop_assert_eq!(numbers, (0..count).collect::<Vec<_>>());
                if area.target == TarballTarget::Data {
                    prop_assert_eq!(plan.last.number, count);
                }
            }
        }

        #[test]
        fn no_tarball_exceeds_the_maximum_unless_one_file_does(areas in areas(), shift in 22u32..36) {
            let limit = 1u64 << shift;
            let plan = cut(&areas, jobs(2), limit, None);
            for tarball in &plan.tarballs {
                prop_assert!(tarball.bytes <= limit || tarball.pieces.len() == 1, "{tarball:?}");
            }
        }
    }

    #[test]
    fn an_empty_area_still_gets_its_tarball() {
        let target = TarballTarget::Tablespace(16384);
        let empty = AreaSurvey {
            target,
            directories: vec![PathBuf::from("PG_15_202209061")],
            big_files: Vec::new(),
            small_files: Vec::new(),
        };
        let plan = cut(&[empty], jobs(2), 1 << 30, None);
        assert_eq!(plan.tarballs.len(), 1);
        assert_eq!(plan.tarballs[0].name.file_name(), "16384.tar");
    }

    #[test]
    fn a_name_always_belongs_to_the_same_share() {
        assert_eq!(share_of(Path::new("16384"), 7), share_of(Path::new("16384"), 7));
        assert!((0..1000).map(|n| share_of(Path::new(&n.to_string()), 7)).all(|share| share < 7));
    }
}
