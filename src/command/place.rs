//! Where a command works: a bucket, and one server's folder in it.

use crate::catalog::{Catalog, Layout, ServerName};
use crate::cloud::{Environment, PlainHttp};
use crate::command::args::{CloudArgs, EncryptionArgs, OwnArgs, SseArg};
use crate::command::exit::{self, Exit};
use crate::command::report::Failure;
use crate::flow::RetryLimits;
use crate::snapshot::{CloudsOfEnvironment, SnapshotOptions};
use crate::store::{S3Encryption, Store, StoreOptions, StoreUrl};
use std::time::Duration;

/// URL, server name and store options, resolved together; nothing is contacted yet.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: StoreUrl,
    pub options: StoreOptions,
    pub layout: Layout,
}

impl Place {
    pub fn resolve(
        url: &str,
        server_name: &str,
        cloud: &CloudArgs,
        own: &OwnArgs,
    ) -> Result<Self, Failure> {
        let wrong =
            |error: &(dyn std::error::Error + 'static)| Failure::of_error(Exit::Other, error);
        let url = StoreUrl::parse(url, cloud.cloud_provider).map_err(|error| wrong(&error))?;
        let server_name = ServerName::parse(server_name).map_err(|error| wrong(&error))?;
        let layout = Layout::new(url.prefix(), &server_name).map_err(|error| wrong(&error))?;
        let mut options = StoreOptions::new(RetryLimits::PATIENT);
        options.endpoint_url = cloud.endpoint_url.clone();
        options.aws_profile = cloud.aws_profile.clone();
        options.azure_credential = cloud.azure_credential;
        if let Some(style) = cloud.addressing_style {
            options.addressing_style = style;
        }
        if let Some(seconds) = cloud.read_timeout {
            options.read_timeout = Duration::from_secs(u64::from(seconds));
        }
        if own.allow_http {
            options.plain_http = PlainHttp::Allowed;
        }
        Ok(Self { url, options, layout })
    }

    /// Adds how objects shall be encrypted at rest.
    pub fn encrypted(mut self, args: EncryptionArgs) -> Result<Self, Failure> {
        self.options.s3_encryption = match (args.encryption, args.sse_kms_key_id) {
            (Some(SseArg::Kms), key_id) => Some(S3Encryption::Kms { key_id }),
            (_, Some(_)) => {
                return Err(Failure::new(
                    Exit::Other,
                    "option --sse-kms-key-id can only be used with --encryption aws:kms",
                ));
            }
            (Some(SseArg::Aes256), None) => Some(S3Encryption::Aes256),
            (None, None) => None,
        };
        self.options.azure_encryption_scope = args.encryption_scope;
        self.options.gcs_kms_key = args.kms_key_name;
        Ok(self)
    }

    /// All that tells this archive from any other.
    pub fn scope(&self) -> String {
        let endpoint = self.options.endpoint_url.as_deref().unwrap_or_default();
        format!("{endpoint} {} {}", self.url, self.layout.root())
    }

    pub fn open(&self) -> Result<Store, Failure> {
        Store::open(&self.url, &self.options)
            .map_err(|error| Failure::of_error(exit::of_store(&error), &error))
    }

    /// The clouds whose snapshots belong to this place's backups, with the same credentials.
    pub fn clouds(&self) -> CloudsOfEnvironment {
        let options = SnapshotOptions {
            aws_profile: self.options.aws_profile.clone(),
            azure_credential: self.options.azure_credential,
            plain_http: self.options.plain_http,
            read_timeout: self.options.read_timeout,
            unreachable_after: self.options.unreachable_after,
            retry: self.options.retry,
        };
        CloudsOfEnvironment { options, environment: Environment::of_process() }
    }

    /// The server's backups and WAL.
    pub fn catalog(&self) -> Result<Catalog, Failure> {
        Ok(Catalog::new(self.open()?, self.layout.clone()))
    }
}
