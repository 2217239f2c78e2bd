//! Our nine commands and Barman's, on any store.

use crate::support::outside;
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, scratch};
use crate::support::stores::StoreUnderTest;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

/// The commands, each a link to the one program that packages ship.
const NAMES: [&str; 9] = [
    "barman-cloud-backup",
    "barman-cloud-backup-delete",
    "barman-cloud-backup-keep",
    "barman-cloud-backup-list",
    "barman-cloud-backup-show",
    "barman-cloud-check-wal-archive",
    "barman-cloud-restore",
    "barman-cloud-wal-archive",
    "barman-cloud-wal-restore",
];

/// A set of `barman-cloud-*` commands.
#[derive(Clone)]
pub struct Commands {
    folder: PathBuf,
    /// Ours run as PostgreSQL's user, as in life. Barman's may lie where only root can look.
    as_postgres: bool,
    kept: Option<Arc<TempDir>>,
}

impl Commands {
    /// Our commands, where PostgreSQL's user can run them: the build folder may be private.
    pub fn ours() -> Self {
        let folder = shared_programs();
        Self { folder: folder.path().to_path_buf(), as_postgres: true, kept: Some(folder) }
    }

    /// Our commands as whoever runs the tests: mounting needs root.
    pub fn ours_as_caller() -> Self {
        Self { as_postgres: false, ..Self::ours() }
    }

    /// The real Barman 3.19.1; `None` (after saying so) when it is missing outside of CI.
    pub fn barman() -> Option<Self> {
        let folder = PathBuf::from(outside::required(outside::BARMAN, "Barman 3.19.1")?);
        Some(Self { folder, as_postgres: false, kept: None })
    }

    pub fn is_ours(&self) -> bool {
        self.kept.is_some()
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A command with nothing but the store's credentials in its environment.
    pub fn bare(&self, name: &str, store: &StoreUnderTest) -> Command {
        let mut command = Command::new(self.program(name));
        clean_environment(&mut command, &self.folder);
        command.envs(store.environment.iter().map(|(name, value)| (name, value)));
        if self.as_postgres {
            as_postgres(&mut command);
        }
        command
    }

    /// `name <store options> <options> <url> <positionals>`.
    pub fn command(
        &self,
        name: &str,
        store: &StoreUnderTest,
        options: &[&str],
        positionals: &[&str],
    ) -> Command {
        let mut command = self.bare(name, store);
        command.args(&store.options).args(options).arg(&store.url).args(positionals);
        command
    }

    /// Runs [`command`](Self::command) to its end.
    pub fn run(
        &self,
        name: &str,
        store: &StoreUnderTest,
        options: &[&str],
        positionals: &[&str],
    ) -> Outcome {
        run(&mut self.command(name, store, options, positionals))
    }

    /// The same as a line for a shell: `archive_command`, `restore_command`. Credentials come
    /// from the environment of the server that runs it.
    pub fn shell_line(
        &self,
        name: &str,
        store: &StoreUnderTest,
        options: &[&str],
        positionals: &[&str],
    ) -> String {
        let program = self.program(name).display().to_string();
        let store_options = store.options.iter().map(String::as_str);
        std::iter::once(program.as_str())
            .chain(store_options)
            .chain(options.iter().copied())
            .chain([store.url.as_str()])
            .chain(positionals.iter().copied())
            .map(quoted)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Leaves a command only what a service manager would give it.
pub fn clean_environment(command: &mut Command, programs: &Path) {
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/nonexistent")
        .env("TMPDIR", std::env::temp_dir())
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir("/");
}

/// Quotes a word for `sh` unless it is plain; `%p` and `%f` stay plain.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// One copy of the multi-call program with its links, kept while any test uses it.
fn shared_programs() -> Arc<TempDir> {
    static SHARED: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().expect("no test panics in here");
    if let Some(folder) = shared.upgrade() {
        return folder;
    }
    let folder = scratch();
    let program = folder.path().join("barman-cloud");
    std::fs::copy(env!("CARGO_BIN_EXE_barman-cloud"), &program).expect("a copy of barman-cloud");
    for name in NAMES {
        std::os::unix::fs::symlink("barman-cloud", folder.path().join(name)).expect("a link");
    }
    let folder = Arc::new(folder);
    *shared = Arc::downgrade(&folder);
    folder
}
