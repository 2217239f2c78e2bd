//! `barman-cloud-restore`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::perform::{limits, now, perform, test};
use crate::command::place::Place;
use crate::command::recovery_time;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::terminal::{Progress, TerminalMonitor};
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, ByteSize, TimelineTarget};
use crate::disk::Machine;
use crate::flow::Limits;
use crate::monitor::Monitor;
use crate::restore::{
    self, RecoveryTarget, RecoveryVolumes, RestoreCounts, RestoreOptions, RestoreSelection,
    RestoreSummary, SnapshotRecovery, TablespaceMapping, TargetPoint, TargetTimeline, Unfinished,
};
use crate::snapshot::{Patience, RecoveryPlace};
use clap::{Args, Parser};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct RestoreArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup: ID, name, shortcut (first, oldest, last, latest, last-failed), or "auto"
    /// for the best one for the recovery target
    #[arg(value_name = "backup_id")]
    pub backup_id: String,
    /// The new data directory: empty, or not there yet
    #[arg(value_name = "recovery_dir")]
    pub recovery_dir: PathBuf,
    /// Restore a tablespace to another place; may be repeated
    #[arg(long, value_name = "NAME:LOCATION", value_parser = TablespaceMapping::parse)]
    pub tablespace: Vec<TablespaceMapping>,
    /// With "auto": the timeline to recover to, a number, "current" or "latest"
    #[arg(long, value_name = "TIMELINE", value_parser = TimelineTarget::parse)]
    pub target_tli: Option<TimelineTarget>,
    /// With "auto": the time to recover to
    #[arg(long, value_name = "TIME", conflicts_with = "target_lsn")]
    pub target_time: Option<String>,
    /// With "auto": the LSN to recover to
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<String>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub snapshot: SnapshotRecoveryArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub beyond: BeyondArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

/// Options for restoring snapshot backups.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Snapshots")]
pub struct SnapshotRecoveryArgs {
    /// The instance that the recovered disks are attached to
    #[arg(long, value_name = "NAME")]
    pub snapshot_recovery_instance: Option<String>,
    /// The AWS region of the instance
    #[arg(long, value_name = "NAME")]
    pub aws_region: Option<String>,
    /// The Google Cloud zone [deprecated: --snapshot-recovery-zone]
    #[arg(long, alias = "snapshot-recovery-zone", value_name = "NAME")]
    pub gcp_zone: Option<String>,
    /// The Azure resource group
    #[arg(long, value_name = "NAME")]
    pub azure_resource_group: Option<String>,
}

/// What Barman's command does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = BEYOND_BARMAN)]
pub struct BeyondArgs {
    /// How many tarballs are fetched and extracted at once
    #[arg(short = 'J', long, value_name = "N", value_parser = value::positive, default_value = "4")]
    pub jobs: u32,
    /// The most memory for buffers
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "256MB")]
    pub max_memory: ByteSize,
    /// Make volumes of the snapshots, attach them to the recovery instance (this machine) and
    /// mount them as they were; needs root
    #[arg(long)]
    pub create_volumes: bool,
    /// Restore a backup that was never completed, at your own risk
    #[arg(long)]
    pub allow_incomplete: bool,
    /// Show no progress bars, even on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

common_args!(RestoreArgs);

/// Everything decided, nothing contacted.
#[derive(Debug)]
struct Resolved {
    place: Place,
    selection: RestoreSelection,
    target: PathBuf,
    options: RestoreOptions,
    recovery: SnapshotRecovery,
    limits: Limits,
    progress: Progress,
}

pub fn run(args: RestoreArgs, context: &Context) -> Result<Exit, Failure> {
    let only_test = args.talk.test;
    let resolved = resolve(args, now())?;
    if only_test {
        return test(&resolved.place);
    }
    let Resolved { place, selection, target, options, recovery, limits, progress } = resolved;
    let catalog = place.catalog()?;
    let monitor: Arc<dyn Monitor> = Arc::new(TerminalMonitor::new(&context.voice, progress));
    let summary = perform(Threads::PerCore, async |cancel| {
        let catalog = catalog.until(&cancel);
        let restored = restore::restore_or_recover(
            &catalog, &selection, &target, &options, &recovery, &limits, &monitor, &cancel,
        );
        Ok(restored.await?)
    })?;
    let RestoreSummary { backup_id, target, counts, .. } = summary;
    let RestoreCounts { tarballs, files, cluster_bytes, .. } = counts;
    info!(%backup_id, target = %target.display(), tarballs, files, cluster_bytes, "restored");
    Ok(Exit::Success)
}

fn resolve(args: RestoreArgs, now: Timestamp) -> Result<Resolved, Failure> {
    let place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    let selection = selection_of(&args)?;
    let recovery = recovery_of(&args, &place);
    let options = RestoreOptions {
        now,
        tablespaces: args.tablespace,
        unfinished: match args.beyond.allow_incomplete {
            true => Unfinished::Restore,
            false => Unfinished::Refuse,
        },
    };
    let limits = limits(args.beyond.jobs, args.beyond.max_memory);
    let progress = Progress::unless(args.beyond.no_progress);
    let target = args.recovery_dir;
    Ok(Resolved { place, selection, target, options, recovery, limits, progress })
}

fn selection_of(args: &RestoreArgs) -> Result<RestoreSelection, Failure> {
    let targeted =
        args.target_tli.is_some() || args.target_time.is_some() || args.target_lsn.is_some();
    if args.backup_id != "auto" {
        if targeted {
            warn!("recovery targets have no effect unless the backup is \"auto\"");
        }
        return Ok(RestoreSelection::Named(args.backup_id.clone()));
    }
    let timeline = match args.target_tli {
        None => TargetTimeline::Any,
        Some(TimelineTarget::Timeline(timeline)) => TargetTimeline::Number(timeline),
        Some(TimelineTarget::Latest) => TargetTimeline::Latest,
        Some(TimelineTarget::Current) => TargetTimeline::Current,
    };
    // Not usage errors, for Barman looks at them later: 4.
    let refused = |option: &str, reason: String| {
        Failure::new(Exit::Other, format!("option {option}: {reason}"))
    };
    let point = match (&args.target_time, &args.target_lsn) {
        (Some(text), _) => match recovery_time::parse(text, &TimeZone::system()) {
            Some(time) => TargetPoint::Time(time),
            None => {
                return Err(refused("--target-time", format!("\"{text}\" is not a time"))
                    .hint("Write it like \"2026-11-20 10:00:00+00\"."));
            }
        },
        (None, Some(text)) => match text.parse() {
            Ok(lsn) => TargetPoint::Lsn(lsn),
            Err(_) => {
                return Err(refused("--target-lsn", format!("\"{text}\" is not an LSN"))
                    .hint("Write it like \"0/3000148\"."));
            }
        },
        (None, None) => TargetPoint::EndOfArchive,
    };
    Ok(RestoreSelection::Auto(RecoveryTarget { timeline, point }))
}

/// What recovery from snapshots would be told; backups of files do not need it.
fn recovery_of(args: &RestoreArgs, place: &Place) -> SnapshotRecovery {
    let SnapshotRecoveryArgs {
        snapshot_recovery_instance,
        aws_region,
        gcp_zone,
        azure_resource_group,
    } = args.snapshot.clone();
    SnapshotRecovery {
        clouds: Arc::new(place.clouds()),
        machine: Machine::this(),
        instance: snapshot_recovery_instance,
        place: RecoveryPlace { aws_region, azure_resource_group, gcp_zone },
        volumes: match args.beyond.create_volumes {
            true => RecoveryVolumes::Create,
            false => RecoveryVolumes::Attached,
        },
        patience: VOLUME_PATIENCE,
    }
}

/// A volume is there within a minute; a busy region may take its time.
const VOLUME_PATIENCE: Patience =
    Patience { timeout: Duration::from_secs(1800), pause_max: Duration::from_secs(5) };

#[cfg(test)]
mod tests {
    use crate::command::exit::Exit;
    use crate::command::launch::read;
    use crate::command::program::Program;
    use crate::command::report::Failure;
    use crate::command::restore::{Resolved, resolve};
    use crate::restore::{
        RecoveryTarget, RestoreSelection, TargetPoint, TargetTimeline, Unfinished,
    };
    use crate::wal::{Lsn, TimelineId};

    fn resolved(words: &[&str]) -> Result<Resolved, Failure> {
        let words = ["s3://b", "main"].into_iter().chain(words.iter().copied());
        let args = read(Program::Restore, words).expect("args");
        resolve(args, "2026-11-20T23:58:32Z".parse().expect("time"))
    }

    fn selection(words: &[&str]) -> RestoreSelection {
        resolved(words).expect("resolved").selection
    }

    #[test]
    fn a_named_backup_ignores_recovery_targets() {
        let selection = selection(&["--target-time", "nonsense", "last", "/x"]);
        assert_eq!(selection, RestoreSelection::Named("last".into()));
    }

    #[test]
    fn auto_takes_timeline_and_point() {
        let auto = |timeline, point| RestoreSelection::Auto(RecoveryTarget { timeline, point });
        let two = TargetTimeline::Number(TimelineId::new(2).expect("2"));
        assert_eq!(
            selection(&["auto", "/x"]),
            auto(TargetTimeline::Any, TargetPoint::EndOfArchive)
        );
        assert_eq!(
            selection(&["--target-tli=2", "--target-lsn=1/0", "auto", "/x"]),
            auto(two, TargetPoint::Lsn(Lsn::new(1 << 32)))
        );
        assert_eq!(
            selection(&["--target-tli=latest", "--target-time=2026-01-01 00:00:00Z", "auto", "/x"]),
            auto(
                TargetTimeline::Latest,
                TargetPoint::Time("2026-01-01T00:00:00Z".parse().expect("time"))
            )
        );
    }

    #[test]
    fn a_point_that_is_none_exits_4() {
        for option in ["--target-time=x", "--target-lsn=x"] {
            let refused = resolved(&[option, "auto", "/x"]).expect_err("refused");
            assert_eq!(refused.exit, Exit::Other, "{option}");
        }
    }

    #[test]
    fn incomplete_backups_need_a_word() {
        let unfinished = |words: &[&str]| resolved(words).expect("resolved").options.unfinished;
        assert_eq!(unfinished(&["last", "/x"]), Unfinished::Refuse);
        assert_eq!(unfinished(&["--allow-incomplete", "last", "/x"]), Unfinished::Restore);
    }
}
