//! The algorithms, as Barman names and suffixes them.

use std::fmt;

/// A compression algorithm of WAL files or tarballs.
///
/// Tarballs of Barman 3.19.1 know gzip, bzip2, snappy and lz4; its WAL files all six.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Snappy,
    Zstd,
    Lz4,
}

/// How hard to compress: Barman's words, or the algorithm's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionLevel {
    Low,
    Medium,
    High,
    /// Clamped to the algorithm's range.
    Number(i32),
}

impl Compression {
    pub const ALL: [Self; 6] =
        [Self::Gzip, Self::Bzip2, Self::Xz, Self::Snappy, Self::Zstd, Self::Lz4];

    /// The suffix of object names, without the dot.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Bzip2 => "bz2",
            Self::Xz => "xz",
            Self::Snappy => "snappy",
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
        }
    }

    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.suffix() == suffix)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CompressionLevel {
    /// The number for WAL files, as in Barman's table (contract §10.3).
    pub fn for_wal(self, compression: Compression) -> i32 {
        let (min, max, low, medium, high) = match compression {
            Compression::Gzip => (1, 9, 1, 6, 9),
            Compression::Bzip2 => (1, 9, 1, 5, 9),
            Compression::Xz => (1, 9, 1, 3, 5),
            Compression::Zstd => (-22, 22, 1, 4, 9),
            Compression::Lz4 => (0, 16, 0, 6, 10),
            Compression::Snappy => (0, 0, 0, 0, 0),
        };
        match self {
            Self::Low => low,
            Self::Medium => medium,
            Self::High => high,
            Self::Number(number) => number.clamp(min, max),
        }
    }
}
