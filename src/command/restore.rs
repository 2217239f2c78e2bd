//! `barman-cloud-restore`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, ByteSize, TablespaceRule, TimelineTarget};
use clap::{Args, Parser};
use std::path::PathBuf;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct RestoreArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup: ID, name, shortcut (first, oldest, last, latest, last-failed), or "auto"
    /// for the best one for the recovery target
    #[arg(value_name = "backup_id")]
    pub backup_id: String,
    /// The new data directory: empty, or not there yet
    #[arg(value_name = "recovery_dir")]
    pub recovery_dir: PathBuf,
    /// Restore a tablespace to another place; may be repeated
    #[arg(long, value_name = "NAME:LOCATION", value_parser = TablespaceRule::parse)]
    pub tablespace: Vec<TablespaceRule>,
    /// With "auto": the timeline to recover to, a number, "current" or "latest"
    #[arg(long, value_name = "TIMELINE", value_parser = TimelineTarget::parse)]
    pub target_tli: Option<TimelineTarget>,
    /// With "auto": the time to recover to
    #[arg(long, value_name = "TIME", conflicts_with = "target_lsn")]
    pub target_time: Option<String>,
    /// With "auto": the LSN to recover to
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<String>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub snapshot: SnapshotRecoveryArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub beyond: BeyondArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

/// Options for restoring snapshot backups.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Snapshots (not supported by this version)")]
pub struct SnapshotRecoveryArgs {
    /// The instance that the recovered disks are attached to
    #[arg(long, value_name = "NAME")]
    pub snapshot_recovery_instance: Option<String>,
    /// The AWS region of the instance
    #[arg(long, value_name = "NAME")]
    pub aws_region: Option<String>,
    /// The Google Cloud zone [deprecated: --snapshot-recovery-zone]
    #[arg(long, alias = "snapshot-recovery-zone", value_name = "NAME")]
    pub gcp_zone: Option<String>,
    /// The Azure resource group
    #[arg(long, value_name = "NAME")]
    pub azure_resource_group: Option<String>,
}

/// What Barman's command does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = BEYOND_BARMAN)]
pub struct BeyondArgs {
    /// How many tarballs are fetched and extracted at once
    #[arg(short = 'J', long, value_name = "N", value_parser = value::positive, default_value = "4")]
    pub jobs: u32,
    /// The most memory for buffers
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "512MB")]
    pub max_memory: ByteSize,
    /// Restore a backup that was never completed, at your own risk
    #[arg(long)]
    pub allow_incomplete: bool,
    /// Show no progress bars, even on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

common_args!(RestoreArgs);

pub fn run(_: RestoreArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
