//! How `barman-cloud-backup` finds PostgreSQL and gets in: options, libpq's variables and files.
//!
//! TLS and certificates are in `postgres_tls`, peer authentication in `cloudnative_pg`.

use crate::support::cluster::{Cluster, options_for};
use crate::support::commands::Commands;
use crate::support::process::{Outcome, run};
use crate::support::scratch::give_to_postgres;
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A server that asks role `keeper` for a password (SCRAM) through its socket.
struct Scene {
    ours: Commands,
    store: StoreUnderTest,
    cluster: Cluster,
}

const PASSWORD: &str = "a:pass\\word";

impl Scene {
    fn set() -> Self {
        let store = StoreUnderTest::open(StoreKind::File).expect("always there");
        let cluster = Cluster::create(&options_for(&store));
        cluster.archive_with("true");
        let escaped = PASSWORD.replace('\\', "\\\\");
        cluster.psql(&format!("create role keeper superuser login password E'{escaped}'"));
        let hba = cluster.data().join("pg_hba.conf");
        fs::write(&hba, "local all keeper scram-sha-256\nlocal all all trust\n").expect("hba");
        cluster.psql("select pg_reload_conf()");
        Self { ours: Commands::ours(), store, cluster }
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.cluster.beside(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        give_to_postgres(&path);
        path.display().to_string()
    }

    /// Takes a small backup; nothing but `variables` and `options` lead to the server.
    fn back_up(&self, options: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let common = ["--immediate-checkpoint", "--no-wal-check", "--gzip"];
        let options = [&common[..], options].concat();
        let mut command =
            self.ours.command("barman-cloud-backup", &self.store, &options, &["main"]);
        run(command.envs(variables.iter().copied()))
    }

    fn socket(&self) -> String {
        self.cluster.socket().display().to_string()
    }
}

#[test]
fn every_way_of_libpq_leads_to_the_server() {
    let scene = Scene::set();
    let socket = scene.socket();
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("# comment\n*:5432:*:other:no\nlocalhost:5432:postgres:keeper:{escaped}\n");
    let line = line.replace("localhost", &socket);
    let passwords = scene.file("pgpass", &line, 0o600);
    let service = format!(
        "[other]\nhost=/nonexistent\n[mine]\nhost={socket}\nport=5432\nuser=keeper\ndbname=postgres\n"
    );
    let services = scene.file("services", &service, 0o644);
    let (host, user) = (("PGHOST", socket.as_str()), ("PGUSER", "keeper"));
    let (password, passfile) = (("PGPASSWORD", PASSWORD), ("PGPASSFILE", passwords.as_str()));
    let files = [passfile, ("PGSERVICEFILE", services.as_str())];
    let uri = format!("postgresql://keeper@/postgres?host={}", socket.replace('/', "%2F"));
    let quoted =
        format!("host='{socket}' user = 'keeper' dbname=postgres application_name='two words'");
    type Way<'a> = (&'a [&'a str], Vec<(&'a str, &'a str)>);
    let ways: [Way<'_>; 8] = [
        (&["-h", &socket, "-U", "keeper", "-p", "5432"], vec![password]),
        (&[], vec![host, user, password]),
        (&["-U", "keeper"], vec![host, passfile]),
        (&["-d", "service=mine"], files.to_vec()),
        (&[], [&files[..], &[("PGSERVICE", "mine")]].concat()),
        (&["-d", &uri], vec![passfile]),
        (&["-d", &quoted], vec![password]),
        // An option wins over the variable of the same meaning.
        (&["-h", &socket, "-U", "keeper"], vec![("PGHOST", "/nonexistent"), passfile]),
    ];
    for (options, variables) in ways {
        scene.back_up(options, &variables).exits(0);
    }
}

#[test]
fn who_does_not_get_in_is_told_why() {
    let scene = Scene::set();
    let socket = scene.socket();
    let open = scene.file("pgpass", &format!("*:*:*:keeper:{PASSWORD}\n"), 0o644);
    let options = ["-h", socket.as_str(), "-U", "keeper"];
    let refused = |variables: &[(&str, &str)]| {
        let outcome = scene.back_up(&options, variables).exits(1);
        assert!(!outcome.stderr.contains("pass\\word"), "{outcome}");
        outcome
    };
    refused(&[("PGPASSWORD", "wrong")]).says("password authentication failed for user \"keeper\"");
    refused(&[]).says("no password supplied");
    refused(&[("PGPASSFILE", &open)]).says("has group or world access");
    let silent = scene.back_up(&options, &[("PGPASSWORD", "wrong"), ("PGCONNECT_TIMEOUT", "5")]);
    assert!(silent.exits(1).elapsed.as_secs() < 30);
    assert!(
        !Path::new(&scene.store.bucket).join("databases/prod/main").exists(),
        "nothing is written"
    );
}

#[test]
fn settings_of_the_session_reach_the_server() {
    let scene = Scene::set();
    let socket = scene.socket();
    scene.cluster.configure("log_line_prefix = '[%a] '\nlog_statement = all\n");
    scene.cluster.psql("select pg_reload_conf()");
    let options = ["-h", socket.as_str(), "-U", "postgres"];
    let variables = [("PGOPTIONS", "-c log_duration=on"), ("PGTZ", "Asia/Kolkata")];
    scene.back_up(&options, &variables).exits(0);
    let log = scene.cluster.log();
    assert!(log.contains("[barman_cloud_backup] LOG:  duration: "), "{log}");
    assert!(log.contains("Asia/Kolkata"), "{log}");
    let named = format!("host={socket} user=postgres dbname=postgres application_name=mine");
    scene.back_up(&["-d", &named], &[]).exits(0);
    assert!(scene.cluster.log().contains("[mine] LOG:  "), "{log}");
    // A spread checkpoint would take minutes; --immediate-checkpoint is in every call here.
    assert!(log.contains("immediate force wait"), "{log}");
}
