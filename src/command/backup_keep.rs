//! `barman-cloud-backup-keep`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use clap::{ArgGroup, Parser};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(false)
    .args(["release", "status", "target"]))]
pub struct BackupKeepArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup: ID, name or shortcut (first, oldest, last, latest, last-failed)
    #[arg(value_name = "backup_id")]
    pub backup_id: String,
    /// Give the backup back to retention policies
    #[arg(short, long)]
    pub release: bool,
    /// Print whether and how the backup is kept
    #[arg(short, long)]
    pub status: bool,
    /// Keep the backup: with all WAL after it (full), or only as a state of its own
    /// (standalone)
    #[arg(long, value_parser = ["full", "standalone"])]
    pub target: Option<String>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(BackupKeepArgs);

pub fn run(_: BackupKeepArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
