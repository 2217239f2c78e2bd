//! The commands of the simulated world: each the real verb, as one process would run it.

use crate::backup::{
    BackupError, BackupOptions, PageChecksums, WalConfirmation, WalPatience, backup,
};
use crate::catalog::{BackupId, BackupSelector, Catalog, KeepTarget, Layout, ServerName};
use crate::codec::{Compression, CompressionLevel};
use crate::flow::{Cancel, Limits, RetryLimits};
use crate::monitor::{Monitor, Silent};
use crate::postgres::{Checkpoint, ConnectOptions, ConnectTarget, Session};
use crate::restore::{RestoreOptions, RestoreSelection, Unfinished, restore};
use crate::retention::{DeleteOptions, DeleteTarget, LockCheck, RetentionPolicy, apply, plan};
use crate::simulation::cluster::Content;
use crate::simulation::server::{SharedCluster, locked};
use crate::snapshot::memory::MemoryCloud;
use crate::store::Store;
use crate::wal::WalFileName;
use crate::wal_archive::{
    Absence, FetchOptions, FetchOutcome, OtherContent, PartialSegments, PushOptions, SpoolOptions,
    fetch, push,
};
use jiff::Timestamp;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Files that were acknowledged, with the sums of their contents, in the order of the answers.
pub type Acknowledged = Arc<Mutex<Vec<(String, u64)>>>;

pub fn sum_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

pub fn catalog(store: Store) -> Catalog {
    let server = ServerName::parse("main").expect("a name");
    Catalog::new(store, Layout::new("p", &server).expect("a layout"))
}

pub fn limits() -> Limits {
    let two = NonZeroUsize::new(2).expect("2");
    let retry = RetryLimits {
        attempts_max: 4,
        deadline: Duration::from_secs(5),
        delay_first: Duration::from_micros(200),
        delay_max: Duration::from_millis(2),
    };
    Limits { jobs: two, workers: two, memory_max_bytes: 1 << 26, bandwidth_max: None, retry }
}

/// Archives one file; `Err` tells why it was not.
pub async fn archive(
    catalog: &Catalog,
    path: &Path,
    compression: Option<Compression>,
    acknowledged: &Acknowledged,
) -> Result<(), String> {
    let options = PushOptions {
        compression: compression.map(|compression| (compression, CompressionLevel::Number(1))),
        tags: Vec::new(),
        history_tags: None,
        other_content: OtherContent::Refuse,
    };
    push(path, catalog, &options, &limits(), &Silent, &Cancel::new())
        .await
        .map_err(|error| error.to_string())?;
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let sum = sum_of(&std::fs::read(path).expect("the file that was archived"));
    acknowledged.lock().expect("no panics").push((name, sum));
    Ok(())
}

/// PostgreSQL's archiver: one file after the other, the same one again until it is archived.
pub async fn archiver(
    catalog: &Catalog,
    cluster: &SharedCluster,
    compression: Option<Compression>,
    acknowledged: &Acknowledged,
) {
    loop {
        let next = {
            let cluster = locked(cluster);
            cluster.next_ready().map(|name| (cluster.wal_path(&name), name))
        };
        if let Some((path, name)) = next
            && archive(catalog, &path, compression, acknowledged).await.is_ok()
        {
            locked(cluster).archived(&name);
            continue;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Takes a base backup of the cluster.
pub async fn back_up(
    catalog: &Catalog,
    cluster: &SharedCluster,
    compression: Option<Compression>,
    now: Timestamp,
) -> Result<String, String> {
    let target = ConnectTarget {
        dbname: "postgres".into(),
        host: Some(locked(cluster).socket_directory().display().to_string()),
        port: Some("5432".into()),
        user: Some("postgres".into()),
    };
    let options = ConnectOptions::resolve(&target, "simulation", &|_| None);
    let options = options.map_err(|error| error.to_string())?;
    let cancel = Cancel::new();
    let session = Session::connect(&options, &cancel).await.map_err(|error| error.to_string())?;
    let patience = Duration::from_millis(400);
    let options = BackupOptions {
        now,
        host: "simulated".into(),
        name: None,
        compression,
        level: None,
        checkpoint: Checkpoint::Fast,
        tarball_bytes_max: 16 << 10,
        part_bytes_min: None,
        tags: Vec::new(),
        pages: PageChecksums::Leave,
        wal: WalConfirmation::WaitUpTo(WalPatience { archived: patience, completed: patience }),
    };
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    backup(session, catalog, &options, &limits(), monitor, &cancel)
        .await
        .map(|summary| summary.id.to_string())
        .map_err(|error: BackupError| chain(&error))
}

/// Deletes by policy, or one backup.
pub async fn delete(
    catalog: &Catalog,
    target: DeleteTarget,
    minimum_redundancy: u32,
    now: Timestamp,
) -> Result<(), String> {
    let options = DeleteOptions { minimum_redundancy, locks: LockCheck::Skip };
    let cancel = Cancel::new();
    let plan = plan(catalog, &target, &options, &limits(), now, &cancel).await;
    let plan = plan.map_err(|error| chain(&error))?;
    let cloud = MemoryCloud::default();
    apply(catalog, &cloud, plan, &cancel).await.map(drop).map_err(|error| chain(&error))
}

pub fn by_redundancy(backups: u32) -> DeleteTarget {
    let text = format!("REDUNDANCY {backups}");
    DeleteTarget::Policy(RetentionPolicy::parse(&text).expect("a policy"))
}

pub fn by_id(id: &str) -> DeleteTarget {
    DeleteTarget::Backup(BackupSelector::parse(id))
}

pub async fn keep(
    catalog: &Catalog,
    id: &str,
    target: KeepTarget,
    now: Timestamp,
) -> Result<(), String> {
    let id = BackupId::parse(id).expect("an id");
    catalog.set_keep(&id, target, now).await.map_err(|error| chain(&error))
}

pub async fn release(catalog: &Catalog, id: &str) -> Result<(), String> {
    let id = BackupId::parse(id).expect("an id");
    catalog.release_keep(&id).await.map_err(|error| chain(&error))
}

/// Restores a backup, and compares what it brought back when it says that it is done.
pub async fn bring_back(
    catalog: &Catalog,
    id: &str,
    target: &Path,
    contents: &[Content],
    now: Timestamp,
) -> Result<Result<(), String>, String> {
    let options = RestoreOptions { tablespaces: Vec::new(), unfinished: Unfinished::Refuse, now };
    let selection = RestoreSelection::Named(id.into());
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    let (limits, cancel) = (limits(), Cancel::new());
    restore(catalog, &selection, target, &options, &limits, &monitor, &cancel)
        .await
        .map_err(|error| chain(&error))?;
    let same = |content: &&Content| {
        content
            .iter()
            .all(|(path, bytes)| std::fs::read(target.join(path)).ok().as_ref() == Some(bytes))
    };
    let whole =
        contents.iter().any(|content| same(&content)) && target.join("backup_label").exists();
    Ok(match whole {
        true => Ok(()),
        false => Err(format!("backup \"{id}\" was restored to what no cluster ever was")),
    })
}

/// Fetches one file and compares it.
pub async fn fetch_one(
    catalog: &Catalog,
    name: &str,
    sum: u64,
    directory: &Path,
) -> Result<Result<(), String>, String> {
    let parsed = WalFileName::parse(name).expect("a name");
    let destination = directory.join("RECOVERYXLOG");
    let spool = SpoolOptions { directory: directory.join("spool"), scope: "simulated".into() };
    let (partial, absence) = (PartialSegments::Accept, Absence::Listed);
    let options = FetchOptions { partial, absence, ahead: None, spool };
    let (limits, cancel) = (limits(), Cancel::new());
    let fetched = fetch(&parsed, &destination, catalog, &options, &limits, &Silent, &cancel);
    match fetched.await.map_err(|error| chain(&error))? {
        FetchOutcome::NotThere => Ok(Err(format!("\"{name}\" is archived, but was not there"))),
        FetchOutcome::Delivered => {
            let delivered = sum_of(&std::fs::read(&destination).expect("what was delivered"));
            Ok(match delivered == sum {
                true => Ok(()),
                false => Err(format!("\"{name}\" was delivered with other content")),
            })
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
