//! `barman-cloud-check-wal-archive`: arguments, their resolution, the run.

use crate::catalog::Catalog;
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::{now, perform};
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value;
use crate::flow::Cancel;
use crate::store::StoreError;
use crate::wal::TimelineId;
use crate::wal_archive::{self, AdoptOutcome, CheckOptions, CheckOutcome, Newcomer};
use clap::Parser;
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct CheckWalArchiveArgs {
    /// Where WAL shall be archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// Complain only about WAL of this timeline and later ones
    #[arg(long, value_name = "N", value_parser = value::timeline)]
    pub timeline: Option<TimelineId>,
    /// Hand the archive over to another cluster, once: that of the data directory PGDATA (after
    /// pg_upgrade, or when a new cluster takes the place of an old one)
    #[arg(long, value_name = "PGDATA", conflicts_with = "timeline", help_heading = BEYOND_BARMAN)]
    pub adopt: Option<PathBuf>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(CheckWalArchiveArgs);

pub fn run(args: CheckWalArchiveArgs, _: &Context) -> Result<Exit, Failure> {
    let place = Place::resolve(&args.destination_url, &args.server_name, &args.cloud, &args.own)?;
    let catalog = place.catalog()?;
    if let (Some(data_directory), false) = (&args.adopt, args.talk.test) {
        return adopt(&catalog, data_directory);
    }
    let (outcome, owners) = perform(Threads::One, async |cancel| {
        let catalog = catalog.until(&cancel);
        let outcome = check(&catalog, &args, &cancel).await?;
        let owners = match outcome {
            CheckOutcome::Empty => String::new(),
            CheckOutcome::Occupied { .. } => owners(&catalog).await,
        };
        Ok((outcome, owners))
    })?;
    match outcome {
        CheckOutcome::Empty => Ok(Exit::Success),
        CheckOutcome::Occupied { example } => Err(Failure::new(
            Exit::Failed,
            format!("cannot use server name \"{}\": its archive is not empty", args.server_name),
        )
        .detail_if_none(Some(format!("It holds WAL file \"{example}\".{owners}")))
        .hint(
            "Use another server name for a new cluster, or --timeline after a promotion; if a new \
             cluster takes the place of the old one (after pg_upgrade), --adopt PGDATA.",
        )),
    }
}

/// Hands the archive over, and says from whom to whom.
fn adopt(catalog: &Catalog, data_directory: &Path) -> Result<Exit, Failure> {
    let of_wal = |error| Failure::of_wal(&error, exit::of_check);
    let newcomer = Newcomer::read(data_directory).map_err(of_wal)?;
    let now = now();
    let outcome = perform(Threads::One, async |cancel| {
        wal_archive::adopt(&newcomer, catalog, now, &cancel).await.map_err(of_wal)
    })?;
    let (server, ours) = (catalog.server(), newcomer.identity.system_identifier);
    match outcome {
        AdoptOutcome::Adopted(record) => {
            let before: Vec<String> = record
                .earlier
                .iter()
                .map(|era| era.identity.system_identifier.to_string())
                .collect();
            let before = if before.is_empty() { "nobody".into() } else { before.join(", ") };
            warn!(server, systemid = %ours, from = %newcomer.from, before, "the archive was adopted");
        }
        AdoptOutcome::AlreadyIts => {
            info!(server, systemid = %ours, "the archive belongs to this cluster already");
        }
    }
    Ok(Exit::Success)
}

/// Whose WAL it is, for people; nothing where that cannot be told.
async fn owners(catalog: &Catalog) -> String {
    let Ok(Some(record)) = catalog.archive_record().await else { return String::new() };
    let present = record.present;
    let mut text =
        format!(" It belongs to system identifier {}", present.identity.system_identifier);
    if let Some(adoption) = present.adoption {
        text.push_str(&format!(" since {}, from {} on", adoption.at, adoption.from));
    }
    for era in record.earlier {
        text.push_str(&format!("; before that to {}", era.identity.system_identifier));
    }
    text.push('.');
    text
}

async fn check(
    catalog: &Catalog,
    args: &CheckWalArchiveArgs,
    cancel: &Cancel,
) -> Result<CheckOutcome, Failure> {
    let store = catalog.store();
    let exists = store.bucket_exists().await.map_err(of_store)?;
    if args.talk.test {
        // Unlike in the other commands a missing bucket is fine: a real run would create it.
        return Ok(CheckOutcome::Empty);
    }
    if !exists {
        store.create_bucket().await.map_err(of_store)?;
        info!(bucket = store.root_url(), "created the bucket");
    }
    let options = CheckOptions { timeline: args.timeline };
    let checked = wal_archive::check(catalog, &options, cancel).await;
    checked.map_err(|error| Failure::of_wal(&error, exit::of_check))
}

/// In this command no connection has its own exit code.
fn of_store(error: StoreError) -> Failure {
    Failure::of_error(exit::of_store_when_testing(&error), &error)
}
