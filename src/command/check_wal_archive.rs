//! `barman-cloud-check-wal-archive`: arguments, their resolution, the run.

use crate::catalog::Catalog;
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::perform;
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::value;
use crate::flow::Cancel;
use crate::store::StoreError;
use crate::wal::TimelineId;
use crate::wal_archive::{self, CheckOptions, CheckOutcome};
use clap::Parser;
use tracing::info;

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
    let outcome =
        perform(Threads::One, async |cancel| check(&catalog.until(&cancel), &args, &cancel).await)?;
    match outcome {
        CheckOutcome::Empty => Ok(Exit::Success),
        CheckOutcome::Occupied { example } => Err(Failure::new(
            Exit::Failed,
            format!("cannot use server name \"{}\": its archive is not empty", args.server_name),
        )
        .detail_if_none(Some(format!("It holds WAL file \"{example}\".")))
        .hint("Use another server name for a new cluster, or --timeline after a promotion.")),
    }
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
