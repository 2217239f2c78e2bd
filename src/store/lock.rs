//! Object locks of S3: asked before deleting, because a versioned bucket answers a deletion with
//! success and keeps the locked version. The library has no such call.

use crate::cloud::Trace;
use crate::flow::Backoff;
use crate::store::bucket::{Bucket, Failure, S3Bucket, is_temporary};
use crate::store::translate::store_error;
use crate::store::{ObjectKey, Store, StoreError, StoreOperation};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpErrorKind, HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::io;

/// What forbids to delete an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectLock {
    LegalHold,
    RetainedUntil(Timestamp),
}

/// What a signature leaves as it is in a path.
/// Source: AWS "Create a signed AWS API request", UriEncode.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

impl Store {
    /// Whether this kind of store can be asked for locks.
    pub fn tells_locks(&self) -> bool {
        matches!(self.inner.bucket, Bucket::S3(_))
    }

    /// The lock on an object that holds at `now`; `None` also for an object that is not there,
    /// and for stores that know no locks.
    pub async fn lock_of(
        &self,
        key: &ObjectKey,
        now: Timestamp,
    ) -> Result<Option<ObjectLock>, StoreError> {
        let Bucket::S3(bucket) = &self.inner.bucket else { return Ok(None) };
        let trace = Trace::new();
        let answered = trace.follow(self.head_lock(bucket, key)).await;
        match answered {
            Ok((StatusCode::NOT_FOUND, _)) => Ok(None),
            Ok((status, headers)) if status.is_success() => Ok(lock_in(&headers, now)),
            Ok((status, _)) => {
                let error = io::Error::other(status.to_string());
                Err(store_error(StoreOperation::Read, self.url_of(key), &trace, &error))
            }
            Err(error) => {
                Err(store_error(StoreOperation::Read, self.url_of(key), &trace, error.as_ref()))
            }
        }
    }

    async fn head_lock(
        &self,
        bucket: &S3Bucket,
        key: &ObjectKey,
    ) -> Result<(StatusCode, HeaderMap), Failure> {
        let mut backoff = Backoff::new(self.retry());
        loop {
            let answered = bucket.transport.send(head_request(bucket, key).await?).await;
            let again = match &answered {
                Ok(response) => is_temporary(response.status()),
                Err(error) => error.kind() == HttpErrorKind::Request,
            };
            let delay = if again { backoff.next_delay(None) } else { None };
            match (answered, delay) {
                (_, Some(delay)) => tokio::time::sleep(delay).await,
                (Ok(response), None) => {
                    return Ok((response.status(), response.headers().clone()));
                }
                (Err(error), None) => return Err(error.into()),
            }
        }
    }
}

async fn head_request(bucket: &S3Bucket, key: &ObjectKey) -> Result<HttpRequest, Failure> {
    let folder = bucket.url.as_str().trim_end_matches('/');
    let mut request = http::Request::builder()
        .method(Method::HEAD)
        .uri(format!("{folder}/{}", utf8_percent_encode(key.as_str(), PATH)))
        .body(HttpRequestBody::empty())?;
    let credential = bucket.credentials.get_credential().await?;
    AwsAuthorizer::new(&credential, "s3", &bucket.region).try_authorize(&mut request, None)?;
    Ok(request)
}

/// Source: Amazon S3 API reference, HeadObject.
fn lock_in(headers: &HeaderMap, now: Timestamp) -> Option<ObjectLock> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("x-amz-object-lock-legal-hold").is_some_and(|hold| hold.eq_ignore_ascii_case("on")) {
        return Some(ObjectLock::LegalHold);
    }
    let until = header("x-amz-object-lock-retain-until-date")?;
    // A date that cannot be read is taken as one that has not come.
    let until = until.parse().unwrap_or(Timestamp::MAX);
    (until > now).then_some(ObjectLock::RetainedUntil(until))
}

#[cfg(test)]
mod tests {
    use crate::store::lock::{ObjectLock, lock_in};
    use http::HeaderMap;
    use jiff::Timestamp;

    #[test]
    fn legal_holds_and_dates_to_come_lock_an_object() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("time");
        let lock = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("header"));
            lock_in(&headers, now)
        };
        let (date, hold) = ("x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold");
        let later = "2026-11-20T12:00:01Z".parse().expect("time");
        assert_eq!(lock(date, "2026-11-20T12:00:01Z"), Some(ObjectLock::RetainedUntil(later)));
        assert_eq!(lock(date, "2026-11-20T12:00:01.000Z"), Some(ObjectLock::RetainedUntil(later)));
        assert_eq!(lock(date, "2026-11-20T11:59:59Z"), None);
        assert_eq!(lock(date, "?"), Some(ObjectLock::RetainedUntil(Timestamp::MAX)));
        assert_eq!(lock(hold, "ON"), Some(ObjectLock::LegalHold));
        assert_eq!(lock(hold, "OFF"), None);
        assert_eq!(lock_in(&HeaderMap::new(), now), None);
    }
}
