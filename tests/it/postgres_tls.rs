//! TLS modes, certificates and passwords against a real PostgreSQL over TCP.

use crate::postgres_session::{block_on, connect};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::outside::skip;
use crate::support::process::run;
use crate::support::scratch::give_to_postgres;
use barman_cloud::postgres::PostgresError;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server on a TCP port whose certificate is made out to `localhost` by an authority of
/// its own.
struct Encrypted {
    cluster: Cluster,
    port: u16,
    certificates: PathBuf,
}

const HBA: &str = "local all all trust
hostssl all certified 127.0.0.1/32 cert
hostssl all tls_only 127.0.0.1/32 scram-sha-256
hostnossl all plain_only 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all postgres 127.0.0.1/32 trust
";

impl Encrypted {
    /// `None` without the `openssl` program to make certificates with.
    fn start(certificate: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            skip("program openssl is missing");
            return None;
        }
        let cluster = Cluster::create(&ClusterOptions::default());
        for role in ["certified", "tls_only", "plain_only", "clear"] {
            cluster.psql(&format!("create role {role} login password 'ge heim'"));
        }
        cluster.stop("fast");
        let certificates = cluster.folder_beside("certificates");
        make_certificates(&certificates);
        fs::write(cluster.data().join("pg_hba.conf"), HBA).expect("pg_hba.conf");
        let file = |name: &str| certificates.join(name).display().to_string();
        cluster.configure(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n",
            file(&format!("{certificate}.crt")),
            file(&format!("{certificate}.key")),
            file("authority.crt"),
        ));
        let port = free_port();
        let options =
            format!("-c listen_addresses=127.0.0.1 -c port={port} -k {}", certificates.display());
        let mut start = cluster.program("pg_ctl");
        start.arg("-D").arg(cluster.data()).arg("-l").arg(cluster.beside("log"));
        run(start.args(["-o", &options, "-w", "start"])).exits(0);
        Some(Self { cluster, port, certificates })
    }

    fn file(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }

    /// Connects and says how the session is protected: `TLSv1.3`, or nothing when it is not.
    fn log_in(&self, settings: &str) -> Result<String, PostgresError> {
        let conninfo = format!("port={} dbname=postgres {settings}", self.port);
        block_on(async {
            let session = connect(&conninfo).await?;
            let protection = format!(
                "select coalesce(version, '') from pg_stat_ssl join pg_stat_activity using (pid) \
                 where application_name = 'barman_cloud_backup' and usename = '{}'",
                session.role()
            );
            let mut psql = self.cluster.program("psql");
            psql.args(["-XAtq", "-h"]).arg(&self.certificates).args(["-p", &self.port.to_string()]);
            psql.args(["-U", "postgres", "-c", &protection]);
            let version = run(&mut psql).ok().trim().to_string();
            session.end().await;
            Ok(version)
        })
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    listener.local_addr().expect("address").port()
}

/// An authority, and signed by it: a server `localhost`, a client `certified`; and a server
/// certificate signed by itself.
fn make_certificates(folder: &Path) {
    let openssl = |line: &str| {
        run(Command::new("openssl").args(line.split(' ')).current_dir(folder)).exits(0);
    };
    fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost\n").expect("write");
    fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").expect("write");
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key \
         -out authority.crt",
    );
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext \
         subjectAltName=DNS:localhost -keyout itself.key -out itself.crt",
    );
    for (name, subject) in [("server", "localhost"), ("client", "certified")] {
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA authority.crt -CAkey authority.key -CAcreateserial \
             -days 2 -extfile {name}.ext -out {name}.crt"
        ));
    }
    for entry in fs::read_dir(folder).expect("folder").flatten() {
        give_to_postgres(&entry.path());
    }
}

#[test]
fn sslmode_decides_how_far_the_server_is_trusted() {
    let Some(server) = Encrypted::start("server") else { return };
    let (authority, stranger) = (server.file("authority.crt"), server.file("itself.crt"));
    let tls = "TLSv1.3";
    for (settings, expected) in [
        ("host=localhost sslmode=disable".to_string(), ""),
        ("host=localhost sslmode=allow".into(), ""),
        ("host=localhost".into(), tls),
        ("host=localhost sslmode=require".into(), tls),
        ("hostaddr=127.0.0.1 sslmode=require".into(), tls),
        ("host=localhost sslmode=require ssl_max_protocol_version=TLSv1.2".into(), "TLSv1.2"),
        (format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={authority}"), tls),
        (format!("host=localhost sslmode=verify-full sslrootcert={authority}"), tls),
        (format!("host=localhost sslrootcert={stranger}"), ""),
    ] {
        let protection = server.log_in(&format!("user=postgres {settings}"));
        assert_eq!(protection.as_deref(), Ok(expected), "{settings}");
    }
    for (settings, reason) in [
        (
            format!("host=127.0.0.1 sslmode=verify-full sslrootcert={authority}"),
            "not valid for name",
        ),
        (
            format!("host=other hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={authority}"),
            "not valid for name",
        ),
        (format!("host=localhost sslmode=verify-ca sslrootcert={stranger}"), "UnknownIssuer"),
        (format!("host=localhost sslmode=require sslrootcert={stranger}"), "UnknownIssuer"),
        ("host=localhost sslmode=verify-ca".into(), "root.crt\" does not exist"),
        ("host=localhost sslrootcert=system".into(), "UnknownIssuer"),
    ] {
        let refused = server.log_in(&format!("user=postgres {settings}")).expect_err(&settings);
        assert!(matches!(refused, PostgresError::Connect { .. }), "{settings}: {refused:?}");
        assert!(refused.to_string().contains(reason), "{settings}: {refused}");
    }
}

#[test]
fn a_self_signed_server_certificate_can_be_its_own_root() {
    let Some(server) = Encrypted::start("itself") else { return };
    let (itself, authority) = (server.file("itself.crt"), server.file("authority.crt"));
    let log_in = |settings: &str| server.log_in(&format!("user=postgres {settings}"));
    for settings in ["host=localhost sslmode=verify-full", "host=127.0.0.1 sslmode=verify-ca"] {
        let protection = log_in(&format!("{settings} sslrootcert={itself}"));
        assert_eq!(protection.as_deref(), Ok("TLSv1.3"), "{settings}");
    }
    for settings in [
        format!("host=127.0.0.1 sslmode=verify-full sslrootcert={itself}"),
        format!("host=localhost sslmode=verify-ca sslrootcert={authority}"),
    ] {
        let refused = log_in(&settings).expect_err(&settings);
        assert!(matches!(refused, PostgresError::Connect { .. }), "{settings}: {refused:?}");
    }
}

#[test]
fn passwords_and_client_certificates_let_their_roles_in() {
    let Some(server) = Encrypted::start("server") else { return };
    let client =
        format!("sslcert={} sslkey={}", server.file("client.crt"), server.file("client.key"));
    let password = "host=localhost password='ge heim'";
    for (settings, expected) in [
        (format!("user=tls_only {password}"), "TLSv1.3"),
        (format!("user=tls_only {password} channel_binding=require"), "TLSv1.3"),
        (format!("user=tls_only {password} sslmode=allow"), "TLSv1.3"),
        (format!("user=plain_only {password}"), ""),
        (format!("user=clear {password}"), "TLSv1.3"),
        (format!("user=certified host=localhost {client}"), "TLSv1.3"),
    ] {
        assert_eq!(server.log_in(&settings).as_deref(), Ok(expected), "{settings}");
    }
    for (settings, reason) in [
        ("user=tls_only host=localhost password=falsch".into(), "password authentication failed"),
        ("user=tls_only host=localhost".into(), "no password supplied"),
        (format!("user=tls_only {password} sslmode=disable"), "no pg_hba.conf entry"),
        (format!("user=plain_only {password} sslmode=require"), "no pg_hba.conf entry"),
        (
            format!("user=plain_only {password} sslmode=disable channel_binding=require"),
            "channel binding",
        ),
        ("user=certified host=localhost".into(), "requires a valid client certificate"),
    ] {
        let refused = server.log_in(&settings).expect_err(&settings);
        assert!(matches!(refused, PostgresError::Authentication { .. }), "{settings}: {refused:?}");
        assert!(refused.to_string().contains(reason), "{settings}: {refused}");
        assert!(!format!("{refused:?}").contains("heim"), "{refused:?}");
    }
}
