//! The last tarball: what must be read after everything else.
//!
//! `global/pg_control` is read when all files have been (it must not be older than any page),
//! `backup_label` exists only once PostgreSQL has ended the backup. Configuration files that
//! lie outside the data directory come along by their base names, as Barman stores them.

use crate::backup::produce::{Produced, RecordFile, finish, member_meta};
use crate::backup::ship::TarballSink;
use crate::backup::{BackupError, disk_error};
use crate::catalog::IndexedMember;
use crate::disk::Accounts;
use crate::pgdata::{ControlFile, ManifestEntry};
use crate::tarball::{MemberMeta, TarballWriter};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Times `pg_control` is read while its checksum does not match: PostgreSQL may be writing it.
const CONTROL_FILE_ATTEMPTS: u32 = 10;

/// A file of the last tarball, in memory: each is a few kilobytes.
#[derive(Clone, Debug)]
pub struct LastFile {
    pub path: PathBuf,
    pub content: Vec<u8>,
    pub meta: MemberMeta,
}

/// Reads `global/pg_control` until its checksum matches.
pub fn read_control_file(pgdata: &Path, accounts: &Accounts) -> Result<LastFile, BackupError> {
    let relative = PathBuf::from("global/pg_control");
    let absolute = pgdata.join(&relative);
    let mut attempt = 1;
    loop {
        let file = read(&absolute, relative.clone(), accounts)?;
        match ControlFile::parse(&file.content) {
            Ok(_) => return Ok(file),
            Err(_) if attempt < CONTROL_FILE_ATTEMPTS => attempt += 1,
            Err(error) => {
                let path = absolute.display().to_string();
                return Err(BackupError::ControlFile { path, source: error });
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reads a configuration file that lies outside the data directory.
pub fn read_external(path: &Path, accounts: &Accounts) -> Result<LastFile, BackupError> {
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    read(path, name, accounts)
}

/// The label as a file owned like the data directory.
pub fn label_file(
    text: &str,
    pgdata: &Path,
    accounts: &Accounts,
    modified: u64,
) -> Result<LastFile, BackupError> {
    let metadata = fs::metadata(pgdata)
        .map_err(|error| disk_error("read file information of", pgdata, error))?;
    let owner = member_meta(&metadata, accounts).owner;
    Ok(LastFile {
        path: "backup_label".into(),
        content: text.as_bytes().to_vec(),
        meta: MemberMeta { mode: 0o600, modified, owner },
    })
}

/// Writes the files in their order and tells the manifest.
pub fn write_last(
    files: &[LastFile],
    manifest: &Arc<dyn RecordFile>,
    sink: TarballSink,
) -> Result<(TarballSink, Produced), BackupError> {
    let mut writer = TarballWriter::new(sink);
    for file in files {
        let bytes = u64::try_from(file.content.len()).expect("a length fits 64 bits");
        let entry = ManifestEntry {
            path: file.path.as_os_str().as_encoded_bytes(),
            size_bytes: bytes,
            modified: i64::try_from(file.meta.modified).unwrap_or(0),
            crc32c: crc32c::crc32c(&file.content),
        };
        let failed = |error| BackupError::Tarball { source: error };
        let offset =
            writer.file(&file.path, bytes, &file.meta, &mut &file.content[..]).map_err(failed)?;
        let path = file.path.as_os_str().as_bytes().to_vec();
        writer.target().note(IndexedMember { path, offset, bytes });
        manifest.record(&entry).map_err(failed)?;
    }
    finish(writer)
}

fn read(absolute: &Path, path: PathBuf, accounts: &Accounts) -> Result<LastFile, BackupError> {
    let metadata = fs::metadata(absolute)
        .map_err(|error| disk_error("read file information of", absolute, error))?;
    let content = fs::read(absolute).map_err(|error| disk_error("read file", absolute, error))?;
    Ok(LastFile { path, content, meta: member_meta(&metadata, accounts) })
}
