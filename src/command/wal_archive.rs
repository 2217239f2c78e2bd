//! `barman-cloud-wal-archive`: arguments, their resolution, the run.

use crate::codec::{Compression, CompressionLevel};
use crate::command::args::{
    AzureUploadArgs, CloudArgs, EncryptionArgs, OwnArgs, STORE, TagArgs, TalkArgs, common_args,
};
use crate::command::environment::Environment;
use crate::command::exit::{self, Exit};
use crate::command::launch::Context;
use crate::command::perform::{perform, small_limits, test};
use crate::command::place::Place;
use crate::command::report::Failure;
use crate::command::runtime::Threads;
use crate::command::usage::BEYOND_BARMAN;
use crate::command::value::{self, Tag};
use crate::hook;
use crate::monitor::Silent;
use crate::wal::WalFileName;
use crate::wal_archive::{BatchOptions, OtherContent, PushOptions, SpoolOptions, push, push_batch};
use clap::{ArgGroup, Parser};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("compression").multiple(false)
    .args(["gzip", "bzip2", "xz", "snappy", "zstd", "lz4"]))]
pub struct WalArchiveArgs {
    /// Where WAL is archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of this PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The WAL file, PostgreSQL's %p; may be left out when Barman runs this as a hook script
    #[arg(value_name = "wal_path")]
    pub wal_path: Option<PathBuf>,
    /// Compress with gzip
    #[arg(short = 'z', long)]
    pub gzip: bool,
    /// Compress with bzip2
    #[arg(short = 'j', long)]
    pub bzip2: bool,
    /// Compress with xz
    #[arg(long)]
    pub xz: bool,
    /// Compress with snappy
    #[arg(long)]
    pub snappy: bool,
    /// Compress with zstd
    #[arg(long)]
    pub zstd: bool,
    /// Compress with lz4
    #[arg(long)]
    pub lz4: bool,
    /// "low", "medium", "high" or the algorithm's own number, clamped to its range [default:
    /// chosen for throughput: gzip 2, bzip2 5, xz 3, zstd 1, lz4 0]
    #[arg(long, value_name = "LEVEL", value_parser = value::compression_level)]
    pub compression_level: Option<CompressionLevel>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub tags: TagArgs,
    /// Tags for history files, instead of the others; takes all words up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., value_parser = Tag::parse_csv,
          conflicts_with = "history_tag", help_heading = STORE)]
    pub history_tags: Vec<Tag>,
    /// A tag for history files, instead of the others; may be repeated
    #[arg(long, value_name = "KEY,VALUE", value_parser = Tag::parse_checked, help_heading = STORE)]
    pub history_tag: Vec<Tag>,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    #[command(flatten)]
    pub azure_upload: AzureUploadArgs,
    /// Replace a file that is already archived under this name with other content, and archive
    /// for another cluster than before
    #[arg(long, help_heading = BEYOND_BARMAN)]
    pub allow_overwrite: bool,
    /// How many files to archive at once: the one that PostgreSQL names, and those that are ready
    /// next, which later calls then find archived
    #[arg(long, value_name = "N", value_parser = value::positive, default_value = "1",
          help_heading = BEYOND_BARMAN)]
    pub jobs: u32,
    /// Where notes wait for these later calls
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walarchive",
          help_heading = BEYOND_BARMAN)]
    pub spool_dir: PathBuf,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(WalArchiveArgs);

/// Everything decided, nothing contacted.
#[derive(Debug)]
struct Resolved {
    place: Place,
    path: PathBuf,
    options: PushOptions,
    /// `None`: the named file alone.
    batch: Option<BatchOptions>,
}

pub fn run(args: WalArchiveArgs, context: &Context) -> Result<Exit, Failure> {
    let only_test = args.talk.test;
    let Resolved { place, path, options, batch } = resolve(args, &context.environment)?;
    if only_test {
        return test(&place);
    }
    let (catalog, limits) = (place.catalog()?, small_limits());
    perform(Threads::One, async |cancel| {
        let catalog = catalog.until(&cancel);
        let pushed = match &batch {
            None => push(&path, &catalog, &options, &limits, &Silent, &cancel).await,
            Some(batch) => {
                push_batch(&path, &catalog, &options, batch, &limits, &Silent, &cancel).await
            }
        };
        pushed.map_err(|error| Failure::of_wal(&error, exit::of_push))
    })?;
    Ok(Exit::Success)
}

fn resolve(args: WalArchiveArgs, environment: &Environment) -> Result<Resolved, Failure> {
    let path = path_of(&args, environment)?;
    // Before anything else, as Barman does: a wrong name is wrong under --test too.
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    WalFileName::parse(&name).map_err(|error| Failure::of_error(Exit::Input, &error))?;
    let mut place =
        Place::resolve(&args.destination_url, &args.server_name, &args.cloud, &args.own)?
            .encrypted(args.encryption.clone())?;
    place.options.azure_blocks = args.azure_upload.blocks();
    let pairs = |tags: Vec<Tag>| tags.into_iter().map(Into::into).collect::<Vec<_>>();
    let history_tags = TagArgs { tags: args.history_tags.clone(), tag: args.history_tag.clone() };
    let history_tags = history_tags.into_tags();
    let options = PushOptions {
        compression: compression_of(&args)
            .map(|algorithm| (algorithm, args.compression_level.unwrap_or_default())),
        tags: pairs(args.tags.into_tags()),
        history_tags: (!history_tags.is_empty()).then(|| pairs(history_tags)),
        other_content: match args.allow_overwrite {
            true => OtherContent::Overwrite,
            false => OtherContent::Refuse,
        },
    };
    let batch = batch_of(args.jobs, args.spool_dir, &place);
    Ok(Resolved { place, path, options, batch })
}

fn batch_of(jobs: u32, spool_dir: PathBuf, place: &Place) -> Option<BatchOptions> {
    let files_max = usize::try_from(jobs).ok().and_then(NonZeroUsize::new)?;
    // Another scope than that of wal-restore, which may be given the same directory.
    let scope = format!("receipts {}", place.scope());
    let receipts = SpoolOptions { directory: spool_dir, scope };
    (jobs > 1).then_some(BatchOptions { files_max, receipts })
}

/// The file that Barman names when it calls us as a hook script, else the one on the command
/// line.
fn path_of(args: &WalArchiveArgs, environment: &Environment) -> Result<PathBuf, Failure> {
    let lookup = |name: &str| environment.get(name).map(Into::into);
    let hook = hook::wal_hook(&lookup).map_err(|error| {
        Failure::of_error(exit::of_wal_hook(&error), &error).hint_if_none(error.hint())
    })?;
    hook.map(|hook| hook.file).or_else(|| args.wal_path.clone()).ok_or_else(|| {
        Failure::new(Exit::Failed, "no WAL file was named")
            .hint("wal_path can be left out only in a hook script of a Barman server.")
    })
}

fn compression_of(args: &WalArchiveArgs) -> Option<Compression> {
    [
        (args.gzip, Compression::Gzip),
        (args.bzip2, Compression::Bzip2),
        (args.xz, Compression::Xz),
        (args.snappy, Compression::Snappy),
        (args.zstd, Compression::Zstd),
        (args.lz4, Compression::Lz4),
    ]
    .into_iter()
    .find_map(|(chosen, compression)| chosen.then_some(compression))
}

#[cfg(test)]
mod tests {
    use crate::codec::{Compression, CompressionLevel};
    use crate::command::environment::Environment;
    use crate::command::exit::Exit;
    use crate::command::launch::read;
    use crate::command::program::Program;
    use crate::command::report::Failure;
    use crate::command::wal_archive::{Resolved, WalArchiveArgs, resolve};
    use crate::wal_archive::OtherContent;
    use std::path::Path;

    const SEGMENT: &str = "/pg_wal/000000010000000000000001";

    fn resolved(words: &[&str], variables: &[(&str, &str)]) -> Result<Resolved, Failure> {
        let args = read(Program::WalArchive, words.iter().copied()).expect("args");
        resolve(args, &Environment::of(variables.iter().copied()))
    }

    #[test]
    fn options_reach_the_push() {
        let words = ["--xz", "--compression-level=-5", "--tags", "a,b", "c,d", "--history-tag"];
        let words = [&words[..], &["e,f", "--max-block-size=1MB", "s3://b", "main", SEGMENT]];
        let Resolved { place, path, options, batch } =
            resolved(&words.concat(), &[]).expect("resolved");
        assert!(batch.is_none());
        assert_eq!(path, Path::new(SEGMENT));
        assert_eq!(options.compression, Some((Compression::Xz, CompressionLevel::Number(-5))));
        assert_eq!((options.tags.len(), options.history_tags.map(|tags| tags.len())), (2, Some(1)));
        assert_eq!(options.other_content, OtherContent::Refuse);
        let blocks = place.options.azure_blocks;
        assert_eq!((blocks.block_max_bytes, blocks.single_put_max_bytes), (1 << 20, 64 << 20));
    }

    #[test]
    fn jobs_make_a_batch_with_receipts_of_their_own() {
        let words = ["--jobs", "4", "--spool-dir", "/s", "s3://b", "main", SEGMENT];
        let batch = resolved(&words, &[]).expect("resolved").batch.expect("batch");
        assert_eq!(batch.files_max.get(), 4);
        assert_eq!(batch.receipts.directory, Path::new("/s"));
        assert!(batch.receipts.scope.starts_with("receipts "));
        let refused = read::<WalArchiveArgs>(Program::WalArchive, ["--jobs=0", "b", "m", SEGMENT]);
        assert!(refused.is_err());
    }

    #[test]
    fn history_files_have_the_other_tags_unless_they_have_their_own() {
        let resolved = resolved(&["--tag=a,b", "s3://b", "main", SEGMENT], &[]).expect("resolved");
        assert_eq!(resolved.options.history_tags, None);
    }

    #[test]
    fn a_hook_names_the_file_and_wins_over_the_command_line() {
        let hook = [
            ("BARMAN_HOOK", "archive_retry_script"),
            ("BARMAN_PHASE", "pre"),
            ("BARMAN_FILE", "/x/000000010000000000000002"),
        ];
        for words in [&["s3://b", "main"][..], &["s3://b", "main", SEGMENT]] {
            let resolved = resolved(words, &hook).expect("resolved");
            assert_eq!(resolved.path, Path::new("/x/000000010000000000000002"));
        }
        let refused = resolved(&["s3://b", "main"], &hook[..2]).expect_err("no file");
        assert_eq!(refused.exit, Exit::Failed);
    }

    #[test]
    fn no_file_is_1_and_a_wrong_name_is_3() {
        let exit = |words: &[&str]| resolved(words, &[]).expect_err("refused").exit;
        assert_eq!(exit(&["s3://b", "main"]), Exit::Failed);
        assert_eq!(exit(&["s3://b", "main", "/pg_wal/x"]), Exit::Input);
        assert_eq!(exit(&["s3://b", "main", "/"]), Exit::Input);
        assert_eq!(exit(&["b", "main", SEGMENT]), Exit::Other);
    }
}
