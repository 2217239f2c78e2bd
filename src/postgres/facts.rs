//! What the catalog records about a server.
//!
//! The questions are those of contract §8.2, steps 1 to 7.

use crate::flow::Cancel;
use crate::pgdata::SystemIdentifier;
use crate::postgres::session::{Session, value};
use crate::postgres::{PostgresError, ServerVersion};
use crate::wal::SegmentSize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Row;

/// A running server, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    pub system_identifier: SystemIdentifier,
    pub version: ServerVersion,
    /// A standby: no WAL is switched and no restore point made there.
    pub in_recovery: bool,
    pub data_directory: PathBuf,
    pub config_file: PathBuf,
    pub hba_file: PathBuf,
    pub ident_file: PathBuf,
    /// Every other file that a current setting came from, sorted.
    pub included_files: Vec<PathBuf>,
    pub wal_segment_size: SegmentSize,
    /// In the order of their oids, `pg_default` and `pg_global` excluded.
    pub tablespaces: Vec<TablespaceFact>,
    pub data_checksums: bool,
    /// `None` before PostgreSQL 17, which has no such setting.
    pub summarize_wal: Option<bool>,
    /// Sum of all tablespaces; `None` when the role may not know.
    pub cluster_size_bytes: Option<u64>,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// How long a segment may stay incomplete on a server with little to write; zero: for ever.
    pub archive_timeout: Duration,
    /// Set while this server's archiver is not getting anywhere.
    pub archiver_failure: Option<ArchiverFailure>,
    /// Up to PostgreSQL 14: where temporary statistics lie, below the data directory
    /// unless absolute.
    pub stats_temp_directory: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceFact {
    pub name: String,
    pub oid: u32,
    pub location: TablespaceLocation,
}

/// What `pg_stat_archiver` says of an archiver whose last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverFailure {
    /// The file it could not archive.
    pub wal: String,
    /// As PostgreSQL prints it.
    pub time: String,
    /// Since the statistics were reset.
    pub failures: i64,
}

impl fmt::Display for ArchiverFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wal, time, failures } = self;
        write!(f, "archive_command failed for \"{wal}\" at {time} ({failures} failures so far)")
    }
}

/// Where a tablespace's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TablespaceLocation {
    Absolute(PathBuf),
    /// In the directory `pg_tblspc/<oid>` itself (`allow_in_place_tablespaces`).
    InPlace,
}

const WHAT: &str = "read the server's settings";

impl ServerFacts {
    /// Whether this server archives the WAL of a backup that it takes.
    pub fn archives(&self) -> bool {
        match self.archive_mode.as_str() {
            "always" => true,
            "on" => !self.in_recovery,
            _ => false,
        }
    }
}

impl Session {
    /// Reads everything in [`ServerFacts`]; a role without `pg_read_all_settings` gets
    /// [`PostgresError::Privilege`].
    pub async fn facts(&self, cancel: &Cancel) -> Result<ServerFacts, PostgresError> {
        let settings = self.one_row(WHAT, SETTINGS, &[], cancel).await?;
        let text = |index| -> Result<String, PostgresError> { value(&settings, index, WHAT) };
        let on = |index| -> Result<Option<bool>, PostgresError> {
            Ok(value::<Option<String>>(&settings, index, WHAT)?.map(|word| word == "on"))
        };
        let stats: Option<String> = value(&settings, 8, WHAT)?;
        Ok(ServerFacts {
            system_identifier: system_identifier(&text(0)?)?,
            version: self.version(),
            in_recovery: value(&settings, 1, WHAT)?,
            data_directory: text(2)?.into(),
            config_file: text(3)?.into(),
            hba_file: text(4)?.into(),
            ident_file: text(5)?.into(),
            data_checksums: on(6)?.unwrap_or_default(),
            summarize_wal: on(7)?,
            stats_temp_directory: stats.map(PathBuf::from),
            archive_mode: text(9)?,
            archive_timeout: seconds(value(&settings, 10, WHAT)?),
            archiver_failure: self.archiver_failure(cancel).await?,
            wal_segment_size: self.wal_segment_size(cancel).await?,
            included_files: self.included_files(cancel).await?,
            tablespaces: self.tablespaces(cancel).await?,
            cluster_size_bytes: self.cluster_size(cancel).await?,
        })
    }

    /// What the archiver failed at, unless it has succeeded since.
    pub(crate) async fn archiver_failure(
        &self,
        cancel: &Cancel,
    ) -> Result<Option<ArchiverFailure>, PostgresError> {
        let statement = "SELECT last_failed_wal, last_failed_time::text, failed_count \
             FROM pg_stat_archiver \
             WHERE last_failed_time > coalesce(last_archived_time, '-infinity')";
        let what = "look at the archiver";
        let rows = self.rows(what, statement, &[], cancel).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (wal, time) = (value(row, 0, what)?, value(row, 1, what)?);
        Ok(Some(ArchiverFailure { wal, time, failures: value(row, 2, what)? }))
    }

    async fn wal_segment_size(&self, cancel: &Cancel) -> Result<SegmentSize, PostgresError> {
        // Counted in WAL blocks before PostgreSQL 11, in bytes since.
        let statement = if self.version().major() < 11 {
            "SELECT setting::int8 * current_setting('wal_block_size')::int8 \
             FROM pg_settings WHERE name = 'wal_segment_size'"
        } else {
            "SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'"
        };
        let row = self.one_row(WHAT, statement, &[], cancel).await?;
        let bytes: i64 = value(&row, 0, WHAT)?;
        SegmentSize::new(u64::try_from(bytes).unwrap_or_default())
            .map_err(|error| PostgresError::odd_answer(WHAT, error.to_string()))
    }

    async fn included_files(&self, cancel: &Cancel) -> Result<Vec<PathBuf>, PostgresError> {
        let statement = "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL \
             AND sourcefile <> current_setting('config_file') ORDER BY sourcefile";
        let rows = self.rows(WHAT, statement, &[], cancel).await?;
        rows.iter().map(|row| Ok(PathBuf::from(value::<String>(row, 0, WHAT)?))).collect()
    }

    async fn tablespaces(&self, cancel: &Cancel) -> Result<Vec<TablespaceFact>, PostgresError> {
        // 1663 and 1664 are pg_default and pg_global, whatever they were renamed to.
        let statement = "SELECT spcname::text, oid, pg_tablespace_location(oid) \
             FROM pg_tablespace WHERE oid NOT IN (1663, 1664) ORDER BY oid";
        let what = "list the tablespaces";
        let rows = self.rows(what, statement, &[], cancel).await?;
        rows.iter().map(|row| tablespace(row, what)).collect()
    }

    /// Reading sizes of tablespaces one may not create in needs `pg_read_all_stats`.
    async fn cluster_size(&self, cancel: &Cancel) -> Result<Option<u64>, PostgresError> {
        let statement = "SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') \
             THEN (SELECT sum(pg_tablespace_size(oid))::int8 FROM pg_tablespace) END";
        let what = "read the size of the cluster";
        let row = self.one_row(what, statement, &[], cancel).await?;
        let bytes: Option<i64> = value(&row, 0, what)?;
        Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()))
    }
}

const SETTINGS: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
    pg_is_in_recovery(), \
    current_setting('data_directory'), \
    current_setting('config_file'), \
    current_setting('hba_file'), \
    current_setting('ident_file'), \
    current_setting('data_checksums'), \
    current_setting('summarize_wal', true), \
    current_setting('stats_temp_directory', true), \
    current_setting('archive_mode'), \
    (SELECT setting::int8 FROM pg_settings WHERE name = 'archive_timeout')";

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default())
}

/// `bigint` in SQL, unsigned in PostgreSQL's own files and printouts.
fn system_identifier(text: &str) -> Result<SystemIdentifier, PostgresError> {
    let signed: i64 = text.parse().map_err(|_| {
        PostgresError::odd_answer(WHAT, format!("\"{text}\" is no system identifier"))
    })?;
    Ok(SystemIdentifier::new(signed.cast_unsigned()))
}

fn tablespace(row: &Row, what: &'static str) -> Result<TablespaceFact, PostgresError> {
    let location: String = value(row, 2, what)?;
    // In-place ones are empty or relative ("pg_tblspc/16385"), depending on the release.
    let location = if location.starts_with('/') {
        TablespaceLocation::Absolute(location.into())
    } else {
        TablespaceLocation::InPlace
    };
    Ok(TablespaceFact { name: value(row, 0, what)?, oid: value(row, 1, what)?, location })
}
