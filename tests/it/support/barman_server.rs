//! A real Barman server: its own folder, its own configuration, backups by `pg_basebackup`.

use crate::support::cluster::Cluster;
use crate::support::commands::clean_environment;
use crate::support::outside::{self, postgres_programs};
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, give_tree_to_postgres, private_folder, scratch};
use crate::support::stores::StoreUnderTest;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What Barman's own command needs of the packages that it is installed with.
const PACKAGES: [&str; 5] = ["barman", "psycopg2", "psycopg2_binary.libs", "dateutil", "six.py"];

/// Barman refuses to run as root, and runs hook scripts as itself: here as PostgreSQL's user.
pub struct BarmanServer {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl BarmanServer {
    /// Looks after `cluster` under the name `main`; `settings` are more lines of its section.
    /// Hook scripts find the credentials of `store` in their environment. `None` (after saying
    /// so) without Barman.
    pub fn set_up(cluster: &Cluster, store: &StoreUnderTest, settings: &str) -> Option<Self> {
        let programs = PathBuf::from(outside::required(outside::BARMAN, "Barman 3.19.1")?);
        let server = Self { folder: scratch(), environment: store.environment.clone() };
        server.copy_program(&programs);
        fs::create_dir(server.programs()).expect("mkdir");
        for program in fs::read_dir(postgres_programs()).expect("programs").flatten() {
            symlink(program.path(), server.programs().join(program.file_name())).expect("a link");
        }
        private_folder(server.folder.path(), "home");
        fs::create_dir_all(server.incoming()).expect("mkdir");
        let home = server.home().display().to_string();
        let socket = cluster.socket().display().to_string();
        let configuration = format!(
            "[barman]\nbarman_user = postgres\nbarman_home = {home}\nlog_file = {home}/log\n\
             log_level = DEBUG\nbarman_lock_directory = {home}\n\
             configuration_files_directory = {home}/more\n\n\
             [main]\ndescription = main\nconninfo = host={socket} user=postgres dbname=postgres\n\
             streaming_conninfo = host={socket} user=postgres\nbackup_method = postgres\n\
             archiver = on\npath_prefix = {}\n{settings}\n",
            server.programs().display(),
        );
        fs::write(server.configuration(), configuration).expect("barman.conf");
        give_tree_to_postgres(server.folder.path());
        // The first run of cron makes the other folders.
        server.run(&["cron"]).exits(0);
        // Barman must never see half a file in the folder that it watches.
        let incoming = server.incoming().display().to_string();
        cluster.archive_with(&format!("cp %p {home}/%f && mv {home}/%f {incoming}/%f"));
        Some(server)
    }

    /// Barman may be installed where only root can look.
    fn copy_program(&self, programs: &Path) {
        let library = programs.parent().expect("bin is in a folder").join("lib");
        let python = fs::read_dir(&library).expect("lib").flatten().map(|entry| entry.path());
        let python = python.into_iter().find(|path| path.join("site-packages").is_dir());
        let packages = python.expect("a Python in lib").join("site-packages");
        let place = self.folder.path().join("python");
        fs::create_dir(&place).expect("mkdir");
        for name in PACKAGES.into_iter().filter(|name| packages.join(name).exists()) {
            let mut copy = Command::new("cp");
            run(copy.arg("-r").arg(packages.join(name)).arg(&place)).exits(0);
        }
        let interpreter = fs::canonicalize(programs.join("python3")).expect("an interpreter");
        let script = format!(
            "#!{}\nimport sys\nsys.path.insert(0, '{}')\nfrom barman.cli import main\nmain()\n",
            interpreter.display(),
            place.display(),
        );
        let program = self.folder.path().join("barman");
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("barman.conf")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// PostgreSQL's programs, as this server sees them.
    fn programs(&self) -> PathBuf {
        self.folder.path().join("programs")
    }

    /// From now on `pg_basebackup` fails, after Barman has begun.
    pub fn break_pg_basebackup(&self) {
        let program = self.programs().join("pg_basebackup");
        let real = fs::canonicalize(&program).expect("pg_basebackup");
        fs::remove_file(&program).expect("rm");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--version*) exec {} --version;; esac\nexit 1\n",
            real.display()
        );
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// Where `archive_command` puts WAL.
    pub fn incoming(&self) -> PathBuf {
        self.home().join("main/incoming")
    }

    /// The `backup.info` that Barman keeps of a backup.
    pub fn backup_info(&self, id: &str) -> PathBuf {
        self.home().join(format!("main/meta/{id}-backup.info"))
    }

    /// Runs `barman <words>` to its end.
    pub fn run(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(self.folder.path().join("barman"));
        clean_environment(&mut command, Path::new("/usr/bin"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        as_postgres(&mut command).arg("-c").arg(self.configuration());
        run(command.args(words))
    }

    /// IDs of its backups, newest first, with whatever status.
    pub fn backups(&self) -> Vec<String> {
        let listed = self.run(&["list-backups", "--minimal", "main"]).ok();
        listed.lines().map(String::from).collect()
    }

    /// Everything that Barman has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home().join("log")).unwrap_or_default()
    }
}
