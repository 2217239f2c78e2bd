//! Requests and answers of the fake, and the bits of HTTP both faces need.

use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;
use std::collections::HashMap;
use std::time::SystemTime;

/// A request with its whole body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Still percent-encoded.
    pub path: String,
    pub query: HashMap<String, String>,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Bytes,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// For HEAD: the length to announce instead of that of the body.
    pub announced_bytes: Option<usize>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), announced_bytes: None }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.with("content-type", content_type)
    }
}

/// Parses a query string; a key without `=` has an empty value.
pub fn query(text: &str) -> HashMap<String, String> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(&value.replace('+', " ")))
        })
        .collect()
}

pub fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// `Range: bytes=a-b`, `a-` or `-n` over `total` bytes, end excluded. `Err` when there is
/// nothing in it (416).
pub fn range(header: Option<&str>, total: usize) -> Result<Option<(usize, usize)>, ()> {
    let Some(text) = header.and_then(|header| header.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let (from, to) = text.split_once('-').ok_or(())?;
    let (start, end) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(start), Ok(last)) => (start, last.saturating_add(1).min(total)),
        (Ok(start), Err(_)) => (start, total),
        (Err(_), Ok(suffix)) => (total.saturating_sub(suffix), total),
        (Err(_), Err(_)) => return Err(()),
    };
    if start < end { Ok(Some((start, end))) } else { Err(()) }
}

/// `Sat, 21 Nov 2026 07:45:07 GMT`.
pub fn http_date(time: SystemTime) -> String {
    zoned(time).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// `2026-11-21T07:45:07.123Z`.
pub fn iso_date(time: SystemTime) -> String {
    zoned(time).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn zoned(time: SystemTime) -> jiff::Zoned {
    Timestamp::try_from(time).expect("a time after 1970").to_zoned(TimeZone::UTC)
}
