//! How a store is reached and what it does to what is written.

use crate::cloud::{AzureCredentialKind, PlainHttp};
use crate::flow::RetryLimits;
use std::num::NonZeroUsize;
use std::time::Duration;

/// The options of one store. Those of another provider than the URL's have no meaning there.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub endpoint_url: Option<String>,
    pub aws_profile: Option<String>,
    pub addressing_style: AddressingStyle,
    pub s3_encryption: Option<S3Encryption>,
    pub azure_credential: Option<AzureCredentialKind>,
    pub azure_encryption_scope: Option<String>,
    pub azure_blocks: AzureBlocks,
    /// Cloud KMS key name of new objects on Google Cloud Storage.
    pub gcs_kms_key: Option<String>,
    pub plain_http: PlainHttp,
    /// How long nothing may move on a connection.
    pub read_timeout: Duration,
    pub retry: RetryLimits,
    /// How long an endpoint that cannot be connected to is tried.
    pub unreachable_after: Duration,
    /// Keys per delete request; the provider's maximum is never exceeded.
    pub delete_batch_size: Option<NonZeroUsize>,
}

/// Where the bucket's name goes in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressingStyle {
    /// In the host at AWS, in the path at a named endpoint.
    Auto,
    Virtual,
    Path,
}

/// Server-side encryption on S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Encryption {
    Aes256,
    /// Without a key id, the account's default key.
    Kms {
        key_id: Option<String>,
    },
}

/// How a whole object is written to Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AzureBlocks {
    /// Objects above this are written in blocks.
    pub single_put_max_bytes: u64,
    pub block_max_bytes: u64,
    /// Blocks in flight at once.
    pub concurrency: NonZeroUsize,
}

impl AzureBlocks {
    /// The defaults of `barman-cloud-wal-archive`.
    pub const BARMAN: Self = Self {
        single_put_max_bytes: 64 << 20,
        block_max_bytes: 4 << 20,
        concurrency: NonZeroUsize::MIN,
    };
}

impl StoreOptions {
    /// boto3's read timeout.
    pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

    /// Long enough for a restarting gateway, short enough for somebody who waits.
    pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(12);

    /// Nothing asked for: the provider's own ways.
    pub fn new(retry: RetryLimits) -> Self {
        Self {
            endpoint_url: None,
            aws_profile: None,
            addressing_style: AddressingStyle::Auto,
            s3_encryption: None,
            azure_credential: None,
            azure_encryption_scope: None,
            azure_blocks: AzureBlocks::BARMAN,
            gcs_kms_key: None,
            plain_http: PlainHttp::IfSigned,
            read_timeout: Self::READ_TIMEOUT,
            retry,
            unreachable_after: Self::UNREACHABLE_AFTER,
            delete_batch_size: None,
        }
    }
}
