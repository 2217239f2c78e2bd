//! The arguments that commands share, as typed (contract §2.1, §2.2).
//!
//! Defaults stand here, visible in `--help`; whether values fit together is decided where a
//! command resolves its arguments. Options below [`BEYOND_BARMAN`] are ours.

use crate::cloud::{AzureCredentialKind, CloudProvider};
use crate::command::one_of::OneOf;
use crate::command::report::LogFormat;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, ByteSize, Tag};
use crate::store::{AddressingStyle, AzureBlocks};
use clap::{ArgAction, Args};
use std::num::NonZeroUsize;

const S3: &str = "Amazon S3";
const AZURE: &str = "Azure Blob Storage";
const GOOGLE: &str = "Google Cloud Storage";
const GENERAL: &str = "General";
/// The help section of options for any store.
pub const STORE: &str = "Object store";

const PROVIDERS: &[(&str, CloudProvider)] = &[
    ("aws-s3", CloudProvider::AwsS3),
    ("azure-blob-storage", CloudProvider::AzureBlobStorage),
    ("google-cloud-storage", CloudProvider::GoogleCloudStorage),
];

const ADDRESSING_STYLES: &[(&str, AddressingStyle)] = &[
    ("auto", AddressingStyle::Auto),
    ("virtual", AddressingStyle::Virtual),
    ("path", AddressingStyle::Path),
];

const AZURE_CREDENTIALS: &[(&str, AzureCredentialKind)] = &[
    ("azure-cli", AzureCredentialKind::AzureCli),
    ("managed-identity", AzureCredentialKind::ManagedIdentity),
    ("default", AzureCredentialKind::Default),
];

/// Server-side encryption as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseArg {
    Aes256,
    Kms,
}

const SSE: &[(&str, SseArg)] = &[("AES256", SseArg::Aes256), ("aws:kms", SseArg::Kms)];

const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// How a command talks, and whether it only tests.
#[derive(Args, Clone, Debug)]
pub struct TalkArgs {
    /// Say more on stderr; twice for each request, three times for each part
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GENERAL)]
    pub verbose: u8,
    /// Say less on stderr; three times for nothing at all
    #[arg(short, long, action = ArgAction::Count, help_heading = GENERAL)]
    pub quiet: u8,
    /// Print this help and exit
    #[arg(long, action = ArgAction::Help, help_heading = GENERAL)]
    help: Option<bool>,
    /// Print the version of Barman that this command stands in for, and exit
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: Option<bool>,
    /// Only check that the bucket can be reached and exists; change nothing
    #[arg(short, long, help_heading = GENERAL)]
    pub test: bool,
}

/// Which cloud, where it is, and who we are to it.
#[derive(Args, Clone, Debug)]
pub struct CloudArgs {
    /// The cloud that the URL belongs to (file:///path URLs work with any)
    #[arg(long, value_name = "PROVIDER", default_value = "aws-s3",
          value_parser = OneOf(PROVIDERS), help_heading = STORE)]
    pub cloud_provider: CloudProvider,
    /// Where an S3 service other than Amazon's is, such as https://minio.example.org:9000
    #[arg(long, value_name = "URL", help_heading = S3)]
    pub endpoint_url: Option<String>,
    /// The profile in the AWS configuration to use [deprecated: --profile]
    #[arg(short = 'P', long, alias = "profile", value_name = "NAME", help_heading = S3)]
    pub aws_profile: Option<String>,
    /// How long to wait for an answer of S3 [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = value::positive, help_heading = S3)]
    pub read_timeout: Option<u32>,
    /// Whether the bucket's name stands in the host name or in the path
    #[arg(long, value_name = "STYLE", value_parser = OneOf(ADDRESSING_STYLES),
          help_heading = S3)]
    pub addressing_style: Option<AddressingStyle>,
    /// Where Azure credentials come from, if not from the environment
    /// [also: --credential, --default]
    #[arg(long, aliases = ["credential", "default"], value_name = "KIND",
          value_parser = OneOf(AZURE_CREDENTIALS), help_heading = AZURE)]
    pub azure_credential: Option<AzureCredentialKind>,
}

/// What Barman's commands do not have and all of ours do.
#[derive(Args, Clone, Debug)]
pub struct OwnArgs {
    /// Send tokens and shared access signatures to endpoints without TLS, too, and do not warn
    /// of such endpoints
    #[arg(long, help_heading = BEYOND_BARMAN)]
    pub allow_http: bool,
    /// Write log lines as text or as one JSON object per line
    #[arg(long, value_name = "FORMAT", value_parser = OneOf(LOG_FORMATS), default_value = "text",
          help_heading = BEYOND_BARMAN)]
    pub log_format: LogFormat,
}

/// What every command's arguments have.
pub trait CommonArgs {
    fn talk(&self) -> &TalkArgs;
    fn own(&self) -> &OwnArgs;
}

/// Implements [`CommonArgs`] for arguments with fields `talk` and `own`.
macro_rules! common_args {
    ($args:ty) => {
        impl $crate::command::args::CommonArgs for $args {
            fn talk(&self) -> &$crate::command::args::TalkArgs {
                &self.talk
            }

            fn own(&self) -> &$crate::command::args::OwnArgs {
                &self.own
            }
        }
    };
}
pub(crate) use common_args;

/// How the store shall encrypt what it is given.
#[derive(Args, Clone, Debug)]
pub struct EncryptionArgs {
    /// Server-side encryption of S3 objects
    #[arg(short, long, value_name = "KIND", value_parser = OneOf(SSE),
          help_heading = S3)]
    pub encryption: Option<SseArg>,
    /// The key for --encryption aws:kms
    #[arg(long, value_name = "ID", help_heading = S3)]
    pub sse_kms_key_id: Option<String>,
    /// The encryption scope of Azure blobs
    #[arg(long, value_name = "NAME", help_heading = AZURE)]
    pub encryption_scope: Option<String>,
    /// The Cloud KMS key for objects in Google Cloud Storage
    #[arg(long, value_name = "NAME", help_heading = GOOGLE)]
    pub kms_key_name: Option<String>,
}

/// Tags of stored objects.
#[derive(Args, Clone, Debug)]
pub struct TagArgs {
    /// Tags for stored objects; takes all words up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., value_parser = Tag::parse_csv,
          conflicts_with = "tag", help_heading = STORE)]
    pub tags: Vec<Tag>,
    /// A tag for stored objects; may be repeated
    #[arg(long, value_name = "KEY,VALUE", value_parser = Tag::parse_checked, help_heading = STORE)]
    pub tag: Vec<Tag>,
}

/// How blobs are written to Azure.
#[derive(Args, Clone, Debug)]
pub struct AzureUploadArgs {
    /// The largest block of a blob that is written in blocks
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "4MB",
          help_heading = AZURE)]
    pub max_block_size: ByteSize,
    /// How many blocks of one blob are sent at once
    #[arg(long, value_name = "N", value_parser = value::positive, default_value = "1",
          help_heading = AZURE)]
    pub max_concurrency: u32,
    /// The largest blob that is written in one request
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "64MB",
          help_heading = AZURE)]
    pub max_single_put_size: ByteSize,
}

impl AzureUploadArgs {
    pub fn blocks(&self) -> AzureBlocks {
        let concurrency = usize::try_from(self.max_concurrency).unwrap_or(usize::MAX);
        AzureBlocks {
            single_put_max_bytes: self.max_single_put_size.bytes(),
            block_max_bytes: self.max_block_size.bytes(),
            concurrency: NonZeroUsize::new(concurrency).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

impl TagArgs {
    /// The tags of whichever option was used.
    pub fn into_tags(self) -> Vec<Tag> {
        if self.tags.is_empty() { self.tag } else { self.tags }
    }
}
