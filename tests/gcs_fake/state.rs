//! Buckets, objects and uploads: what both faces of the fake look at.

use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// One stored version of an object. There is only the newest.
#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: Bytes,
    pub generation: u64,
    pub crc32c: u32,
    pub md5: [u8; 16],
    pub modified: SystemTime,
    pub attributes: Attributes,
}

/// What is stored beside the bytes.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub content_type: Option<String>,
    pub kms_key: Option<String>,
    pub storage_class: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// A multipart upload of the XML face.
#[derive(Clone, Debug)]
pub struct Upload {
    pub bucket: String,
    pub name: String,
    pub attributes: Attributes,
    pub parts: BTreeMap<u32, Bytes>,
}

/// A resumable upload of the JSON face.
#[derive(Clone, Debug)]
pub struct Session {
    pub bucket: String,
    pub name: String,
    pub attributes: Attributes,
    pub generation_match: Option<u64>,
    pub received: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoSuchBucket,
    /// `ifGenerationMatch` or `x-goog-if-generation-match` does not hold.
    Precondition,
}

#[derive(Debug, Default)]
pub struct State {
    pub buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub uploads: HashMap<String, Upload>,
    pub sessions: HashMap<String, Session>,
    counter: u64,
}

impl Object {
    /// As Google gives it in the XML face for objects with one part: a quoted text that changes
    /// with the content.
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", hex(&self.md5), self.generation)
    }
}

impl State {
    /// A number that was never given out before: generations, upload ids.
    pub fn next_number(&mut self) -> u64 {
        self.counter += 1;
        1_700_000_000_000_000 + self.counter
    }

    pub fn object(&self, bucket: &str, name: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.get(name)
    }

    /// Stores an object; `generation_match` of 0 means that there must be none.
    pub fn put(
        &mut self,
        bucket: &str,
        name: &str,
        bytes: Bytes,
        attributes: Attributes,
        generation_match: Option<u64>,
    ) -> Result<Object, Refusal> {
        if !self.buckets.contains_key(bucket) {
            return Err(Refusal::NoSuchBucket);
        }
        let current = self.object(bucket, name).map_or(0, |object| object.generation);
        if generation_match.is_some_and(|wanted| wanted != current) {
            return Err(Refusal::Precondition);
        }
        let object = Object {
            generation: self.next_number(),
            crc32c: crc32c::crc32c(&bytes),
            md5: Md5::digest(&bytes).into(),
            modified: SystemTime::now(),
            bytes,
            attributes,
        };
        let objects = self.buckets.get_mut(bucket).expect("looked up above");
        objects.insert(name.to_string(), object.clone());
        Ok(object)
    }

    /// Removes an object; whether there was one.
    pub fn remove(&mut self, bucket: &str, name: &str) -> bool {
        self.buckets.get_mut(bucket).is_some_and(|objects| objects.remove(name).is_some())
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<(String, Object)>,
    pub prefixes: Vec<String>,
    /// The last name or prefix of the page when more follow: an opaque token for the client.
    pub next: Option<String>,
}

/// Lists names after `after` (excluded), in byte order; prefixes count towards the page.
pub fn list(
    objects: &BTreeMap<String, Object>,
    prefix: &str,
    delimiter: &str,
    after: &str,
    most: usize,
) -> Page {
    let mut page = Page::default();
    let mut count = 0;
    let mut last = String::new();
    for (name, object) in objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let rest = &name[prefix.len()..];
        let folder = (!delimiter.is_empty())
            .then(|| rest.find(delimiter))
            .flatten()
            .map(|end| format!("{prefix}{}", &rest[..end + delimiter.len()]));
        let shown = folder.as_deref().unwrap_or(name);
        if shown <= after || (folder.is_some() && after.starts_with(shown)) || shown == last {
            continue;
        }
        if count == most {
            page.next = Some(last);
            return page;
        }
        last = shown.to_string();
        count += 1;
        match folder {
            Some(folder) => page.prefixes.push(folder),
            None => page.objects.push((name.clone(), object.clone())),
        }
    }
    page
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
