//! The library's session on a real PostgreSQL: facts, backup mode, what ends it.

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::process::run;
use crate::support::wait::wait_until;
use barman_cloud::flow::Cancel;
use barman_cloud::pgdata::BackupOrigin;
use barman_cloud::postgres::{
    ArchiveWait, Checkpoint, ConnectOptions, ConnectTarget, PostgresError, Session,
    TablespaceLocation,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Resolves a connection string in an empty environment.
pub fn options(conninfo: &str) -> Result<ConnectOptions, PostgresError> {
    let target = ConnectTarget { dbname: conninfo.into(), host: None, port: None, user: None };
    let environment = BTreeMap::from([("HOME", "/nonexistent")]);
    let look_up = |name: &str| environment.get(name).map(ToString::to_string);
    ConnectOptions::resolve(&target, "barman_cloud_backup", &look_up)
}

pub async fn connect(conninfo: &str) -> Result<Session, PostgresError> {
    Session::connect(&options(conninfo)?, &Cancel::new()).await
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("runtime").block_on(future)
}

fn archiving(command: &str) -> ClusterOptions {
    ClusterOptions {
        settings: vec![
            ("archive_mode", "on".into()),
            ("archive_command", command.into()),
            ("allow_in_place_tablespaces", "on".into()),
            ("timezone", "Asia/Kolkata".into()),
        ],
        ..ClusterOptions::default()
    }
}

#[test]
fn facts_are_what_the_server_says_of_itself() {
    let cluster = Cluster::create(&archiving("true"));
    let location = cluster.folder_beside("space");
    cluster.psql(&format!("create tablespace outside location '{}'", location.display()));
    cluster.psql("create tablespace inside location ''");
    block_on(async {
        let session = connect(&cluster.conninfo()).await.expect("session");
        let facts = session.facts(&Cancel::new()).await.expect("facts");
        let setting = |name: &str| cluster.psql(&format!("show {name}"));
        assert_eq!(facts.version.number().to_string(), setting("server_version_num"));
        assert_eq!(facts.data_directory, cluster.data());
        assert_eq!(facts.config_file.display().to_string(), setting("config_file"));
        assert_eq!(facts.hba_file.display().to_string(), setting("hba_file"));
        assert_eq!(facts.ident_file.display().to_string(), setting("ident_file"));
        assert_eq!(facts.archive_mode, "on");
        assert_eq!(facts.wal_segment_size.bytes(), 1 << 20);
        assert!(facts.data_checksums && !facts.in_recovery);
        let identifier = cluster.psql("select system_identifier from pg_control_system()");
        assert_eq!(facts.system_identifier.to_string(), identifier);
        let size = cluster.psql("select sum(pg_tablespace_size(oid)) from pg_tablespace");
        assert_eq!(facts.cluster_size_bytes.expect("size").to_string(), size);
        let names: Vec<_> = facts.tablespaces.iter().map(|space| space.name.as_str()).collect();
        assert_eq!(names, ["outside", "inside"]);
        assert_eq!(facts.tablespaces[0].location, TablespaceLocation::Absolute(location));
        assert_eq!(facts.tablespaces[1].location, TablespaceLocation::InPlace);
        session.end().await;
    });
}

#[test]
fn a_backup_gets_its_label_map_and_archived_wal() {
    let archive = Cluster::empty(&[]);
    let folder = archive.folder_beside("archive");
    let cluster = Cluster::create(&archiving(&format!("cp %p {}/%f", folder.display())));
    let location = cluster.folder_beside("odd \\ space");
    cluster.psql(&format!("create tablespace outside location '{}'", location.display()));
    block_on(async {
        let cancel = Cancel::new();
        let session = connect(&cluster.conninfo()).await.expect("session");
        session.check_privileges(&cancel).await.expect("superuser");
        let label = "Barman backup cloud 20261120T235852";
        let started = session.start_backup(label, Checkpoint::Fast, &cancel).await.expect("start");
        assert_eq!(started.timeline.number(), 1);
        assert_eq!(started.begin_time.offset().seconds(), 19_800, "the session's time zone");
        started.ping(PATIENCE).await.expect("alive");
        let (begin, begin_time) = (started.begin, started.begin_time.clone());
        let stopped = started
            .stop("barman_20261120T235852", ArchiveWait::Server, &cancel)
            .await
            .expect("stop");
        assert_eq!(stopped.label.start, begin);
        assert_eq!(stopped.label.label, label);
        assert_eq!(stopped.label.from, BackupOrigin::Primary);
        assert!(stopped.end > begin && stopped.end_time > begin_time);
        assert_eq!(stopped.timeline.number(), 1);
        let links = &stopped.tablespace_map.links;
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].location, location.display().to_string());
        let first = folder.join(stopped.label.start_wal.as_str());
        assert!(first.exists(), "the stop waited for the archive");
    });
    assert!(cluster.log().contains("restore point \"barman_20261120T235852\" created"));
    assert!(!cluster.log().contains("aborting backup"), "{}", cluster.log());
}

#[test]
fn a_standby_is_backed_up_without_marks_in_its_wal() {
    let primary = Cluster::create(&ClusterOptions::default());
    let standby = Cluster::empty(&[]);
    let mut copy = primary.program("pg_basebackup");
    copy.args(&primary.connection()[..6]).arg("-D").arg(standby.data());
    run(copy.args(["-R", "-X", "stream", "-c", "fast"])).exits(0);
    standby.start();
    block_on(async {
        let cancel = Cancel::new();
        let session = connect(&standby.conninfo()).await.expect("session");
        assert!(session.facts(&cancel).await.expect("facts").in_recovery);
        let started = session.start_backup("x", Checkpoint::Fast, &cancel).await.expect("start");
        let stopped = started.stop("barman_x", ArchiveWait::Server, &cancel).await.expect("stop");
        assert_eq!(stopped.label.from, BackupOrigin::Standby);
        assert_eq!(stopped.timeline.number(), 1);
    });
    let both = format!("{} {}", primary.conninfo(), standby.conninfo());
    let (one, two) = both.split_once(" host=").expect("two");
    let host = |text: &str| text.split(' ').next().expect("host").replace("host=", "");
    let hosts = format!("host={},{} port=5432 user=postgres dbname=postgres", host(one), host(two));
    block_on(async {
        for (kind, in_recovery) in
            [("standby", true), ("prefer-standby", true), ("primary", false), ("read-write", false)]
        {
            let conninfo = format!("{hosts} target_session_attrs={kind}");
            let session = connect(&conninfo).await.expect(kind);
            let facts = session.facts(&Cancel::new()).await.expect("facts");
            assert_eq!(facts.in_recovery, in_recovery, "{kind}");
            session.end().await;
        }
        let alone = format!("{} target_session_attrs=standby", primary.conninfo());
        let refused = connect(&alone).await.expect_err("a primary").to_string();
        assert!(refused.ends_with("server is not in hot standby mode"), "{refused}");
    });
}

#[test]
fn a_role_without_privileges_is_told_the_statement_that_helps() {
    let cluster = Cluster::create(&archiving("true"));
    cluster.psql("create role \"back\"\"up\" login");
    let conninfo = cluster.conninfo().replace("user=postgres", "user=back\"up");
    block_on(async {
        let cancel = Cancel::new();
        let session = connect(&conninfo).await.expect("session");
        let refused = session.check_privileges(&cancel).await.expect_err("no privileges");
        let PostgresError::Privilege { missing, hint, .. } = &refused else {
            panic!("{refused:?}");
        };
        assert!(missing.contains("pg_read_all_settings"), "{missing}");
        let hidden = session.facts(&cancel).await.expect_err("hidden settings");
        assert!(matches!(hidden, PostgresError::Privilege { .. }), "{hidden:?}");
        let (_, grant) = hint.split_once("run: ").expect("a statement");
        cluster.psql(grant);
        session.check_privileges(&cancel).await.expect("granted");
        session.facts(&cancel).await.expect("facts");
        let started = session.start_backup("x", Checkpoint::Fast, &cancel).await.expect("start");
        started.stop("barman_x", ArchiveWait::Server, &cancel).await.expect("stop");
    });
    assert!(cluster.log().contains("restore point \"barman_x\" created"));
}

#[test]
fn cancelling_a_stop_that_waits_for_the_archive_ends_backup_mode() {
    let cluster = Cluster::create(&archiving("false"));
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'BackupWaitWalArchive'";
    let sessions = "select count(*) from pg_stat_activity \
        where application_name = 'barman_cloud_backup'";
    block_on(async {
        let cancel = Cancel::new();
        let session = connect(&cluster.conninfo()).await.expect("session");
        let started = session.start_backup("x", Checkpoint::Fast, &cancel).await.expect("start");
        let told = cancel.clone();
        let stop =
            tokio::spawn(async move { started.stop("barman_x", ArchiveWait::Server, &told).await });
        let look = |what: &'static str, sql: &'static str, count: &'static str| {
            tokio::task::block_in_place(|| {
                wait_until(what, PATIENCE, || cluster.psql(sql) == count);
            });
        };
        look("the wait for the archive", waiting, "1");
        let asked = Instant::now();
        cancel.cancel();
        let ended = stop.await.expect("task").expect_err("cancelled");
        assert_eq!(ended, PostgresError::Cancelled);
        assert!(asked.elapsed() < PATIENCE);
        look("the end of the session", sessions, "0");
    });
    assert!(cluster.log().contains("canceling statement due to user request"));
}

#[test]
fn a_killed_session_is_noticed_and_the_servers_words_are_kept() {
    let cluster = Cluster::create(&archiving("true"));
    block_on(async {
        let cancel = Cancel::new();
        let session = connect(&cluster.conninfo()).await.expect("session");
        let started = session.start_backup("x", Checkpoint::Fast, &cancel).await.expect("start");
        let watch = started.watch();
        cluster.psql(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where application_name = 'barman_cloud_backup'",
        );
        let lost = tokio::time::timeout(PATIENCE, watch.lost()).await.expect("noticed");
        let words = "terminating connection due to administrator command (57P01)";
        let expected = PostgresError::ConnectionLost { reason: words.into() };
        assert_eq!(lost, expected);
        assert_eq!(started.ping(PATIENCE).await, Err(expected.clone()));
        assert_eq!(
            started.stop("barman_x", ArchiveWait::Server, &cancel).await.map(drop),
            Err(expected)
        );
    });
}

#[test]
fn a_silent_server_is_given_up_after_connect_timeout() {
    // Accepts by the kernel's queue, never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = silent.local_addr().expect("address").port();
    let conninfo = format!("host=127.0.0.1 port={port} user=x connect_timeout=2");
    let begun = Instant::now();
    let error = block_on(connect(&conninfo)).expect_err("silent");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(
        error.to_string(),
        format!(
            "could not connect to PostgreSQL at \"127.0.0.1\", port {port}: timeout expired after 2 s"
        )
    );
    let cancel = Cancel::new();
    let patient = options(&format!("host=127.0.0.1 port={port} user=x")).expect("options");
    let cancelled = block_on(async {
        let connecting = Session::connect(&patient, &cancel);
        let tell = async {
            tokio::task::yield_now().await;
            cancel.cancel();
        };
        tokio::join!(connecting, tell).0.map(drop)
    });
    assert_eq!(cancelled, Err(PostgresError::Cancelled));
}

#[test]
fn unreachable_and_unknown_databases_are_named() {
    let cluster = Cluster::create(&ClusterOptions::default());
    let wrong = |from: &str, to: &str| {
        let conninfo = cluster.conninfo().replace(from, to);
        block_on(connect(&conninfo)).expect_err(to)
    };
    let error = wrong("port=5432", "port=1");
    assert!(matches!(error, PostgresError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("/.s.PGSQL.1\": No such file"), "{error}");
    assert_eq!(error.hint(), Some("Is PostgreSQL running there and accepting connections?"));
    let error = wrong("dbname=postgres", "dbname=nothing");
    assert!(error.to_string().ends_with("database \"nothing\" does not exist (3D000)"), "{error}");
    let error = wrong("user=postgres", "user=nobody");
    assert!(matches!(error, PostgresError::Authentication { .. }), "{error:?}");
    let error = wrong("user=postgres", "user=postgres requirepeer=nobody");
    assert!(error.to_string().contains("requirepeer specifies \"nobody\""), "{error}");
}
