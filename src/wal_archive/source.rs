//! The file to archive: opened once, checked against its own header, read as often as needed.

use crate::pgdata::SystemIdentifier;
use crate::wal::{SegmentSize, WalFileKind, WalFileName, WalPageHeader, WalSegment};
use crate::wal_archive::WalArchiveError;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::warn;

/// A file that PostgreSQL wants archived.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    name: WalFileName,
    file: Arc<File>,
    bytes: u64,
    header: Option<WalPageHeader>,
}

/// Reads a shared file from a position of its own.
#[derive(Debug)]
pub struct SourceReader {
    file: Arc<File>,
    at: u64,
}

impl Source {
    /// Opens the file and refuses one that is not what its name says.
    ///
    /// A segment without a readable header is let through with a warning: it may be of a
    /// PostgreSQL to come, and holding it back would fill the disk.
    pub fn open(path: &Path) -> Result<Self, WalArchiveError> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let name = WalFileName::parse(&name)?;
        let failed = |source| WalArchiveError::Source { path: path.to_path_buf(), source };
        let file = Arc::new(File::open(path).map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let mut first = Vec::new();
        let header_bytes = u64::try_from(WalPageHeader::BYTES).expect("a small number");
        let reader = SourceReader { file: Arc::clone(&file), at: 0 };
        reader.take(header_bytes).read_to_end(&mut first).map_err(failed)?;
        let source = Self {
            path: path.to_path_buf(),
            header: header_of(&name, &first),
            name,
            file,
            bytes: metadata.len(),
        };
        source.check()?;
        Ok(source)
    }

    pub fn name(&self) -> &WalFileName {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&self) -> Option<&WalPageHeader> {
        self.header.as_ref()
    }

    pub fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.header.map(|header| SystemIdentifier::new(header.system_identifier))
    }

    pub fn reader(&self) -> SourceReader {
        SourceReader { file: Arc::clone(&self.file), at: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole file as it is.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.bytes).map_err(io::Error::other)?;
        let mut content = vec![0; length];
        self.read_at(0, &mut content)?;
        self.check_end()?;
        Ok(content)
    }

    /// Fills `buffer` from the place `at`.
    pub fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.file.read_exact_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.changed()),
            other => other,
        }
    }

    /// An error when the file goes on behind the size it had when it was opened.
    pub fn check_end(&self) -> io::Result<()> {
        match self.file.read_at(&mut [0], self.bytes)? {
            0 => Ok(()),
            _ => Err(self.changed()),
        }
    }

    /// When the file was last written to, in seconds and nanoseconds; an error when its size is
    /// not the one it was opened with.
    pub fn modified(&self) -> io::Result<(i64, i64)> {
        let metadata = self.file.metadata()?;
        if metadata.len() == self.bytes {
            Ok((metadata.mtime(), metadata.mtime_nsec()))
        } else {
            Err(self.changed())
        }
    }

    pub fn failed(&self, source: io::Error) -> WalArchiveError {
        WalArchiveError::Source { path: self.path.clone(), source }
    }

    fn changed(&self) -> io::Error {
        let text = format!("it changed its size from {} bytes while read", self.bytes);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    fn check(&self) -> Result<(), WalArchiveError> {
        if self.name.kind() != WalFileKind::Segment {
            return Ok(());
        }
        let Some(header) = &self.header else {
            warn!(wal = %self.name, "the file does not begin like a WAL segment; archived as it is");
            return Ok(());
        };
        match misfit(&self.name, header, self.bytes) {
            None => Ok(()),
            Some(Misfit::Size { expected }) => Err(WalArchiveError::WrongSize {
                name: self.name.clone(),
                bytes: self.bytes,
                expected,
            }),
            Some(Misfit::Position { segment }) => Err(WalArchiveError::WrongPosition {
                name: self.name.clone(),
                address: header.address,
                expected: segment.start(header.segment_size),
            }),
        }
    }
}

impl Read for SourceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(read).expect("a buffer's size fits 64 bits");
        Ok(read)
    }
}

/// How a file contradicts its name or its own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    Size { expected: u64 },
    Position { segment: WalSegment },
}

/// Holds a segment (complete or partial) against its header.
pub fn misfit(name: &WalFileName, header: &WalPageHeader, bytes: u64) -> Option<Misfit> {
    let expected = u64::from(header.segment_size.bytes());
    if bytes != expected {
        return Some(Misfit::Size { expected });
    }
    let segment = segment_of(name, header.segment_size)?;
    (segment.start(header.segment_size) != header.address).then_some(Misfit::Position { segment })
}

/// The header, where the file is one that has it.
pub fn header_of(name: &WalFileName, first: &[u8]) -> Option<WalPageHeader> {
    match name.kind() {
        WalFileKind::Segment | WalFileKind::Partial => WalPageHeader::parse(first),
        WalFileKind::History | WalFileKind::BackupHistory => None,
    }
}

/// The segment that a complete or partial one's name stands for.
pub fn segment_of(name: &WalFileName, size: SegmentSize) -> Option<WalSegment> {
    WalSegment::from_name(name.segment_name()?, size)
}
