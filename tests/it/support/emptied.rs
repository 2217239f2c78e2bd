//! A backup that has lost a tarball: the proof that a story would notice.
//!
//! WAL brings a good part of a cluster back by itself, above all with data checksums, where each
//! hint bit that is set after a checkpoint puts a whole page into it. So a story that ends with
//! equal tables proves a backup only if it ends otherwise without a part of it.

use crate::support::cluster::{Cluster, TableChecksums};
use crate::support::commands::Commands;
use crate::support::stores::{PREFIX, StoreUnderTest};
use barman_cloud::codec::{Compression, compress};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Two zero blocks, padded to a record: a tarball without members.
const EMPTY_TAR: [u8; 10240] = [0; 10240];

/// The files of a backup of ours in a store.
pub struct StoredBackup<'a> {
    store: &'a StoreUnderTest,
    folder: String,
}

impl<'a> StoredBackup<'a> {
    /// The only backup of a server that is called DONE, or the last one.
    pub fn last(store: &'a StoreUnderTest, server: &str) -> Self {
        let ids = store.keys_below(&format!("{server}/base"));
        let ended = ids.iter().filter_map(|key| key.strip_suffix("/backup.json"));
        let id = ended.max().expect("a backup of ours");
        Self { store, folder: format!("{PREFIX}/{server}/base/{id}") }
    }

    /// In the order of the record.
    pub fn tarballs(&self) -> Vec<String> {
        let tarballs = self.record()["tarballs"].as_array().cloned().unwrap_or_default();
        tarballs.iter().filter_map(|tarball| Some(tarball["name"].as_str()?.into())).collect()
    }

    /// Empties each of `tarballs` in turn, with records that match, so that only the content of
    /// the restored cluster can tell; `again` restores and recovers from it, `None` where it gets
    /// stuck. The backup is whole again afterwards.
    #[track_caller]
    pub fn is_missed(
        &self,
        tarballs: &[String],
        expected: &TableChecksums,
        again: impl Fn() -> Option<TableChecksums>,
    ) {
        for name in tarballs {
            let before = self.empty(name);
            let found = again();
            for (key, content) in before {
                self.store.put(&key, content);
            }
            assert!(found.as_ref() != Some(expected), "nobody missed tarball {name}");
        }
    }

    /// Returns what was there before.
    fn empty(&self, name: &str) -> Vec<(String, Bytes)> {
        let suffix = name.split_once(".tar").map_or("", |(_, suffix)| suffix);
        let compression = Compression::from_suffix(suffix.trim_start_matches('.'));
        let content = match compression {
            None => EMPTY_TAR.to_vec(),
            Some(compression) => compress(compression, 1, &EMPTY_TAR).expect("compresses"),
        };
        let mut record = self.record();
        for tarball in record["tarballs"].as_array_mut().expect("tarballs") {
            if tarball["name"] == name {
                let digest = Sha256::digest(&content);
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                tarball["stored_bytes"] = content.len().into();
                tarball["raw_bytes"] = EMPTY_TAR.len().into();
                tarball["members"] = 0.into();
                tarball["sha256"] = hex.into();
                tarball["index"] = Value::Null;
            }
        }
        let keys = ["backup.json", name].map(|name| format!("{}/{name}", self.folder));
        let before = keys.map(|key| (key.clone(), self.store.get(&key)));
        self.store.put(&before[0].0, record.to_string());
        self.store.put(&before[1].0, content);
        before.into()
    }

    fn record(&self) -> Value {
        let record = self.store.get(&format!("{}/backup.json", self.folder));
        serde_json::from_slice(&record).expect("JSON")
    }
}

/// Restores into `cluster` and recovers it, whatever comes of it.
pub fn recovered_again(
    ours: &Commands,
    store: &StoreUnderTest,
    cluster: &Cluster,
    [server, id]: [&str; 2],
    options: &[&str],
) -> Option<TableChecksums> {
    let data = cluster.data().display().to_string();
    let restored = ours.run("barman-cloud-restore", store, options, &[server, id, &data]);
    // Without its configuration there is nothing to recover with.
    if !restored.status.success() || !cluster.data().join("postgresql.conf").exists() {
        return None;
    }
    let line = ours.shell_line("barman-cloud-wal-restore", store, &[], &[server, "%f", "%p"]);
    cluster.recover_with(&line, "primary_conninfo = ''");
    if !cluster.try_start().status.success() || !cluster.ends_recovery() {
        return None;
    }
    cluster.try_table_checksums().ok()
}
