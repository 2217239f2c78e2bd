//! Recovery from volume snapshots: the volumes are checked, and `backup_label` is put in place.
//!
//! ```text
//! record ─ instance ─ volumes made of the snapshots ─ mounted as recorded ─ backup_label
//!                     (found, or made, attached and mounted with `RecoveryVolumes::Create`)
//! ```
//!
//! Without the label PostgreSQL would recover from the wrong place, so it is written last,
//! durably, and owned like the data directory. Whatever fails after volumes were made unmounts,
//! detaches and deletes those that this run made.

use crate::catalog::{Backup, Catalog};
use crate::disk::{self, Attributes, ExtractRoot, Machine, mount_device, unmount};
use crate::flow::Cancel;
use crate::monitor::{Monitor, Phase};
use crate::restore::{RestoreCounts, RestoreError, RestoreOptions, RestoreSummary};
use crate::snapshot::{
    AttachedVolume, Clouds, DiskFilter, Instance, MountRecord, Patience, RecoveryPlace,
    SnapshotCloud, SnapshotPlace, SnapshotRecord, SnapshotsInfo, VolumeRequest,
};
use serde_json::Value;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a backup made of snapshots is recovered.
#[derive(Clone, Debug)]
pub struct SnapshotRecovery {
    pub clouds: Arc<dyn Clouds>,
    pub machine: Machine,
    pub instance: Option<String>,
    pub place: RecoveryPlace,
    pub volumes: RecoveryVolumes,
    /// For volumes that are made.
    pub patience: Patience,
}

/// Where the volumes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryVolumes {
    /// Somebody has attached and mounted them.
    Attached,
    /// Those that are missing are made, attached and mounted.
    Create,
}

/// How long the kernel may take to show an attached device.
const DEVICE_PATIENCE: Duration = Duration::from_secs(60);
const DEVICE_PAUSE: Duration = Duration::from_millis(250);

/// What was made by this run, for the way back.
struct Made<'a> {
    snapshot: &'a SnapshotRecord,
    name: String,
    mounted: Option<PathBuf>,
}

/// What the backup records of snapshots; `None` for backups of files.
pub fn recorded_snapshots(backup: &Backup) -> Option<&Value> {
    backup.info.snapshots_info.as_ref()
}

/// Recovers a backup made of snapshots into `target`, a directory on the recovered volumes.
pub async fn recover(
    catalog: &Catalog,
    backup: &Backup,
    target: &Path,
    options: &RestoreOptions,
    recovery: &SnapshotRecovery,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<RestoreSummary, RestoreError> {
    let unreadable = |error: String| RestoreError::Recovery { reason: error, hint: None };
    let recorded = recorded_snapshots(backup).unwrap_or(&Value::Null);
    let info = SnapshotsInfo::parse(recorded).map_err(|error| unreadable(error.to_string()))?;
    if !options.tablespaces.is_empty() {
        return Err(refused("tablespaces of a snapshot backup cannot be restored elsewhere"));
    }
    let Some(instance) = recovery.instance.as_deref() else {
        return Err(refused("a snapshot backup needs option --snapshot-recovery-instance"));
    };
    let place = SnapshotPlace::of_recovery(&info.provider, &recovery.place)?;
    let cloud = recovery.clouds.open(&place)?;
    let found = tokio::select! {
        found = cloud.instance(instance, &DiskFilter::All) => found?,
        () = cancel.cancelled() => return Err(RestoreError::Cancelled),
    };
    let mut made = Vec::new();
    if recovery.volumes == RecoveryVolumes::Create {
        check_creation(&info, &place, &recovery.machine, &found)?;
        monitor.phase(Phase::CreatingVolumes);
        let created = create_missing(cloud.as_ref(), &info, recovery, &found, &mut made, cancel);
        if let Err(error) = created.await {
            undo(cloud.as_ref(), recovery, &found, &made).await;
            return Err(error);
        }
    }
    let placed = place_label(catalog, backup, target, &info, recovery, cloud.as_ref(), cancel);
    if let Err(error) = placed.await {
        undo(cloud.as_ref(), recovery, &found, &made).await;
        return Err(error);
    }
    monitor.phase(Phase::Done);
    Ok(RestoreSummary {
        backup_id: backup.id.clone(),
        target: target.into(),
        tablespaces: Vec::new(),
        counts: RestoreCounts { files: 1, ..RestoreCounts::default() },
        tarballs_resumed: 0,
    })
}

/// Checks all volumes and mounts, then writes `backup_label` into the data directory.
async fn place_label(
    catalog: &Catalog,
    backup: &Backup,
    target: &Path,
    info: &SnapshotsInfo,
    recovery: &SnapshotRecovery,
    cloud: &dyn SnapshotCloud,
    cancel: &Cancel,
) -> Result<(), RestoreError> {
    // Looked up again: volumes may have been attached meanwhile, by us or by somebody else.
    let name = recovery.instance.as_deref().unwrap_or_default();
    let instance = cloud.instance(name, &DiskFilter::All).await?;
    for (snapshot, mount) in &info.snapshots {
        check_mount(recovery, &instance, snapshot, mount)?;
    }
    if !target.is_dir() {
        let reason = format!("directory \"{}\" does not exist", target.display());
        let hint = "Name the data directory as it is on the recovered volumes.";
        return Err(RestoreError::Recovery { reason, hint: Some(hint.into()) });
    }
    let data = ExtractRoot::open(target).map_err(RestoreError::disk(target))?;
    remove_stale_lock(&data)?;
    cancel.check()?;
    let key = catalog.layout().backup_object(&backup.id, "backup_label");
    let stored = catalog.store().get(&key).await.map_err(RestoreError::Store)?;
    let Some(label) = stored else {
        return Err(RestoreError::MissingObject { object: catalog.store().url_of(&key) });
    };
    write_label(&data, &label).map_err(RestoreError::disk(&target.join("backup_label")))
}

/// Recorded and found mount must be the same, options included (contract §14.5).
fn check_mount(
    recovery: &SnapshotRecovery,
    instance: &Instance,
    snapshot: &SnapshotRecord,
    recorded: &MountRecord,
) -> Result<(), RestoreError> {
    let id = snapshot.identifier();
    let Some(volume) = volume_of(instance, snapshot) else {
        let reason = format!(
            "no volume made of snapshot \"{id}\" is attached to instance \"{}\"",
            instance.name
        );
        let hint = "Attach one and mount it, or let --create-volumes do both.";
        return Err(RestoreError::Recovery { reason, hint: Some(hint.into()) });
    };
    let mount = recovery
        .machine
        .mount_of(&volume.clues.paths, volume.clues.serial.as_deref())
        .map_err(RestoreError::disk(Path::new("/proc/self/mountinfo")))?;
    let device = &volume.device_name;
    let Some(mount) = mount else {
        let reason = format!("volume \"{}\" (device \"{device}\") is not mounted", volume.id);
        return Err(RestoreError::Recovery { reason, hint: None });
    };
    if mount.point != Path::new(&recorded.point) {
        let reason = format!(
            "volume \"{}\" is mounted at \"{}\", not at \"{}\" as recorded",
            volume.id,
            mount.point.display(),
            recorded.point
        );
        return Err(RestoreError::Recovery { reason, hint: None });
    }
    if mount.options == recorded.options {
        return Ok(());
    }
    let reason = format!(
        "volume \"{}\" is mounted with options \"{}\", not \"{}\" as recorded",
        volume.id, mount.options, recorded.options
    );
    match recovery.volumes {
        RecoveryVolumes::Attached => Err(RestoreError::Recovery { reason, hint: None }),
        // Asked for as recorded: what differs is this kernel's way to show it.
        RecoveryVolumes::Create => {
            tracing::warn!("{reason}");
            Ok(())
        }
    }
}

/// What would make the creation of volumes pointless is found before the first is made.
fn check_creation(
    info: &SnapshotsInfo,
    place: &SnapshotPlace,
    machine: &Machine,
    instance: &Instance,
) -> Result<(), RestoreError> {
    if !disk::is_root() {
        return Err(refused("option --create-volumes mounts file systems, so it needs root"));
    }
    if !place.can_use_snapshots_of(&SnapshotPlace::of_record(&info.provider)?) {
        return Err(refused(
            "volumes can only be created where the snapshots are: same region or resource group",
        ));
    }
    let mounts = machine.mounts().map_err(RestoreError::disk(Path::new("/proc/self/mountinfo")))?;
    for (snapshot, recorded) in &info.snapshots {
        let taken = mounts.iter().any(|mount| mount.point == Path::new(&recorded.point));
        if taken && volume_of(instance, snapshot).is_none() {
            let reason = format!("something else is mounted at \"{}\"", recorded.point);
            let hint = "Unmount it first: the recovered volume belongs there.";
            return Err(RestoreError::Recovery { reason, hint: Some(hint.into()) });
        }
    }
    Ok(())
}

/// Makes, attaches and mounts what is missing; outer mount points first.
async fn create_missing<'a>(
    cloud: &dyn SnapshotCloud,
    info: &'a SnapshotsInfo,
    recovery: &SnapshotRecovery,
    instance: &Instance,
    made: &mut Vec<Made<'a>>,
    cancel: &Cancel,
) -> Result<(), RestoreError> {
    let mut snapshots: Vec<&(SnapshotRecord, MountRecord)> = info.snapshots.iter().collect();
    snapshots.sort_by_key(|(_, mount)| Path::new(&mount.point).components().count());
    for (snapshot, mount) in snapshots {
        cancel.check()?;
        let volume = match volume_of(instance, snapshot) {
            Some(volume) => volume.clone(),
            None => {
                let name = volume_name(snapshot, &instance.id);
                let (name, patience) = (name.as_str(), recovery.patience);
                made.push(Made { snapshot, name: name.into(), mounted: None });
                let request = VolumeRequest { instance, snapshot, name, patience };
                let volume = cloud.create_volume(&request, cancel).await?;
                tracing::info!(volume = %volume.id, snapshot = snapshot.identifier(), "volume attached");
                volume
            }
        };
        let device = wait_for_device(&recovery.machine, &volume, cancel).await?;
        let (paths, serial) = (&volume.clues.paths, volume.clues.serial.as_deref());
        let already = recovery.machine.mount_of(paths, serial);
        if already.map_err(RestoreError::disk(&device))?.is_some() {
            continue;
        }
        let point = PathBuf::from(&mount.point);
        mount_device(&device, &point, &mount.options).map_err(|source| RestoreError::Mount {
            device: device.clone(),
            point: point.clone(),
            source,
        })?;
        if let Some(last) = made.last_mut().filter(|made| made.snapshot == snapshot) {
            last.mounted = Some(point.clone());
        }
        tracing::info!(device = %device.display(), point = %point.display(), "mounted");
    }
    Ok(())
}

/// The kernel shows a device some time after the cloud says that it is attached.
async fn wait_for_device(
    machine: &Machine,
    volume: &AttachedVolume,
    cancel: &Cancel,
) -> Result<PathBuf, RestoreError> {
    let begun = Instant::now();
    loop {
        let found = machine.device(&volume.clues.paths, volume.clues.serial.as_deref());
        if let Some(device) = found.map_err(RestoreError::disk(Path::new("/sys/block")))? {
            return Ok(device);
        }
        if begun.elapsed() > DEVICE_PATIENCE {
            let reason = format!(
                "volume \"{}\" is attached as \"{}\" but this machine shows no such device",
                volume.id, volume.device_name
            );
            let hint = "Is this machine the recovery instance?";
            return Err(RestoreError::Recovery { reason, hint: Some(hint.into()) });
        }
        tokio::select! {
            () = tokio::time::sleep(DEVICE_PAUSE) => {}
            () = cancel.cancelled() => return Err(RestoreError::Cancelled),
        }
    }
}

/// The way back, last mount first. What cannot be undone is told.
async fn undo(
    cloud: &dyn SnapshotCloud,
    recovery: &SnapshotRecovery,
    instance: &Instance,
    made: &[Made<'_>],
) {
    for made in made.iter().rev() {
        if let Some(point) = &made.mounted
            && let Err(error) = unmount(point)
        {
            tracing::warn!(point = %point.display(), %error, "could not unmount");
            continue;
        }
        let (snapshot, name, patience) = (made.snapshot, made.name.as_str(), recovery.patience);
        let request = VolumeRequest { instance, snapshot, name, patience };
        if let Err(error) = cloud.discard_volume(&request).await {
            tracing::warn!(volume = name, %error, "could not delete a volume of the failed restore");
        }
    }
}

fn volume_of<'a>(instance: &'a Instance, snapshot: &SnapshotRecord) -> Option<&'a AttachedVolume> {
    let made_of =
        |source: &Option<String>| source.as_deref().is_some_and(|s| snapshot.is_source(s));
    instance.volumes.iter().find(|volume| made_of(&volume.source_snapshot))
}

/// The same for every run on that instance, and short enough for every cloud: Google's names
/// have at most 63 characters.
fn volume_name(snapshot: &SnapshotRecord, instance_id: &str) -> String {
    const STEM_MAX: usize = 54;
    let hash = instance_id
        .bytes()
        .fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let stem: String = snapshot.name().chars().take(STEM_MAX).collect();
    format!("{}-{hash:08x}", stem.trim_end_matches('-'))
}

/// A snapshot of a running server holds its `postmaster.pid`, which names a process of another
/// machine, or of another time: PostgreSQL may take it for a server that runs and refuse to
/// start. So only a process that works in the data directory counts, as PostgreSQL does; else
/// the file goes. Source: PostgreSQL's documentation, "Making a Base Backup Using the Low Level
/// API", which leaves it out of backups.
fn remove_stale_lock(data: &ExtractRoot) -> Result<(), RestoreError> {
    let (name, path) = (Path::new("postmaster.pid"), data.path().join("postmaster.pid"));
    let mut extractor = data.extractor();
    let Some(file) = extractor.open(name).map_err(RestoreError::disk(&path))? else {
        return Ok(());
    };
    let mut text = Vec::new();
    file.take(LOCK_BYTES_MAX).read_to_end(&mut text).map_err(RestoreError::disk(&path))?;
    let text = String::from_utf8_lossy(&text);
    let process = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    let here = fs::canonicalize(data.path()).map_err(RestoreError::disk(data.path()))?;
    match process.map(|process| fs::read_link(format!("/proc/{process}/cwd"))) {
        Some(Ok(folder)) if folder == here => {
            let reason = format!("PostgreSQL is running in \"{}\"", data.path().display());
            return Err(RestoreError::Recovery { reason, hint: Some("Stop it first.".into()) });
        }
        // Somebody else's process: what it is cannot be told.
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        _ => {}
    }
    extractor.remove(name).map_err(RestoreError::disk(&path))
}

/// Eight short lines; the first is what counts.
const LOCK_BYTES_MAX: u64 = 8 << 10;
const LABEL: &str = "backup_label";
const LABEL_NEW: &str = ".barman-cloud-restore.backup_label";

/// The volumes hold what somebody's snapshot held: no link on them is followed.
fn write_label(data: &ExtractRoot, label: &[u8]) -> io::Result<()> {
    // Whoever is not root owns what he writes.
    let owner = if disk::is_root() { Some(data.owner()?) } else { None };
    let mode = data.mode()? & 0o640;
    let mut extractor = data.extractor();
    let mut file = extractor.file(Path::new(LABEL_NEW), owner)?;
    file.write_all(label)?;
    disk::apply(&file, &Attributes { mode, owner, modified: None })?;
    file.sync_all()?;
    extractor.rename(Path::new(LABEL_NEW), Path::new(LABEL))
}

fn refused(reason: &str) -> RestoreError {
    RestoreError::Recovery { reason: reason.into(), hint: None }
}

#[cfg(test)]
mod tests {
    use crate::disk::ExtractRoot;
    use crate::restore::snapshot::{remove_stale_lock, volume_name, write_label};
    use crate::snapshot::{AwsSnapshot, SnapshotRecord};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn volume_names_are_stable_and_fit_every_cloud() {
        let record = |name: &str| {
            SnapshotRecord::Aws(AwsSnapshot {
                device_name: None,
                snapshot_id: "snap-1".into(),
                snapshot_name: Some(name.into()),
                lock_mode: None,
                account_id: None,
            })
        };
        let name = volume_name(&record("pgdata-20261121t001847"), "i-1");
        assert_eq!(name, volume_name(&record("pgdata-20261121t001847"), "i-1"));
        assert_ne!(name, volume_name(&record("pgdata-20261121t001847"), "i-2"));
        assert!(volume_name(&record(&"x".repeat(80)), "i-1").len() <= 63);
    }

    #[test]
    fn the_label_is_owned_like_the_data_directory() {
        let folder = tempfile::tempdir().expect("folder");
        let mode = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(folder.path(), mode).expect("mode");
        std::fs::write(folder.path().join("backup_label"), "old").expect("old");
        let data = ExtractRoot::open(folder.path()).expect("opened");
        write_label(&data, b"new").expect("written");
        let path = folder.path().join("backup_label");
        let (label, directory) =
            (path.metadata().expect("label"), folder.path().metadata().expect("directory"));
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(label.permissions().mode() & 0o777, 0o640);
        assert_eq!(label.uid(), directory.uid());
    }

    #[test]
    fn a_stale_postmaster_pid_goes_and_a_running_server_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("postmaster.pid");
        let data = ExtractRoot::open(folder.path()).expect("opened");
        let here = std::process::id().to_string();
        std::fs::write(&path, &here).expect("write");
        remove_stale_lock(&data).expect("this process works elsewhere");
        assert!(!path.exists());
        remove_stale_lock(&data).expect("nothing to remove");
        let mut server = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(folder.path())
            .spawn()
            .expect("a process");
        std::fs::write(&path, server.id().to_string()).expect("write");
        let refused = remove_stale_lock(&data);
        server.kill().and_then(|()| server.wait()).expect("ended");
        assert!(refused.is_err() && path.exists());
    }

    #[test]
    fn links_on_a_recovered_volume_are_not_followed() {
        let (folder, outside) =
            (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("outside"));
        let canary = outside.path().join("canary");
        std::fs::write(&canary, "mine").expect("write");
        std::fs::set_permissions(&canary, std::fs::Permissions::from_mode(0o644)).expect("mode");
        for name in ["backup_label", ".barman-cloud-restore.backup_label", "postmaster.pid"] {
            std::os::unix::fs::symlink(&canary, folder.path().join(name)).expect("link");
        }
        let data = ExtractRoot::open(folder.path()).expect("opened");
        assert!(remove_stale_lock(&data).is_err());
        write_label(&data, b"new").expect("written");
        let mode = canary.metadata().expect("canary").permissions().mode();
        assert_eq!((std::fs::read(&canary).expect("read"), mode & 0o777), (b"mine".into(), 0o644));
        assert!(!folder.path().join("backup_label").is_symlink());
    }
}
