//! `barman-cloud-backup-list`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use clap::Parser;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct BackupListArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// "console" for people; any other word means JSON
    #[arg(long, default_value = "console")]
    pub format: String,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(BackupListArgs);

pub fn run(_: BackupListArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
