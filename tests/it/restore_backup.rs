//! Backups of ours, taken from a running PostgreSQL, restored and looked at by PostgreSQL's own
//! tools.

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::process::run;
use barman_cloud::backup::{BackupOptions, PageChecksums, WalConfirmation, backup};
use barman_cloud::catalog::{Catalog, Layout, ServerName};
use barman_cloud::codec::Compression;
use barman_cloud::flow::{Cancel, Limits, RetryLimits};
use barman_cloud::monitor::{Monitor, Silent};
use barman_cloud::postgres::{Checkpoint, ConnectOptions, ConnectTarget, Session};
use barman_cloud::restore::{
    RestoreOptions, RestoreSelection, TablespaceMapping, Unfinished, restore,
};
use barman_cloud::store::Store;
use jiff::Timestamp;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

#[test]
fn every_compression_is_restored_to_what_pg_verifybackup_accepts() {
    let cluster = cluster_with_archive();
    let tablespace = cluster.folder_beside("ts");
    cluster.psql(&format!("create tablespace fast location '{}'", tablespace.display()));
    cluster.psql("create table far tablespace fast as select generate_series(1, 20000) as n");
    cluster.psql("create table near as select n, repeat('x', n % 100) as t from far");
    cluster.psql("create unlogged table gone as select 1 as n");
    let expected = cluster.psql(ROWS);

    let compressions =
        [None, Some(Compression::Gzip), Some(Compression::Zstd), Some(Compression::Lz4)];
    for compression in compressions {
        let catalog = catalog();
        let restored = Cluster::empty(&[]);
        let place = restored.beside("ts");
        runtime().block_on(async {
            take_backup(&cluster, &catalog, compression).await;
            restore_latest(&catalog, restored.data(), &place).await;
        });
        let mut verify = restored.program("pg_verifybackup");
        run(verify.arg("--no-parse-wal").arg(restored.data())).exits(0);

        cluster.archive_everything();
        let archive = cluster.beside("archive");
        restored.recover_with(&format!("cp {}/%f %p", archive.display()), "");
        restored.start_and_recover();
        assert_eq!(restored.psql(ROWS), expected, "{compression:?}");
        assert_eq!(restored.psql("select count(*) from gone"), "0");
    }
}

const ROWS: &str = "select (select count(*) || md5(string_agg(n::text, ',' order by n)) from far), \
                    (select count(*) || md5(string_agg(n || t, ',' order by n)) from near)";

fn cluster_with_archive() -> Cluster {
    let cluster = Cluster::create(&ClusterOptions::default());
    let archive = cluster.folder_beside("archive");
    cluster.archive_with(&format!("cp %p {}/%f", archive.display()));
    cluster
}

fn catalog() -> Catalog {
    let server = ServerName::parse("main").expect("name");
    Catalog::new(Store::memory(), Layout::new("p", &server).expect("layout"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime")
}

fn limits() -> Limits {
    Limits {
        jobs: NonZeroUsize::new(3).expect("3"),
        workers: NonZeroUsize::new(2).expect("2"),
        memory_max_bytes: 128 << 20,
        bandwidth_max: None,
        retry: RetryLimits::PATIENT,
    }
}

async fn take_backup(cluster: &Cluster, catalog: &Catalog, compression: Option<Compression>) {
    let target = ConnectTarget { dbname: cluster.conninfo(), host: None, port: None, user: None };
    let connect = ConnectOptions::resolve(&target, "test", &|_| None).expect("options");
    let session = Session::connect(&connect, &Cancel::new()).await.expect("connected");
    let options = BackupOptions {
        now: now(),
        host: "test".into(),
        name: None,
        compression,
        level: None,
        checkpoint: Checkpoint::Fast,
        tarball_bytes_max: 4 << 20,
        part_bytes_min: None,
        tags: Vec::new(),
        pages: PageChecksums::Verify,
        wal: WalConfirmation::Leave,
    };
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    let taken = backup(session, catalog, &options, &limits(), monitor, &Cancel::new()).await;
    assert!(taken.expect("taken").tarballs > 2);
}

async fn restore_latest(catalog: &Catalog, target: &Path, place: &Path) {
    let mapping = TablespaceMapping { name: "fast".into(), location: place.into() };
    let options =
        RestoreOptions { tablespaces: vec![mapping], unfinished: Unfinished::Refuse, now: now() };
    let latest = RestoreSelection::Named("latest".into());
    let monitor: Arc<dyn Monitor> = Arc::new(Silent);
    let cancel = Cancel::new();
    let restored = restore(catalog, &latest, target, &options, &limits(), &monitor, &cancel).await;
    assert!(restored.expect("restored").counts.tarballs > 2);
}

#[allow(clippy::disallowed_methods)]
fn now() -> Timestamp {
    Timestamp::now()
}
