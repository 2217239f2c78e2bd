//! The JSON face, which Barman and Google's client libraries speak.
//!
//! Source: Cloud Storage JSON API reference, and what google-cloud-storage sends on the wire.

use crate::gcs_fake::http::{Answer, Request, decoded, iso_date, query, range};
use crate::gcs_fake::state::{Attributes, Object, Refusal, Session, State, list};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Value, json};

const PAGE_MAX: usize = 1000;
const BATCH_BOUNDARY: &str = "batch_of_the_fake";

/// Whether a path belongs to this face.
pub fn is_json_path(path: &str) -> bool {
    [
        "/storage/v1",
        "/upload/storage/v1",
        "/download/storage/v1",
        "/resumable/",
        "/batch/storage/v1",
    ]
    .iter()
    .any(|start| path.starts_with(start))
}

pub fn answer(state: &mut State, request: &Request, origin: &str) -> Answer {
    if request.path.starts_with("/batch/storage/v1") {
        return batch(state, request, origin);
    }
    if request.path.starts_with("/upload/storage/v1") {
        return upload(state, request, origin);
    }
    let path = request.path.trim_start_matches("/download").trim_start_matches("/storage/v1/");
    let words: Vec<&str> = path.splitn(4, '/').collect();
    match (request.method.as_str(), words.as_slice()) {
        ("POST", ["b"]) => create_bucket(state, request),
        ("GET", ["b", bucket]) => bucket_resource(state, &decoded(bucket)),
        ("GET", ["b", bucket, "o"]) => listing(state, &decoded(bucket), request),
        ("GET", ["b", bucket, "o", object]) => {
            read(state, &decoded(bucket), &decoded(object), request)
        }
        ("DELETE", ["b", bucket, "o", object]) => {
            if state.remove(&decoded(bucket), &decoded(object)) {
                Answer::new(204)
            } else {
                error(404, "notFound")
            }
        }
        _ => error(400, "invalid"),
    }
}

fn create_bucket(state: &mut State, request: &Request) -> Answer {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let Some(name) = body["name"].as_str() else { return error(400, "required") };
    if state.buckets.contains_key(name) {
        return error(409, "conflict");
    }
    state.buckets.insert(name.to_string(), Default::default());
    bucket_resource(state, name)
}

fn bucket_resource(state: &State, name: &str) -> Answer {
    if !state.buckets.contains_key(name) {
        return error(404, "notFound");
    }
    ok(&json!({"kind": "storage#bucket", "id": name, "name": name, "location": "US"}))
}

fn listing(state: &State, bucket: &str, request: &Request) -> Answer {
    let Some(objects) = state.buckets.get(bucket) else { return error(404, "notFound") };
    let text = |name| request.parameter(name).unwrap_or_default();
    let most = text("maxResults").parse().unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let page = list(objects, text("prefix"), text("delimiter"), text("pageToken"), most);
    let offset = text("startOffset");
    let items: Vec<Value> = page
        .objects
        .iter()
        .filter(|(name, _)| name.as_str() >= offset)
        .map(|(name, object)| resource(bucket, name, object))
        .collect();
    let mut body = json!({"kind": "storage#objects"});
    if !items.is_empty() {
        body["items"] = items.into();
    }
    if !page.prefixes.is_empty() {
        body["prefixes"] = page.prefixes.into();
    }
    if let Some(next) = page.next {
        body["nextPageToken"] = next.into();
    }
    ok(&body)
}

fn read(state: &State, bucket: &str, name: &str, request: &Request) -> Answer {
    let Some(object) = state.object(bucket, name) else { return error(404, "notFound") };
    if request.parameter("alt") != Some("media") {
        return ok(&resource(bucket, name, object));
    }
    let total = object.bytes.len();
    let Ok(range) = range(request.header("range"), total) else {
        return error(416, "requestedRangeNotSatisfiable");
    };
    let (start, end) = range.unwrap_or((0, total));
    let hashes = format!("crc32c={},md5={}", crc_text(object), BASE64.encode(object.md5));
    let mut answer = Answer::new(if range.is_some() { 206 } else { 200 })
        .with("x-goog-generation", object.generation.to_string())
        .with("x-goog-hash", hashes)
        .with("etag", object.etag());
    if range.is_some() {
        answer = answer.with("content-range", format!("bytes {start}-{}/{total}", end - 1));
    }
    answer.body("application/octet-stream", object.bytes.slice(start..end))
}

fn upload(state: &mut State, request: &Request, origin: &str) -> Answer {
    if let Some(id) = request.parameter("upload_id") {
        let id = id.to_string();
        return resume(state, &id, request);
    }
    let bucket = request.path.split('/').nth(5).map(decoded).unwrap_or_default();
    if !state.buckets.contains_key(&bucket) {
        return error(404, "notFound");
    }
    match request.parameter("uploadType") {
        Some("multipart") => multipart(state, &bucket, request),
        Some("resumable") => begin(state, bucket, request, origin),
        Some("media") => {
            let name = request.parameter("name").unwrap_or_default().to_string();
            let stored = state.put(
                &bucket,
                &name,
                request.body.clone(),
                Attributes::default(),
                generation_match(request),
            );
            stored_answer(&bucket, &name, stored)
        }
        _ => error(400, "invalid"),
    }
}

fn multipart(state: &mut State, bucket: &str, request: &Request) -> Answer {
    let parts = split_parts(request);
    let [(_, description), (_, content)] = parts.as_slice() else {
        return error(400, "parseError");
    };
    let description: Value = serde_json::from_slice(description).unwrap_or_default();
    let name = object_name(&description, request);
    let told = |key: &str| description[key].as_str().map(str::to_string);
    let crc = BASE64.encode(crc32c::crc32c(content).to_be_bytes());
    if told("crc32c").is_some_and(|wanted| wanted != crc) {
        return error(400, "invalid");
    }
    let attributes = attributes(&description, request);
    let stored = state.put(bucket, &name, content.clone(), attributes, generation_match(request));
    stored_answer(bucket, &name, stored)
}

fn begin(state: &mut State, bucket: String, request: &Request, origin: &str) -> Answer {
    let description: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let id = format!("session-{}", state.next_number());
    let location =
        format!("{origin}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}");
    let session = Session {
        name: object_name(&description, request),
        attributes: attributes(&description, request),
        generation_match: generation_match(request),
        received: Vec::new(),
        bucket,
    };
    state.sessions.insert(id, session);
    Answer::new(200).with("location", location)
}

/// Takes a chunk: `bytes a-b/total`, `bytes a-b/*`, or asks how much is there: `bytes */total`.
fn resume(state: &mut State, id: &str, request: &Request) -> Answer {
    let Some(session) = state.sessions.get_mut(id) else { return error(410, "gone") };
    let header = request.header("content-range").unwrap_or_default().to_string();
    let (span, total) = header.trim_start_matches("bytes ").split_once('/').unwrap_or(("", "*"));
    let start = span.split_once('-').and_then(|(start, _)| start.parse::<usize>().ok());
    match start {
        Some(start) if start == session.received.len() => {
            session.received.extend_from_slice(&request.body);
        }
        Some(_) => return error(503, "backendError"),
        None if header.is_empty() => session.received.extend_from_slice(&request.body),
        None => {}
    }
    let complete =
        total.parse().map_or(header.is_empty(), |total: usize| total == session.received.len());
    if !complete {
        let mut answer = Answer::new(308);
        if !session.received.is_empty() {
            answer = answer.with("range", format!("bytes=0-{}", session.received.len() - 1));
        }
        return answer;
    }
    let session = state.sessions.remove(id).expect("looked up above");
    let bytes = Bytes::from(session.received);
    let stored = state.put(
        &session.bucket,
        &session.name,
        bytes,
        session.attributes,
        session.generation_match,
    );
    stored_answer(&session.bucket, &session.name, stored)
}

fn stored_answer(bucket: &str, name: &str, stored: Result<Object, Refusal>) -> Answer {
    match stored {
        Ok(object) => ok(&resource(bucket, name, &object)),
        Err(Refusal::Precondition) => error(412, "conditionNotMet"),
        Err(Refusal::NoSuchBucket) => error(404, "notFound"),
    }
}

/// A batch of requests as parts; each is answered in its place.
fn batch(state: &mut State, request: &Request, origin: &str) -> Answer {
    let mut body = String::new();
    for (_, part) in split_parts(request) {
        let text = String::from_utf8_lossy(&part).into_owned();
        let first = text.lines().next().unwrap_or_default().to_string();
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default().to_string();
        let target = words.next().unwrap_or_default();
        let target = target.strip_prefix(origin).unwrap_or(target);
        let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
        let inner = Request {
            method,
            path: path.to_string(),
            query: query(parameters),
            headers: Default::default(),
            body: Bytes::new(),
        };
        let answer = answer(state, &inner, origin);
        body.push_str(&format!(
            "--{BATCH_BOUNDARY}\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}\r\n",
            answer.status,
            answer.body.len(),
            String::from_utf8_lossy(&answer.body)
        ));
    }
    body.push_str(&format!("--{BATCH_BOUNDARY}--\r\n"));
    Answer::new(200).body(&format!("multipart/mixed; boundary={BATCH_BOUNDARY}"), body)
}

/// The parts of a multipart body: head and content of each.
fn split_parts(request: &Request) -> Vec<(Bytes, Bytes)> {
    let content_type = request.header("content-type").unwrap_or_default();
    let boundary = content_type.split("boundary=").nth(1).unwrap_or_default();
    let boundary = boundary.split(';').next().unwrap_or_default().trim_matches(['"', '\'']);
    let delimiter = format!("--{boundary}");
    let body = &request.body;
    let mut parts = Vec::new();
    let mut at = find(body, delimiter.as_bytes(), 0);
    while let Some(start) = at {
        let begin = start + delimiter.len();
        let Some(end) = find(body, delimiter.as_bytes(), begin) else { break };
        let part = trim_line_ends(body.slice(begin..end));
        if let Some(head) = find(&part, b"\r\n\r\n", 0) {
            parts.push((part.slice(..head), part.slice(head + 4..)));
        } else if let Some(head) = find(&part, b"\n\n", 0) {
            parts.push((part.slice(..head), part.slice(head + 2..)));
        }
        at = Some(end);
    }
    parts
}

/// Drops the line end after the boundary and the one before the next.
fn trim_line_ends(part: Bytes) -> Bytes {
    let start = if part.starts_with(b"\r\n") { 2 } else { usize::from(part.starts_with(b"\n")) };
    let tail = if part.ends_with(b"\r\n") { 2 } else { usize::from(part.ends_with(b"\n")) };
    part.slice(start..part.len().saturating_sub(tail).max(start))
}

fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    text[from..].windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}

fn object_name(description: &Value, request: &Request) -> String {
    let named = description["name"].as_str().or_else(|| request.parameter("name"));
    named.unwrap_or_default().to_string()
}

fn generation_match(request: &Request) -> Option<u64> {
    request.parameter("ifGenerationMatch").and_then(|text| text.parse().ok())
}

fn attributes(description: &Value, request: &Request) -> Attributes {
    let told = |key: &str| description[key].as_str().map(str::to_string);
    let metadata = description["metadata"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())))
        .collect();
    Attributes {
        content_type: told("contentType"),
        kms_key: request.parameter("kmsKeyName").map(str::to_string),
        storage_class: told("storageClass"),
        metadata,
    }
}

fn resource(bucket: &str, name: &str, object: &Object) -> Value {
    let mut resource = json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{}", object.generation),
        "name": name,
        "bucket": bucket,
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "size": object.bytes.len().to_string(),
        "md5Hash": BASE64.encode(object.md5),
        "crc32c": crc_text(object),
        "etag": object.etag(),
        "timeCreated": iso_date(object.modified),
        "updated": iso_date(object.modified),
        "storageClass": object.attributes.storage_class.as_deref().unwrap_or("STANDARD"),
    });
    if let Some(content_type) = &object.attributes.content_type {
        resource["contentType"] = content_type.clone().into();
    }
    if let Some(key) = &object.attributes.kms_key {
        resource["kmsKeyName"] = key.clone().into();
    }
    if !object.attributes.metadata.is_empty() {
        resource["metadata"] = json!(object.attributes.metadata);
    }
    resource
}

fn crc_text(object: &Object) -> String {
    BASE64.encode(object.crc32c.to_be_bytes())
}

fn ok(body: &Value) -> Answer {
    Answer::new(200).body("application/json", body.to_string())
}

fn error(code: u16, reason: &str) -> Answer {
    let body = json!({"error": {"code": code, "message": reason, "errors": [{"reason": reason, "message": reason, "domain": "global"}]}});
    Answer::new(code).body("application/json", body.to_string())
}
