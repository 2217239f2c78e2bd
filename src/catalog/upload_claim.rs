//! The claim of an id that somebody else gave: a Barman server's hook script uploads a backup
//! under Barman's own id, and may be run again until it succeeds.
//!
//! `started.json` is the claim, as for every backup, with the digest of the `backup.info` that is
//! uploaded. Only a folder with such a claim is provably left by an earlier try of the same
//! upload; any other content is somebody else's and stays.

use crate::catalog::format::{side_json, time};
use crate::catalog::handle::{ABANDONED_AFTER, STARTED_JSON};
use crate::catalog::{BackupId, Catalog, CatalogError, StartedRecord};
use crate::store::{ListEntry, ObjectKey, PutMode, PutOptions, PutOutcome};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

/// An upload that begins.
#[derive(Clone, Debug)]
pub struct UploadClaim<'a> {
    pub id: &'a BackupId,
    pub started: &'a StartedRecord,
    /// Tells this upload from any other: the digest of its `backup.info`, in hex.
    pub content: &'a str,
}

/// Whose an id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The folder holds nothing but our claim and what an earlier try of this upload left.
    Ours,
    /// Another try of this upload is still at it.
    Running { host: String, process: u32 },
    /// Something else lies or is on its way there.
    Taken,
}

impl Catalog {
    /// Claims the id of an upload. `is_running` tells of a process on this host.
    pub async fn claim_upload(
        &self,
        claim: &UploadClaim<'_>,
        now: Timestamp,
        is_running: &(dyn Fn(u32) -> bool + Sync),
    ) -> Result<Claimed, CatalogError> {
        let key = self.layout().backup_object(claim.id, STARTED_JSON);
        let content = Bytes::from(print(claim));
        let folder = self.layout().backup(claim.id);
        let objects: Vec<ListEntry> = self.store().list(&folder).try_collect().await?;
        if objects.is_empty() {
            let options = PutOptions::default();
            let put = self.store().put(&key, content.clone(), PutMode::Create, &options).await?;
            if put == PutOutcome::Written {
                return self.look_back(claim, &key, &content).await;
            }
        }
        let Some(stored) = self.store().get(&key).await? else { return Ok(Claimed::Taken) };
        if stored == content {
            return Ok(Claimed::Ours);
        }
        let Some(other) = same_upload(&stored, claim.content) else { return Ok(Claimed::Taken) };
        let newest = objects.iter().map(|entry| entry.modified).max().unwrap_or(now);
        let may_run = match other.host == claim.started.host {
            true => other.process != claim.started.process && is_running(other.process),
            // Nothing tells from here: a sign of life is its last object.
            false => now.duration_since(newest) <= ABANDONED_AFTER,
        };
        if may_run {
            return Ok(Claimed::Running { host: other.host, process: other.process });
        }
        // Whoever left it is gone: the claim becomes ours, so that a third try sees us.
        let options = PutOptions::default();
        self.store().put(&key, content.clone(), PutMode::Overwrite, &options).await?;
        self.look_back(claim, &key, &content).await
    }

    /// Reads the claim back: of two that write at once, the last one has it.
    async fn look_back(
        &self,
        claim: &UploadClaim<'_>,
        key: &ObjectKey,
        content: &Bytes,
    ) -> Result<Claimed, CatalogError> {
        let Some(stored) = self.store().get(key).await? else { return Ok(Claimed::Taken) };
        if stored == content {
            return Ok(Claimed::Ours);
        }
        Ok(match same_upload(&stored, claim.content) {
            Some(other) => Claimed::Running { host: other.host, process: other.process },
            None => Claimed::Taken,
        })
    }
}

fn print(claim: &UploadClaim<'_>) -> Vec<u8> {
    let StartedRecord { tool, name, method, started, host, process, .. } = claim.started;
    let record = json!({
        "format": 1,
        "tool": tool,
        "backup_name": name,
        "method": method,
        "started": time::rfc3339(*started),
        "host": host,
        "process": process,
        UPLOAD: claim.content,
    });
    format!("{record}\n").into_bytes()
}

/// The claim of another try of the same upload.
fn same_upload(stored: &[u8], content: &str) -> Option<StartedRecord> {
    let record: Value = serde_json::from_slice(stored).ok()?;
    let is_same = record.get(UPLOAD).and_then(Value::as_str) == Some(content);
    is_same.then(|| side_json::parse_started(stored).ok()).flatten()
}

/// The key that other claims do not have.
const UPLOAD: &str = "upload";

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{empty_catalog, keys, now, write};
    use crate::catalog::{
        BackupId, BackupMethod, BackupStatus, Catalog, Claimed, StartedRecord, UploadClaim,
    };

    const ID: &str = "20261120T120000";

    fn started(host: &str, process: u32) -> StartedRecord {
        StartedRecord {
            tool: "barman-cloud 0.1.0".into(),
            name: None,
            method: BackupMethod::Files,
            started: now(),
            host: host.into(),
            process,
            snapshots: None,
        }
    }

    async fn claim(
        catalog: &Catalog,
        content: &str,
        started: &StartedRecord,
        alive: &[u32],
    ) -> Claimed {
        let id = BackupId::parse(ID).expect("id");
        let claim = UploadClaim { id: &id, started, content };
        let is_running = |process| alive.contains(&process);
        catalog.claim_upload(&claim, now(), &is_running).await.expect("memory answers")
    }

    #[tokio::test]
    async fn an_upload_takes_over_only_what_a_dead_try_of_itself_left() {
        let catalog = empty_catalog();
        assert_eq!(claim(&catalog, "ab", &started("db", 1), &[]).await, Claimed::Ours);
        let id = BackupId::parse(ID).expect("id");
        let backup = catalog.find(&id, now()).await.expect("reads").expect("listed");
        assert_eq!(backup.status(), BackupStatus::Started);
        let running = Claimed::Running { host: "db".into(), process: 1 };
        assert_eq!(claim(&catalog, "ab", &started("db", 2), &[1]).await, running);
        assert_eq!(claim(&catalog, "ab", &started("other", 2), &[]).await, running);
        assert_eq!(claim(&catalog, "ab", &started("db", 2), &[]).await, Claimed::Ours);
        let running = Claimed::Running { host: "db".into(), process: 2 };
        assert_eq!(claim(&catalog, "ab", &started("db", 3), &[2]).await, running);
        assert_eq!(claim(&catalog, "cd", &started("db", 2), &[]).await, Claimed::Taken);
    }

    #[tokio::test]
    async fn an_upload_stays_away_from_what_is_not_its_own() {
        // A backup of ours that runs, one of Barman's, and tarballs that nobody claims.
        let ours = "{\"format\":1,\"tool\":\"barman-cloud 0.1.0\",\"backup_name\":null,\
            \"method\":\"files\",\"started\":\"2026-11-20T12:00:00Z\",\"host\":\"db\",\"process\":1}";
        for (name, text) in
            [("started.json", ours), ("backup.info", "status=STARTED"), ("data.tar", "x")]
        {
            let catalog = empty_catalog();
            write(catalog.store(), &format!("p/main/base/{ID}/{name}"), text).await;
            assert_eq!(claim(&catalog, "ab", &started("db", 2), &[]).await, Claimed::Taken);
            assert_eq!(keys(catalog.store()).await, [format!("p/main/base/{ID}/{name}")]);
        }
    }
}
