//! `barman-cloud-wal-archive`: arguments, their resolution, the run.

use crate::codec::CompressionLevel;
use crate::command::args::{
    AzureUploadArgs, CloudArgs, EncryptionArgs, OwnArgs, STORE, TagArgs, TalkArgs, common_args,
};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, Tag};
use clap::{ArgGroup, Parser};
use std::path::PathBuf;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("compression").multiple(false)
    .args(["gzip", "bzip2", "xz", "snappy", "zstd", "lz4"]))]
pub struct WalArchiveArgs {
    /// Where WAL is archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of this PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The WAL file, PostgreSQL's %p; may be left out when Barman runs this as a hook script
    #[arg(value_name = "wal_path")]
    pub wal_path: Option<PathBuf>,
    /// Compress with gzip
    #[arg(short = 'z', long)]
    pub gzip: bool,
    /// Compress with bzip2
    #[arg(short = 'j', long)]
    pub bzip2: bool,
    /// Compress with xz
    #[arg(long)]
    pub xz: bool,
    /// Compress with snappy
    #[arg(long)]
    pub snappy: bool,
    /// Compress with zstd
    #[arg(long)]
    pub zstd: bool,
    /// Compress with lz4
    #[arg(long)]
    pub lz4: bool,
    /// "low", "medium", "high" or the algorithm's own number, clamped to its range
    #[arg(long, value_name = "LEVEL", value_parser = value::compression_level,
          default_value = "medium")]
    pub compression_level: CompressionLevel,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub tags: TagArgs,
    /// Tags for history files, instead of the others; takes all words up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., value_parser = Tag::parse_csv,
          conflicts_with = "history_tag", help_heading = STORE)]
    pub history_tags: Vec<Tag>,
    /// A tag for history files, instead of the others; may be repeated
    #[arg(long, value_name = "KEY,VALUE", value_parser = Tag::parse_checked, help_heading = STORE)]
    pub history_tag: Vec<Tag>,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    #[command(flatten)]
    pub azure_upload: AzureUploadArgs,
    /// Replace a file that is already archived under this name with other content, and archive
    /// for another cluster than before
    #[arg(long, help_heading = BEYOND_BARMAN)]
    pub allow_overwrite: bool,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(WalArchiveArgs);

pub fn run(_: WalArchiveArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
