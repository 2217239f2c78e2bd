//! PostgreSQL that is created, loaded, destroyed and recovered.

use crate::support::commands::clean_environment;
use crate::support::outside::postgres_programs;
use crate::support::process::{Outcome, Running, run, spawn};
use crate::support::scratch::{
    as_postgres, give_to_postgres, give_tree_to_postgres, private_folder, scratch,
};
use crate::support::stores::StoreUnderTest;
use crate::support::wait::wait_until;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// `initdb --wal-segsize`, in MiB; 0 takes 1, which keeps archives small.
    pub wal_segment_mebibytes: u32,
    /// `initdb --waldir` outside of the data directory.
    pub separate_wal: bool,
    /// Lines of `postgresql.conf`.
    pub settings: Vec<(&'static str, String)>,
    /// What `archive_command` and `restore_command` find in their environment.
    pub environment: Vec<(String, String)>,
    /// The folder of another PostgreSQL's programs than the usual one's.
    pub programs: Option<PathBuf>,
}

/// A server that listens on a socket in its own folder only, and dies with this value.
pub struct Cluster {
    folder: TempDir,
    data: PathBuf,
    environment: Vec<(String, String)>,
    programs: PathBuf,
}

/// Row count and sum of the rows of every table.
pub type TableChecksums = BTreeMap<String, String>;

/// `pgbench` in the background.
pub struct Load {
    running: Running,
}

impl Cluster {
    /// Creates and starts a cluster with page checksums.
    pub fn create(options: &ClusterOptions) -> Self {
        Self::create_on(options, |_| {})
    }

    /// As [`create`](Self::create); `prepare` is given the path of the data directory to be.
    pub fn create_on(options: &ClusterOptions, prepare: impl FnOnce(&Self)) -> Self {
        let mut cluster = Self::empty(&options.environment);
        if let Some(programs) = &options.programs {
            cluster = cluster.with_programs(programs);
        }
        prepare(&cluster);
        let mut initdb = cluster.program("initdb");
        initdb.arg("--pgdata").arg(&cluster.data).args([
            "--username=postgres",
            "--auth=trust",
            "--data-checksums",
            "--locale=C",
            "--encoding=UTF8",
            "--no-sync",
            &format!("--wal-segsize={}", options.wal_segment_mebibytes.max(1)),
        ]);
        if options.separate_wal {
            let wal = cluster.folder.path().join("wal");
            initdb.arg("--waldir").arg(wal);
        }
        run(&mut initdb).exits(0);
        let mut lines = String::from("wal_level = replica\nmax_wal_size = 64MB\nfsync = off\n");
        for (name, value) in &options.settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        cluster.configure(&lines);
        cluster.start();
        cluster
    }

    /// A folder without a data directory, for a restore into [`data`](Self::data).
    pub fn empty(environment: &[(String, String)]) -> Self {
        let folder = scratch();
        private_folder(folder.path(), "socket");
        let data = folder.path().join("data");
        let programs = postgres_programs();
        Self { folder, data, environment: environment.to_vec(), programs }
    }

    /// The same with another PostgreSQL.
    pub fn with_programs(mut self, programs: &Path) -> Self {
        self.programs = programs.into();
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A path beside the data directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder beside the data directory, for a tablespace.
    pub fn folder_beside(&self, name: &str) -> PathBuf {
        private_folder(self.folder.path(), name)
    }

    /// The folder of the socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A program of PostgreSQL, as PostgreSQL's user.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        clean_environment(&mut command, &self.programs);
        as_postgres(&mut command);
        command
    }

    /// Adds lines to `postgresql.conf`; the last one of a name wins.
    pub fn configure(&self, lines: &str) {
        let path = self.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&path).expect("postgresql.conf");
        text.push_str("\n# the test's\n");
        text.push_str(lines);
        fs::write(&path, text).expect("postgresql.conf");
    }

    pub fn start(&self) {
        self.try_start().exits(0);
    }

    /// Starts the server; what it logged is the outcome's standard error.
    pub fn try_start(&self) -> Outcome {
        let options = format!("-c listen_addresses= -c port=5432 -k {}", self.socket().display());
        let log = self.beside("log");
        let mut start = self.program("pg_ctl");
        start.envs(self.environment.iter().map(|(name, value)| (name, value)));
        start.arg("-D").arg(&self.data).arg("-l").arg(&log).args(["-o", &options]);
        start.args(["-w", "-t", "170", "start"]);
        let mut outcome = run(&mut start);
        outcome.stderr.push_str(&fs::read_to_string(&log).unwrap_or_default());
        outcome
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.beside("log")).unwrap_or_default()
    }

    /// `mode` is one of pg_ctl's: `smart`, `fast`, `immediate`.
    pub fn stop(&self, mode: &str) {
        let mut stop = self.program("pg_ctl");
        stop.arg("-D").arg(&self.data).args(["-w", "-t", "170", "-m", mode, "stop"]);
        run(&mut stop).exits(0);
    }

    /// Kills the server and removes its files: the disaster.
    pub fn destroy(self) {
        drop(self);
    }

    /// Sends WAL to `command` (a line of shell with `%p`) from now on.
    pub fn archive_with(&self, command: &str) {
        let line = command.replace('\'', "''");
        self.configure(&format!("archive_mode = on\narchive_command = '{line}'\n"));
        if self.is_running() {
            self.stop("fast");
            self.start();
        }
    }

    /// Options that bring `psql`, `pgbench` and the backup commands here.
    pub fn connection(&self) -> Vec<String> {
        let socket = self.socket().display().to_string();
        ["-h", &socket, "-p", "5432", "-U", "postgres"].map(String::from).to_vec()
    }

    /// A libpq connection string to database `postgres`.
    pub fn conninfo(&self) -> String {
        format!("host={} port=5432 user=postgres dbname=postgres", self.socket().display())
    }

    /// Runs SQL and returns the unaligned rows.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).ok().trim_end().to_string()
    }

    pub fn try_psql(&self, sql: &str) -> Outcome {
        let mut psql = self.program("psql");
        psql.args(self.connection()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        run(psql.args(["-c", sql]))
    }

    /// Fills pgbench's tables: 100,000 rows, about 15 MB, for each unit of `scale`.
    pub fn pgbench_fill(&self, scale: u32) {
        let mut pgbench = self.program("pgbench");
        pgbench.args(self.connection()).args(["-i", "-q", "-s", &scale.to_string(), "postgres"]);
        run(&mut pgbench).exits(0);
        self.settle();
    }

    /// Leaves nothing of what the tables hold now to the WAL of a backup that comes: all rows are
    /// frozen, no hint bit is left to be set, and every page is on the disk. Whatever is not
    /// written to afterwards, as table `untouched`, only the backup can bring back.
    pub fn settle(&self) {
        self.psql(
            "create table if not exists untouched as \
             select g as id, md5(g::text) as said from generate_series(1, 20000) g",
        );
        self.psql("vacuum (freeze)");
        self.psql("checkpoint");
    }

    /// Starts pgbench with two clients and 300 transactions a second, until [`Load::stop`].
    pub fn pgbench_start(&self) -> Load {
        let mut pgbench = self.program("pgbench");
        pgbench
            .args(self.connection())
            .args(["-n", "-c", "2", "-R", "300", "-T", "3600", "postgres"]);
        let before = self.transactions();
        let running = spawn(&mut pgbench);
        let load = Load { running };
        wait_until("pgbench's first transactions", PATIENCE, || self.transactions() > before);
        load
    }

    /// How many rows pgbench has written to its history.
    pub fn transactions(&self) -> u64 {
        self.psql("select count(*) from pgbench_history").parse().expect("a number")
    }

    /// Row count and an order-independent checksum of the rows of every user table.
    #[track_caller]
    pub fn table_checksums(&self) -> TableChecksums {
        self.try_table_checksums().unwrap_or_else(|outcome| panic!("{outcome}"))
    }

    /// The same; the answer of the query that failed where something is wrong with the tables.
    pub fn try_table_checksums(&self) -> Result<TableChecksums, Box<Outcome>> {
        let ask = |sql: &str| {
            let outcome = self.try_psql(sql);
            match outcome.status.success() {
                true => Ok(outcome.stdout.trim_end().to_string()),
                false => Err(Box::new(outcome)),
            }
        };
        let questions = ask("select format('select %L || E''\\t'' || count(*) || '' rows, '' || \
             coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from %I.%I t', \
             format('%I.%I', schemaname, tablename), schemaname, tablename) from pg_tables \
             where schemaname not in ('pg_catalog', 'information_schema')")?;
        // Many at once: a process for each of thousands of tables takes minutes.
        let questions: Vec<&str> = questions.lines().collect();
        let answers = questions.chunks(100).map(|some| ask(&some.join(" union all ")));
        let answers = answers.collect::<Result<Vec<String>, _>>()?;
        let lines = answers.iter().flat_map(|answer| answer.lines());
        let parts = lines.map(|line| line.split_once('\t').expect("name and sum"));
        Ok(parts.map(|(table, sum)| (table.to_string(), sum.to_string())).collect())
    }

    /// Completes the current WAL segment and waits until everything is archived.
    pub fn archive_everything(&self) {
        // A record must be in the segment, or the switch does nothing.
        self.psql("select pg_logical_emit_message(false, 'it', 'end')");
        let last = self.psql("select pg_walfile_name(pg_switch_wal())");
        wait_until(&format!("the archiving of {last}"), PATIENCE, || {
            let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
            let archived = self.psql(archived);
            // Other names than segments (a .history, a .backup) sort beside their segment.
            archived.get(..24).is_some_and(|archived| archived >= last.as_str())
        });
    }

    /// Prepares a restored data directory: recovery by `restore_command`, no archiving. `target`
    /// is more lines of configuration.
    pub fn recover_with(&self, restore_command: &str, target: &str) {
        // Barman leaves backup_label to root.
        give_tree_to_postgres(&self.data);
        let line = restore_command.replace('\'', "''");
        self.configure(&format!(
            "archive_mode = off\narchive_command = ''\nfsync = off\n\
             restore_command = '{line}'\nrecovery_target_action = 'promote'\n{target}\n"
        ));
        let signal = self.data.join("recovery.signal");
        fs::write(&signal, "").expect("recovery.signal");
        give_to_postgres(&signal);
    }

    /// Starts, and waits until recovery has ended.
    pub fn start_and_recover(&self) {
        self.start();
        assert!(self.ends_recovery(), "the server is gone or broken:\n{}", self.log());
    }

    /// Waits until recovery has ended; false when the server has ended instead, or lets nobody in
    /// because too much of it is missing.
    pub fn ends_recovery(&self) -> bool {
        let mut is_well = true;
        wait_until("the end of recovery", PATIENCE, || {
            let state = self.try_psql("select pg_is_in_recovery()");
            let is_starting = state.stderr.contains("the database system is");
            let is_refused = ["FATAL:", "ERROR:"].iter().any(|word| state.stderr.contains(word));
            is_well = self.is_running() && (is_starting || !is_refused);
            !is_well || state.stdout.trim() == "f"
        });
        is_well
    }

    fn is_running(&self) -> bool {
        let mut status = self.program("pg_ctl");
        status.arg("-D").arg(&self.data).arg("status");
        run(&mut status).status.success()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let mut stop = self.program("pg_ctl");
            stop.arg("-D").arg(&self.data).args(["-w", "-m", "immediate", "stop"]);
            let _ = stop.output();
        }
    }
}

impl Load {
    /// Whether the load is still on; false means that it failed.
    pub fn is_running(&mut self) -> bool {
        !self.running.ended()
    }

    /// Ends the load. It must have run until now.
    pub fn stop(mut self) {
        let early = self.running.ended();
        if !early {
            // Not INT: what a shell starts in the background ignores it, pgbench too.
            self.running.signal(rustix::process::Signal::TERM);
        }
        let outcome = self.running.wait();
        assert!(!early, "pgbench ended early\n{outcome}");
    }
}

/// Cluster options for a server whose commands use `store`.
pub fn options_for(store: &StoreUnderTest) -> ClusterOptions {
    ClusterOptions { environment: store.environment.clone(), ..ClusterOptions::default() }
}
