//! From what went wrong to the code that the process exits with (contract §3).
//!
//! One exhaustive match per room's errors, without a wild card: a new meaning must choose its
//! code. PostgreSQL takes 1 to 125 of `restore_command` as "not available" and stops recovery
//! above that, so only signals answer with more, as a shell would, and what must not be taken for
//! an absence.

use crate::backup::BackupError;
use crate::catalog::CatalogError;
use crate::hook::HookError;
use crate::postgres::PostgresError;
use crate::restore::RestoreError;
use crate::retention::RetentionError;
use crate::snapshot::SnapshotErrorKind;
use crate::store::{StoreError, StoreErrorKind};
use crate::wal_archive::WalArchiveError;
use std::process::ExitCode;

/// The codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// The operation failed although the store answered. From `wal-restore`: the file is
    /// positively not in the archive.
    Failed,
    /// No connection, where the contract tells it apart (`--test`, `check-wal-archive`).
    Network,
    /// The command line or an input name is wrong.
    Input,
    /// Everything else; network failures outside of tests too.
    Other,
    /// A hook script after a backup that Barman did not complete; trying again is no use.
    HookNotDone,
    Interrupted,
    Terminated,
    /// A doubtful answer to a server in archive recovery, which would promote on any other code;
    /// or a fault of this program, whose answer nobody may believe. The number is one that
    /// neither shells (126, 127) nor signals (129 to 192) use.
    RecoveryMustStop,
}

impl Exit {
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Network => 2,
            Self::Input => 3,
            Self::Other => 4,
            Self::HookNotDone => 63,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::RecoveryMustStop => 250,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Network failures are nothing special outside of tests: Barman's catch-all.
pub fn of_store(error: &StoreError) -> Exit {
    match error.kind {
        StoreErrorKind::Denied
        | StoreErrorKind::NoCredentials
        | StoreErrorKind::BucketMissing
        | StoreErrorKind::ObjectMissing
        | StoreErrorKind::Unreachable
        | StoreErrorKind::Interrupted
        | StoreErrorKind::Stopped
        | StoreErrorKind::Refused
        | StoreErrorKind::Full
        | StoreErrorKind::Other => Exit::Other,
    }
}

/// Under `--test`, and in `check-wal-archive`, no connection has a code of its own. A time-out
/// has not: there the other side was reached.
pub fn of_store_when_testing(error: &StoreError) -> Exit {
    match error.kind {
        StoreErrorKind::Unreachable => Exit::Network,
        StoreErrorKind::Denied
        | StoreErrorKind::NoCredentials
        | StoreErrorKind::BucketMissing
        | StoreErrorKind::ObjectMissing
        | StoreErrorKind::Interrupted
        | StoreErrorKind::Stopped
        | StoreErrorKind::Refused
        | StoreErrorKind::Full
        | StoreErrorKind::Other => Exit::Other,
    }
}

/// A backup that is not there is 1, a name that stands for none is 4, as with Barman.
pub fn of_catalog(error: &CatalogError) -> Exit {
    match error {
        CatalogError::Store(error) => of_store(error),
        CatalogError::AbsentBackup { .. }
        | CatalogError::NotDone { .. }
        | CatalogError::KeepNotChanged { .. }
        | CatalogError::Incomplete(_)
        | CatalogError::OtherCluster { .. }
        | CatalogError::WrittenOtherwise { .. }
        | CatalogError::NoFreeId { .. } => Exit::Failed,
        CatalogError::UnknownBackup { .. }
        | CatalogError::AmbiguousName { .. }
        | CatalogError::Unreadable { .. }
        | CatalogError::Malformed { .. } => Exit::Other,
    }
}

/// Connecting, as libpq understands it, and everything after it is part of the backup, whose
/// failures are 1. Barman itself looks for a word without "=" before that: 4.
pub fn of_postgres(error: &PostgresError) -> Exit {
    match error {
        PostgresError::ConninfoIncomplete { .. } | PostgresError::TooOld { .. } => Exit::Other,
        PostgresError::ConninfoMalformed { .. }
        | PostgresError::Connect { .. }
        | PostgresError::Authentication { .. }
        | PostgresError::Privilege { .. }
        | PostgresError::Query { .. }
        | PostgresError::ConnectionLost { .. }
        | PostgresError::Cancelled => Exit::Failed,
    }
}

/// Whatever stops a backup once PostgreSQL was reached is 1, the store's failures too.
pub fn of_backup(error: &BackupError) -> Exit {
    match error {
        BackupError::Postgres(error) => of_postgres(error),
        BackupError::SnapshotRefused(_)
        | BackupError::NotMounted { .. }
        | BackupError::Uncovered { .. } => Exit::Other,
        BackupError::Catalog(_)
        | BackupError::Store(_)
        | BackupError::Refused { .. }
        | BackupError::Disk { .. }
        | BackupError::ControlFile { .. }
        | BackupError::Tarball { .. }
        | BackupError::Upload { .. }
        | BackupError::WalMissing { .. }
        | BackupError::WalNotOurs { .. }
        | BackupError::WalGone { .. }
        | BackupError::ObjectLost { .. }
        | BackupError::TimelineChanged { .. }
        | BackupError::MountsChanged
        | BackupError::Snapshot(_)
        | BackupError::Cancelled => Exit::Failed,
    }
}

/// What stands in the way of a deletion is 1, and so is WAL that could not be judged or deleted.
pub fn of_retention(error: &RetentionError) -> Exit {
    match error {
        RetentionError::Catalog(error) => of_catalog(error),
        RetentionError::Kept { .. }
        | RetentionError::MinimumRedundancy { .. }
        | RetentionError::HasChild { .. }
        | RetentionError::Locked { .. }
        | RetentionError::WalUnknown { .. }
        | RetentionError::Unreadable { .. }
        | RetentionError::NotDeleted { .. } => Exit::Failed,
        RetentionError::Snapshot { source, .. } => match source.kind {
            SnapshotErrorKind::Locked => Exit::Failed,
            _ => Exit::Other,
        },
        RetentionError::SnapshotRecord { .. } => Exit::Failed,
        RetentionError::Cancelled(_) => Exit::Other,
    }
}

/// A status other than DONE tells Barman not to try the script again.
pub fn of_backup_hook(error: &HookError) -> Exit {
    match error {
        HookError::Unsuitable { .. } | HookError::Missing { .. } => Exit::Other,
        HookError::NotDone { .. } => Exit::HookNotDone,
    }
}

/// Barman's command crashes on these.
pub fn of_wal_hook(error: &HookError) -> Exit {
    match error {
        HookError::Unsuitable { .. } | HookError::Missing { .. } | HookError::NotDone { .. } => {
            Exit::Failed
        }
    }
}

/// The archive's own refusals are 1, everything in the way of an answer is 4.
pub fn of_push(error: &WalArchiveError) -> Exit {
    match error {
        WalArchiveError::BadName(_) => Exit::Input,
        WalArchiveError::NotWal { .. }
        | WalArchiveError::OtherContent { .. }
        | WalArchiveError::OtherCluster { .. }
        | WalArchiveError::InTheWay { .. }
        | WalArchiveError::ControlFile { .. } => Exit::Failed,
        WalArchiveError::Source { .. }
        | WalArchiveError::Damaged { .. }
        | WalArchiveError::NoArchive { .. }
        | WalArchiveError::GaveUp { .. }
        | WalArchiveError::Store(_)
        | WalArchiveError::Catalog(_)
        | WalArchiveError::Codec(_)
        | WalArchiveError::Disk(_)
        | WalArchiveError::Spool(_)
        | WalArchiveError::Cancelled(_) => Exit::Other,
    }
}

/// Never 1: to whoever waits for WAL that means the end of it, and only the store may say so.
pub fn of_fetch(error: &WalArchiveError) -> Exit {
    match error {
        WalArchiveError::BadName(_) => Exit::Input,
        WalArchiveError::Spool(_) => Exit::Network,
        WalArchiveError::Source { .. }
        | WalArchiveError::NotWal { .. }
        | WalArchiveError::OtherContent { .. }
        | WalArchiveError::OtherCluster { .. }
        | WalArchiveError::InTheWay { .. }
        | WalArchiveError::ControlFile { .. }
        | WalArchiveError::Damaged { .. }
        | WalArchiveError::NoArchive { .. }
        | WalArchiveError::GaveUp { .. }
        | WalArchiveError::Store(_)
        | WalArchiveError::Catalog(_)
        | WalArchiveError::Codec(_)
        | WalArchiveError::Disk(_)
        | WalArchiveError::Cancelled(_) => Exit::Other,
    }
}

/// As [`of_push`], but no connection has its own code.
pub fn of_check(error: &WalArchiveError) -> Exit {
    match error {
        WalArchiveError::Store(error) => of_store_when_testing(error),
        error => of_push(error),
    }
}

/// What is wrong with the choice or the place is 1, a store or disk that fails is 4 (and is
/// tried again by CloudNativePG).
pub fn of_restore(error: &RestoreError) -> Exit {
    match error {
        RestoreError::Catalog(error) => of_catalog(error),
        RestoreError::Store(error) => of_store(error),
        RestoreError::NoCandidate
        | RestoreError::NotDone { .. }
        | RestoreError::Tarballs(_)
        | RestoreError::NotADirectory { .. }
        | RestoreError::TargetNotEmpty { .. }
        | RestoreError::OtherRestore { .. }
        | RestoreError::Journal { .. }
        | RestoreError::TablespaceOwner { .. }
        | RestoreError::Busy { .. }
        | RestoreError::TablespaceNotEmpty { .. }
        | RestoreError::TablespaceLocation { .. }
        | RestoreError::NoSpace { .. }
        | RestoreError::Incomplete { .. } => Exit::Failed,
        RestoreError::EmptyArchive { .. }
        | RestoreError::CurrentTimeline
        | RestoreError::Snapshot { .. }
        | RestoreError::Recovery { .. }
        | RestoreError::Snapshots(_)
        | RestoreError::Mount { .. }
        | RestoreError::SizeMismatch { .. }
        | RestoreError::MissingObject { .. }
        | RestoreError::Corrupt { .. }
        | RestoreError::EscapingMember { .. }
        | RestoreError::Disk { .. }
        | RestoreError::Cancelled
        | RestoreError::Worker(_)
        | RestoreError::Thread(_) => Exit::Other,
    }
}

#[cfg(test)]
mod tests {
    use crate::command::exit::{Exit, of_check, of_fetch, of_push, of_store};
    use crate::disk::{DiskError, DiskOperation};
    use crate::flow::Cancelled;
    use crate::store::{Effect, StoreError, StoreErrorKind, StoreOperation};
    use crate::wal::WalFileName;
    use crate::wal_archive::WalArchiveError;
    use std::io;
    use std::path::Path;
    use std::time::Duration;

    const KINDS: [StoreErrorKind; 9] = [
        StoreErrorKind::Denied,
        StoreErrorKind::NoCredentials,
        StoreErrorKind::BucketMissing,
        StoreErrorKind::ObjectMissing,
        StoreErrorKind::Unreachable,
        StoreErrorKind::Interrupted,
        StoreErrorKind::Refused,
        StoreErrorKind::Full,
        StoreErrorKind::Other,
    ];

    fn store(kind: StoreErrorKind) -> StoreError {
        StoreError {
            operation: StoreOperation::Read,
            kind,
            effect: Effect::SurelyNot,
            object: "s3://b/k".into(),
            reason: "a reason".into(),
            hint: None,
        }
    }

    fn disk() -> DiskError {
        DiskError::new(DiskOperation::Create, Path::new("/x"), io::Error::other("a reason"))
    }

    fn name() -> WalFileName {
        WalFileName::parse("000000010000000000000001").expect("name")
    }

    /// 1 means "the file is not there" to whoever waits for WAL: no error may say that.
    #[test]
    fn no_failure_of_a_fetch_exits_1() {
        for kind in KINDS {
            assert_eq!(of_fetch(&WalArchiveError::Store(store(kind))), Exit::Other, "{kind:?}");
            let gave_up = WalArchiveError::GaveUp {
                name: name(),
                attempts: 3,
                elapsed: Duration::from_secs(1),
                source: Box::new(store(kind)),
            };
            assert_eq!(of_fetch(&gave_up), Exit::Other, "{kind:?}");
        }
        let damaged =
            WalArchiveError::Damaged { object: "s3://b/k".into(), reason: "a reason".into() };
        assert_eq!(of_fetch(&damaged), Exit::Other);
        assert_eq!(of_fetch(&WalArchiveError::Disk(disk())), Exit::Other);
        assert_eq!(of_fetch(&WalArchiveError::Spool(disk())), Exit::Network);
        assert_eq!(of_fetch(&WalArchiveError::Cancelled(Cancelled)), Exit::Other);
        let nothing = WalArchiveError::NoArchive { name: name(), url: "s3://b/main".into() };
        assert_eq!(of_fetch(&nothing), Exit::Other);
        let wrong = WalFileName::parse("x").expect_err("wrong");
        assert_eq!(of_fetch(&WalArchiveError::BadName(wrong)), Exit::Input);
    }

    #[test]
    fn no_connection_has_a_code_of_its_own_only_where_that_is_the_question() {
        let unreachable = || store(StoreErrorKind::Unreachable);
        assert_eq!(of_store(&unreachable()), Exit::Other);
        assert_eq!(of_push(&WalArchiveError::Store(unreachable())), Exit::Other);
        assert_eq!(of_check(&WalArchiveError::Store(unreachable())), Exit::Network);
        for kind in KINDS.into_iter().filter(|kind| *kind != StoreErrorKind::Unreachable) {
            assert_eq!(of_check(&WalArchiveError::Store(store(kind))), Exit::Other, "{kind:?}");
        }
    }

    #[test]
    fn refusing_to_overwrite_is_1() {
        let other = WalArchiveError::OtherContent {
            name: name(),
            server: "main".into(),
            object: "s3://b/k".into(),
            detail: "It differs.".into(),
        };
        assert_eq!(of_push(&other), Exit::Failed);
    }
}
