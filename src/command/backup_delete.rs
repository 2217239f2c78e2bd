//! `barman-cloud-backup-delete`: arguments, their resolution, the run.

use crate::catalog::{BackupSelector, Catalog};
use crate::cloud::CloudProvider;
use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::deleting;
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::perform::{now, perform, small_limits, test};
use crate::command::place::Place;
use crate::command::report::{self, Failure};
use crate::command::runtime::Threads;
use crate::command::value;
use crate::flow::Cancel;
use crate::retention::{
    self, DeleteOptions, DeleteSummary, DeleteTarget, LockCheck, RetentionPolicy,
};
use crate::snapshot::Clouds;
use clap::{ArgGroup, Parser};
use std::num::NonZeroUsize;
use tracing::{info, warn};

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(false)
    .args(["backup_id", "retention_policy"]))]
pub struct BackupDeleteArgs {
    /// Where backups are kept: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The backup to delete: ID, name or shortcut (first, oldest, last, latest, last-failed)
    #[arg(short, long, value_name = "ID")]
    pub backup_id: Option<String>,
    /// Delete what the policy makes obsolete: "REDUNDANCY n" or
    /// "RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS"
    #[arg(short, long, value_name = "POLICY")]
    pub retention_policy: Option<String>,
    /// How many backups must remain in any case
    #[arg(short, long, value_name = "N", value_parser = value::non_negative, default_value = "0")]
    pub minimum_redundancy: u32,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The most objects to delete in one request [default: what the store allows]
    #[arg(long, value_name = "N", value_parser = value::any_integer)]
    pub batch_size: Option<i64>,
    /// Look for object locks before anything is deleted (S3 only)
    #[arg(long)]
    pub check_object_lock: bool,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(BackupDeleteArgs);

pub fn run(args: BackupDeleteArgs, _: &Context) -> Result<Exit, Failure> {
    let mut place = Place::resolve(&args.source_url, &args.server_name, &args.cloud, &args.own)?;
    place.options.delete_batch_size = args.batch_size.map(batch_size);
    if args.talk.test {
        return test(&place);
    }
    let Some(target) = target_of(&args)? else {
        warn!("neither a backup nor a policy was named, nothing is deleted");
        return Ok(Exit::Success);
    };
    if args.check_object_lock && args.cloud.cloud_provider != CloudProvider::AwsS3 {
        warn!("option --check-object-lock has no effect on {}", args.cloud.cloud_provider);
    }
    let (catalog, clouds) = (place.catalog()?, place.clouds());
    perform(Threads::One, async |cancel| {
        delete(&catalog.until(&cancel), &clouds, &target, &args, &cancel).await
    })
}

/// Plans, then prints or carries out that plan.
async fn delete(
    catalog: &Catalog,
    clouds: &dyn Clouds,
    target: &DeleteTarget,
    args: &BackupDeleteArgs,
    cancel: &Cancel,
) -> Result<Exit, Failure> {
    let options = DeleteOptions {
        minimum_redundancy: args.minimum_redundancy,
        locks: match args.check_object_lock {
            true => LockCheck::Check,
            false => LockCheck::Skip,
        },
    };
    let plan = retention::plan(catalog, target, &options, &small_limits(), now(), cancel).await?;
    if let Some(id) = &plan.absent {
        warn!(backup_id = %id, "the backup does not exist, nothing is deleted");
    }
    for repair in &plan.repairs {
        warn!(backup_id = %repair.id(), "the backup is whole but for its backup.info");
    }
    if args.dry_run {
        report::print(&deleting::dry_run(&plan))?;
        plan.into_result()?;
        return Ok(Exit::Success);
    }
    let summary = retention::apply(catalog, clouds, plan, cancel).await?;
    let DeleteSummary { backups, objects, wals, snapshots, debris } = summary;
    info!(backups = backups.len(), objects, wals, snapshots, debris, "deletion completed");
    Ok(Exit::Success)
}

/// What to delete; nothing for an empty word, as with Barman.
fn target_of(args: &BackupDeleteArgs) -> Result<Option<DeleteTarget>, Failure> {
    match (args.backup_id.as_deref(), args.retention_policy.as_deref()) {
        (Some(""), _) | (_, Some("")) | (None, None) => Ok(None),
        (Some(text), _) => Ok(Some(DeleteTarget::Backup(BackupSelector::parse(text)))),
        (None, Some(text)) => match RetentionPolicy::parse(text) {
            Ok(policy) => Ok(Some(DeleteTarget::Policy(policy))),
            Err(error) => {
                let message = format!("option --retention-policy: {error}");
                Err(Failure::new(Exit::Input, message).hint(error.hint()))
            }
        },
    }
}

/// Clamped to at least one; the store knows its own maximum.
fn batch_size(number: i64) -> NonZeroUsize {
    usize::try_from(number).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use crate::command::backup_delete::{BackupDeleteArgs, batch_size, target_of};
    use crate::command::exit::Exit;
    use crate::command::launch::read;
    use crate::command::program::Program;
    use crate::retention::{DeleteTarget, RetentionPolicy};

    fn args(options: &[&str]) -> BackupDeleteArgs {
        let words = options.iter().copied().chain(["s3://b", "main"]);
        read(Program::BackupDelete, words).expect("args")
    }

    #[test]
    fn an_empty_word_deletes_nothing() {
        for options in [&["-b", ""][..], &["--retention-policy="]] {
            assert_eq!(target_of(&args(options)), Ok(None), "{options:?}");
        }
    }

    #[test]
    fn a_policy_that_is_none_exits_3() {
        let policy = RetentionPolicy::RecoveryWindow { days: 7 };
        let target = target_of(&args(&["-r", "recovery window of 1 WEEK"]));
        assert_eq!(target, Ok(Some(DeleteTarget::Policy(policy))));
        for text in ["7days", "main", "REDUNDANCY", "REDUNDANCY -1"] {
            let refused = target_of(&args(&["-r", text])).expect_err(text);
            assert_eq!(refused.exit, Exit::Input, "{text}");
        }
    }

    #[test]
    fn batches_have_at_least_one_object() {
        for (number, size) in [(-3, 1), (0, 1), (1, 1), (5000, 5000)] {
            assert_eq!(batch_size(number).get(), size);
        }
    }
}
