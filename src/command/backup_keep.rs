//! `barman-cloud-backup-keep`: arguments, their resolution, the run.

use crate::catalog::{Catalog, CatalogError, KeepTarget};
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::keeping;
use crate::command::launch::Context;
use crate::command::one_of::OneOf;
use crate::command::perform::{now, perform_droppable, small_limits, test};
use crate::command::place::Place;
use crate::command::report::{self, Failure};
use clap::{ArgGroup, Parser};

const TARGETS: &[(&str, KeepTarget)] =
    &[("full", KeepTarget::Full), ("standalone", KeepTarget::Standalone)];

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
    #[arg(long, value_parser = OneOf(TARGETS))]
    pub target: Option<KeepTarget>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(BackupKeepArgs);

pub fn run(args: BackupKeepArgs, _: &Context) -> Result<Exit, Failure> {
    let place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    if args.talk.test {
        return test(&place);
    }
    let catalog = place.catalog()?;
    let text = perform_droppable(keep(&catalog, &args))?;
    report::print(&text)
}

/// Does what was asked for; the answer is what to print.
async fn keep(catalog: &Catalog, args: &BackupKeepArgs) -> Result<String, Failure> {
    let id = catalog.resolve(&args.backup_id, &small_limits(), now()).await?;
    if let Some(target) = args.target {
        catalog.set_keep(&id, target, now()).await.map_err(of_setting)?;
        return Ok(String::new());
    }
    if args.release {
        catalog.release_keep(&id).await?;
        return Ok(String::new());
    }
    // Of an ID without a backup as well: nothing keeps it.
    Ok(keeping::status(catalog.keep(&id).await?.as_ref()))
}

/// Here, and only here, Barman answers 4 for an ID without a backup.
fn of_setting(error: CatalogError) -> Failure {
    let absent = matches!(error, CatalogError::AbsentBackup { .. });
    let failure = Failure::from(error);
    if absent { Failure { exit: Exit::Other, ..failure } } else { failure }
}
