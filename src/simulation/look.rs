//! What is looked at after each round, and at the end of a story.

use crate::catalog::WalObject;
use crate::codec::decoder;
use crate::simulation::commands::{self, sum_of};
use crate::simulation::model::{Listed, Model};
use crate::simulation::story::World;
use futures::stream::TryStreamExt;
use jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

impl World {
    /// Looks at everything without faults.
    pub async fn look(&mut self) -> Result<(), String> {
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
    pub async fn end(&mut self) -> Result<(), String> {
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
