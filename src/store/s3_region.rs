//! A bucket in another region than the configured one: found by its own answers.
//!
//! ```text
//! request ── signed for the region known so far ──> 301, 307, 400 or 403 that names another
//!    └────── signed for that one, at its host ────> the answer that counts
//! ```
//!
//! What one request learns holds for all others of the store: those still to come go there at
//! once, those in flight are sent again when their own answer comes. The next command finds it in
//! the private folder that keeps credentials, too. At a named endpoint only the signature
//! changes, never the host: boto3 does the same.

use crate::cloud::{Answer, KeptRegion, Rewrite, is_region};
use async_trait::async_trait;
use http::Uri;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};
use std::sync::{Arc, Mutex, PoisonError};

/// Sends requests to the region that the bucket's answers name, signed for it.
#[derive(Debug)]
pub struct FollowBucket {
    configured: Arc<str>,
    /// `None` as long as the bucket is where it was said to be.
    found: Mutex<Option<Arc<str>>>,
    kept: KeptRegion,
    credentials: AwsCredentialProvider,
}

/// The region that a request is signed for.
#[derive(Clone)]
struct SignedFor(Arc<str>);

impl FollowBucket {
    pub fn new(configured: &str, kept: KeptRegion, credentials: AwsCredentialProvider) -> Self {
        let found = kept.load().filter(|region| is_region(region) && region != configured);
        if let Some(region) = &found {
            tracing::debug!(region, "an earlier command found the bucket in another region");
        }
        Self {
            configured: configured.into(),
            found: Mutex::new(found.map(Into::into)),
            kept,
            credentials,
        }
    }

    fn found(&self) -> Option<Arc<str>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, region: &str) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref().unwrap_or(&self.configured).as_ref() == region {
            return;
        }
        tracing::info!(region, "the bucket is in another region, going there");
        *found = Some(region.into());
        self.kept.keep(region);
    }

    /// A bucket that is gone will be made where it was asked for.
    fn unlearn(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.take().is_some() {
            self.kept.forget();
        }
    }

    fn moved(&self, uri: &Uri, region: &str) -> Option<Uri> {
        let text = uri.to_string();
        let (scheme, rest) = text.split_once("://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let from = format!(".{}.amazonaws.com", self.configured);
        let to = format!(".{region}.amazonaws.com");
        format!("{scheme}://{}{path}", host.replacen(&from, &to, 1)).parse().ok()
    }
}

#[async_trait]
impl Rewrite for FollowBucket {
    async fn prepare(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let Some(region) = self.found() else {
            request.extensions_mut().insert(SignedFor(Arc::clone(&self.configured)));
            return Ok(());
        };
        if let Some(uri) = self.moved(request.uri(), &region) {
            *request.uri_mut() = uri;
        }
        let failed = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let credential = self.credentials.get_credential().await.map_err(failed)?;
        let digest = request
            .headers()
            .get("x-amz-content-sha256")
            .and_then(|value| value.to_str().ok())
            .and_then(bytes_of_hex);
        request.headers_mut().remove(http::header::AUTHORIZATION);
        AwsAuthorizer::new(&credential, "s3", &region)
            .with_sign_payload(digest.is_some())
            .try_authorize(request, digest.as_deref())
            .map_err(failed)?;
        request.extensions_mut().insert(SignedFor(region));
        Ok(())
    }

    fn again(&self, sent: &http::Extensions, answer: &Answer) -> bool {
        let Answer::Status { status, code, region, .. } = answer else { return false };
        if code.as_deref() == Some("NoSuchBucket") {
            self.unlearn();
            return false;
        }
        // It becomes part of a host name: whoever answers must not choose another host with it.
        let Some(region) = region.as_deref().filter(|region| is_region(region)) else {
            return false;
        };
        let Some(SignedFor(signed_for)) = sent.get() else { return false };
        // Compared with what this request was signed for, not with what is known by now: a
        // neighbour in flight may have learnt the region first.
        if !matches!(status, 301 | 302 | 307 | 400 | 403) || signed_for.as_ref() == region {
            return false;
        }
        self.learn(region);
        true
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Answer, Environment, KeptRegion, Rewrite};
    use crate::store::s3_region::{FollowBucket, bytes_of_hex};
    use object_store::StaticCredentialProvider;
    use object_store::aws::AwsCredential;
    use object_store::client::{HttpRequest, HttpRequestBody};
    use std::sync::Arc;

    fn follow(kept: KeptRegion) -> FollowBucket {
        let credential = AwsCredential { key_id: "k".into(), secret_key: "s".into(), token: None };
        FollowBucket::new("us-east-1", kept, Arc::new(StaticCredentialProvider::new(credential)))
    }

    fn answer(status: u16, code: &str, region: &str) -> Answer {
        let (code, region) = (Some(code.into()), Some(region.into()));
        Answer::Status { status, code, message: None, region }
    }

    async fn prepared(follow: &FollowBucket) -> HttpRequest {
        let mut request = http::Request::get("https://b.s3.us-east-1.amazonaws.com/k?x=1")
            .header("authorization", "old")
            .body(HttpRequestBody::empty())
            .expect("a request");
        follow.prepare(&mut request).await.expect("prepared");
        request
    }

    fn signed(request: &HttpRequest) -> (String, String) {
        let signature = request.headers()["authorization"].to_str().expect("text");
        (request.uri().to_string(), signature.to_string())
    }

    #[tokio::test]
    async fn a_bucket_is_followed_to_the_region_it_names_and_signed_for_it() {
        let follow = follow(KeptRegion::default());
        let first = prepared(&follow).await;
        assert_eq!(signed(&first).1, "old");
        let moved = |status| answer(status, "PermanentRedirect", "eu-west-1");
        assert!(!follow.again(first.extensions(), &moved(404)));
        assert!(follow.again(first.extensions(), &moved(301)));
        let second = prepared(&follow).await;
        let (uri, signature) = signed(&second);
        assert_eq!(uri, "https://b.s3.eu-west-1.amazonaws.com/k?x=1");
        assert!(signature.contains("/eu-west-1/s3/aws4_request"), "{signature}");
        assert!(!follow.again(second.extensions(), &moved(301)), "would go round in circles");
    }

    #[tokio::test]
    async fn a_request_that_was_in_flight_when_the_region_was_learnt_is_sent_again_too() {
        let follow = follow(KeptRegion::default());
        let (first, second) = (prepared(&follow).await, prepared(&follow).await);
        for (status, code) in [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")] {
            let answer = answer(status, code, "eu-west-1");
            assert!(follow.again(first.extensions(), &answer));
            assert!(follow.again(second.extensions(), &answer), "{status}");
        }
    }

    #[tokio::test]
    async fn the_region_is_kept_for_the_next_command_until_the_bucket_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path().display().to_string();
        let environment = Environment::of([("BARMAN_CLOUD_CACHE", cache.as_str())]);
        let kept = |bucket: &str| KeptRegion::new(&environment, bucket, "us-east-1");
        let first = follow(kept("https://b"));
        let request = prepared(&first).await;
        assert!(first.again(request.extensions(), &answer(301, "", "eu-west-1")));
        let next = follow(kept("https://b"));
        let request = prepared(&next).await;
        assert!(signed(&request).0.contains("eu-west-1"));
        let other = prepared(&follow(kept("https://other"))).await;
        assert!(signed(&other).0.contains("us-east-1"));
        assert!(!next.again(request.extensions(), &answer(404, "NoSuchBucket", "eu-west-1")));
        for follow in [next, follow(kept("https://b"))] {
            assert!(signed(&prepared(&follow).await).0.contains("us-east-1"));
        }
    }

    #[tokio::test]
    async fn an_answer_cannot_lead_to_another_host() {
        let follow = follow(KeptRegion::default());
        let request = prepared(&follow).await;
        for region in ["evil.example/", "a.b", "", "x@y", "x:1", &"a".repeat(64)] {
            assert!(!follow.again(request.extensions(), &answer(301, "", region)), "{region}");
        }
        assert!(signed(&prepared(&follow).await).0.contains("us-east-1"));
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(bytes_of_hex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(bytes_of_hex("UNSIGNED-PAYLOAD"), None);
    }
}
