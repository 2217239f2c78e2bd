//! One story: rounds of commands that run side by side, and a look at everything after each.

use crate::catalog::{KeepTarget, WalObject};
use crate::codec::{Compression, decoder};
use crate::simulation::cluster::{Cluster, segment_name};
use crate::simulation::commands::{self, Acknowledged, sum_of};
use crate::simulation::model::{Listed, Model};
use crate::simulation::server::{SharedCluster, locked, serve};
use crate::store::{Conditions, Faults, SimulatedServer, Store};
use futures::future::LocalBoxFuture;
use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

const ROUNDS: u64 = 7;

/// The system identifier of the cluster whose story it is.
const OURS: u64 = 7_388_000_000_000_000_001;

/// What a command of a round came to.
enum Outcome {
    Nothing,
    Kept(String),
    Released(String),
    /// A policy was carried out, or tried.
    Policy,
    /// One backup was deleted, or may have been.
    Deleted(String),
    /// The command itself found that something is lost.
    Wrong(String),
}

struct World {
    seed: u64,
    draws: u64,
    server: SimulatedServer,
    cluster: SharedCluster,
    acknowledged: Acknowledged,
    model: Model,
    now: Timestamp,
    redundancy: u32,
    scratch: tempfile::TempDir,
    processes: u64,
    log: Arc<Mutex<Vec<String>>>,
}

/// Tells the story of `seed`; what went wrong, if anything did.
pub fn tell(seed: u64) -> (Vec<String>, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let log = Arc::new(Mutex::new(Vec::new()));
    let outcome = runtime.block_on(async {
        let mut world = World::new(seed, Arc::clone(&log));
        let serving = serve(&world.cluster);
        let outcome = world.run().await;
        serving.abort();
        outcome
    });
    runtime.shutdown_background();
    let log = log.lock().expect("no panics").clone();
    (log, outcome)
}

impl World {
    fn new(seed: u64, log: Arc<Mutex<Vec<String>>>) -> Self {
        let conditions = match Faults::draw(seed, &[0]) % 4 {
            0 => Conditions::Ignored,
            1 => Conditions::Refused,
            _ => Conditions::Honoured,
        };
        let mut world = Self {
            seed,
            draws: 0,
            server: SimulatedServer::new(conditions),
            cluster: Arc::new(Mutex::new(Cluster::new(OURS, 1))),
            acknowledged: Arc::default(),
            model: Model::new(),
            now: "2026-11-20T12:00:00Z".parse().expect("a time"),
            redundancy: 1,
            scratch: tempfile::tempdir().expect("a directory"),
            processes: 0,
            log,
        };
        world.redundancy = 1 + u32::try_from(world.draw(2)).expect("small");
        world.note(format!("conditions {conditions:?}, redundancy {}", world.redundancy));
        world
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        Faults::draw(self.seed, &[2, self.draws]) % below
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    fn note(&self, line: String) {
        self.log.lock().expect("no panics").push(line);
    }

    async fn run(&mut self) -> Result<(), String> {
        for round in 0..ROUNDS {
            self.pass_time(round);
            if round > 1 && self.chance(20) {
                self.promote();
            }
            self.round(round).await?;
            self.look().await.map_err(|wrong| format!("round {round}: {wrong}"))?;
        }
        self.end().await
    }

    fn pass_time(&mut self, round: u64) {
        let hours = if self.chance(15) { 60 } else { 1 + self.draw(20) };
        self.now += SignedDuration::from_hours(hours.cast_signed());
        self.server.objects().now = self.now;
        let mut cluster = locked(&self.cluster);
        cluster.now = self.now;
        cluster.change();
        drop(cluster);
        for _ in 0..self.draw(3) + u64::from(round == 0) {
            locked(&self.cluster).switch();
        }
        let content = locked(&self.cluster).content();
        self.model.contents.push(content);
    }

    /// Recovery to a point of the past, on the line that is alive, and a new timeline from there.
    fn promote(&mut self) {
        let first = self.model.done.len();
        if first == 0 {
            return;
        }
        let (live, current) = {
            let cluster = locked(&self.cluster);
            (cluster.timeline, cluster.current)
        };
        let at = current - self.draw(4).min(current - 3);
        if self.model.branches.get(&live).is_some_and(|(_, branch)| at <= *branch) {
            return;
        }
        let next = live + 1;
        let nonce = self.draw(u64::MAX);
        let mut cluster = locked(&self.cluster);
        let ancestry = match cluster.history.clone() {
            history if history.is_empty() => "1".into(),
            history => format!("{history}{live}"),
        };
        cluster.promote(&ancestry, next, at, nonce);
        let content = cluster.content();
        drop(cluster);
        self.model.contents.push(content);
        self.model.branches.insert(next, (live, at));
        self.model.live = next;
        self.note(format!("timeline {next} from {live} at {at}"));
    }

    /// A store for a new process, and what tells that it was killed.
    fn process(&mut self, name: &str) -> (Store, LocalBoxFuture<'static, ()>) {
        self.processes += 1;
        let seed = Faults::draw(self.seed, &[3, self.processes]);
        let per_mille = [0, 20, 60, 150][usize::try_from(self.draw(4)).expect("small")];
        let killed_at = self.chance(20).then(|| self.draw(40));
        let faults = Faults { seed, per_mille, killed_at };
        self.note(format!("  {name}: {per_mille} per mille, killed at {killed_at:?}"));
        let (store, client) = self.server.client(faults);
        (store, Box::pin(async move { client.killed().await }))
    }

    async fn round(&mut self, round: u64) -> Result<(), String> {
        self.note(format!("round {round} at {}", self.now));
        let mut commands: Vec<LocalBoxFuture<'static, Outcome>> = Vec::new();
        let compression = self.compression();
        let deletes = self.chance(45);
        if self.chance(65) || round == 0 {
            commands.push(self.backup(compression));
        }
        if deletes {
            commands.push(self.delete());
        } else if self.chance(30) {
            commands.push(self.impostor());
        }
        if self.chance(20) {
            commands.push(self.keep());
        }
        if self.chance(25) {
            commands.push(self.restore());
        }
        if self.chance(30) {
            commands.push(self.fetch());
        }
        let (store, killed) = self.process("archiver");
        let (catalog, cluster) = (commands::catalog(store), Arc::clone(&self.cluster));
        let acknowledged = Arc::clone(&self.acknowledged);
        let archiver = commands::archiver(&catalog, &cluster, compression, &acknowledged);
        let others = futures::future::join_all(commands);
        tokio::pin!(others, archiver);
        let outcomes = tokio::select! {
            outcomes = &mut others => outcomes,
            () = killed => others.await,
            () = &mut archiver => unreachable!("an archiver never ends by itself"),
        };
        outcomes.into_iter().try_for_each(|outcome| self.take(outcome))
    }

    fn compression(&mut self) -> Option<Compression> {
        let known =
            [None, Some(Compression::Gzip), Some(Compression::Lz4), Some(Compression::Zstd)];
        known[usize::try_from(self.draw(4)).expect("small")]
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Nothing | Outcome::Policy => {}
            Outcome::Kept(id) => drop(self.model.kept.insert(id)),
            Outcome::Released(id) => drop(self.model.kept.remove(&id)),
            Outcome::Deleted(id) => drop(self.model.done.remove(&id)),
            Outcome::Wrong(wrong) => return Err(wrong),
        }
        Ok(())
    }

    fn backup(&mut self, compression: Option<Compression>) -> LocalBoxFuture<'static, Outcome> {
        let (store, killed) = self.process("backup");
        let compression = match compression {
            Some(Compression::Zstd) => Some(Compression::Gzip),
            other => other,
        };
        let (cluster, now, log) = (Arc::clone(&self.cluster), self.now, Arc::clone(&self.log));
        Box::pin(async move {
            let catalog = commands::catalog(store);
            let taken = tokio::select! {
                taken = commands::back_up(&catalog, &cluster, compression, now) => Some(taken),
                () = killed => None,
            };
            log.lock().expect("no panics").push(format!("  backup: {taken:?}"));
            Outcome::Nothing
        })
    }

    fn delete(&mut self) -> LocalBoxFuture<'static, Outcome> {
        let (store, killed) = self.process("delete");
        let (now, redundancy, log) = (self.now, self.redundancy, Arc::clone(&self.log));
        let one = if self.chance(25) { self.any_done() } else { None };
        Box::pin(async move {
            let catalog = commands::catalog(store);
            let target = match &one {
                Some(id) => commands::by_id(id),
                None => commands::by_redundancy(redundancy),
            };
            let deleted = tokio::select! {
                deleted = commands::delete(&catalog, target, redundancy, now) => Some(deleted),
                () = killed => None,
            };
            log.lock().expect("no panics").push(format!("  delete {one:?}: {deleted:?}"));
            one.map_or(Outcome::Policy, Outcome::Deleted)
        })
    }

    fn any_done(&mut self) -> Option<String> {
        let ids: Vec<String> = self.model.done.iter().cloned().collect();
        let count = u64::try_from(ids.len()).expect("few");
        (count > 0).then(|| ids[usize::try_from(self.draw(count)).expect("small")].clone())
    }

    fn keep(&mut self) -> LocalBoxFuture<'static, Outcome> {
        let Some(id) = self.any_done() else { return Box::pin(async { Outcome::Nothing }) };
        let (store, killed) = self.process("keep");
        let (now, sets, log) = (self.now, self.chance(75), Arc::clone(&self.log));
        let target = if self.chance(60) { KeepTarget::Full } else { KeepTarget::Standalone };
        // A release that is not answered may have happened.
        if !sets {
            self.model.kept.remove(&id);
        }
        if sets && target == KeepTarget::Standalone {
            self.model.standalone.insert(id.clone());
        }
        Box::pin(async move {
            let catalog = commands::catalog(store);
            let done = async {
                match sets {
                    true => commands::keep(&catalog, &id, target, now).await,
                    false => commands::release(&catalog, &id).await,
                }
            };
            let done = tokio::select! { done = done => Some(done), () = killed => None };
            log.lock().expect("no panics").push(format!("  keep {id} {sets}: {done:?}"));
            match done {
                Some(Ok(())) if sets => Outcome::Kept(id),
                Some(Ok(())) => Outcome::Released(id),
                _ => Outcome::Nothing,
            }
        })
    }

    /// A clone of the cluster, or another one, that archives under a name that is taken.
    fn impostor(&mut self) -> LocalBoxFuture<'static, Outcome> {
        // One that a policy has deleted may be archived again by anyone.
        let names: Vec<String> = {
            let objects = self.server.objects();
            let there = |name: &&&str| objects.keys().any(|key| key.contains(**name));
            let archived = self.model.needed_live(&[]);
            archived.iter().filter(there).map(|name| (*name).into()).collect()
        };
        let count = u64::try_from(names.len()).expect("few");
        if count == 0 {
            return Box::pin(async { Outcome::Nothing });
        }
        let name = names[usize::try_from(self.draw(count)).expect("small")].clone();
        let number = u64::from_str_radix(&name[16..], 16).expect("hex");
        let identifier = if self.chance(50) { OURS } else { OURS + 1 };
        let mut clone = Cluster::new(identifier, self.draw(u64::MAX));
        (clone.timeline, clone.current) = (locked(&self.cluster).timeline, number);
        let (store, killed) = self.process("impostor");
        let (compression, log) = (self.compression(), Arc::clone(&self.log));
        Box::pin(async move {
            clone.switch();
            let catalog = commands::catalog(store);
            let path = clone.wal_path(&segment_name(clone.timeline, number));
            let forgotten = Acknowledged::default();
            let pushed = tokio::select! {
                pushed = commands::archive(&catalog, &path, compression, &forgotten) => pushed,
                () = killed => Err("killed".into()),
            };
            log.lock().expect("no panics").push(format!("  impostor {name}: {pushed:?}"));
            match pushed {
                Ok(()) => Outcome::Wrong(format!("two contents of \"{name}\" were acknowledged")),
                Err(_) => Outcome::Nothing,
            }
        })
    }

    /// Restores with faults, then what was begun without any.
    fn restore(&mut self) -> LocalBoxFuture<'static, Outcome> {
        let Some(id) = self.any_done() else { return Box::pin(async { Outcome::Nothing }) };
        let (store, killed) = self.process("restore");
        let target = self.scratch.path().join(format!("restore{}", self.processes));
        let (contents, now, log) = (self.model.contents.clone(), self.now, Arc::clone(&self.log));
        Box::pin(async move {
            let catalog = commands::catalog(store);
            let restored = tokio::select! {
                restored = commands::bring_back(&catalog, &id, &target, &contents, now) => restored,
                () = killed => Err("killed".into()),
            };
            log.lock().expect("no panics").push(format!("  restore {id}: {restored:?}"));
            match restored {
                Ok(Err(wrong)) => Outcome::Wrong(wrong),
                _ => Outcome::Nothing,
            }
        })
    }

    fn fetch(&mut self) -> LocalBoxFuture<'static, Outcome> {
        let names: Vec<String> = self.model.needed_live(&[]).iter().map(|n| (*n).into()).collect();
        let count = u64::try_from(names.len()).expect("few");
        if count == 0 {
            return Box::pin(async { Outcome::Nothing });
        }
        let name = names[usize::try_from(self.draw(count)).expect("small")].clone();
        let there = self.server.objects().keys().any(|key| key.contains(&name));
        let sum = self.model.archived[&name];
        let (store, killed) = self.process("fetch");
        let directory = self.scratch.path().join(format!("fetch{}", self.processes));
        let log = Arc::clone(&self.log);
        Box::pin(async move {
            std::fs::create_dir(&directory).expect("a directory");
            let catalog = commands::catalog(store);
            let fetched = tokio::select! {
                fetched = commands::fetch_one(&catalog, &name, sum, &directory) => fetched,
                () = killed => Err("killed".into()),
            };
            log.lock().expect("no panics").push(format!("  fetch {name}: {fetched:?}"));
            match fetched {
                // What a policy deletes meanwhile may be gone; `look` tells whether it may.
                Ok(Err(wrong)) if there && wrong.contains("other content") => Outcome::Wrong(wrong),
                _ => Outcome::Nothing,
            }
        })
    }

    /// Looks at everything without faults.
    async fn look(&mut self) -> Result<(), String> {
        for (name, sum) in std::mem::take(&mut *self.acknowledged.lock().expect("no panics")) {
            self.model.acknowledge(&name, sum)?;
        }
        let listed = self.listed().await?;
        let ids: BTreeSet<String> = listed.iter().map(|backup| backup.id.clone()).collect();
        self.note(format!("  listed as DONE: {ids:?}"));
        if let Some(lost) = self.model.kept.iter().find(|id| !ids.contains(*id)) {
            return Err(format!("backup \"{lost}\" is kept and gone"));
        }
        let promised = self.model.done.len().min(usize::try_from(self.redundancy).expect("small"));
        if ids.len() < promised {
            return Err(format!("{} backups are left, {promised} were promised", ids.len()));
        }
        self.model.done = ids;
        let stored = self.stored_wal().await?;
        let mut needed: BTreeSet<&str> = self.model.needed_live(&listed).into_iter().collect();
        for backup in &listed {
            needed.extend(self.model.needed_by(backup));
            for name in Model::own_wal(backup) {
                if !stored.contains_key(&name) {
                    return Err(format!("backup \"{}\" is DONE without \"{name}\"", backup.id));
                }
            }
        }
        match needed.into_iter().find(|name| !stored.contains_key(*name)) {
            Some(name) => Err(format!("\"{name}\" was archived, is needed and gone")),
            None => Ok(()),
        }
    }

    async fn listed(&self) -> Result<Vec<Listed>, String> {
        let catalog = commands::catalog(self.server.faultless());
        let listing = catalog.load(&commands::limits(), self.now).await;
        let listing = listing.map_err(|error| error.to_string())?;
        if let Some(unreadable) = listing.unreadable.first() {
            return Err(format!("\"{}\" cannot be read: {}", unreadable.object, unreadable.reason));
        }
        let mut listed = Vec::new();
        for backup in listing.backups.iter().filter(|backup| backup.is_done()) {
            let (Some(begin), Some(end)) = (backup.begin_segment(), backup.end_segment()) else {
                return Err(format!("backup \"{}\" is DONE and has no WAL", backup.id));
            };
            listed.push(Listed {
                id: backup.id.to_string(),
                timeline: begin.timeline.number(),
                begin: begin.number,
                end: end.number,
                standalone: self.model.standalone.contains(backup.id.as_str()),
            });
        }
        Ok(listed)
    }

    /// Every stored WAL file, decompressed: its sum. Copies under several suffixes must agree
    /// with each other and with what was acknowledged.
    async fn stored_wal(&self) -> Result<BTreeMap<String, u64>, String> {
        let catalog = commands::catalog(self.server.faultless());
        let objects: Vec<WalObject> =
            catalog.wals().try_collect().await.map_err(|error| error.to_string())?;
        let mut stored = BTreeMap::new();
        for object in objects {
            let content = catalog.store().get(&object.key).await.map_err(|e| e.to_string())?;
            let content = content.ok_or("a listed object is gone")?;
            let mut plain = Vec::new();
            match object.compression {
                None => plain.extend(&content),
                Some(compression) => {
                    let reading = decoder(compression, std::io::Cursor::new(content));
                    let mut reading = reading.map_err(|error| error.to_string())?;
                    reading.read_to_end(&mut plain).map_err(|e| format!("{}: {e}", object.key))?;
                }
            }
            let (name, sum) = (object.name.to_string(), sum_of(&plain));
            let acknowledged = self.model.archived.get(&name);
            if acknowledged.is_some_and(|acknowledged| *acknowledged != sum) {
                return Err(format!(
                    "\"{}\" holds other content than was acknowledged",
                    object.key
                ));
            }
            if stored.insert(name, sum).is_some_and(|earlier| earlier != sum) {
                return Err(format!("\"{}\" has another content under another suffix", object.key));
            }
        }
        Ok(stored)
    }

    /// Every backup that is left restores; a policy's run without faults finishes what was begun.
    async fn end(&mut self) -> Result<(), String> {
        self.now += SignedDuration::from_hours(72);
        self.server.objects().now = self.now;
        let catalog = commands::catalog(self.server.faultless());
        let policy = commands::by_redundancy(self.redundancy);
        commands::delete(&catalog, policy, 0, self.now)
            .await
            .map_err(|error| format!("at the end: the policy fails: {error}"))?;
        self.look().await.map_err(|wrong| format!("at the end: {wrong}"))?;
        for id in self.model.done.clone() {
            let target = self.scratch.path().join(&id);
            self.restore_whole(&id, &target).await?;
        }
        let folders: Vec<String> = {
            let objects = self.server.objects();
            let keys = objects.keys().filter_map(|key| key.strip_prefix("p/main/base/"));
            keys.filter_map(|key| key.split('/').next().map(String::from)).collect()
        };
        let listing =
            catalog.load(&commands::limits(), self.now).await.map_err(|e| e.to_string())?;
        let known = |id: &String| listing.backups.iter().any(|backup| backup.id.as_str() == id);
        match folders.iter().find(|id| !known(id)) {
            Some(id) => Err(format!("at the end: leftovers of \"{id}\" are never swept")),
            None => Ok(()),
        }
    }

    async fn restore_whole(&self, id: &str, target: &Path) -> Result<(), String> {
        let catalog = commands::catalog(self.server.faultless());
        let contents = &self.model.contents;
        commands::bring_back(&catalog, id, target, contents, self.now)
            .await
            .map_err(|error| format!("at the end: backup \"{id}\" does not restore: {error}"))?
    }
}
