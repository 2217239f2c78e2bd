//! `barman-cloud-backup`: arguments, their resolution, the run.

use crate::backup::{
    self, BackupOptions, BackupSummary, LocalBackup, PageChecksums, WalConfirmation, WalPatience,
};
use crate::catalog::BackupId;
use crate::catalog::format::backup_info;
use crate::codec::{Compression, CompressionLevel};
use crate::command::args::{CloudArgs, EncryptionArgs, OwnArgs, TagArgs, TalkArgs, common_args};
use crate::command::environment::Environment;
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::{limits, now, perform, test};
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::snapshots::{SnapshotArgs, SnapshotRequest};
use crate::command::terminal::{Progress, TerminalMonitor};
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, BackupName, ByteSize, Tag};
use crate::disk::Machine;
use crate::flow::Limits;
use crate::hook::{self, BackupHook};
use crate::postgres::{Checkpoint, ConnectOptions, ConnectTarget, Session};
use crate::snapshot::Clouds;
use clap::{ArgGroup, Args, Parser};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("compression").multiple(false)
    .args(["gzip", "bzip2", "snappy", "lz4", "zstd"]))]
pub struct BackupArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of this PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// Compress tarballs with gzip
    #[arg(short = 'z', long)]
    pub gzip: bool,
    /// Compress tarballs with bzip2
    #[arg(short = 'j', long)]
    pub bzip2: bool,
    /// Compress tarballs with snappy
    #[arg(long)]
    pub snappy: bool,
    /// Compress tarballs with lz4
    #[arg(long)]
    pub lz4: bool,
    /// Ask PostgreSQL for a fast checkpoint instead of a spread one
    #[arg(long)]
    pub immediate_checkpoint: bool,
    /// How many tarballs are read, compressed and sent at once
    #[arg(short = 'J', long, value_name = "N", value_parser = value::positive, default_value = "2")]
    pub jobs: u32,
    /// Where to start the next tarball, in stored bytes (KB is 1024, KiB is 1000)
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = ByteSize::parse,
          default_value = "100GB")]
    pub max_archive_size: ByteSize,
    /// The smallest part of a multipart upload
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    pub min_chunk_size: Option<ByteSize>,
    /// The most bytes per second to send
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    pub max_bandwidth: Option<ByteSize>,
    /// A name for the backup, to be used in place of its ID
    #[arg(short, long, value_parser = BackupName::parse)]
    pub name: Option<BackupName>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub tags: TagArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    #[command(flatten)]
    pub beyond: BeyondArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

/// How to reach PostgreSQL; what is left out comes from libpq's environment and files.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub struct PostgresArgs {
    /// The host name, or the directory of the Unix socket
    #[arg(short = 'h', long)]
    pub host: Option<String>,
    /// The port
    #[arg(short, long)]
    pub port: Option<String>,
    /// The user to connect as
    #[arg(short = 'U', long)]
    pub user: Option<String>,
    /// The database to connect to, or a connection string, which replaces the other three
    #[arg(short, long, default_value = "postgres")]
    pub dbname: String,
}

/// What Barman's command does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = BEYOND_BARMAN)]
pub struct BeyondArgs {
    /// Compress tarballs with zstd (read by Barman from 3.20 on)
    #[arg(long)]
    pub zstd: bool,
    /// "low", "medium", "high" or the algorithm's own number
    #[arg(long, value_name = "LEVEL", value_parser = value::compression_level)]
    pub compression_level: Option<CompressionLevel>,
    /// Do not wait until the archive holds the WAL that the backup needs
    #[arg(long)]
    pub no_wal_check: bool,
    /// How long to wait for that WAL [default: 86400; 600, or archive_timeout and 300 more, for a
    /// segment that the idle primary of a standby does not complete]
    #[arg(long, value_name = "SECONDS", value_parser = value::positive)]
    pub wal_timeout: Option<u32>,
    /// The most memory for buffers
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, default_value = "256MB")]
    pub max_memory: ByteSize,
    /// Do not verify the checksums of pages while reading them
    #[arg(long)]
    pub no_verify_checksums: bool,
    /// Show no progress bars, even on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

common_args!(BackupArgs);

/// Everything decided, nothing contacted.
#[derive(Debug)]
struct Resolved {
    place: Place,
    target: ConnectTarget,
    options: BackupOptions,
    limits: Limits,
    progress: Progress,
    snapshots: Option<SnapshotRequest>,
}

pub fn run(args: BackupArgs, context: &Context) -> Result<Exit, Failure> {
    let local = local_backup(&args, &context.environment)?;
    let only_test = args.talk.test;
    let resolved = resolve(args, now())?;
    if only_test {
        return test(&resolved.place);
    }
    match (local, &resolved.snapshots) {
        (Some(_), Some(_)) => Err(Failure::new(Exit::Other, "a hook script cannot take snapshots")),
        (Some(local), None) => upload(&local, &resolved, context),
        (None, Some(snapshots)) => take_snapshots(snapshots, &resolved, context),
        (None, None) => take(&resolved, context),
    }
    .map_err(|failure| match failure.exit {
        // Barman handles Ctrl-C in this command alone: the backup has failed.
        Exit::Interrupted => Failure { exit: Exit::Failed, ..failure },
        _ => failure,
    })
}

fn connection(resolved: &Resolved, context: &Context) -> Result<ConnectOptions, Failure> {
    let variable = |name: &str| context.environment.get(name)?.to_str().map(String::from);
    Ok(ConnectOptions::resolve(&resolved.target, APPLICATION_NAME, &variable)?)
}

fn take_snapshots(
    snapshots: &SnapshotRequest,
    resolved: &Resolved,
    context: &Context,
) -> Result<Exit, Failure> {
    let Resolved { options, limits, .. } = resolved;
    let catalog = resolved.place.catalog()?;
    let cloud = resolved.place.clouds().open(&snapshots.place)?;
    let connect = connection(resolved, context)?;
    let monitor = Arc::new(TerminalMonitor::new(&context.voice, resolved.progress));
    let machine = Machine::this();
    let summary = perform(Threads::PerCore, async |cancel| {
        let session = Session::connect(&connect, &cancel).await?;
        let (cloud, snapshots) = (cloud.as_ref(), &snapshots.options);
        let taken = backup::backup_snapshots(
            session, &catalog, cloud, &machine, options, snapshots, limits, monitor, &cancel,
        );
        Ok(taken.await?)
    })?;
    info!(backup_id = %summary.id, snapshots = summary.snapshots, "backup completed");
    Ok(Exit::Success)
}

fn take(resolved: &Resolved, context: &Context) -> Result<Exit, Failure> {
    let Resolved { options, limits, .. } = resolved;
    let catalog = resolved.place.catalog()?;
    let connect = connection(resolved, context)?;
    let monitor = Arc::new(TerminalMonitor::new(&context.voice, resolved.progress));
    let summary = perform(Threads::PerCore, async |cancel| {
        let session = Session::connect(&connect, &cancel).await?;
        Ok(backup::backup(session, &catalog, options, limits, monitor, &cancel).await?)
    })?;
    tell(&summary);
    Ok(Exit::Success)
}

/// The hook script's half: no PostgreSQL, Barman's own copy of the files.
fn upload(local: &LocalBackup, resolved: &Resolved, context: &Context) -> Result<Exit, Failure> {
    let Resolved { options, limits, .. } = resolved;
    let catalog = resolved.place.catalog()?;
    let monitor = Arc::new(TerminalMonitor::new(&context.voice, resolved.progress));
    let summary = perform(Threads::PerCore, async |cancel| {
        Ok(backup::upload_local(local, &catalog, options, limits, monitor, &cancel).await?)
    })?;
    match summary {
        Some(summary) => tell(&summary),
        None => info!(backup_id = %local.id, "backup was uploaded before"),
    }
    Ok(Exit::Success)
}

fn tell(summary: &BackupSummary) {
    let BackupSummary { id, tarballs, files, raw_bytes, stored_bytes, .. } = summary;
    if summary.damaged_blocks > 0 {
        let (blocks, damaged_files) = (summary.damaged_blocks, summary.damaged_files);
        warn!(backup_id = %id, blocks, files = damaged_files, "pages have wrong checksums");
    }
    info!(backup_id = %id, tarballs, files, raw_bytes, stored_bytes, "backup completed");
}

fn resolve(args: BackupArgs, now: Timestamp) -> Result<Resolved, Failure> {
    let place = Place::resolve(&args.destination_url, &args.server_name, &args.cloud, &args.own)?
        .encrypted(args.encryption.clone())?;
    let compression = compression_of(&args);
    let snapshots = args.snapshot.resolve(&args, compression, now)?;
    let mut limits = limits(args.jobs, args.beyond.max_memory);
    limits.bandwidth_max = args.max_bandwidth.map(ByteSize::bytes);
    let options = BackupOptions {
        now,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name: args.name.map(BackupName::into_string),
        compression,
        level: level_of(args.beyond.compression_level, compression),
        checkpoint: match args.immediate_checkpoint {
            true => Checkpoint::Fast,
            false => Checkpoint::Spread,
        },
        tarball_bytes_max: capped(args.max_archive_size),
        part_bytes_min: args.min_chunk_size.map(ByteSize::bytes),
        tags: checked_tags(args.tags)?.into_iter().map(Into::into).collect(),
        pages: match args.beyond.no_verify_checksums {
            true => PageChecksums::Leave,
            false => PageChecksums::Verify,
        },
        wal: match args.beyond.no_wal_check {
            true => WalConfirmation::Leave,
            false => WalConfirmation::WaitUpTo(wal_patience(args.beyond.wal_timeout)),
        },
    };
    let PostgresArgs { host, port, user, dbname } = args.postgres;
    let target = ConnectTarget { dbname, host, port, user };
    let progress = Progress::unless(args.beyond.no_progress);
    Ok(Resolved { place, target, options, limits, progress, snapshots })
}

fn wal_patience(seconds: Option<u32>) -> WalPatience {
    match seconds.map(|seconds| Duration::from_secs(u64::from(seconds))) {
        Some(given) => WalPatience { archived: given, completed: given },
        None => WalPatience { archived: WAL_ARCHIVED_MAX, completed: WAL_COMPLETED_MAX },
    }
}

fn compression_of(args: &BackupArgs) -> Option<Compression> {
    [
        (args.gzip, Compression::Gzip),
        (args.bzip2, Compression::Bzip2),
        (args.snappy, Compression::Snappy),
        (args.lz4, Compression::Lz4),
        (args.beyond.zstd, Compression::Zstd),
    ]
    .into_iter()
    .find_map(|(chosen, compression)| chosen.then_some(compression))
}

fn level_of(level: Option<CompressionLevel>, compression: Option<Compression>) -> Option<i32> {
    let level = level?;
    match compression {
        None | Some(Compression::Snappy | Compression::Lz4) => {
            warn!("option --compression-level has no effect without --gzip, --bzip2 or --zstd");
            None
        }
        Some(compression) => Some(level.for_wal(compression)),
    }
}

/// The stores' own limits, so that no tarball fails after hours.
fn checked_tags(args: TagArgs) -> Result<Vec<Tag>, Failure> {
    let tags = args.into_tags();
    if tags.len() > TAGS_MAX {
        let message =
            format!("{} tags were given, no more than {TAGS_MAX} are allowed", tags.len());
        return Err(Failure::new(Exit::Other, message));
    }
    let mut keys = BTreeSet::new();
    match tags.iter().find(|tag| !keys.insert(tag.key.as_str())) {
        Some(tag) => Err(Failure::new(Exit::Other, format!("tag \"{}\" was given twice", tag.key))),
        None => Ok(tags),
    }
}

fn capped(size: ByteSize) -> u64 {
    if size.bytes() > TARBALL_BYTES_MAX {
        warn!(
            bytes = TARBALL_BYTES_MAX,
            "option --max-archive-size is larger than allowed; capped"
        );
    }
    size.bytes().min(TARBALL_BYTES_MAX)
}

/// The backup that a Barman server hands over, if this is its hook script.
fn local_backup(
    args: &BackupArgs,
    environment: &Environment,
) -> Result<Option<LocalBackup>, Failure> {
    let lookup = |name: &str| environment.get(name).map(Into::into);
    if hook::is_active(&lookup) && args.name.is_some() {
        return Err(Failure::new(Exit::Other, "option --name cannot be used in a hook script"));
    }
    let told = hook::backup_hook(&lookup).map_err(|error| {
        Failure::of_error(exit::of_backup_hook(&error), &error).hint_if_none(error.hint())
    })?;
    let Some(BackupHook { directory, backup_id, backup_info }) = told else { return Ok(None) };
    let id = BackupId::parse(&backup_id).map_err(|error| Failure::of_error(Exit::Other, &error))?;
    refuse_compressed(&id, &backup_info)?;
    Ok(Some(LocalBackup { directory, id, backup_info }))
}

/// Before anything is contacted, as Barman does.
fn refuse_compressed(id: &BackupId, path: &Path) -> Result<(), Failure> {
    let unreadable = |reason: String| {
        let path = path.display();
        Failure::new(Exit::Other, format!("could not read file \"{path}\": {reason}"))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let info = backup_info::parse(&text).map_err(|error| unreadable(error.to_string()))?;
    match info.compression {
        None => Ok(()),
        Some(compression) => Err(Failure::new(
            Exit::Other,
            format!("cannot upload backup \"{id}\": it is compressed with {compression}"),
        )),
    }
}

const APPLICATION_NAME: &str = "barman_cloud_backup";
const TAGS_MAX: usize = 10;
const WAL_ARCHIVED_MAX: Duration = Duration::from_secs(86_400);
const WAL_COMPLETED_MAX: Duration = Duration::from_secs(600);
/// Barman's own cap.
const TARBALL_BYTES_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use crate::codec::Compression;
    use crate::command::backup::{BackupArgs, Resolved, local_backup, resolve};
    use crate::command::environment::Environment;
    use crate::command::exit::Exit;
    use crate::command::launch::read;
    use crate::command::program::Program;
    use crate::command::report::Failure;
    use crate::postgres::Checkpoint;
    use crate::store::S3Encryption;

    fn args(options: &[&str]) -> BackupArgs {
        let words = options.iter().copied().chain(["s3://b/p", "main"]);
        read(Program::Backup, words).expect("args")
    }

    fn resolved(options: &[&str]) -> Result<Resolved, Failure> {
        resolve(args(options), "2026-11-20T23:58:32Z".parse().expect("time"))
    }

    #[test]
    fn defaults_are_barmans() {
        let resolved = resolved(&[]).expect("resolved");
        assert_eq!(resolved.options.compression, None);
        assert_eq!(resolved.options.checkpoint, Checkpoint::Spread);
        assert_eq!(resolved.options.tarball_bytes_max, 100 << 30);
        assert_eq!((resolved.limits.jobs.get(), resolved.limits.bandwidth_max), (2, None));
        assert_eq!(resolved.target.dbname, "postgres");
        assert_eq!(resolved.place.layout.root(), "p/main");
    }

    #[test]
    fn options_reach_the_backup_the_store_and_the_limits() {
        let resolved = resolved(&[
            "-j",
            "-J4",
            "--immediate-checkpoint",
            "--max-bandwidth=1MB",
            "--min-chunk-size=6MB",
            "-S2TB",
            "--compression-level=high",
            "-eaws:kms",
            "--sse-kms-key-id=k",
            "--tag=a,b",
            "-h/run",
            "-p5433",
            "-Upg",
            "--read-timeout=7",
        ])
        .expect("resolved");
        let options = resolved.options;
        assert_eq!((options.compression, options.level), (Some(Compression::Bzip2), Some(9)));
        assert_eq!(options.checkpoint, Checkpoint::Fast);
        assert_eq!(options.tarball_bytes_max, 1 << 40, "capped");
        assert_eq!(options.part_bytes_min, Some(6 << 20));
        assert_eq!(options.tags, [("a".to_string(), "b".to_string())]);
        assert_eq!(resolved.limits.bandwidth_max, Some(1 << 20));
        let store = resolved.place.options;
        assert_eq!(store.s3_encryption, Some(S3Encryption::Kms { key_id: Some("k".into()) }));
        assert_eq!(store.read_timeout.as_secs(), 7);
        let target = resolved.target;
        assert_eq!(target.host.as_deref(), Some("/run"));
        assert_eq!((target.port.as_deref(), target.user.as_deref()), (Some("5433"), Some("pg")));
    }

    #[test]
    fn what_does_not_fit_together_exits_4() {
        let many: Vec<String> = (0..11).map(|number| format!("--tag=k{number},v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for options in [
            &["--sse-kms-key-id=k"][..],
            &["-eAES256", "--sse-kms-key-id=k"],
            &["--tag=a,b", "--tag=a,c"],
            &many,
        ] {
            assert_eq!(resolved(options).expect_err("refused").exit, Exit::Other, "{options:?}");
        }
    }

    #[test]
    fn a_hook_script_takes_no_name_and_no_compressed_backup() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("backup.info");
        let path_text = path.to_str().expect("text").to_string();
        let environment = Environment::of([
            ("BARMAN_HOOK", "backup_retry_script"),
            ("BARMAN_PHASE", "post"),
            ("BARMAN_BACKUP_DIR", "/b/x"),
            ("BARMAN_BACKUP_ID", "20260101T000000"),
            ("BARMAN_STATUS", "DONE"),
            ("BARMAN_BACKUP_INFO_PATH", path_text.as_str()),
        ]);
        let exit = |options: &[&str]| {
            local_backup(&args(options), &environment).expect_err("refused").exit
        };
        assert_eq!(exit(&["--name=x"]), Exit::Other);
        assert_eq!(exit(&[]), Exit::Other, "backup.info cannot be read");
        std::fs::write(&path, "compression=gzip\nstatus=DONE\n").expect("write");
        assert_eq!(exit(&[]), Exit::Other, "compressed");
        std::fs::write(&path, "compression=None\nstatus=DONE\n").expect("write");
        let local = local_backup(&args(&[]), &environment).expect("hook").expect("active");
        assert_eq!((local.id.as_str(), local.backup_info), ("20260101T000000", path));
        let outside = local_backup(&args(&["--name=x"]), &Environment::default());
        assert_eq!(outside, Ok(None));
    }
}
