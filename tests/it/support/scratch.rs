//! Folders that PostgreSQL's user can reach, and that user.

use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The user that PostgreSQL runs as, when the tests run as root (PostgreSQL refuses root).
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// `None` when the tests do not run as root: then everything runs as the caller.
pub fn postgres_user() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("user \"postgres\" exists: install PostgreSQL, or do not run as root");
    let field = |index: usize| {
        line.split(':').nth(index).and_then(|text| text.parse().ok()).expect("a numeric id")
    };
    Some(User { uid: field(2), gid: field(3) })
}

/// Makes a command run as PostgreSQL's user.
pub fn as_postgres(command: &mut Command) -> &mut Command {
    match postgres_user() {
        Some(user) => command.uid(user.uid).gid(user.gid),
        None => command,
    }
}

/// Gives a file or folder to PostgreSQL's user.
pub fn give_to_postgres(path: &Path) {
    if let Some(user) = postgres_user() {
        chown(path, Some(user.uid), Some(user.gid)).expect("chown");
    }
}

/// Gives a folder and everything below it to PostgreSQL's user; links are not followed.
pub fn give_tree_to_postgres(folder: &Path) {
    let Some(user) = postgres_user() else { return };
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        lchown(&path, Some(user.uid), Some(user.gid)).expect("chown");
        if path.symlink_metadata().expect("metadata").is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|e| e.path()));
        }
    }
}

/// A temporary folder that belongs to PostgreSQL's user and that everybody can enter.
pub fn scratch() -> TempDir {
    let folder = tempfile::Builder::new().prefix("bc-it-").tempdir().expect("a temporary folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("chmod");
    give_to_postgres(folder.path());
    folder
}

/// A folder inside of `parent`, private to PostgreSQL's user.
pub fn private_folder(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir(&folder).expect("mkdir");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    give_to_postgres(&folder);
    folder
}

/// A word that no other test of any run has used.
pub fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{prefix}-{random:016x}")
}
