//! Backup mode: from `pg_backup_start` to `pg_backup_stop` on one session.
//!
//! Only the non-exclusive mode is used: the label is PostgreSQL's answer to the stop, and a
//! session that ends without it leaves the server as it was.

use crate::flow::Cancel;
use crate::pgdata::{BackupLabel, TablespaceMap};
use crate::postgres::session::{ConnectionWatch, Session, value};
use crate::postgres::{ArchiverFailure, PostgresError, ServerVersion};
use crate::wal::{Lsn, TimelineId};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use std::time::Duration;
use tokio_postgres::Row;
use tracing::warn;

/// How the checkpoint that begins a backup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at the cost of an I/O burst.
    Fast,
    /// At the pace of regular checkpoints: may take minutes.
    Spread,
}

/// Who waits, when a backup ends on a primary, until its WAL is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveWait {
    /// PostgreSQL, without a limit. It looks once a second, so this costs a second at least.
    Server,
    /// Whoever called: the WAL that was switched to the archiver may not be there yet.
    Caller,
}

/// A server in backup mode. Dropping it ends the session and with it the backup.
#[derive(Debug)]
pub struct StartedBackup {
    session: Session,
    in_recovery: bool,
    pub begin: Lsn,
    pub timeline: TimelineId,
    /// Taken before the checkpoint, in the session's time zone.
    pub begin_time: Zoned,
}

/// What PostgreSQL hands over when a backup ends.
#[derive(Clone, Debug)]
pub struct StoppedBackup {
    pub label: BackupLabel,
    /// To be written as `tablespace_map` by who restores the links that way; empty without
    /// tablespaces.
    pub tablespace_map: TablespaceMap,
    /// WAL from [`BackupLabel::start`] up to here, excluded, is what the backup needs.
    pub end: Lsn,
    pub timeline: TimelineId,
    /// Taken after the stop, in the session's time zone: a recovery target before it may
    /// not be reachable.
    pub end_time: Zoned,
    /// Set when this server's archiver was not getting anywhere.
    pub archiver_failure: Option<ArchiverFailure>,
}

const START: &str = "start the backup";
const STOP: &str = "stop the backup";

impl Session {
    /// Tells whether the role may do what a backup needs, before anything is begun.
    pub async fn check_privileges(&self, cancel: &Cancel) -> Result<(), PostgresError> {
        let what = "check the privileges";
        let functions = Functions::of(self.version());
        let statement = "SELECT has_function_privilege($1, 'EXECUTE'), \
             has_function_privilege($2, 'EXECUTE'), pg_has_role('pg_read_all_settings', 'USAGE')";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&functions.start_signature, &functions.stop_signature];
        let row = self.one_row(what, statement, &parameters, cancel).await?;
        let needs = [
            functions.start_signature,
            functions.stop_signature,
            "membership in pg_read_all_settings",
        ];
        let mut missing = Vec::new();
        for (index, need) in needs.into_iter().enumerate() {
            if !value::<bool>(&row, index, what)? {
                missing.push(need);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(PostgresError::Privilege {
            role: self.role().into(),
            missing: missing.join(", "),
            hint: self.grant_hint(),
        })
    }

    /// The statements that let the role take backups; contract §8.2.
    pub(crate) fn grant_hint(&self) -> String {
        let role = self.role().replace('"', "\"\"");
        let Functions { start_signature, stop_signature, .. } = Functions::of(self.version());
        format!(
            "As a superuser, run: GRANT pg_monitor TO \"{role}\"; GRANT EXECUTE ON FUNCTION \
             {start_signature}, {stop_signature}, pg_catalog.pg_switch_wal(), \
             pg_catalog.pg_create_restore_point(text) TO \"{role}\";"
        )
    }

    /// Puts the server into backup mode; with [`Checkpoint::Spread`] this takes as long as
    /// a checkpoint does.
    pub async fn start_backup(
        self,
        label: &str,
        checkpoint: Checkpoint,
        cancel: &Cancel,
    ) -> Result<StartedBackup, PostgresError> {
        let statement = Functions::of(self.version()).start;
        let fast = checkpoint == Checkpoint::Fast;
        let row = self.one_row(START, statement, &[&label, &fast], cancel).await?;
        let begin = lsn(&row, 0, START)?;
        let begin_time = time(&row, 1, START)?;
        let in_recovery: bool = value(&row, 3, START)?;
        // Asked after the start: its checkpoint is the one the control file now names.
        let statement = "SELECT timeline_id FROM pg_control_checkpoint()";
        let row = self.one_row(START, statement, &[], cancel).await?;
        let timeline = timeline(&row, 0, START)?;
        Ok(StartedBackup { session: self, in_recovery, begin, timeline, begin_time })
    }
}

impl StartedBackup {
    /// Tells from anywhere when the backup is lost because its connection is.
    pub fn watch(&self) -> ConnectionWatch {
        self.session.watch()
    }

    /// Asks the server for a sign of life, waiting up to `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), PostgresError> {
        self.session.ping(limit).await
    }

    /// Ends backup mode and the session.
    ///
    /// A primary hands the last WAL of the backup to its archiver (and waits, as `wait` says);
    /// it then switches WAL and leaves `restore_point` in it, whose failure is only a warning
    /// because the backup is complete by then.
    pub async fn stop(
        self,
        restore_point: &str,
        wait: ArchiveWait,
        cancel: &Cancel,
    ) -> Result<StoppedBackup, PostgresError> {
        let session = &self.session;
        let statement = Functions::of(session.version()).stop;
        let waits = wait == ArchiveWait::Server;
        let row = session.one_row(STOP, statement, &[&waits], cancel).await?;
        let stopped = StoppedBackup {
            end: lsn(&row, 0, STOP)?,
            label: label(&row)?,
            tablespace_map: tablespace_map(&row)?,
            end_time: time(&row, 3, STOP)?,
            timeline: timeline(&row, 5, STOP)?,
            // Only for what is told when the WAL does not come.
            archiver_failure: session.archiver_failure(cancel).await.ok().flatten(),
        };
        if !self.in_recovery {
            self.mark_end(restore_point, cancel).await;
        }
        self.session.end().await;
        Ok(stopped)
    }

    /// Gives the backup up: the server leaves backup mode without a label.
    pub async fn abort(self) {
        self.session.end().await;
    }

    async fn mark_end(&self, restore_point: &str, cancel: &Cancel) {
        let session = &self.session;
        let switched = session
            .one_row("switch to a new WAL segment", "SELECT pg_switch_wal()::text", &[], cancel)
            .await;
        let statement = "SELECT pg_create_restore_point($1)::text";
        let marked =
            session.one_row("create a restore point", statement, &[&restore_point], cancel).await;
        for error in [switched.err(), marked.err()].into_iter().flatten() {
            warn!(%error, hint = error.hint(), "could not mark the end of the backup in the WAL; the backup is complete without it");
        }
    }
}

/// The backup functions by server version: renamed in 15, where exclusive mode went.
struct Functions {
    start: &'static str,
    start_signature: &'static str,
    stop: &'static str,
    stop_signature: &'static str,
}

/// Columns: LSN, time (microseconds since 1970, seconds east of UTC), in recovery.
macro_rules! start_statement {
    ($call:literal) => {
        concat!(
            "SELECT ",
            $call,
            "::text, (extract(epoch FROM now()) * 1000000)::int8, \
             extract(timezone FROM now())::int4, pg_is_in_recovery()"
        )
    };
}

/// Columns: LSN, label, tablespace map, time (two columns), timeline.
///
/// On a standby the end is what replay had reached, which a new primary may have taken to
/// another timeline since the last checkpoint.
macro_rules! stop_statement {
    ($call:literal) => {
        concat!(
            "SELECT lsn::text, labelfile, spcmapfile, \
             (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
             extract(timezone FROM clock_timestamp())::int4, \
             CASE WHEN pg_is_in_recovery() \
             THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery()) \
             ELSE (SELECT timeline_id FROM pg_control_checkpoint()) END FROM ",
            $call
        )
    };
}

impl Functions {
    const fn of(version: ServerVersion) -> Self {
        if version.major() >= 15 {
            Self {
                start: start_statement!("pg_backup_start($1, $2)"),
                start_signature: "pg_catalog.pg_backup_start(text, boolean)",
                stop: stop_statement!("pg_backup_stop($1)"),
                stop_signature: "pg_catalog.pg_backup_stop(boolean)",
            }
        } else {
            Self {
                start: start_statement!("pg_start_backup($1, $2, false)"),
                start_signature: "pg_catalog.pg_start_backup(text, boolean, boolean)",
                stop: stop_statement!("pg_stop_backup(false, $1)"),
                stop_signature: "pg_catalog.pg_stop_backup(boolean, boolean)",
            }
        }
    }
}

fn label(row: &Row) -> Result<BackupLabel, PostgresError> {
    let text: &str = value(row, 1, STOP)?;
    BackupLabel::parse(text).map_err(|error| PostgresError::odd_answer(STOP, error.to_string()))
}

fn tablespace_map(row: &Row) -> Result<TablespaceMap, PostgresError> {
    let text: Option<&str> = value(row, 2, STOP)?;
    TablespaceMap::parse(text.unwrap_or_default())
        .map_err(|error| PostgresError::odd_answer(STOP, error.to_string()))
}

fn lsn(row: &Row, index: usize, what: &'static str) -> Result<Lsn, PostgresError> {
    let text: &str = value(row, index, what)?;
    text.parse().map_err(|error| PostgresError::odd_answer(what, format!("{error}")))
}

fn timeline(row: &Row, index: usize, what: &'static str) -> Result<TimelineId, PostgresError> {
    let number: i32 = value(row, index, what)?;
    TimelineId::new(number.cast_unsigned())
        .map_err(|error| PostgresError::odd_answer(what, error.to_string()))
}

/// Reads two columns: microseconds since 1970, and seconds east of UTC.
fn time(row: &Row, index: usize, what: &'static str) -> Result<Zoned, PostgresError> {
    let odd = |error: jiff::Error| PostgresError::odd_answer(what, error.to_string());
    let instant = Timestamp::from_microsecond(value(row, index, what)?).map_err(odd)?;
    let offset = Offset::from_seconds(value(row, index + 1, what)?).map_err(odd)?;
    Ok(instant.to_zoned(TimeZone::fixed(offset)))
}
