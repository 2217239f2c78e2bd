//! Google Cloud Storage, by its XML interface for objects and JSON for buckets.

use crate::cloud::{CloudError, Environment, GoogleSettings, Rewrite, check_header_value};
use crate::store::StoreOptions;
use crate::store::bucket::{Bucket, GoogleBucket};
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use crate::store::open::{batch_size, library_refused, plain_http, retries, transport};
use async_trait::async_trait;
use http::{HeaderValue, Method};
use object_store::client::{HttpError, HttpRequest};
use object_store::gcp::GoogleCloudStorageBuilder;
use std::sync::Arc;

/// The library deletes one by one, ten at a time; this only bounds how much is asked at once.
const DELETE_BATCH_MAX: usize = 100;

pub fn open(
    bucket: &str,
    options: &StoreOptions,
    environment: &Environment,
) -> Result<StoreInner, CloudError> {
    let settings = GoogleSettings::resolve(environment, plain_http(options, environment))?;
    let transport = transport(options, settings.ca_bundle.clone());
    let credentials = settings.identity.provider(&transport)?;
    let transport = match kms_key(options)? {
        Some(key) => transport.with_rewrite(Arc::new(AddKmsKey { key })),
        None => transport,
    };
    let endpoint = settings.endpoint.as_str().trim_end_matches('/').to_string();
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_base_url(&endpoint)
        .with_credentials(Arc::clone(&credentials))
        .with_retry(retries(options))
        .with_http_connector(transport.clone());
    let objects = Arc::new(builder.build().map_err(|error| library_refused(&error))?);
    Ok(StoreInner {
        objects: objects.clone(),
        names: Some(objects),
        one_by_one: None,
        root_url: format!("gs://{bucket}"),
        bucket: Bucket::Google(GoogleBucket {
            endpoint,
            name: bucket.into(),
            project: settings.project,
            credentials,
            transport,
        }),
        labels: Labels::Metadata,
        retry: options.retry,
        delete_batch: batch_size(options, DELETE_BATCH_MAX),
        conditional_writes: Known::honoured(),
        blocks: None,
    })
}

fn kms_key(options: &StoreOptions) -> Result<Option<HeaderValue>, CloudError> {
    let Some(key) = &options.gcs_kms_key else { return Ok(None) };
    check_header_value("option --kms-key-name", key)?;
    let value = HeaderValue::try_from(key)
        .map_err(|_| CloudError::new(format!("\"{key}\" cannot be the name of a KMS key")))?;
    Ok(Some(value))
}

/// Names the KMS key of new objects. Tokens do not sign headers.
#[derive(Debug)]
struct AddKmsKey {
    key: HeaderValue,
}

#[async_trait]
impl Rewrite for AddKmsKey {
    async fn prepare(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let whole = request.method() == Method::PUT && !query.contains("partNumber=");
        // Parts inherit the key of their upload.
        let begins = request.method() == Method::POST && query.starts_with("uploads");
        if whole || begins {
            request.headers_mut().insert("x-goog-encryption-kms-key-name", self.key.clone());
        }
        Ok(())
    }
}
