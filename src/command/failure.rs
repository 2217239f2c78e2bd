//! From each room's errors to what is told: exit code, message chain, detail, hint.

use crate::backup::BackupError;
use crate::catalog::CatalogError;
use crate::command::exit;
use crate::command::exit::Exit;
use crate::command::report::Failure;
use crate::postgres::PostgresError;
use crate::restore::RestoreError;
use crate::retention::RetentionError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;
use crate::wal_archive::WalArchiveError;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of_error(exit::of_store(&error), &error)
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::of_error(exit::of_catalog(&error), &error).hint_if_none(error.hint())
    }
}

impl From<PostgresError> for Failure {
    fn from(error: PostgresError) -> Self {
        let failure = Self::of_error(exit::of_postgres(&error), &error);
        failure
            .detail_if_none(error.detail().map(Into::into))
            .hint_if_none(error.hint().map(Into::into))
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let exit = exit::of_backup(&error);
        let failure = match error {
            BackupError::Postgres(error) => Self::from(error),
            BackupError::Catalog(error) => Self::from(error),
            BackupError::Snapshot(error) | BackupError::SnapshotRefused(error) => {
                Self::of_error(exit, &error).hint_if_none(error.hint)
            }
            error => Self::of_error(exit, &error)
                .detail_if_none(error.detail())
                .hint_if_none(error.hint()),
        };
        Self { exit, ..failure }
    }
}

/// What keeps a cloud from being opened.
impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Self::of_error(Exit::Other, &error).hint_if_none(error.hint)
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self::of_error(exit::of_restore(&error), &error).hint_if_none(error.hint())
    }
}

impl From<RetentionError> for Failure {
    fn from(error: RetentionError) -> Self {
        Self::of_error(exit::of_retention(&error), &error).hint_if_none(error.hint())
    }
}

impl Failure {
    /// `exit` is what the verb's own match says: push, fetch and check share one error.
    pub fn of_wal(error: &WalArchiveError, exit: fn(&WalArchiveError) -> Exit) -> Self {
        Self::of_error(exit(error), error).detail_if_none(error.detail()).hint_if_none(error.hint())
    }
}
