//! One object into one file: decompressed, checked, and only then under its name.

use crate::catalog::WalObject;
use crate::codec::Compression;
use crate::disk::{DurableFile, SpoolWriter};
use crate::flow::Cancel;
use crate::store::{ObjectKey, Store};
use crate::wal::{WalFileCheck, WalFileName, WalPageHeader};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::plain;
use crate::wal_archive::digest::Digester;
use crate::wal_archive::locate::Suffix;
use crate::wal_archive::transfer::{Feed, read_object};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use tokio::sync::mpsc;

const COPY_BYTES: usize = 128 << 10;

/// What the first page of a requested segment tells about those that follow.
#[derive(Clone, Copy, Debug)]
pub struct FirstPage {
    pub header: WalPageHeader,
    pub compression: Suffix,
}

/// Where an object goes.
#[derive(Debug)]
pub enum Destination {
    /// Durable under this name, and nothing of it to be seen before.
    File(PathBuf),
    /// Ahead of time; checked again when it is delivered. Begun before the store is asked, so
    /// that others see that it arrives.
    Spool(SpoolWriter),
}

/// Fetches an object and gives it its name; `None` when the store says that it is not there.
///
/// Returns the bytes written, and tells the first page of a segment as soon as it is known.
/// Nothing is left behind when it fails or is cancelled.
pub async fn receive(
    store: &Store,
    object: &ObjectToFetch,
    destination: Destination,
    first_page: Option<mpsc::Sender<FirstPage>>,
    cancel: &Cancel,
) -> Result<Option<u64>, WalArchiveError> {
    let work_object = object.clone();
    let url = store.url_of(&object.key);
    let work = move |feed: Feed| write(feed, &work_object, url, destination, first_page);
    read_object(store, &object.key, cancel, work).await?.transpose()
}

/// What is fetched, and as what.
#[derive(Clone, Debug)]
pub struct ObjectToFetch {
    pub key: ObjectKey,
    pub compression: Option<Compression>,
    pub name: WalFileName,
}

impl From<WalObject> for ObjectToFetch {
    fn from(object: WalObject) -> Self {
        Self { key: object.key, compression: object.compression, name: object.name }
    }
}

fn write(
    feed: Feed,
    object: &ObjectToFetch,
    url: String,
    destination: Destination,
    mut first_page: Option<mpsc::Sender<FirstPage>>,
) -> Result<u64, WalArchiveError> {
    let noted = feed.digest();
    let mut content = plain(object.compression, feed)?;
    let mut target = Target::create(destination)?;
    let damaged = |reason: String| WalArchiveError::Damaged { object: url.clone(), reason };
    let mut buffer = vec![0; COPY_BYTES];
    let mut check = WalFileCheck::new(&object.name);
    let mut digester = noted.map(|_| Digester::default());
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(format!("it cannot be decompressed: {error}"))),
        };
        target.write(&buffer[..read])?;
        digester.iter_mut().for_each(|digester| digester.take(&buffer[..read]));
        check.take(&buffer[..read]);
        if let (Some(header), Some(sender)) = (check.header(), &first_page) {
            // Nobody listens any more when the command ends: then it is of no use.
            let _ = sender.try_send(FirstPage { header, compression: object.compression });
            first_page = None;
        }
    }
    check.finish().map_err(|fault| damaged(fault.to_string()))?;
    let digest = digester.map(Digester::finish);
    if let (Some(noted), Some(digest)) = (noted, digest)
        && noted != digest
    {
        return Err(damaged(format!("its content has SHA-256 {digest} instead of {noted}")));
    }
    target.publish()?;
    Ok(check.bytes())
}

/// A file on its way to its destination.
enum Target {
    File(DurableFile),
    Spool(SpoolWriter),
}

impl Target {
    fn create(destination: Destination) -> Result<Self, WalArchiveError> {
        match destination {
            Destination::File(path) => Ok(Self::File(DurableFile::create_out_of_sight(&path)?)),
            Destination::Spool(writer) => Ok(Self::Spool(writer)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WalArchiveError> {
        match self {
            Self::File(file) => {
                let written = file.write_all(bytes);
                written.map_err(|error| file.write_error(error).into())
            }
            Self::Spool(writer) => {
                let written = writer.write_all(bytes);
                written.map_err(|error| WalArchiveError::Spool(writer.write_error(error)))
            }
        }
    }

    fn publish(self) -> Result<(), WalArchiveError> {
        match self {
            Self::File(file) => Ok(file.publish()?),
            Self::Spool(writer) => writer.finish().map_err(WalArchiveError::Spool),
        }
    }
}
