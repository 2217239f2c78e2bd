//! One story: rounds of commands that run side by side, and a look at everything after each.

use crate::catalog::KeepTarget;
use crate::codec::Compression;
use crate::simulation::cluster::{Cluster, segment_name};
use crate::simulation::commands::{self, Acknowledged};
use crate::simulation::model::Model;
use crate::simulation::server::{SharedCluster, locked, serve};
use crate::store::{Conditions, Faults, SimulatedServer, Store};
use futures::future::LocalBoxFuture;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex};

const ROUNDS: u64 = 7;

/// The system identifier of the cluster whose story it is.
const OURS: u64 = 7_388_000_000_000_000_001;

/// What a command of a round came to.
enum Outcome {
    Nothing,
    Kept(String),
    Released(String),
    /// One backup was deleted, or may have been.
    Deleted(String),
    /// The command itself found that something is lost.
    Wrong(String),
}

pub struct World {
    pub seed: u64,
    pub draws: u64,
    pub server: SimulatedServer,
    pub cluster: SharedCluster,
    pub acknowledged: Acknowledged,
    pub model: Model,
    pub now: Timestamp,
    pub redundancy: u32,
    pub scratch: tempfile::TempDir,
    pub processes: u64,
    pub log: Arc<Mutex<Vec<String>>>,
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

    pub fn note(&self, line: String) {
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
        if self.model.done.is_empty() {
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
            Outcome::Nothing => {}
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
            one.map_or(Outcome::Nothing, Outcome::Deleted)
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
}
