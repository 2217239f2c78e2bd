//! The file to archive: opened once, checked to be what its name says, read as often as needed.

use crate::pgdata::{ControlFile, SystemIdentifier};
use crate::wal::{SegmentSize, WalFileCheck, WalFileKind, WalFileName, WalPageHeader, WalSegment};
use crate::wal_archive::WalArchiveError;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the check of a file needs of its content: a header, or all of a history file.
const CHECKED_BYTES_MAX: u64 = 2 << 20;

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
    /// Opens the file and refuses one that is not what its name says: archived, it would stand in
    /// the way of the right one, and no recovery could use it.
    pub fn open(path: &Path) -> Result<Self, WalArchiveError> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let name = WalFileName::parse(&name)?;
        let failed = |source| WalArchiveError::Source { path: path.to_path_buf(), source };
        let file = Arc::new(File::open(path).map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let mut check = WalFileCheck::new(&name);
        let needed = match name.kind() {
            WalFileKind::History => CHECKED_BYTES_MAX,
            _ => u64::try_from(WalPageHeader::BYTES).expect("a small number"),
        };
        let mut first = Vec::new();
        let reader = SourceReader { file: Arc::clone(&file), at: 0 };
        reader.take(needed).read_to_end(&mut first).map_err(failed)?;
        check.take(&first);
        let bytes = metadata.len();
        let verdict = check.finish_with(bytes);
        verdict.map_err(|fault| WalArchiveError::NotWal { name: name.clone(), fault })?;
        Ok(Self { path: path.to_path_buf(), header: check.header(), name, file, bytes })
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

    /// Whose the data directory is that the file lies in, `pg_wal/..`; `None` elsewhere. For files
    /// that do not tell themselves.
    pub fn data_directory_identifier(&self) -> Option<SystemIdentifier> {
        let pg_wal = self.path.parent()?;
        let data_directory = pg_wal.parent()?;
        let content = std::fs::read(data_directory.join("global/pg_control")).ok()?;
        ControlFile::parse(&content).ok().map(|control| control.system_identifier)
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
}

impl Read for SourceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(read).expect("a buffer's size fits 64 bits");
        Ok(read)
    }
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
