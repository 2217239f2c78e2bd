//! Opening a store: which peer, with what. No request is sent, no name looked up.

use crate::cloud::{CloudError, Environment, PlainHttp, Proxies, Transport, TransportOptions};
use crate::store::bucket::Bucket;
use crate::store::conditions::Known;
use crate::store::handle::StoreInner;
use crate::store::labels::Labels;
use crate::store::local::Folder;
use crate::store::url::Location;
use crate::store::{
    Effect, Store, StoreError, StoreErrorKind, StoreOperation, StoreOptions, StoreUrl, azure,
    google, s3,
};
use object_store::{BackoffConfig, RetryConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Connecting within a region takes milliseconds; this leaves room for one lost SYN or two.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the store at `url` with the environment of this process.
    pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Self, StoreError> {
        Self::open_in(url, options, &Environment::of_process())
    }

    /// Opens the store at `url`; credentials and endpoints come from `environment`.
    pub fn open_in(
        url: &StoreUrl,
        options: &StoreOptions,
        environment: &Environment,
    ) -> Result<Self, StoreError> {
        warn_of_options_elsewhere(url, options);
        let opened = match url.location() {
            Location::S3 { bucket } => s3::open(bucket, options, environment),
            Location::Azure { account, endpoint, container } => {
                azure::open(account, endpoint, container, options, environment)
            }
            Location::Google { bucket } => google::open(bucket, options, environment),
            Location::Folder { path } => Ok(folder(path.clone(), options)),
        };
        match opened {
            Ok(inner) => Ok(Self::of(inner)),
            Err(error) => Err(StoreError {
                operation: StoreOperation::Open,
                kind: StoreErrorKind::Refused,
                effect: Effect::SurelyNot,
                object: url.to_string(),
                reason: error.message,
                hint: error.hint,
            }),
        }
    }

    /// A folder of this machine as a store.
    pub fn local(path: impl Into<PathBuf>) -> Self {
        let options = StoreOptions::new(crate::flow::RetryLimits::PATIENT);
        Self::of(folder(path.into(), &options))
    }
}

fn folder(path: PathBuf, options: &StoreOptions) -> StoreInner {
    StoreInner {
        objects: Arc::new(Folder::new(path.clone())),
        names: None,
        one_by_one: None,
        root_url: format!("file://{}", path.display()),
        bucket: Bucket::Folder { path },
        labels: Labels::nowhere(),
        retry: options.retry,
        delete_batch: batch_size(options, 1000),
        conditional_writes: Known::honoured(),
        blocks: None,
    }
}

/// The transport of one store.
pub fn transport(options: &StoreOptions, ca_bundle: Option<PathBuf>) -> Transport {
    Transport::new(TransportOptions {
        connect_timeout: CONNECT_TIMEOUT_MAX.min(options.unreachable_after),
        read_timeout: options.read_timeout,
        unreachable_after: options.unreachable_after,
        ca_bundle,
        proxies: Proxies::FromEnvironment,
    })
}

/// `flow`'s limits in the library's terms.
pub fn retries(options: &StoreOptions) -> RetryConfig {
    let limits = &options.retry;
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: limits.delay_first,
            max_backoff: limits.delay_max,
            base: 2.0,
        },
        max_retries: usize::try_from(limits.attempts_max.saturating_sub(1)).unwrap_or(usize::MAX),
        retry_timeout: limits.deadline,
    }
}

pub fn batch_size(options: &StoreOptions, provider_max: usize) -> usize {
    options.delete_batch_size.map_or(provider_max, |size| size.get().min(provider_max))
}

pub fn plain_http(options: &StoreOptions, environment: &Environment) -> PlainHttp {
    match environment.switch("BARMAN_CLOUD_ALLOW_HTTP") {
        true => PlainHttp::Allowed,
        false => options.plain_http,
    }
}

pub fn library_refused(error: &object_store::Error) -> CloudError {
    let mut root: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = root.source() {
        root = source;
    }
    CloudError::new(root.to_string())
}

/// Options of another provider do nothing, as with Barman; they are not passed over in silence.
fn warn_of_options_elsewhere(url: &StoreUrl, options: &StoreOptions) {
    let location = url.location();
    let s3 = matches!(location, Location::S3 { .. });
    let azure = matches!(location, Location::Azure { .. });
    let google = matches!(location, Location::Google { .. });
    let elsewhere = [
        ("--endpoint-url", options.endpoint_url.is_some() && !s3),
        ("--encryption", options.s3_encryption.is_some() && !s3),
        ("--azure-credential", options.azure_credential.is_some() && !azure),
        ("--encryption-scope", options.azure_encryption_scope.is_some() && !azure),
        ("--kms-key-name", options.gcs_kms_key.is_some() && !google),
    ];
    for (option, _) in elsewhere.into_iter().filter(|(_, elsewhere)| *elsewhere) {
        tracing::warn!(option, store = %url, "the option has no meaning for this store");
    }
}
