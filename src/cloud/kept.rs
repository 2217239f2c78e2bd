//! Credentials of slow sources, and the regions of buckets that are elsewhere, kept for the next
//! command of the same user.
//!
//! PostgreSQL starts a command for every WAL segment. A token service, a login or a program that
//! takes longer than [`SLOW`] to give credentials is asked once, not for each of them.
//!
//! ```text
//! <folder>/barman-cloud/<32 hex of all that decides who we are>     0600, in a folder 0700
//! ```
//!
//! The folder is `BARMAN_CLOUD_CACHE`, `XDG_RUNTIME_DIR`, `XDG_CACHE_HOME` or `~/.cache`, the first
//! that is set; `BARMAN_CLOUD_CACHE=off` keeps nothing. What others could have read or written is
//! not used. Without a folder everything works, only slower: no failure here is an error.

use crate::cloud::Environment;
use rustix::process::geteuid;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sources that answer faster are asked every time: a machine's own metadata service does.
const SLOW: Duration = Duration::from_millis(50);

/// Credentials are renewed when less than this is left, so that none expires in a request.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// What lies longer than this in the folder has expired.
const SWEEP_AFTER: Duration = Duration::from_secs(24 * 3600);

const FOLDER: &str = "barman-cloud";
const EXPIRES: &str = "expires";
const REGION: &str = "region";

/// Where the credentials of one identity are kept.
#[derive(Clone, Default)]
pub struct Kept {
    /// `None` keeps nothing.
    path: Option<PathBuf>,
}

/// Named values that make a credential.
pub type Secrets = Map<String, Value>;

impl Kept {
    /// `identity` is what the command line says, `prefixes` are those of the variables and `files`
    /// the configuration files that decide who we are.
    pub fn new(
        environment: &Environment,
        identity: &str,
        prefixes: &[&str],
        files: &[PathBuf],
    ) -> Self {
        let Some(folder) = folder(environment) else { return Self::default() };
        let mut digest = Sha256::new();
        let mut add = |text: &str| {
            digest.update(text.len().to_le_bytes());
            digest.update(text);
        };
        add(identity);
        add(environment.get("HOME").unwrap_or_default());
        for (name, value) in environment.starting_with(prefixes) {
            add(name);
            add(value);
        }
        for file in files {
            let stamp = fs::metadata(file).map(|it| (it.mtime(), it.mtime_nsec(), it.len()));
            add(&format!("{} {:?}", file.display(), stamp.ok()));
        }
        let name: String =
            digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: Some(folder.join(name)) }
    }

    /// What was kept and is good for a while.
    pub fn load(&self) -> Option<(Secrets, SystemTime)> {
        let path = self.path.as_deref()?;
        let read = || -> io::Result<String> {
            is_private(&fs::symlink_metadata(parent(path))?)?;
            is_private(&fs::symlink_metadata(path)?)?;
            let mut text = String::new();
            File::open(path)?.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = match read() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "what was kept is not used");
                return None;
            }
        };
        let mut secrets: Secrets = serde_json::from_str(&text).ok()?;
        let seconds = secrets.remove(EXPIRES)?.as_u64()?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        is_fresh(expires).then_some((secrets, expires))
    }

    /// Keeps what took `took` to get, if that was long.
    pub fn keep(&self, secrets: Secrets, expires: SystemTime, took: Duration) {
        if took >= SLOW {
            self.put(secrets, expires);
        }
    }

    fn put(&self, mut secrets: Secrets, expires: SystemTime) {
        let Some(path) = self.path.as_deref().filter(|_| is_fresh(expires)) else { return };
        let Ok(since) = expires.duration_since(UNIX_EPOCH) else { return };
        secrets.insert(EXPIRES.into(), since.as_secs().into());
        match write(path, &Value::Object(secrets).to_string()) {
            Ok(()) => tracing::debug!(path = %path.display(), "kept for the next command"),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "nothing is kept");
            }
        }
    }

    fn forget(&self) {
        // Not there is what is wanted; what cannot be removed expires.
        let _ = self.path.as_deref().map(fs::remove_file);
    }
}

/// The region that a bucket is in where it is not the configured one, kept as credentials are.
#[derive(Clone, Debug, Default)]
pub struct KeptRegion {
    kept: Kept,
}

impl KeptRegion {
    /// A bucket in the eyes of somebody who takes it for one of `configured`.
    pub fn new(environment: &Environment, bucket_url: &str, configured: &str) -> Self {
        let identity = format!("region {bucket_url} {configured}");
        Self { kept: Kept::new(environment, &identity, &[], &[]) }
    }

    pub fn load(&self) -> Option<String> {
        let (values, _) = self.kept.load()?;
        values.get(REGION)?.as_str().map(str::to_string)
    }

    /// Keeps it for a day: a bucket that moves says so, and is learnt anew.
    #[expect(clippy::disallowed_methods, reason = "expiry is counted from the clock")]
    pub fn keep(&self, region: &str) {
        let values = [(REGION.to_string(), region.into())].into_iter().collect();
        self.kept.put(values, SystemTime::now() + SWEEP_AFTER);
    }

    pub fn forget(&self) {
        self.kept.forget();
    }
}

/// What is said once a day, not by each command.
pub(crate) struct Said {
    kept: Kept,
}

impl Said {
    pub(crate) fn new(environment: &Environment, what: &str) -> Self {
        Self { kept: Kept::new(environment, &format!("said {what}"), &[], &[]) }
    }

    /// Whether it was said within a day; from now on it was. Without a folder it never was.
    #[expect(clippy::disallowed_methods, reason = "expiry is counted from the clock")]
    pub(crate) fn already(&self) -> bool {
        if self.kept.load().is_some() {
            return true;
        }
        self.kept.put(Secrets::new(), SystemTime::now() + SWEEP_AFTER);
        false
    }
}

/// The place alone.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.path).finish()
    }
}

#[expect(clippy::disallowed_methods, reason = "expiry is compared with the clock here only")]
pub fn is_fresh(expires: SystemTime) -> bool {
    expires > SystemTime::now() + RENEW_BEFORE
}

fn folder(environment: &Environment) -> Option<PathBuf> {
    let asked = environment.get("BARMAN_CLOUD_CACHE");
    if asked.is_some_and(|asked| asked.eq_ignore_ascii_case("off")) {
        return None;
    }
    let base = match asked.or_else(|| environment.first(&["XDG_RUNTIME_DIR", "XDG_CACHE_HOME"])) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = Path::new(environment.get("HOME")?);
            // A home that does not exist is not made.
            home.is_dir().then(|| home.join(".cache"))?
        }
    };
    base.is_absolute().then(|| base.join(FOLDER))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = parent(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    is_private(&fs::symlink_metadata(folder)?)?;
    sweep(folder);
    let name = path.file_name().unwrap_or_default().display();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes what expired long ago.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > SWEEP_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A folder or file that is ours and nobody else's; a symbolic link is neither.
fn is_private(metadata: &Metadata) -> io::Result<()> {
    let ours = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    if ours && !metadata.is_symlink() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "others have access to it"))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use crate::cloud::Environment;
    use crate::cloud::kept::{Kept, SLOW, Secrets};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn kept(folder: &Path, more: &[(&str, &str)]) -> Kept {
        let folder = folder.to_str().expect("utf-8");
        let variables = [&[("BARMAN_CLOUD_CACHE", folder)], more].concat();
        Kept::new(&Environment::of(variables), "aws", &["AWS_"], &[])
    }

    fn secrets() -> Secrets {
        [("token".to_string(), "hush".into())].into_iter().collect()
    }

    #[expect(clippy::disallowed_methods, reason = "an expiry is compared with the clock")]
    fn in_seconds(seconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_slow_comes_back_until_shortly_before_it_expires() {
        for (took, lifetime, comes_back) in
            [(SLOW, 3600, true), (SLOW, 290, false), (SLOW / 2, 3600, false)]
        {
            let folder = tempfile::tempdir().expect("folder");
            kept(folder.path(), &[]).keep(secrets(), in_seconds(lifetime), took);
            let loaded = kept(folder.path(), &[]).load().map(|(secrets, _)| secrets);
            assert_eq!(loaded, comes_back.then(secrets), "{took:?} {lifetime}");
        }
    }

    #[test]
    fn another_identity_finds_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        kept(folder.path(), &[("AWS_ROLE_ARN", "a")]).keep(secrets(), in_seconds(3600), SLOW);
        assert_eq!(kept(folder.path(), &[("AWS_ROLE_ARN", "b")]).load(), None);
        assert_eq!(kept(folder.path(), &[]).load(), None);
        assert!(kept(folder.path(), &[("AWS_ROLE_ARN", "a")]).load().is_some());
    }

    #[test]
    fn a_folder_or_file_that_others_can_reach_is_not_used() {
        let folder = tempfile::tempdir().expect("folder");
        let here = kept(folder.path(), &[]);
        here.keep(secrets(), in_seconds(3600), SLOW);
        let ours = folder.path().join("barman-cloud");
        let file = fs::read_dir(&ours).expect("folder").next().expect("a file").expect("entry");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&ours), mode(&file.path())), (0o700, 0o600));
        for (path, open, closed) in [(&ours, 0o750, 0o700), (&file.path(), 0o640, 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(open)).expect("opened");
            assert_eq!(here.load(), None, "{}", path.display());
            fs::set_permissions(path, Permissions::from_mode(closed)).expect("closed");
            assert!(here.load().is_some());
        }
    }

    #[test]
    fn nothing_is_kept_when_it_is_off_or_there_is_no_home() {
        for variables in [
            &[("BARMAN_CLOUD_CACHE", "off"), ("HOME", "/tmp")][..],
            &[("HOME", "/nonexistent")],
            &[("XDG_CACHE_HOME", "relative")],
            &[],
        ] {
            let environment = Environment::of(variables.iter().copied());
            let kept = Kept::new(&environment, "aws", &["AWS_"], &[]);
            assert!(kept.path.is_none(), "{variables:?}");
        }
    }
}
