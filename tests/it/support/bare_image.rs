//! A container image with nothing in it but our program, as the sidecar of CloudNativePG runs it:
//! no shell, no `/etc/passwd`, no `/tmp`, no `/proc`, a read-only root, one writable folder.

use crate::support::commands::{COMMANDS, barman_cloud};
use crate::support::outside::skip;
use crate::support::scratch::{User, scratch};
use crate::support::stores::StoreUnderTest;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A user that this machine does not know.
pub const STRANGER: User = User { uid: 54_321, gid: 54_321 };

/// Where the image can be written to, as seen from inside.
pub const WRITABLE: &str = "/controller";

/// Makes a mount namespace of its own and enters the image: root folder, writable folder, user,
/// number of folders to show, those folders, then the command.
const ENTER: &str = r#"set -e
root=$1 writable=$2 user=$3 shown=$4
shift 4
mount --bind "$root" "$root"
while [ "$shown" -gt 0 ]; do
  mount --bind "$1" "$root$1"
  mount -o remount,bind,ro "$root$1"
  shown=$((shown - 1))
  shift
done
mount --bind "$writable" "$root/controller"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" --groups= "$root" "$@""#;

pub struct BareImage {
    folder: TempDir,
    user: User,
    shown: Vec<PathBuf>,
}

impl BareImage {
    /// `None` (after saying so) where the tests may not make mount namespaces.
    pub fn of(user: User) -> Option<Self> {
        let mut unshare = Command::new("unshare");
        let may = unshare.args(["--mount", "true"]).output().is_ok_and(|o| o.status.success());
        if !rustix::process::geteuid().is_root() || !may {
            skip("mount namespaces need root");
            return None;
        }
        let image = Self { folder: scratch(), user, shown: Vec::new() };
        let program = image.root().join("bin/barman-cloud");
        for folder in ["bin", "controller"] {
            fs::create_dir_all(image.root().join(folder)).expect("mkdir");
        }
        fs::copy(barman_cloud(), &program).expect("a copy of barman-cloud");
        for name in COMMANDS {
            symlink("barman-cloud", image.root().join("bin").join(name)).expect("a link");
        }
        image.add_libraries(&program);
        let writable = image.outside("");
        fs::create_dir(&writable).expect("mkdir");
        fs::set_permissions(&writable, fs::Permissions::from_mode(0o700)).expect("chmod");
        chown(&writable, Some(user.uid), Some(user.gid)).expect("chown");
        Some(image)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// What is `/controller/<name>` inside.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join("writable").join(name)
    }

    /// The loader and the libraries that the program names; none when it is static.
    fn add_libraries(&self, program: &Path) {
        let listed = Command::new("ldd").arg(program).output().expect("ldd");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let place = self.root().join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("a folder")).expect("mkdir");
            fs::copy(library, &place).expect("a copy of a library");
        }
    }

    /// Shows a folder of this machine at the same place, read-only.
    pub fn show(&mut self, folder: &Path) {
        let place = self.root().join(folder.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(place).expect("mkdir");
        self.shown.push(folder.to_path_buf());
    }

    /// A command inside. `TMPDIR` points nowhere, `HOME` is not set.
    pub fn command(&self, name: &str, store: &StoreUnderTest, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", ENTER, "sh"]);
        command.arg(self.root()).arg(self.outside(""));
        command.arg(format!("{}:{}", self.user.uid, self.user.gid));
        command.arg(self.shown.len().to_string()).args(&self.shown);
        command.arg(format!("/bin/{name}")).args(words);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("TMPDIR", "/nowhere");
        command.envs(store.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}
