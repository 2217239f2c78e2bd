//! What killed runs leave and no listing shows.
//!
//! - a folder: files whose names end in `#<digits>`, beside the objects they were to become
//! - S3 and Google: multipart uploads that were neither completed nor aborted; both charge for
//!   their parts
//! - Azure: nothing to do, uncommitted blocks expire by themselves after a week
//!
//! Source: "ListMultipartUploads" and "AbortMultipartUpload", Amazon S3 API reference; Google's
//! XML API has the same calls.

use crate::cloud::{Trace, Transport};
use crate::flow::Backoff;
use crate::store::bucket::{Bucket, Failure, GoogleBucket, S3Bucket, is_temporary};
use crate::store::local;
use crate::store::translate::store_error;
use crate::store::{Store, StoreError, StoreOperation};
use http::{Method, StatusCode};
use jiff::Timestamp;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpErrorKind, HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::fmt;
use std::io;

/// One thing that no listing shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debris {
    /// The object it was to become, or the temporary name in a folder.
    pub key: String,
    /// When it was begun; of a file when it was last written.
    pub since: Timestamp,
    /// Of an upload, the store's name for it.
    upload: Option<String>,
}

impl fmt::Display for Debris {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.upload {
            Some(_) => write!(f, "unfinished upload of {}", self.key),
            None => write!(f, "temporary file {}", self.key),
        }
    }
}

/// What a signature leaves as it is in a path.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// More pages than this are not asked for at a time: the next run goes on.
const PAGES_MAX: usize = 100;

impl Store {
    /// Everything of this kind below a folder, whatever its age.
    pub async fn debris(&self, below: &str) -> Result<Vec<Debris>, StoreError> {
        let trace = Trace::new();
        let found = match &self.inner.bucket {
            Bucket::Memory | Bucket::Azure(_) => return Ok(Vec::new()),
            Bucket::Folder { path } => {
                local::staged_below(path.clone(), below.to_string()).await.map(|found| {
                    let debris = |(key, since)| Debris { key, since, upload: None };
                    found.into_iter().map(debris).collect()
                })
            }
            bucket => trace.follow(self.uploads(bucket, below)).await,
        };
        found.map_err(|error| {
            let object = format!("{}/{below}", self.inner.root_url);
            store_error(StoreOperation::List, object, &trace, error.as_ref())
        })
    }

    /// Removes it; what is gone by now counts as removed.
    pub async fn remove_debris(&self, debris: &Debris) -> Result<(), StoreError> {
        let trace = Trace::new();
        let removed: Result<(), Failure> = match (&self.inner.bucket, &debris.upload) {
            (Bucket::Folder { path }, None) => match std::fs::remove_file(path.join(&debris.key)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            (bucket, Some(upload)) => {
                let path = format!("/{}", utf8_percent_encode(&debris.key, PATH));
                let query = format!("uploadId={}", encoded(upload));
                let call = Call { method: Method::DELETE, path, query };
                match trace.follow(self.call(bucket, &call)).await {
                    Ok((status, _)) if status.is_success() => Ok(()),
                    Ok((StatusCode::NOT_FOUND, _)) => Ok(()),
                    Ok((status, _)) => Err(io::Error::other(status.to_string()).into()),
                    Err(error) => Err(error),
                }
            }
            (_, None) => Ok(()),
        };
        removed.map_err(|error| {
            let object = format!("{}/{}", self.inner.root_url, debris.key);
            store_error(StoreOperation::Delete, object, &trace, error.as_ref())
        })
    }

    async fn uploads(&self, bucket: &Bucket, below: &str) -> Result<Vec<Debris>, Failure> {
        let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
        let (mut found, mut after) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let query = format!("uploads=&prefix={}{after}", encoded(&prefix));
            let call = Call { method: Method::GET, path: String::new(), query };
            let (status, body) = self.call(bucket, &call).await?;
            if !status.is_success() {
                return Err(io::Error::other(status.to_string()).into());
            }
            let page = Page::parse(&body)?;
            // A dialect may not know prefixes here.
            found.extend(page.uploads.into_iter().filter(|debris| debris.key.starts_with(&prefix)));
            match page.next {
                Some((key, upload)) => {
                    after = format!(
                        "&key-marker={}&upload-id-marker={}",
                        encoded(&key),
                        encoded(&upload)
                    );
                }
                None => break,
            }
        }
        Ok(found)
    }

    /// Sends one request about uploads, again while the answer is a temporary one.
    async fn call(&self, bucket: &Bucket, call: &Call) -> Result<(StatusCode, String), Failure> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let (transport, request) = match bucket {
                Bucket::S3(bucket) => (&bucket.transport, of_s3(bucket, call).await?),
                Bucket::Google(bucket) => (&bucket.transport, of_google(bucket, call).await?),
                Bucket::Memory | Bucket::Folder { .. } | Bucket::Azure(_) => {
                    return Err("nobody to ask".into());
                }
            };
            let answered = send(transport, request).await;
            let again = match &answered {
                Ok((status, _)) => is_temporary(*status),
                Err(Sent::Failed(kind, _)) => *kind == HttpErrorKind::Request,
            };
            let delay = if again { backoff.next_delay(None) } else { None };
            match (answered, delay) {
                (_, Some(delay)) => tokio::time::sleep(delay).await,
                (Ok(answer), None) => return Ok(answer),
                (Err(Sent::Failed(_, error)), None) => return Err(error),
            }
        }
    }
}

/// A request about uploads.
struct Call {
    method: Method,
    /// Of the object, with a slash before it, encoded; empty for the bucket.
    path: String,
    query: String,
}

enum Sent {
    Failed(HttpErrorKind, Failure),
}

async fn send(transport: &Transport, request: HttpRequest) -> Result<(StatusCode, String), Sent> {
    let failed = |error: object_store::client::HttpError| Sent::Failed(error.kind(), error.into());
    let response = transport.send(request).await.map_err(failed)?;
    let status = response.status();
    let body = response.into_body().bytes().await.map_err(failed)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn of_s3(bucket: &S3Bucket, call: &Call) -> Result<HttpRequest, Failure> {
    let folder = bucket.url.as_str().trim_end_matches('/');
    let mut request = http::Request::builder()
        .method(call.method.clone())
        .uri(format!("{folder}{}?{}", call.path, call.query))
        .body(HttpRequestBody::empty())?;
    let credential = bucket.credentials.get_credential().await?;
    AwsAuthorizer::new(&credential, "s3", &bucket.region).try_authorize(&mut request, None)?;
    Ok(request)
}

async fn of_google(bucket: &GoogleBucket, call: &Call) -> Result<HttpRequest, Failure> {
    let credential = bucket.credentials.get_credential().await?;
    let (endpoint, name) = (&bucket.endpoint, &bucket.name);
    Ok(http::Request::builder()
        .method(call.method.clone())
        .uri(format!("{endpoint}/{name}{}?{}", call.path, call.query))
        .header("authorization", format!("Bearer {}", credential.bearer))
        .header("content-length", "0")
        .body(HttpRequestBody::empty())?)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// One answer to ListMultipartUploads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    uploads: Vec<Debris>,
    /// Key and id after which the next page begins.
    next: Option<(String, String)>,
}

impl Page {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut reader = Reader::from_str(text);
        let (mut page, mut names) = (Self::default(), Vec::new());
        let (mut value, mut upload) = (String::new(), [const { String::new() }; 3]);
        let (mut truncated, mut next) = (false, (String::new(), String::new()));
        loop {
            match reader.read_event()? {
                Event::Start(start) => {
                    names.push(String::from_utf8_lossy(start.local_name().as_ref()).into_owned());
                    value.clear();
                }
                Event::Text(piece) => {
                    value.push_str(&piece.xml_content(quick_xml::XmlVersion::Implicit1_0)?);
                }
                Event::GeneralRef(reference) => {
                    let name = String::from_utf8_lossy(&reference).into_owned();
                    match quick_xml::escape::resolve_predefined_entity(&name) {
                        Some(resolved) => value.push_str(resolved),
                        None => return Err(format!("unknown entity \"{name}\"").into()),
                    }
                }
                Event::End(_) => {
                    let name = names.pop().unwrap_or_default();
                    let in_upload = names.last().is_some_and(|parent| parent == "Upload");
                    let text = std::mem::take(&mut value);
                    match (name.as_str(), in_upload) {
                        ("Key", true) => upload[0] = text,
                        ("UploadId", true) => upload[1] = text,
                        ("Initiated", true) => upload[2] = text,
                        ("Upload", _) => {
                            let [key, id, since] = std::mem::take(&mut upload);
                            // A time that cannot be read may be this moment.
                            let since = since.trim().parse().unwrap_or(Timestamp::MAX);
                            page.uploads.push(Debris { key, since, upload: Some(id) });
                        }
                        ("IsTruncated", false) => truncated = text.trim() == "true",
                        ("NextKeyMarker", false) => next.0 = text,
                        ("NextUploadIdMarker", false) => next.1 = text,
                        _ => {}
                    }
                }
                Event::Eof => break,
                _ => {}
            }
        }
        page.next = truncated.then_some(next).filter(|(key, _)| !key.is_empty());
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use crate::store::debris::{Debris, Page};
    use jiff::Timestamp;

    #[test]
    fn unfinished_uploads_are_read_page_by_page() {
        let text = "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"x\"><Bucket>b</Bucket>\
                    <NextKeyMarker>p/a&amp;b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>\
                    <IsTruncated>true</IsTruncated><Upload><Key>p/a&amp;b</Key><UploadId>1</UploadId>\
                    <Initiator><ID>me</ID></Initiator><Initiated>2026-11-20T12:00:00.000Z</Initiated>\
                    </Upload><Upload><Key>p/c</Key><UploadId>2</UploadId></Upload>\
                    </ListMultipartUploadsResult>";
        let page = Page::parse(text).expect("xml");
        let upload =
            |key: &str, since, id: &str| Debris { key: key.into(), since, upload: Some(id.into()) };
        let since = "2026-11-20T12:00:00Z".parse().expect("time");
        // One that does not tell its time is never taken for old.
        let uploads = vec![upload("p/a&b", since, "1"), upload("p/c", Timestamp::MAX, "2")];
        assert_eq!(page, Page { uploads, next: Some(("p/a&b".into(), "2".into())) });
        assert_eq!(Page::parse("<R><IsTruncated>false</IsTruncated></R>").expect("xml").next, None);
        assert!(Page::parse("<html><a></b>").is_err());
    }
}
