//! Options of snapshot backups, and what they mean together.

use crate::backup::SnapshotBackupOptions;
use crate::cloud::CloudProvider;
use crate::codec::Compression;
use crate::command::backup::BackupArgs;
use crate::command::exit::Exit;
use crate::command::one_of::OneOf;
use crate::command::report::Failure;
use crate::command::value;
use crate::snapshot::{LockMode, LockTerm, Patience, SnapshotLock, SnapshotPlace};
use clap::Args;
use jiff::Timestamp;
use std::time::Duration;
use tracing::warn;

const LOCK_MODES: &[(&str, LockMode)] =
    &[("governance", LockMode::Governance), ("compliance", LockMode::Compliance)];

/// How often AWS is asked; Barman's rhythm.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// For clouds without an option: the first snapshot of a large disk takes hours.
const TIMEOUT_ELSEWHERE: Duration = Duration::from_secs(24 * 3600);

/// A snapshot backup that was asked for, everything decided.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    pub place: SnapshotPlace,
    pub options: SnapshotBackupOptions,
}

/// Options of snapshot backups.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Snapshots")]
pub struct SnapshotArgs {
    /// The instance whose disks hold the cluster
    #[arg(long, value_name = "NAME")]
    pub snapshot_instance: Option<String>,
    /// A disk to take a snapshot of; may be repeated
    #[arg(long, value_name = "NAME")]
    pub snapshot_disk: Vec<String>,
    /// The Google Cloud project [deprecated: --snapshot-gcp-project]
    #[arg(long, alias = "snapshot-gcp-project", value_name = "NAME")]
    pub gcp_project: Option<String>,
    /// The Google Cloud zone [deprecated: --snapshot-zone]
    #[arg(long, alias = "snapshot-zone", value_name = "NAME")]
    pub gcp_zone: Option<String>,
    /// The Azure subscription
    #[arg(long, value_name = "ID")]
    pub azure_subscription_id: Option<String>,
    /// The Azure resource group
    #[arg(long, value_name = "NAME")]
    pub azure_resource_group: Option<String>,
    /// The AWS region of the instance
    #[arg(long, value_name = "NAME")]
    pub aws_region: Option<String>,
    /// How long to wait for AWS snapshots
    #[arg(long, value_name = "SECONDS", value_parser = value::positive, default_value = "3600")]
    pub aws_await_snapshots_timeout: u32,
    /// How AWS snapshots are locked
    #[arg(long, value_name = "MODE", ignore_case = true, value_parser = OneOf(LOCK_MODES))]
    pub aws_snapshot_lock_mode: Option<LockMode>,
    /// For how long AWS snapshots are locked
    #[arg(long, value_name = "DAYS", value_parser = value::lock_duration,
          conflicts_with = "aws_snapshot_lock_expiration_date")]
    pub aws_snapshot_lock_duration: Option<u32>,
    /// Until when AWS snapshots are locked
    #[arg(long, value_name = "TIME", value_parser = value::lock_expiration)]
    pub aws_snapshot_lock_expiration_date: Option<Timestamp>,
    /// How long a compliance lock can still be changed
    #[arg(long, value_name = "HOURS", value_parser = value::lock_cool_off_period)]
    pub aws_snapshot_lock_cool_off_period: Option<u32>,
}

impl SnapshotArgs {
    /// The snapshot backup that is asked for; `None` for a backup of files.
    pub fn resolve(
        &self,
        backup: &BackupArgs,
        compression: Option<Compression>,
        now: Timestamp,
    ) -> Result<Option<SnapshotRequest>, Failure> {
        let provider = backup.cloud.cloud_provider;
        let lock = self.lock(now)?;
        if compression.is_some() && (self.snapshot_instance.is_some() || self.any_given()) {
            return Err(refused("snapshot options cannot be used with compression"));
        }
        let instance = match (&self.snapshot_instance, self.snapshot_disk.is_empty()) {
            (Some(instance), false) => instance.clone(),
            (Some(_), true) => {
                return Err(refused("option --snapshot-instance needs --snapshot-disk"));
            }
            (None, false) => {
                return Err(refused("option --snapshot-disk needs --snapshot-instance"));
            }
            (None, true) => {
                for option in self.without_effect() {
                    warn!(
                        "option {option} has no effect without --snapshot-instance and \
                         --snapshot-disk"
                    );
                }
                return Ok(None);
            }
        };
        if backup.encryption.kms_key_name.is_some() {
            return Err(refused("option --kms-key-name cannot be used with snapshots"));
        }
        if lock.is_some() && provider != CloudProvider::AwsS3 {
            return Err(refused("only AWS can lock snapshots"));
        }
        let options = SnapshotBackupOptions {
            instance,
            disks: self.snapshot_disk.clone(),
            server_name: backup.server_name.clone(),
            lock,
            patience: Patience { timeout: self.timeout(provider), pause_max: PAUSE_MAX },
        };
        Ok(Some(SnapshotRequest { place: self.place(provider)?, options }))
    }

    fn place(&self, provider: CloudProvider) -> Result<SnapshotPlace, Failure> {
        let needed = |option: &'static str, value: &Option<String>| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| refused(format!("snapshots on this cloud need option {option}")))
        };
        Ok(match provider {
            CloudProvider::AwsS3 => SnapshotPlace::Aws { region: self.aws_region.clone() },
            CloudProvider::AzureBlobStorage => SnapshotPlace::Azure {
                subscription_id: needed("--azure-subscription-id", &self.azure_subscription_id)?,
                resource_group: needed("--azure-resource-group", &self.azure_resource_group)?,
            },
            CloudProvider::GoogleCloudStorage => SnapshotPlace::Google {
                project: needed("--gcp-project", &self.gcp_project)?,
                zone: Some(needed("--gcp-zone", &self.gcp_zone)?),
            },
        })
    }

    fn timeout(&self, provider: CloudProvider) -> Duration {
        match provider {
            CloudProvider::AwsS3 => {
                Duration::from_secs(u64::from(self.aws_await_snapshots_timeout))
            }
            CloudProvider::AzureBlobStorage | CloudProvider::GoogleCloudStorage => {
                TIMEOUT_ELSEWHERE
            }
        }
    }

    /// The lock that mode, term and cool-off period make together. Barman passes over a term
    /// without a mode, and the snapshots that somebody wanted locked are not.
    fn lock(&self, now: Timestamp) -> Result<Option<SnapshotLock>, Failure> {
        let days = self.aws_snapshot_lock_duration.map(LockTerm::Days);
        let until = self.aws_snapshot_lock_expiration_date.map(LockTerm::Until);
        let cool_off_hours = self.aws_snapshot_lock_cool_off_period;
        let Some(mode) = self.aws_snapshot_lock_mode else {
            return match (days.or(until), cool_off_hours) {
                (None, None) => Ok(None),
                _ => Err(refused("the lock options need --aws-snapshot-lock-mode")),
            };
        };
        if mode == LockMode::Governance && cool_off_hours.is_some() {
            return Err(refused(
                "option --aws-snapshot-lock-cool-off-period needs --aws-snapshot-lock-mode \
                 compliance",
            ));
        }
        let Some(term) = days.or(until) else {
            return Err(refused(
                "option --aws-snapshot-lock-mode needs --aws-snapshot-lock-duration or \
                 --aws-snapshot-lock-expiration-date",
            ));
        };
        if let LockTerm::Until(time) = term
            && time <= now
        {
            return Err(refused(format!(
                "option --aws-snapshot-lock-expiration-date: \"{time}\" is in the past"
            )));
        }
        Ok(Some(SnapshotLock { mode, term, cool_off_hours }))
    }

    fn any_given(&self) -> bool {
        !self.snapshot_disk.is_empty() || self.without_effect().next().is_some()
    }

    /// The options that were given although they only say how snapshots are taken.
    fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        let expires = self.aws_snapshot_lock_expiration_date.is_some();
        let cools_off = self.aws_snapshot_lock_cool_off_period.is_some();
        [
            ("--gcp-project", self.gcp_project.is_some()),
            ("--gcp-zone", self.gcp_zone.is_some()),
            ("--azure-subscription-id", self.azure_subscription_id.is_some()),
            ("--azure-resource-group", self.azure_resource_group.is_some()),
            ("--aws-region", self.aws_region.is_some()),
            ("--aws-await-snapshots-timeout", self.aws_await_snapshots_timeout != 3600),
            ("--aws-snapshot-lock-mode", self.aws_snapshot_lock_mode.is_some()),
            ("--aws-snapshot-lock-duration", self.aws_snapshot_lock_duration.is_some()),
            ("--aws-snapshot-lock-expiration-date", expires),
            ("--aws-snapshot-lock-cool-off-period", cools_off),
        ]
        .into_iter()
        .filter_map(|(option, given)| given.then_some(option))
    }
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Other, message)
}

#[cfg(test)]
mod tests {
    use crate::command::backup::BackupArgs;
    use crate::command::exit::Exit;
    use crate::command::launch::read;
    use crate::command::program::Program;
    use crate::command::report::Failure;
    use crate::command::snapshots::SnapshotRequest;
    use crate::snapshot::{LockMode, LockTerm, SnapshotPlace};

    fn resolve(options: &[&str]) -> Result<Option<SnapshotRequest>, Failure> {
        let words = options.iter().copied().chain(["s3://b/p", "main"]);
        let args: BackupArgs = read(Program::Backup, words).expect("args");
        let compression = args.gzip.then_some(crate::codec::Compression::Gzip);
        args.snapshot.resolve(&args, compression, "2026-11-20T23:58:32Z".parse().expect("time"))
    }

    const BOTH: [&str; 2] = ["--snapshot-instance=i", "--snapshot-disk=d"];

    #[test]
    fn instance_and_disks_make_a_snapshot_backup() {
        assert!(resolve(&[]).expect("files").is_none());
        let request = resolve(&[&BOTH[..], &["--snapshot-disk=e", "--aws-region=r"]].concat());
        let request = request.expect("resolved").expect("snapshots");
        assert_eq!(request.options.disks, ["d", "e"]);
        assert_eq!(request.options.server_name, "main");
        assert_eq!(request.options.patience.timeout.as_secs(), 3600);
        assert_eq!(request.place, SnapshotPlace::Aws { region: Some("r".into()) });
    }

    #[test]
    fn each_cloud_needs_its_place() {
        let google = "--cloud-provider=google-cloud-storage";
        let place = |options: &[&str]| {
            let request = resolve(&[&BOTH[..], options].concat()).map_err(|failure| failure.exit);
            request.map(|request| request.expect("snapshots").place)
        };
        assert_eq!(place(&[google, "--gcp-zone=z"]), Err(Exit::Other));
        assert_eq!(
            place(&[google, "--gcp-zone=z", "--gcp-project=p"]),
            Ok(SnapshotPlace::Google { project: "p".into(), zone: Some("z".into()) })
        );
        let azure = "--cloud-provider=azure-blob-storage";
        assert_eq!(place(&[azure, "--azure-resource-group=g"]), Err(Exit::Other));
    }

    #[test]
    fn what_does_not_fit_together_exits_4() {
        let lock = |option: &'static str| [&BOTH[..], &[option]].concat();
        let mode = "--aws-snapshot-lock-mode=governance";
        for options in [
            vec!["--snapshot-instance=i"],
            vec!["--snapshot-disk=d"],
            [&BOTH[..], &["--gzip"]].concat(),
            vec!["--gzip", "--aws-region=r"],
            [&BOTH[..], &["--kms-key-name=k"]].concat(),
            lock("--aws-snapshot-lock-duration=3"),
            lock("--aws-snapshot-lock-cool-off-period=3"),
            lock("--aws-snapshot-lock-expiration-date=2030-01-01T00:00:00.000Z"),
            lock(mode),
            [
                &BOTH[..],
                &[mode, "--aws-snapshot-lock-duration=3", "--aws-snapshot-lock-cool-off-period=3"],
            ]
            .concat(),
            [&BOTH[..], &[mode, "--aws-snapshot-lock-expiration-date=2020-01-01T00:00:00.000Z"]]
                .concat(),
        ] {
            let failure = resolve(&options).expect_err("refused");
            assert_eq!(failure.exit, Exit::Other, "{options:?}");
        }
    }

    #[test]
    fn mode_term_and_cool_off_period_make_a_lock() {
        let request = resolve(
            &[
                &BOTH[..],
                &[
                    "--aws-snapshot-lock-mode=COMPLIANCE",
                    "--aws-snapshot-lock-duration=3",
                    "--aws-snapshot-lock-cool-off-period=72",
                ],
            ]
            .concat(),
        );
        let lock = request.expect("resolved").expect("snapshots").options.lock.expect("lock");
        assert_eq!((lock.mode, lock.term), (LockMode::Compliance, LockTerm::Days(3)));
        assert_eq!(lock.cool_off_hours, Some(72));
    }
}
