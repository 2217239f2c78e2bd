//! The XML face, which object_store speaks: `/{bucket}/{object}`, S3-like.
//!
//! Source: Cloud Storage XML API reference, and what object_store 0.14 sends on the wire.

use crate::gcs_fake::http::{Answer, Request, decoded, http_date, iso_date, range};
use crate::gcs_fake::state::{Attributes, Object, Refusal, State, Upload, hex, list};
use bytes::Bytes;
use md5::{Digest, Md5};

/// Google's least size of a part that is not the last.
const PART_BYTES_MIN: usize = 5 << 20;

const PAGE_MAX: usize = 1000;

pub fn answer(state: &mut State, request: &Request) -> Answer {
    let path = request.path.trim_start_matches('/');
    let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
    let (bucket, name) = (decoded(bucket), decoded(name));
    if !state.buckets.contains_key(&bucket) {
        return error(404, "NoSuchBucket");
    }
    let upload_id = request.parameter("uploadId").map(str::to_string);
    match (request.method.as_str(), name.is_empty(), upload_id) {
        ("GET", true, _) if request.query.contains_key("uploads") => {
            uploads(state, &bucket, request)
        }
        ("GET", true, _) => listing(state, &bucket, request),
        ("HEAD", true, _) => Answer::new(200),
        ("GET" | "HEAD", false, _) => read(state, &bucket, &name, request),
        ("POST", false, None) if request.query.contains_key("uploads") => {
            begin(state, bucket, name, request)
        }
        ("PUT", false, Some(id)) => part(state, &id, request),
        ("POST", false, Some(id)) => complete(state, &id, request),
        ("DELETE", false, Some(id)) => {
            let known = state.uploads.remove(&id).is_some();
            if known { Answer::new(204) } else { error(404, "NoSuchUpload") }
        }
        ("PUT", false, None) => write(state, &bucket, &name, request),
        ("DELETE", false, None) => {
            if state.remove(&bucket, &name) {
                Answer::new(204)
            } else {
                error(404, "NoSuchKey")
            }
        }
        _ => error(405, "MethodNotAllowed"),
    }
}

fn read(state: &State, bucket: &str, name: &str, request: &Request) -> Answer {
    let Some(object) = state.object(bucket, name) else { return error(404, "NoSuchKey") };
    let etag = object.etag();
    if request.header("if-match").is_some_and(|wanted| wanted != etag) {
        return error(412, "PreconditionFailed");
    }
    if request.header("if-none-match").is_some_and(|known| known == etag) {
        return Answer::new(304).with("etag", etag);
    }
    let total = object.bytes.len();
    let Ok(range) = range(request.header("range"), total) else {
        return error(416, "InvalidRange");
    };
    let (start, end) = range.unwrap_or((0, total));
    let mut answer = Answer::new(if range.is_some() { 206 } else { 200 })
        .with("etag", etag)
        .with("last-modified", http_date(object.modified))
        .with("x-goog-generation", object.generation.to_string());
    if range.is_some() {
        answer = answer.with("content-range", format!("bytes {start}-{}/{total}", end - 1));
    }
    for (key, value) in &object.attributes.metadata {
        answer = answer.with(&format!("x-goog-meta-{key}"), value.clone());
    }
    if let Some(key) = &object.attributes.kms_key {
        answer = answer.with("x-goog-encryption-kms-key-name", key.clone());
    }
    if let Some(content_type) = &object.attributes.content_type {
        answer = answer.with("content-type", content_type.clone());
    }
    if request.method == "HEAD" {
        answer.announced_bytes = Some(end - start);
    } else {
        answer.body = object.bytes.slice(start..end);
    }
    answer
}

fn write(state: &mut State, bucket: &str, name: &str, request: &Request) -> Answer {
    let generation_match =
        request.header("x-goog-if-generation-match").and_then(|text| text.parse().ok());
    let (bytes, attributes) = match request.header("x-goog-copy-source") {
        None => (request.body.clone(), attributes(request)),
        Some(source) => {
            let source = source.trim_start_matches('/');
            let (from, object) = source.split_once('/').unwrap_or((source, ""));
            match state.object(&decoded(from), &decoded(object)) {
                Some(object) => (object.bytes.clone(), object.attributes.clone()),
                None => return error(404, "NoSuchKey"),
            }
        }
    };
    stored(state.put(bucket, name, bytes, attributes, generation_match))
}

fn stored(outcome: Result<Object, Refusal>) -> Answer {
    match outcome {
        Ok(object) => Answer::new(200)
            .with("etag", object.etag())
            .with("x-goog-generation", object.generation.to_string()),
        Err(Refusal::Precondition) => error(412, "PreconditionFailed"),
        Err(Refusal::NoSuchBucket) => error(404, "NoSuchBucket"),
    }
}

fn begin(state: &mut State, bucket: String, name: String, request: &Request) -> Answer {
    let id = format!("upload-{}", state.next_number());
    let body = format!(
        "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
        escaped(&bucket),
        escaped(&name)
    );
    let upload =
        Upload { bucket, name, attributes: attributes(request), parts: Default::default() };
    state.uploads.insert(id, upload);
    Answer::new(200).body("application/xml", body)
}

fn part(state: &mut State, id: &str, request: &Request) -> Answer {
    let Some(upload) = state.uploads.get_mut(id) else { return error(404, "NoSuchUpload") };
    let Some(number) = request.parameter("partNumber").and_then(|text| text.parse().ok()) else {
        return error(400, "InvalidArgument");
    };
    upload.parts.insert(number, request.body.clone());
    Answer::new(200).with("etag", part_etag(&request.body))
}

fn complete(state: &mut State, id: &str, request: &Request) -> Answer {
    let Some(upload) = state.uploads.get(id).cloned() else { return error(404, "NoSuchUpload") };
    let wanted = parts_of(&String::from_utf8_lossy(&request.body));
    if wanted.is_empty() || wanted.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return error(400, "InvalidPartOrder");
    }
    let mut bytes = Vec::new();
    for (index, (number, etag)) in wanted.iter().enumerate() {
        let Some(part) = upload.parts.get(number).filter(|part| part_etag(part) == *etag) else {
            return error(400, "InvalidPart");
        };
        if index + 1 < wanted.len() && part.len() < PART_BYTES_MIN {
            return error(400, "EntityTooSmall");
        }
        bytes.extend_from_slice(part);
    }
    state.uploads.remove(id);
    match state.put(&upload.bucket, &upload.name, Bytes::from(bytes), upload.attributes, None) {
        Ok(object) => {
            let body = format!(
                "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
                escaped(&object.etag())
            );
            Answer::new(200)
                .with("x-goog-generation", object.generation.to_string())
                .body("application/xml", body)
        }
        refused => stored(refused),
    }
}

/// `(part number, quoted etag)` in the order of the document.
fn parts_of(document: &str) -> Vec<(u32, String)> {
    let inner = |text: &str, tag: &str| {
        let start = text.find(&format!("<{tag}>"))? + tag.len() + 2;
        let end = text.find(&format!("</{tag}>"))?;
        Some(text[start..end].replace("&quot;", "\"").replace("&#34;", "\""))
    };
    document
        .split("<Part>")
        .skip(1)
        .filter_map(|part| {
            let etag = inner(part, "ETag")?;
            Some((inner(part, "PartNumber")?.parse().ok()?, etag))
        })
        .collect()
}

fn listing(state: &State, bucket: &str, request: &Request) -> Answer {
    let text = |name| request.parameter(name).unwrap_or_default();
    let after = match text("continuation-token") {
        "" => text("start-after"),
        token => token,
    };
    let most = text("max-keys").parse().unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let page = list(&state.buckets[bucket], text("prefix"), text("delimiter"), after, most);
    let mut body = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (name, object) in &page.objects {
        body.push_str(&format!(
            "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
            escaped(name),
            object.bytes.len(),
            iso_date(object.modified),
            escaped(&object.etag())
        ));
    }
    for prefix in &page.prefixes {
        body.push_str(&format!(
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            escaped(prefix)
        ));
    }
    if let Some(next) = &page.next {
        body.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(next)));
    }
    body.push_str("</ListBucketResult>");
    Answer::new(200).body("application/xml", body)
}

/// Uploads that were begun, all on one page; the fake takes them for begun at this moment.
fn uploads(state: &State, bucket: &str, request: &Request) -> Answer {
    let prefix = request.parameter("prefix").unwrap_or_default();
    let mut body = String::from("<?xml version=\"1.0\"?><ListMultipartUploadsResult>");
    for (id, upload) in &state.uploads {
        if upload.bucket == bucket && upload.name.starts_with(prefix) {
            body.push_str(&format!(
                "<Upload><Key>{}</Key><UploadId>{id}</UploadId><Initiated>{}</Initiated></Upload>",
                escaped(&upload.name),
                iso_date(std::time::SystemTime::now())
            ));
        }
    }
    body.push_str("<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
    Answer::new(200).body("application/xml", body)
}

fn attributes(request: &Request) -> Attributes {
    let owned = |name| request.header(name).map(str::to_string);
    let metadata = request
        .headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.strip_prefix("x-goog-meta-")?.to_string(), value.clone()))
        })
        .collect();
    Attributes {
        content_type: owned("content-type"),
        kms_key: owned("x-goog-encryption-kms-key-name"),
        storage_class: owned("x-goog-storage-class"),
        metadata,
    }
}

fn part_etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Md5::digest(bytes)))
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    Answer::new(status).body("application/xml", body)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
