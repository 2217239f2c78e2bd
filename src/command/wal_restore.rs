//! `barman-cloud-wal-restore`: arguments, their resolution, the run, and its companion.
//!
//! The companion is this command once more, in the background, with `--look-ahead`. It stays in
//! the process group, so that it is stopped with the server. It always ends with exit code 0: in
//! a container PostgreSQL may be the process that inherits it, and takes another end for the
//! crash of a child of its own.
//!
//! Called by a server in archive recovery, every failure ends in a code that makes it stop; see
//! `archive_recovery`.

use crate::command::archive_recovery;
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::{perform, small_limits, test};
use crate::command::place::Place;
use crate::command::program::Program;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value;
use crate::flow::{Cancel, Limits, RetryLimits};
use crate::monitor::Silent;
use crate::wal::WalFileName;
use crate::wal_archive::{
    self, Absence, Ahead, FetchOptions, FetchOutcome, PartialSegments, SpoolOptions, StartCompanion,
};
use clap::Parser;
use std::ffi::OsString;
use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tracing::{debug, info};

/// What makes this command the companion of another.
const LOOK_AHEAD: &str = "--look-ahead";

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
    /// How many segments to fetch ahead of recovery, this one included; 0 and 1 mean only this one
    #[arg(short, long, value_name = "N", value_parser = value::any_integer, default_value = "0")]
    pub parallel: i64,
    /// Where segments wait that were fetched ahead
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walrestore")]
    pub spool_dir: PathBuf,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    /// Fetch only what follows wal_name into the spool: what --parallel does in the background
    #[arg(long, help_heading = BEYOND_BARMAN)]
    pub look_ahead: bool,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(WalRestoreArgs);

pub fn run(args: WalRestoreArgs, context: &Context) -> Result<Exit, Failure> {
    // PostgreSQL runs its command in the data directory.
    let signal = archive_recovery::signal_in(Path::new("."));
    match (restore(&args, context, signal), signal) {
        (Err(failure), Some(signal)) if !args.talk.test => {
            Err(archive_recovery::stop_recovery(failure, signal))
        }
        (answer, _) => answer,
    }
}

/// `recovery` is what `archive_recovery` found.
fn restore(
    args: &WalRestoreArgs,
    context: &Context,
    recovery: Option<&str>,
) -> Result<Exit, Failure> {
    // Before anything else, as Barman does: a wrong name is wrong under --test too.
    let name = WalFileName::parse(&args.wal_name)
        .map_err(|error| Failure::of_error(Exit::Input, &error))?;
    let mut place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    if args.talk.test {
        return test(&place);
    }
    let spool = SpoolOptions { directory: args.spool_dir.clone(), scope: place.scope() };
    if args.look_ahead {
        return Ok(look_ahead(&place, &spool, segments_of(args)));
    }
    let options = options_of(args, spool, recovery, context);
    place.options.retry = RetryLimits::RECOVERY;
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

fn options_of(
    args: &WalRestoreArgs,
    spool: SpoolOptions,
    recovery: Option<&str>,
    context: &Context,
) -> FetchOptions {
    let companion = Arc::new(Companion { words: context.words.clone() });
    FetchOptions {
        partial: match args.no_partial {
            true => PartialSegments::Refuse,
            false => PartialSegments::Accept,
        },
        // Archive recovery ends at the first absence, and it began from a backup in the archive.
        absence: match recovery {
            Some(_) => Absence::InUse,
            None => Absence::Listed,
        },
        ahead: segments_of(args).map(|segments| Ahead { segments, companion }),
        spool,
    }
}

/// Segments behind the requested one. Negative numbers mean none, as with Barman.
fn segments_of(args: &WalRestoreArgs) -> Option<NonZeroU64> {
    let parallel = u64::try_from(args.parallel).unwrap_or(0).min(PARALLEL_MAX);
    NonZeroU64::new(parallel.saturating_sub(1))
}

/// More segments never made a recovery faster, and each call looks for all of them.
const PARALLEL_MAX: u64 = 1024;

/// What the companion does. Nobody is told of its failures: who asks for a segment that it could
/// not fetch tries, and tells, by himself.
fn look_ahead(place: &Place, spool: &SpoolOptions, segments: Option<NonZeroU64>) -> Exit {
    let work = || {
        let (Some(segments), Ok(catalog)) = (segments, place.catalog()) else { return Ok(()) };
        let retry = RetryLimits::RECOVERY;
        let limits = Limits { jobs: at_once(segments), retry, ..small_limits() };
        perform(Threads::One, async |cancel: Cancel| {
            let ahead = wal_archive::look_ahead(&catalog, spool, segments, &limits, &cancel).await;
            ahead.map_err(|error| Failure::of_wal(&error, exit::of_fetch))
        })
    };
    if let Ok(Err(failure)) = catch_unwind(AssertUnwindSafe(work)) {
        debug!(message = failure.message, "could not look ahead");
    }
    Exit::Success
}

/// Two for each core keep it busy while the network answers.
fn at_once(segments: NonZeroU64) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let segments = NonZeroUsize::try_from(segments).unwrap_or(NonZeroUsize::MAX);
    cores.saturating_mul(NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN)).min(segments)
}

/// Starts this program once more.
#[derive(Debug)]
struct Companion {
    words: Vec<OsString>,
}

impl StartCompanion for Companion {
    fn start(&self) -> io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg0(Program::WalRestore.name())
            .arg(LOOK_AHEAD)
            .args(&self.words)
            // Whoever reads our output must not wait for the companion's end.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Never waited for: this process ends first.
        command.spawn().map(drop)
    }
}
