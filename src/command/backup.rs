//! `barman-cloud-backup`: arguments, their resolution, the run.

use crate::codec::CompressionLevel;
use crate::command::args::{CloudArgs, EncryptionArgs, OwnArgs, TagArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, BackupName, ByteSize};
use clap::{ArgGroup, Args, Parser};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("compression").multiple(false)
    .args(["gzip", "bzip2", "snappy", "lz4", "zstd"]))]
pub struct BackupArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of this PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// Compress tarballs with gzip
    #[arg(short = 'z', long)]
    pub gzip: bool,
    /// Compress tarballs with bzip2
    #[arg(short = 'j', long)]
    pub bzip2: bool,
    /// Compress tarballs with snappy
    #[arg(long)]
    pub snappy: bool,
    /// Compress tarballs with lz4
    #[arg(long)]
    pub lz4: bool,
    /// Ask PostgreSQL for a fast checkpoint instead of a spread one
    #[arg(long)]
    pub immediate_checkpoint: bool,
    /// How many tarballs are read, compressed and sent at once
    #[arg(short = 'J', long, value_name = "N", value_parser = value::positive, default_value = "2")]
    pub jobs: u32,
    /// Where to start the next tarball, in stored bytes (KB is 1024, KiB is 1000)
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = ByteSize::parse,
          default_value = "100GB")]
    pub max_archive_size: ByteSize,
    /// The smallest part of a multipart upload
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    pub min_chunk_size: Option<ByteSize>,
    /// The most bytes per second to send
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    pub max_bandwidth: Option<ByteSize>,
    /// A name for the backup, to be used in place of its ID
    #[arg(short, long, value_parser = BackupName::parse)]
    pub name: Option<BackupName>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub tags: TagArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    #[command(flatten)]
    pub beyond: BeyondArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

/// How to reach PostgreSQL; what is left out comes from libpq's environment and files.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub struct PostgresArgs {
    /// The host name, or the directory of the Unix socket
    #[arg(short = 'h', long)]
    pub host: Option<String>,
    /// The port
    #[arg(short, long)]
    pub port: Option<String>,
    /// The user to connect as
    #[arg(short = 'U', long)]
    pub user: Option<String>,
    /// The database to connect to, or a connection string, which replaces the other three
    #[arg(short, long, default_value = "postgres")]
    pub dbname: String,
}

/// Options of snapshot backups.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Snapshots (not supported by this version)")]
pub struct SnapshotArgs {
    /// The instance whose disks hold the cluster
    #[arg(long, value_name = "NAME")]
    pub snapshot_instance: Option<String>,
    /// A disk to take a snapshot of; may be repeated
    #[arg(long, value_name = "NAME")]
    pub snapshot_disk: Vec<String>,
    /// The Google Cloud project [deprecated: --snapshot-gcp-project]
    #[arg(long, alias = "snapshot-gcp-project", value_name = "NAME")]
    pub gcp_project: Option<String>,
    /// The Google Cloud zone [deprecated: --snapshot-zone]
    #[arg(long, alias = "snapshot-zone", value_name = "NAME")]
    pub gcp_zone: Option<String>,
    /// The Azure subscription
    #[arg(long, value_name = "ID")]
    pub azure_subscription_id: Option<String>,
    /// The Azure resource group
    #[arg(long, value_name = "NAME")]
    pub azure_resource_group: Option<String>,
    /// The AWS region of the instance
    #[arg(long, value_name = "NAME")]
    pub aws_region: Option<String>,
    /// How long to wait for AWS snapshots
    #[arg(long, value_name = "SECONDS", value_parser = value::positive, default_value = "3600")]
    pub aws_await_snapshots_timeout: u32,
    /// How AWS snapshots are locked
    #[arg(long, value_name = "MODE", ignore_case = true, value_parser = ["governance", "compliance"])]
    pub aws_snapshot_lock_mode: Option<String>,
    /// For how long AWS snapshots are locked
    #[arg(long, value_name = "DAYS", value_parser = value::lock_duration,
          conflicts_with = "aws_snapshot_lock_expiration_date")]
    pub aws_snapshot_lock_duration: Option<u32>,
    /// Until when AWS snapshots are locked
    #[arg(long, value_name = "TIME", value_parser = value::lock_expiration)]
    pub aws_snapshot_lock_expiration_date: Option<jiff::Timestamp>,
    /// How long a compliance lock can still be changed
    #[arg(long, value_name = "HOURS", value_parser = value::lock_cool_off_period)]
    pub aws_snapshot_lock_cool_off_period: Option<u32>,
}

/// What Barman's command does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = BEYOND_BARMAN)]
pub struct BeyondArgs {
    /// Compress tarballs with zstd (read by Barman from 3.20 on)
    #[arg(long)]
    pub zstd: bool,
    /// "low", "medium", "high" or the algorithm's own number
    #[arg(long, value_name = "LEVEL", value_parser = value::compression_level)]
    pub compression_level: Option<CompressionLevel>,
    /// The most memory for buffers
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "512MB")]
    pub max_memory: ByteSize,
    /// Do not verify the checksums of pages while reading them
    #[arg(long)]
    pub no_verify_checksums: bool,
    /// Show no progress bars, even on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

common_args!(BackupArgs);

pub fn run(_: BackupArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
