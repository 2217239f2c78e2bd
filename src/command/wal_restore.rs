//! `barman-cloud-wal-restore`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::{perform, small_limits, test};
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::value;
use crate::flow::{Limits, RetryLimits};
use crate::monitor::Silent;
use crate::wal::WalFileName;
use crate::wal_archive::{self, FetchOptions, FetchOutcome, PartialSegments, SpoolOptions};
use clap::Parser;
use std::path::PathBuf;
use tracing::info;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct WalRestoreArgs {
    /// Where WAL is archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The WAL file to fetch, PostgreSQL's %f
    #[arg(value_name = "wal_name")]
    pub wal_name: String,
    /// Where to put it, PostgreSQL's %p
    #[arg(value_name = "wal_dest")]
    pub wal_dest: PathBuf,
    /// Do not fall back to a partial segment
    #[arg(long)]
    pub no_partial: bool,
    /// How many segments to fetch at once, this one and the next; 0 and 1 mean only this one
    #[arg(short, long, value_name = "N", value_parser = value::any_integer, default_value = "0")]
    pub parallel: i64,
    /// Where segments wait that were fetched ahead
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walrestore")]
    pub spool_dir: PathBuf,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(WalRestoreArgs);

pub fn run(args: WalRestoreArgs, _: &Context) -> Result<Exit, Failure> {
    // Before anything else, as Barman does: a wrong name is wrong under --test too.
    let name = WalFileName::parse(&args.wal_name)
        .map_err(|error| Failure::of_error(Exit::Input, &error))?;
    let place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    if args.talk.test {
        return test(&place);
    }
    let options = options_of(&args, &place);
    let catalog = place.catalog()?;
    let destination = &args.wal_dest;
    let limits = Limits { retry: RetryLimits::RECOVERY, ..small_limits() };
    let outcome = perform(Threads::One, async |cancel| {
        wal_archive::fetch(&name, destination, &catalog, &options, &limits, &Silent, &cancel)
            .await
            .map_err(|error| Failure::of_wal(&error, exit::of_fetch))
    })?;
    match outcome {
        FetchOutcome::Delivered => Ok(Exit::Success),
        FetchOutcome::NotThere => {
            // Recovery asks for what may not exist; its log is no place for an error.
            info!(wal = %name, "the WAL file is not in the archive");
            Ok(Exit::Failed)
        }
    }
}

fn options_of(args: &WalRestoreArgs, place: &Place) -> FetchOptions {
    FetchOptions {
        partial: match args.no_partial {
            true => PartialSegments::Refuse,
            false => PartialSegments::Accept,
        },
        // Negative numbers mean no prefetch, as with Barman.
        prefetch: usize::try_from(args.parallel).unwrap_or(0),
        spool: SpoolOptions { directory: args.spool_dir.clone(), scope: place.scope() },
    }
}
