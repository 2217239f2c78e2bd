//! `barman-cloud-backup-delete`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::value;
use clap::{ArgGroup, Parser};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(false)
    .args(["backup_id", "retention_policy"]))]
pub struct BackupDeleteArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup to delete: ID, name or shortcut (first, oldest, last, latest, last-failed)
    #[arg(short, long, value_name = "ID")]
    pub backup_id: Option<String>,
    /// Delete what the policy makes obsolete: "REDUNDANCY n" or
    /// "RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS"
    #[arg(short, long, value_name = "POLICY")]
    pub retention_policy: Option<String>,
    /// How many backups must remain in any case
    #[arg(short, long, value_name = "N", value_parser = value::non_negative, default_value = "0")]
    pub minimum_redundancy: u32,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The most objects to delete in one request [default: what the store allows]
    #[arg(long, value_name = "N", value_parser = value::any_integer)]
    pub batch_size: Option<i64>,
    /// Look for object locks before anything is deleted (S3 only)
    #[arg(long)]
    pub check_object_lock: bool,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(BackupDeleteArgs);

pub fn run(_: BackupDeleteArgs, _: &Context) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
