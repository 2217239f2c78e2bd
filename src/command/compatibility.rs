//! Tests: every option of Barman 3.19.1, and every abbreviation of one, means here what it
//! means there.

use crate::command::argv::{Request, sort, spellings};
use crate::command::backup::BackupArgs;
use crate::command::backup_delete::BackupDeleteArgs;
use crate::command::backup_keep::BackupKeepArgs;
use crate::command::backup_list::BackupListArgs;
use crate::command::backup_show::BackupShowArgs;
use crate::command::check_wal_archive::CheckWalArchiveArgs;
use crate::command::launch::command_of;
use crate::command::program::Program;
use crate::command::restore::RestoreArgs;
use crate::command::wal_archive::WalArchiveArgs;
use crate::command::wal_restore::WalRestoreArgs;
use clap::Command;
use std::collections::BTreeSet;

const EVERYWHERE: &str = "--version -V --help --verbose -v --quiet -q --test -t --cloud-provider \
    --endpoint-url --aws-profile -P --profile --read-timeout --addressing-style \
    --azure-credential --credential --default";

const ENCRYPTION: &str =
    "--encryption -e --sse-kms-key-id --encryption-scope --kms-key-name --tags --tag";

/// The options of each command, as its usage shows them.
fn barman_options(program: Program) -> BTreeSet<&'static str> {
    let own = match program {
        Program::Backup => {
            "--gzip -z --bzip2 -j --snappy --lz4 --host -h --port -p --user -U --dbname -d \
             --immediate-checkpoint --jobs -J --max-archive-size -S --min-chunk-size \
             --max-bandwidth --name -n --snapshot-instance --snapshot-disk --gcp-project \
             --snapshot-gcp-project --gcp-zone --snapshot-zone --azure-subscription-id \
             --azure-resource-group --aws-region --aws-await-snapshots-timeout \
             --aws-snapshot-lock-mode --aws-snapshot-lock-duration \
             --aws-snapshot-lock-expiration-date --aws-snapshot-lock-cool-off-period"
        }
        Program::BackupDelete => {
            "--backup-id -b --retention-policy -r --minimum-redundancy -m --dry-run \
             --batch-size --check-object-lock"
        }
        Program::BackupKeep => "--release -r --status -s --target",
        Program::BackupList | Program::BackupShow => "--format",
        Program::CheckWalArchive => "--timeline",
        Program::Restore => {
            "--tablespace --target-tli --target-time --target-lsn \
             --snapshot-recovery-instance --aws-region --gcp-zone --snapshot-recovery-zone \
             --azure-resource-group"
        }
        Program::WalArchive => {
            "--gzip -z --bzip2 -j --xz --snappy --zstd --lz4 --compression-level --history-tags \
             --history-tag --max-block-size --max-concurrency --max-single-put-size"
        }
        Program::WalRestore => "--no-partial --parallel -p --spool-dir",
    };
    let encryption = match program {
        Program::Backup | Program::WalArchive => ENCRYPTION,
        _ => "",
    };
    [EVERYWHERE, encryption, own].iter().flat_map(|list| list.split_whitespace()).collect()
}

fn command(program: Program) -> Command {
    match program {
        Program::Backup => command_of::<BackupArgs>(program),
        Program::BackupDelete => command_of::<BackupDeleteArgs>(program),
        Program::BackupKeep => command_of::<BackupKeepArgs>(program),
        Program::BackupList => command_of::<BackupListArgs>(program),
        Program::BackupShow => command_of::<BackupShowArgs>(program),
        Program::CheckWalArchive => command_of::<CheckWalArchiveArgs>(program),
        Program::Restore => command_of::<RestoreArgs>(program),
        Program::WalArchive => command_of::<WalArchiveArgs>(program),
        Program::WalRestore => command_of::<WalRestoreArgs>(program),
    }
}

#[test]
fn the_options_that_are_not_marked_as_ours_are_exactly_barmans() {
    for program in Program::ALL {
        let command = command(program);
        let known = spellings(&command);
        let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        assert_eq!(known, barman_options(program), "{}", program.name());
    }
}

/// The model: argparse takes a prefix when exactly one long option starts with it.
#[test]
fn every_abbreviation_that_barman_takes_means_the_same_here() {
    for program in Program::ALL {
        let command = command(program);
        let options = barman_options(program);
        for option in options.iter().filter(|option| option.starts_with("--")) {
            for end in 3..=option.len() {
                let prefix = &option[..end];
                let matches = options.iter().filter(|other| other.starts_with(prefix)).count();
                let exact = options.contains(prefix);
                let answer = read(&command, prefix);
                match matches == 1 || exact {
                    true if exact => assert!(answer.is_ok(), "{prefix}: {answer:?}"),
                    true => assert_eq!(answer, read(&command, option), "{prefix}"),
                    false => {
                        let message = answer.expect_err(prefix);
                        assert!(message.starts_with("ambiguous option"), "{prefix}: {message}");
                    }
                }
            }
        }
    }
}

/// What `option` with a value, or else without, is sorted into.
fn read(command: &Command, option: &str) -> Result<Request, String> {
    let with_value = vec![format!("{option}=1").into()];
    match sort(command, with_value) {
        Ok(request) => Ok(request),
        Err(error) if error.to_string().contains("takes no value") => {
            sort(command, vec![option.into()]).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}
