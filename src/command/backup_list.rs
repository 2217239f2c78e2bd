//! `barman-cloud-backup-list`: arguments, their resolution, the run.

use crate::catalog::{BackupStatus, CatalogListing, UnreadableBackup, is_being_published};
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::listing;
use crate::command::perform::{now, perform_droppable, small_limits, test};
use crate::command::place::Place;
use crate::command::report::{self, Failure};
use crate::command::value::OutputFormat;
use clap::Parser;
use jiff::Timestamp;
use tracing::warn;

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

pub fn run(args: BackupListArgs, _: &Context) -> Result<Exit, Failure> {
    let place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    if args.talk.test {
        return test(&place);
    }
    let catalog = place.catalog()?;
    let listing = perform_droppable(async { Ok(catalog.load(&small_limits(), now()).await?) })?;
    for unreadable in &listing.unreadable {
        let UnreadableBackup { id, object, reason, .. } = unreadable;
        warn!(backup_id = %id, %object, %reason, "backup cannot be read");
    }
    warn_of_what_cannot_be_restored(&listing, now());
    report::print(&match OutputFormat::of(&args.format) {
        OutputFormat::Console => listing::console(&listing),
        OutputFormat::Json => listing::json(&listing),
    })
}

fn warn_of_what_cannot_be_restored(listing: &CatalogListing, now: Timestamp) {
    for backup in listing.unlisted.iter().filter(|backup| !is_being_published(backup, now)) {
        warn!(
            backup_id = %backup.id,
            "the backup is whole but for its backup.info, which the next backup-delete writes"
        );
    }
    for backup in &listing.backups {
        if let (BackupStatus::Incomplete, Some(reason)) = (backup.status(), &backup.info.error) {
            warn!(backup_id = %backup.id, %reason, "the backup cannot be restored");
        }
        if listing.dead.contains(&backup.id) {
            warn!(
                backup_id = %backup.id,
                "the backup lies on a dead branch: recovery cannot follow the newest timeline"
            );
        }
    }
}
