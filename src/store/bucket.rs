//! The bucket itself: is it there, make it. The library has no such calls.

use crate::cloud::{Answer, AzureCredentialProvider, GoogleCredentialProvider, Trace, Transport};
use crate::flow::{Backoff, RetryLimits};
use crate::store::local::FolderMissing;
use crate::store::translate::store_error;
use crate::store::{Store, StoreError, StoreOperation};
use http::{Method, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::azure::AzureAuthorizer;
use object_store::client::{HttpErrorKind, HttpRequest, HttpRequestBody};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use url::Url;

/// How to talk to the bucket itself.
pub enum Bucket {
    Memory,
    Folder { path: PathBuf },
    S3(S3Bucket),
    Azure(AzureContainer),
    Google(GoogleBucket),
}

pub struct S3Bucket {
    pub url: Url,
    pub region: String,
    pub credentials: AwsCredentialProvider,
    pub transport: Transport,
}

pub struct AzureContainer {
    pub url: String,
    pub account: String,
    pub credentials: AzureCredentialProvider,
    pub transport: Transport,
}

pub struct GoogleBucket {
    pub endpoint: String,
    pub name: String,
    pub project: Option<String>,
    pub credentials: GoogleCredentialProvider,
    pub transport: Transport,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    IsThere,
    Create,
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Store {
    /// Asks whether the bucket exists. It may be read, but nothing is written.
    pub async fn bucket_exists(&self) -> Result<bool, StoreError> {
        let trace = Trace::new();
        let answered = match &self.inner.bucket {
            Bucket::Memory => return Ok(true),
            Bucket::Folder { path } => return Ok(path.is_dir()),
            bucket => trace.follow(bucket.ask(Question::IsThere, self.retry())).await,
        };
        match answered {
            Ok(status) if status.is_success() => Ok(true),
            Ok(StatusCode::NOT_FOUND) if says_bucket_missing(&trace) => Ok(false),
            answered => Err(self.bucket_error(StoreOperation::Connect, &trace, answered)),
        }
    }

    /// Creates the bucket, private; one that is already ours counts as created.
    pub async fn create_bucket(&self) -> Result<(), StoreError> {
        let trace = Trace::new();
        let answered = match &self.inner.bucket {
            Bucket::Memory => return Ok(()),
            Bucket::Folder { path } => create_folder(path).map(|()| StatusCode::CREATED),
            bucket => trace.follow(bucket.ask(Question::Create, self.retry())).await,
        };
        match answered {
            Ok(status) if status.is_success() => Ok(()),
            Ok(StatusCode::CONFLICT) if says_bucket_is_ours(&trace) => Ok(()),
            answered => Err(self.bucket_error(StoreOperation::CreateBucket, &trace, answered)),
        }
    }

    fn bucket_error(
        &self,
        operation: StoreOperation,
        trace: &Trace,
        answered: Result<StatusCode, Failure>,
    ) -> StoreError {
        let url = self.inner.root_url.clone();
        match answered {
            Err(error) => store_error(operation, url, trace, error.as_ref()),
            Ok(status) => store_error(operation, url, trace, &io::Error::other(status.to_string())),
        }
    }
}

/// Google tells a missing bucket as `notFound`; nothing else is asked for there.
fn says_bucket_missing(trace: &Trace) -> bool {
    let codes = ["NoSuchBucket", "ContainerNotFound", "notFound"];
    matches!(trace.last(), Some(Answer::Status { code: Some(code), .. }) if codes.contains(&code.as_str()))
}

/// Google's `conflict` may also mean somebody else's bucket; Barman takes it for ours too, and
/// the first write tells.
fn says_bucket_is_ours(trace: &Trace) -> bool {
    let codes = ["BucketAlreadyOwnedByYou", "ContainerAlreadyExists", "conflict"];
    matches!(trace.last(), Some(Answer::Status { code: Some(code), .. }) if codes.contains(&code.as_str()))
}

fn create_folder(path: &PathBuf) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let parent = path.parent().ok_or_else(|| FolderMissing(path.clone()))?;
    std::fs::File::open(parent)?.sync_all()?;
    Ok(())
}

impl Bucket {
    async fn ask(&self, question: Question, retry: RetryLimits) -> Result<StatusCode, Failure> {
        let mut backoff = Backoff::new(retry);
        loop {
            let (transport, request) = self.request(question).await?;
            let answered = transport.send(request).await;
            let again = match &answered {
                Ok(response) => is_temporary(response.status()),
                Err(error) => error.kind() == HttpErrorKind::Request,
            };
            let delay = if again { backoff.next_delay(None) } else { None };
            match (answered, delay) {
                (_, Some(delay)) => tokio::time::sleep(delay).await,
                (Ok(response), None) => return Ok(response.status()),
                (Err(error), None) => return Err(error.into()),
            }
        }
    }

    async fn request(&self, question: Question) -> Result<(&Transport, HttpRequest), Failure> {
        match self {
            Self::S3(bucket) => Ok((&bucket.transport, bucket.request(question).await?)),
            Self::Azure(container) => {
                Ok((&container.transport, container.request(question).await?))
            }
            Self::Google(bucket) => Ok((&bucket.transport, bucket.request(question).await?)),
            Self::Memory | Self::Folder { .. } => Err("nobody to ask".into()),
        }
    }
}

pub(crate) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
}

impl S3Bucket {
    /// Lists one key instead of HeadBucket: the same permission, and the answer says what is
    /// wrong.
    async fn request(&self, question: Question) -> Result<HttpRequest, Failure> {
        let request = http::Request::builder();
        let mut request = match question {
            Question::IsThere => {
                let mut url = self.url.clone();
                url.set_query(Some("list-type=2&max-keys=1"));
                request.uri(url.as_str()).body(HttpRequestBody::empty())?
            }
            Question::Create => request
                .method(Method::PUT)
                .uri(self.url.as_str())
                .header("x-amz-acl", "private")
                .body(self.location().into())?,
        };
        let credential = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
        Ok(request)
    }

    /// `us-east-1` must not be named.
    fn location(&self) -> String {
        if self.region == "us-east-1" {
            return String::new();
        }
        format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
            self.region
        )
    }
}

impl AzureContainer {
    async fn request(&self, question: Question) -> Result<HttpRequest, Failure> {
        let (method, query) = match question {
            Question::IsThere => (Method::GET, "restype=container&comp=list&maxresults=1"),
            Question::Create => (Method::PUT, "restype=container"),
        };
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}?{query}", self.url))
            .header("content-length", "0")
            .body(HttpRequestBody::empty())?;
        let credential = self.credentials.get_credential().await?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request)?;
        Ok(request)
    }
}

impl GoogleBucket {
    async fn request(&self, question: Question) -> Result<HttpRequest, Failure> {
        let credential = self.credentials.get_credential().await?;
        let request = http::Request::builder()
            .header("authorization", format!("Bearer {}", credential.bearer));
        let buckets = format!("{}/storage/v1/b", self.endpoint);
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let request = match question {
            Question::IsThere => request
                .uri(format!("{buckets}/{}?fields=name", encoded(&self.name)))
                .body(HttpRequestBody::empty())?,
            Question::Create => {
                let project = self.project.as_deref().ok_or(
                    "the project of the new bucket is not known, set GOOGLE_CLOUD_PROJECT",
                )?;
                let body = serde_json::json!({ "name": self.name }).to_string();
                request
                    .method(Method::POST)
                    .uri(format!("{buckets}?project={}", encoded(project)))
                    .header("content-type", "application/json")
                    .body(body.into())?
            }
        };
        Ok(request)
    }
}
