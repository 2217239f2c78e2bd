//! Azure Blob Storage.

use crate::cloud::{
    AzureCredentialProvider, AzureSettings, CloudError, Environment, Rewrite, check_header_value,
};
use crate::store::StoreOptions;
use crate::store::blocks::CreateOnly;
use crate::store::bucket::{AzureContainer, Bucket};
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use crate::store::open::{batch_size, library_refused, plain_http, retries, transport};
use async_trait::async_trait;
use http::header::{AUTHORIZATION, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use object_store::azure::{AzureAuthorizer, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};
use std::sync::Arc;

/// A batch request takes so many blobs.
const DELETE_BATCH_MAX: usize = 256;

pub fn open(
    account: &str,
    endpoint: &str,
    container: &str,
    options: &StoreOptions,
    environment: &Environment,
) -> Result<StoreInner, CloudError> {
    let settings = AzureSettings::resolve(
        environment,
        options.azure_credential,
        account,
        endpoint,
        plain_http(options, environment),
    )?;
    let transport = transport(options, settings.ca_bundle.clone());
    let credentials = settings.identity.provider(environment, &transport)?;
    let transport = transport.with_rewrite(Arc::new(AddHeaders {
        encryption_scope: encryption_scope(options)?,
        account: settings.account.clone(),
        credentials: Arc::clone(&credentials),
    }));
    let service = settings.endpoint.as_str().trim_end_matches('/').to_string();
    let builder = MicrosoftAzureBuilder::new()
        .with_account(&settings.account)
        .with_container_name(container)
        .with_endpoint(service.clone())
        .with_credentials(Arc::clone(&credentials))
        .with_retry(retries(options))
        .with_http_connector(transport.clone())
        .with_allow_http(true);
    let objects = Arc::new(builder.build().map_err(|error| library_refused(&error))?);
    Ok(StoreInner {
        objects: objects.clone(),
        names: Some(objects),
        one_by_one: None,
        root_url: format!("{service}/{container}"),
        bucket: Bucket::Azure(AzureContainer {
            url: format!("{service}/{container}"),
            account: settings.account,
            credentials,
            transport,
        }),
        labels: Labels::Tags,
        retry: options.retry,
        delete_batch: batch_size(options, DELETE_BATCH_MAX),
        conditional_writes: Known::honoured(),
        blocks: Some(options.azure_blocks),
    })
}

fn encryption_scope(options: &StoreOptions) -> Result<Option<HeaderValue>, CloudError> {
    let Some(scope) = &options.azure_encryption_scope else { return Ok(None) };
    check_header_value("option --encryption-scope", scope)?;
    let value = HeaderValue::try_from(scope)
        .map_err(|_| CloudError::new(format!("\"{scope}\" cannot be an encryption scope")))?;
    Ok(Some(value))
}

/// Adds what the library cannot send: the encryption scope of new blobs, and the condition of a
/// block list that must not replace one. Both are part of a shared key's signature, so that is
/// made again; signatures in the URL and tokens do not cover headers.
#[derive(Debug)]
struct AddHeaders {
    encryption_scope: Option<HeaderValue>,
    account: String,
    credentials: AzureCredentialProvider,
}

#[async_trait]
impl Rewrite for AddHeaders {
    async fn prepare(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let create_only = request.extensions().get::<CreateOnly>().is_some();
        let scope = self.encryption_scope.as_ref().filter(|_| writes_a_blob(request));
        if scope.is_none() && !create_only {
            return Ok(());
        }
        if let Some(scope) = scope {
            request.headers_mut().insert("x-ms-encryption-scope", scope.clone());
        }
        if create_only {
            request.headers_mut().insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let failed = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let credential = self.credentials.get_credential().await.map_err(failed)?;
        if !matches!(*credential, AzureCredential::AccessKey(_)) {
            return Ok(());
        }
        request.headers_mut().remove(AUTHORIZATION);
        AzureAuthorizer::new(&credential, &self.account).try_authorize(request).map_err(failed)
    }
}

/// Put Blob, Put Block and Put Block List; not the container's own requests.
fn writes_a_blob(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::PUT && !query.contains("restype=")
}
