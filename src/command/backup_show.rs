//! `barman-cloud-backup-show`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::perform::{now, perform_droppable, small_limits, test};
use crate::command::place::Place;
use crate::command::report::{self, Failure};
use crate::command::showing;
use crate::command::value::OutputFormat;
use clap::Parser;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct BackupShowArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup: ID, name or shortcut (first, oldest, last, latest, last-failed)
    #[arg(value_name = "backup_id")]
    pub backup_id: String,
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

common_args!(BackupShowArgs);

pub fn run(args: BackupShowArgs, _: &Context) -> Result<Exit, Failure> {
    let place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    if args.talk.test {
        return test(&place);
    }
    let catalog = place.catalog()?;
    let (backup, branch) = perform_droppable(async {
        let backup = catalog.select(&args.backup_id, &small_limits(), now()).await?;
        let branch = catalog.branch_of(&backup, &small_limits()).await?;
        Ok((backup, branch))
    })?;
    report::print(&match OutputFormat::of(&args.format) {
        OutputFormat::Console => showing::console(&backup, branch),
        OutputFormat::Json => showing::json(&backup, branch),
    })
}
