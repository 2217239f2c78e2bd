//! What Barman 3.19.1 wrote, restored by us and started by PostgreSQL 15.
//!
//! The expected rows are those that Barman's own restore of the same objects gave
//! (`tests/fixtures/barman-3.19.1/README.md`).

use crate::support::cluster::Cluster;
use barman_cloud::catalog::{Catalog, Layout, ServerName};
use barman_cloud::cloud::CloudProvider;
use barman_cloud::flow::{Cancel, Limits, RetryLimits};
use barman_cloud::monitor::{Monitor, Silent};
use barman_cloud::restore::{
    RestoreOptions, RestoreSelection, RestoreSummary, TablespaceMapping, Unfinished, restore,
};
use barman_cloud::store::{Store, StoreOptions, StoreUrl};
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A restored backup with the rows that recovery to its end brings.
struct Expected {
    id: &'static str,
    items: (u32, &'static str),
    items_ts: (u32, &'static str),
}

const B1: Expected = Expected {
    id: "20261120T235832",
    items: (2000, "0618c696863af4757c2c30826ca314b5"),
    items_ts: (1000, "4fd98f0e702eb808833b4d44a124e74d"),
};
const B2: Expected = Expected {
    id: "20261120T235852",
    items: (3500, "09a2f4434028b9ba9aff09addbeebbf6"),
    items_ts: (1500, "2125dbdd3194adbb5189c94c000af982"),
};
const B3: Expected = Expected {
    id: "20261120T235911",
    items: (4000, "29feb4b4d97587509a2c7ef6e30193e8"),
    items_ts: (1400, "4fdec9a8299a1f390ab33c2ef916ccda"),
};
const B4: Expected = Expected {
    id: "20261121T000052",
    items: (5000, "c3e9a8fa4655533865d6d428a6e0f835"),
    items_ts: (1400, "4fdec9a8299a1f390ab33c2ef916ccda"),
};
const B5: Expected = Expected {
    id: "20261121T000057",
    items: (5000, "c3e9a8fa4655533865d6d428a6e0f835"),
    items_ts: (1500, "31dbbe363630fdda0a4a126802602cb4"),
};

#[test]
fn a_gzip_backup_of_barman_is_restored_and_recovers() {
    restores_and_recovers(&B1);
}

#[test]
fn a_backup_of_barman_in_several_plain_tarballs_is_restored_and_recovers() {
    restores_and_recovers(&B2);
}

#[test]
fn a_bzip2_backup_of_barman_is_restored_and_recovers() {
    restores_and_recovers(&B3);
}

#[test]
fn a_snappy_backup_of_barman_on_a_second_timeline_is_restored_and_recovers() {
    restores_and_recovers(&B4);
}

#[test]
fn an_lz4_backup_of_barman_on_a_second_timeline_is_restored_and_recovers() {
    restores_and_recovers(&B5);
}

fn restores_and_recovers(expected: &Expected) {
    let cluster = Cluster::empty(&[]);
    let tablespace = cluster.beside("contract_ts");
    let summary = restore_fixture(expected.id, cluster.data(), &tablespace);
    assert_eq!(summary.backup_id.as_str(), expected.id);
    assert_modes_and_owners(cluster.data(), &tablespace);

    let command = format!("{} %f %p", fetch_script(&cluster).display());
    cluster.recover_with(
        &command,
        "recovery_target = 'immediate'\nprimary_conninfo = ''\nrecovery_target_timeline = 'current'",
    );
    cluster.start_and_recover();
    assert_eq!(rows(&cluster, "items"), shown(expected.items));
    assert_eq!(rows(&cluster, "items_ts"), shown(expected.items_ts));
    assert_eq!(cluster.psql("select count(*) from contract.unlogged_items"), "0");
    let location = cluster.psql(
        "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'contract_ts'",
    );
    assert_eq!(location, tablespace.display().to_string());
}

fn rows(cluster: &Cluster, table: &str) -> String {
    cluster.psql(&format!(
        "select count(*) || ' ' || md5(string_agg(id||payload, ',' order by id)) \
         from contract.{table}"
    ))
}

fn shown((count, md5): (u32, &str)) -> String {
    format!("{count} {md5}")
}

/// PostgreSQL's directories are private, belong to one user, and hold no trace of the restore.
fn assert_modes_and_owners(data: &Path, tablespace: &Path) {
    let owner = data.metadata().expect("data").uid();
    for directory in [data, tablespace, &data.join("pg_wal"), &data.join("pg_wal/archive_status")] {
        let metadata = directory.metadata().expect("a directory");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{}", directory.display());
        assert_eq!(metadata.uid(), owner, "{}", directory.display());
    }
    for file in ["backup_label", "global/pg_control", "PG_VERSION"] {
        let metadata = data.join(file).metadata().expect(file);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
        assert_eq!(metadata.uid(), owner, "{file}");
    }
    assert!(!data.join(".barman-cloud-restore.json").exists());
}

/// Recovery needs a few segments; they are gzip files in the fixtures.
fn fetch_script(cluster: &Cluster) -> PathBuf {
    let path = cluster.beside("fetch");
    let wals = fixtures().join("contract/pg15/main/wals");
    let script = format!(
        "#!/bin/sh\nset -e\nfor folder in {wals} {wals}/*; do\n  \
         [ -f \"$folder/$1.gz\" ] && exec gzip -dc \"$folder/$1.gz\" >\"$2\"\ndone\nexit 1\n",
        wals = wals.display()
    );
    std::fs::write(&path, script).expect("script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn restore_fixture(id: &str, target: &Path, tablespace: &Path) -> RestoreSummary {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime
        .expect("runtime")
        .block_on(async {
            let url = format!("file://{}/contract/pg15", fixtures().display());
            let url = StoreUrl::parse(&url, CloudProvider::AwsS3).expect("a URL");
            let store = Store::open(&url, &StoreOptions::new(RetryLimits::PATIENT)).expect("store");
            let server = ServerName::parse("main").expect("name");
            let layout = Layout::new(url.prefix(), &server).expect("layout");
            let options = RestoreOptions {
                tablespaces: vec![TablespaceMapping {
                    name: "contract_ts".into(),
                    location: tablespace.into(),
                }],
                unfinished: Unfinished::Refuse,
                now: "2026-12-01T00:00:00Z".parse().expect("time"),
            };
            let limits = Limits {
                jobs: NonZeroUsize::new(2).expect("2"),
                workers: NonZeroUsize::MIN,
                memory_max_bytes: 16 << 20,
                bandwidth_max: None,
                retry: RetryLimits::PATIENT,
            };
            let monitor: Arc<dyn Monitor> = Arc::new(Silent);
            let catalog = Catalog::new(store, layout);
            let selection = RestoreSelection::Named(id.into());
            restore(&catalog, &selection, target, &options, &limits, &monitor, &Cancel::new()).await
        })
        .expect("restored")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/barman-3.19.1")
}
