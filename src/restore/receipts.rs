//! What each tarball wrote, for the run that goes on after an interruption.
//!
//! ```text
//! PGDATA/.barman-cloud-restore.d/data_0001.tar.gz     one line of JSON per file, link, directory
//! ```
//!
//! A finished tarball is believed when everything that its receipt names is still there, with
//! the content that was written; else it is extracted again. Reading what is on the disk costs
//! less than fetching it. The last line counts the others, so a receipt that was cut is none.
//!
//! Memory: one line and one buffer per tarball. A receipt becomes durable with its files.

use crate::catalog::{Tarball, TarballTarget};
use crate::disk::{EntryKind, ExtractRoot, Extractor};
use crate::restore::extract::Targets;
use crate::restore::{RestoreError, RestorePlan};
use crate::store::hex;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The folder of the receipts in the data directory.
pub const RECEIPTS: &str = ".barman-cloud-restore.d";

/// Paths are at most 4096 bytes, links too; in hex and with names of fields.
const LINE_BYTES_MAX: u64 = 20 << 10;
const READ_BYTES: usize = 256 << 10;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    /// In hex: names may be any bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    /// Of a file's content.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
    /// The text of a symbolic link, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    directory: bool,
    /// In the last line: how many came before.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Notes what one tarball writes.
pub struct ReceiptWriter {
    output: BufWriter<File>,
    path: PathBuf,
    lines: u64,
}

impl ReceiptWriter {
    pub fn create(data: &ExtractRoot, tarball: &Tarball) -> Result<Self, RestoreError> {
        let name = place(tarball);
        let path = data.path().join(&name);
        let file = data.extractor().file(&name, None).map_err(RestoreError::disk(&path))?;
        Ok(Self { output: BufWriter::new(file), path, lines: 0 })
    }

    pub fn file(&mut self, path: &Path, bytes: u64, crc32: u32) -> Result<(), RestoreError> {
        self.line(path, Line { bytes: Some(bytes), crc32: Some(crc32), ..Line::default() })
    }

    /// A second name: what it names is noted with the first one.
    pub fn hard_link(&mut self, path: &Path) -> Result<(), RestoreError> {
        self.line(path, Line::default())
    }

    pub fn symbolic_link(&mut self, path: &Path, target: &OsStr) -> Result<(), RestoreError> {
        self.line(path, Line { link: Some(hex(target.as_bytes())), ..Line::default() })
    }

    pub fn directory(&mut self, path: &Path) -> Result<(), RestoreError> {
        self.line(path, Line { directory: true, ..Line::default() })
    }

    pub fn finish(mut self) -> Result<(), RestoreError> {
        let last = Line { lines: Some(self.lines), ..Line::default() };
        self.write(&last)?;
        self.output.flush().map_err(RestoreError::disk(&self.path))
    }

    fn line(&mut self, path: &Path, line: Line) -> Result<(), RestoreError> {
        self.lines += 1;
        self.write(&Line { path: hex(path.as_os_str().as_bytes()), ..line })
    }

    fn write(&mut self, line: &Line) -> Result<(), RestoreError> {
        let written = serde_json::to_writer(&mut self.output, line).map_err(io::Error::from);
        let written = written.and_then(|()| self.output.write_all(b"\n"));
        written.map_err(RestoreError::disk(&self.path))
    }
}

/// Why the files of a finished tarball are not what was written; `None` when they are.
pub fn deviation(targets: &Targets, tarball: &Tarball) -> Option<String> {
    let Some(root) = targets.root_of(tarball.name.target) else {
        return Some("its directory is not there".into());
    };
    match check(targets, root, tarball) {
        Ok(()) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn check(targets: &Targets, root: &ExtractRoot, tarball: &Tarball) -> io::Result<()> {
    let Some(receipt) = targets.data.extractor().open(&place(tarball))? else {
        return Err(io::Error::other("nothing tells what it wrote"));
    };
    let mut receipt = BufReader::new(receipt);
    let mut extractor = root.extractor();
    let mut buffer = vec![0; READ_BYTES];
    let (mut text, mut lines) = (Vec::new(), 0);
    loop {
        text.clear();
        (&mut receipt).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        let line: Line = serde_json::from_slice(&text)?;
        if let Some(counted) = line.lines {
            return match counted == lines {
                true => Ok(()),
                false => Err(io::Error::other("what tells what it wrote is damaged")),
            };
        }
        lines += 1;
        check_line(targets, tarball, &line, &mut extractor, &mut buffer)?;
    }
}

fn check_line(
    targets: &Targets,
    tarball: &Tarball,
    line: &Line,
    extractor: &mut Extractor,
    buffer: &mut [u8],
) -> io::Result<()> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(unhex(&line.path)?));
    // Another tarball wrote its own over it: that one's receipt counts.
    if tarball.name.target == TarballTarget::Data && targets.is_of_other(&path, tarball) {
        return Ok(());
    }
    let changed = |what: &str| io::Error::other(format!("\"{}\" {what}", path.display()));
    let kind = extractor.kind(&path)?.ok_or_else(|| changed("is gone"))?;
    match (kind, line) {
        (EntryKind::Directory, Line { directory: true, .. }) => Ok(()),
        (EntryKind::SymbolicLink(target), Line { link: Some(link), .. })
            if hex(target.as_bytes()) == *link =>
        {
            Ok(())
        }
        (EntryKind::File { bytes }, Line { bytes: Some(written), crc32: Some(crc32), .. }) => {
            if bytes != *written {
                return Err(changed(&format!("has {bytes} bytes, {written} were written")));
            }
            let file = extractor.open(&path)?.ok_or_else(|| changed("is gone"))?;
            match checksum(file, buffer)? == *crc32 {
                true => Ok(()),
                false => Err(changed("has other content than was written")),
            }
        }
        (
            EntryKind::File { .. } | EntryKind::SymbolicLink(_),
            Line { bytes: None, link: None, directory: false, .. },
        ) => Ok(()),
        _ => Err(changed("is not what was written")),
    }
}

fn checksum(mut file: File, buffer: &mut [u8]) -> io::Result<u32> {
    crate::disk::advise_once_through(&file);
    let mut hasher = crc32fast::Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes all receipts durably.
pub fn remove(data: &ExtractRoot, plan: &RestorePlan) -> Result<(), RestoreError> {
    let folder = data.path().join(RECEIPTS);
    let mut extractor = data.extractor();
    let mut remove = || -> io::Result<()> {
        for tarball in &plan.tarballs {
            extractor.remove(&place(tarball))?;
        }
        extractor.remove_directory(Path::new(RECEIPTS))
    };
    remove().map_err(RestoreError::disk(&folder))
}

fn place(tarball: &Tarball) -> PathBuf {
    Path::new(RECEIPTS).join(tarball.name.file_name())
}

fn unhex(text: &str) -> io::Result<Vec<u8>> {
    let damaged = || io::Error::other("what tells what it wrote is damaged");
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => {
                Ok(digit(*high).ok_or_else(damaged)? << 4 | digit(*low).ok_or_else(damaged)?)
            }
            _ => Err(damaged()),
        })
        .collect()
}
