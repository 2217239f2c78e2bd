//! For tests: the objects of the simulated S3 server, and what its requests do to them.
//!
//! As much of the protocol as the client library speaks: objects, ranges, conditions, listings
//! in pages, uploads in parts, deletion in batches.
//! Source: Amazon S3 API Reference.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What becomes of `If-None-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conditions {
    Honoured,
    /// As if it were not there.
    Ignored,
    /// 501.
    Refused,
}

/// Keys and prefixes on a page: few, so that listings have several.
const PAGE_KEYS: usize = 9;

pub(crate) struct Objects {
    conditions: Conditions,
    /// The server's clock.
    pub now: Timestamp,
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    counter: u64,
    /// Keys that cannot be deleted.
    pub locked: Vec<String>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: String,
    modified: Timestamp,
    metadata: Vec<(String, String)>,
}

struct Upload {
    key: String,
    metadata: Vec<(String, String)>,
    parts: BTreeMap<u32, Bytes>,
}

type Query = BTreeMap<String, String>;

impl Objects {
    pub fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            now: Timestamp::UNIX_EPOCH,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            counter: 0,
            locked: Vec::new(),
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.keys().map(String::as_str)
    }

    /// Answers one request.
    pub fn carry_out(&mut self, parts: &Parts, body: &Bytes) -> Response<Bytes> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let path = decoded(parts.uri.path());
        let key = path.strip_prefix("/b").unwrap_or(&path).trim_start_matches('/').to_string();
        let query: Query = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        match (&parts.method, query.get("uploadId")) {
            (&Method::GET, None) if key.is_empty() => self.list(&query),
            (&Method::POST, None) if query.contains_key("delete") => self.delete_all(body),
            (&Method::POST, None) if query.contains_key("uploads") => self.begin(key, parts),
            (&Method::PUT, Some(upload)) => self.take_part(upload, &query, body),
            (&Method::POST, Some(upload)) => self.complete(&upload.clone(), parts),
            (&Method::DELETE, Some(upload)) => {
                self.uploads.remove(upload);
                empty(StatusCode::NO_CONTENT)
            }
            (&Method::PUT, None) => self.put(key, parts, body.clone()),
            (&Method::DELETE, None) => match self.delete(&key) {
                true => empty(StatusCode::NO_CONTENT),
                false => error(403, "AccessDenied"),
            },
            (&Method::GET | &Method::HEAD, _) => self.get(&key, parts),
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn put(&mut self, key: String, parts: &Parts, bytes: Bytes) -> Response<Bytes> {
        if parts.headers.contains_key("if-none-match") {
            match self.conditions {
                Conditions::Honoured if self.objects.contains_key(&key) => {
                    return error(412, "PreconditionFailed");
                }
                Conditions::Refused => return error(501, "NotImplemented"),
                Conditions::Honoured | Conditions::Ignored => {}
            }
        }
        let etag = self.store(key, bytes, metadata_of(parts));
        response(StatusCode::OK).header("etag", etag).body(Bytes::new()).expect("a response")
    }

    fn store(&mut self, key: String, bytes: Bytes, metadata: Vec<(String, String)>) -> String {
        self.counter += 1;
        let etag = format!("\"{:032x}\"", self.counter);
        let object = Object { bytes, etag: etag.clone(), modified: self.now, metadata };
        self.objects.insert(key, object);
        etag
    }

    fn get(&self, key: &str, parts: &Parts) -> Response<Bytes> {
        let Some(object) = self.objects.get(key) else {
            return match parts.method {
                Method::HEAD => empty(StatusCode::NOT_FOUND),
                _ => error(404, "NoSuchKey"),
            };
        };
        let size = object.bytes.len();
        let range = parts.headers.get("range").and_then(|value| value.to_str().ok());
        let (status, from, to) = match range.and_then(|range| read_range(range, size)) {
            Some((from, to)) if from < size => (StatusCode::PARTIAL_CONTENT, from, to),
            Some(_) => return error(416, "InvalidRange"),
            None => (StatusCode::OK, 0, size),
        };
        let mut answer = response(status)
            .header("etag", &object.etag)
            .header(
                "last-modified",
                object.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            )
            .header("content-length", to - from);
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.header("content-range", format!("bytes {from}-{}/{size}", to - 1));
        }
        for (name, value) in &object.metadata {
            answer = answer.header(name, value);
        }
        let body = match parts.method {
            Method::HEAD => Bytes::new(),
            _ => object.bytes.slice(from..to),
        };
        answer.body(body).expect("a response")
    }

    fn delete(&mut self, key: &str) -> bool {
        let may = !self.locked.iter().any(|locked| locked == key);
        if may {
            self.objects.remove(key);
        }
        may
    }

    fn delete_all(&mut self, body: &Bytes) -> Response<Bytes> {
        let text = String::from_utf8_lossy(body).into_owned();
        let mut answers = String::new();
        for piece in text.split("<Key>").skip(1) {
            let key = piece.split("</Key>").next().unwrap_or_default();
            answers += &match self.delete(key) {
                true => format!("<Deleted><Key>{key}</Key></Deleted>"),
                false => format!(
                    "<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>locked</Message></Error>"
                ),
            };
        }
        xml(format!("<DeleteResult>{answers}</DeleteResult>"))
    }

    fn begin(&mut self, key: String, parts: &Parts) -> Response<Bytes> {
        self.counter += 1;
        let id = format!("upload{}", self.counter);
        let metadata = metadata_of(parts);
        self.uploads
            .insert(id.clone(), Upload { key: key.clone(), metadata, parts: BTreeMap::new() });
        xml(format!(
            "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ))
    }

    fn take_part(&mut self, upload: &str, query: &Query, body: &Bytes) -> Response<Bytes> {
        let number = query.get("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
        let Some(upload) = self.uploads.get_mut(upload) else { return error(404, "NoSuchUpload") };
        upload.parts.insert(number, body.clone());
        response(StatusCode::OK)
            .header("etag", format!("\"part{number}\""))
            .body(Bytes::new())
            .expect("a response")
    }

    /// As S3 does, a repetition of what was completed is answered with success only for a while;
    /// this server has forgotten the upload at once.
    fn complete(&mut self, upload: &str, parts: &Parts) -> Response<Bytes> {
        let Some(found) = self.uploads.get(upload) else { return error(404, "NoSuchUpload") };
        if parts.headers.contains_key("if-none-match")
            && self.conditions == Conditions::Honoured
            && self.objects.contains_key(&found.key)
        {
            return error(412, "PreconditionFailed");
        }
        let Upload { key, metadata, parts } = self.uploads.remove(upload).expect("just found");
        let bytes: Vec<u8> = parts.values().flat_map(|part| part.iter().copied()).collect();
        let etag = self.store(key.clone(), bytes.into(), metadata);
        xml(format!(
            "<CompleteMultipartUploadResult><Location>x</Location><Bucket>b</Bucket>\
             <Key>{key}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
            etag.replace('"', "&quot;")
        ))
    }

    fn list(&self, query: &Query) -> Response<Bytes> {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let delimiter = query.get("delimiter").filter(|text| !text.is_empty());
        let after = query.get("continuation-token").or_else(|| query.get("start-after"));
        let mut entries = String::new();
        let mut folders: Vec<String> = Vec::new();
        let (mut count, mut last, mut more) = (0, String::new(), false);
        let begin = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        for (key, object) in self.objects.range((begin, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            let folder = delimiter
                .and_then(|text| rest.find(text.as_str()))
                .map(|end| format!("{prefix}{}", &rest[..=end]));
            let known = folder.as_ref().is_some_and(|folder| {
                folders.last() == Some(folder) || after.is_some_and(|key| key.starts_with(folder))
            });
            if known {
                last.clone_from(key);
                continue;
            }
            if count == PAGE_KEYS {
                more = true;
                break;
            }
            count += 1;
            last.clone_from(key);
            match folder {
                Some(folder) => folders.push(folder),
                None => {
                    entries += &format!(
                        "<Contents><Key>{key}</Key><LastModified>{}</LastModified>\
                         <ETag>{}</ETag><Size>{}</Size></Contents>",
                        object.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                        object.etag.replace('"', "&quot;"),
                        object.bytes.len(),
                    );
                }
            }
        }
        for folder in folders {
            entries += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
        }
        let token = match more {
            true => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
            false => String::new(),
        };
        xml(format!(
            "<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{entries}</ListBucketResult>"
        ))
    }
}

fn metadata_of(parts: &Parts) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_string();
    let ours = parts.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"));
    ours.map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// `bytes=from-to`, both included; the end may lie past the object. Returns an end excluded.
fn read_range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    if from.is_empty() {
        return Some((size.saturating_sub(to.parse().ok()?), size));
    }
    let to: usize = if to.is_empty() { size } else { to.parse::<usize>().ok()?.saturating_add(1) };
    Some((from.parse().ok()?, to.min(size)))
}

fn response(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

fn empty(status: StatusCode) -> Response<Bytes> {
    response(status).body(Bytes::new()).expect("a response")
}

fn xml(text: String) -> Response<Bytes> {
    response(StatusCode::OK).body(text.into()).expect("a response")
}

fn error(status: u16, code: &str) -> Response<Bytes> {
    let body = format!("<Error><Code>{code}</Code><Message>simulated</Message></Error>");
    Response::builder().status(status).body(body.into()).expect("a response")
}
