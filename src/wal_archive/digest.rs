//! A WAL file's digest: SHA-256 of the plain content, kept in the metadata of its object.
//!
//! It is made of the very bytes that are stored, while they are read, and comes back with each
//! HEAD and GET, so that it costs no request. Barman passes over it, and an object without one (of
//! Barman, of an older version, in a folder without extended attributes) is taken as it is.

use crate::store::{ObjectMeta, hex};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Read};

/// The name of the metadata. Letters only: Azure wants an identifier, proxies drop headers with
/// underscores, and Google's tags live beside it.
const METADATA: &str = "plainsha256";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainDigest([u8; 32]);

impl PlainDigest {
    /// What was noted when the object was written; `None` when nothing was.
    pub fn of_object(meta: &ObjectMeta) -> Option<Self> {
        let text = meta.metadata.get(METADATA)?;
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (index, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }

    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![(METADATA, self.to_string())]
    }
}

/// Lower-case hex.
impl fmt::Display for PlainDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Takes the plain content in order.
#[derive(Clone, Debug, Default)]
pub struct Digester(Sha256);

impl Digester {
    pub fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> PlainDigest {
        PlainDigest(self.0.finalize().into())
    }
}

/// Digests what is read through it.
#[derive(Debug)]
pub struct Digesting<'a, R> {
    pub reader: R,
    pub digester: &'a mut Digester,
}

impl<R: Read> Read for Digesting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.digester.take(&buffer[..read]);
        Ok(read)
    }
}
