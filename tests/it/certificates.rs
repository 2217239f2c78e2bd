//! Servers whose certificates are their own authority, and what is said about those of others.

use crate::support::commands::{Commands, clean_environment};
use crate::support::outside::skip;
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, give_to_postgres, scratch};
use crate::support::web::{WebAnswer, WebServer};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const NO_OBJECTS: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";

/// A self-signed certificate for this machine, as openssl makes it without being told more.
fn self_signed(folder: &TempDir, name: &str) -> Option<(PathBuf, PathBuf)> {
    if Command::new("openssl").arg("version").output().is_err() {
        skip("program openssl is missing");
        return None;
    }
    let line = format!(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=minio \
         -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.crt"
    );
    run(Command::new("openssl").args(line.split(' ')).current_dir(folder.path())).exits(0);
    let path = |end: &str| folder.path().join(format!("{name}.{end}"));
    give_to_postgres(&path("crt"));
    Some((path("crt"), path("key")))
}

fn list(server: &WebServer, variables: &[(&str, &str)]) -> Outcome {
    let url = format!("https://127.0.0.1:{}", server.port);
    let ours = Commands::ours();
    let mut command = Command::new(ours.program("barman-cloud-backup-list"));
    clean_environment(&mut command, Path::new("/nonexistent"));
    let keys = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    as_postgres(&mut command).envs(keys).envs(variables.iter().copied());
    run(command.args(["--endpoint-url", &url, "s3://bucket/p", "main"]))
}

#[test]
fn a_self_signed_server_is_trusted_when_the_bundle_is_its_certificate() {
    let folder = scratch();
    let Some((certificate, key)) = self_signed(&folder, "server") else { return };
    let server = WebServer::play_encrypted(&certificate, &key, |_| WebAnswer::new(200, NO_OBJECTS));
    let certificate = certificate.display().to_string();
    for variable in ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"] {
        list(&server, &[(variable, &certificate)]).exits(0);
    }
}

#[test]
fn a_stranger_with_the_same_names_is_refused_and_the_bundle_named() {
    let folder = scratch();
    let Some((certificate, key)) = self_signed(&folder, "server") else { return };
    let Some((stranger, _)) = self_signed(&folder, "stranger") else { return };
    let server = WebServer::play_encrypted(&certificate, &key, |_| WebAnswer::new(200, NO_OBJECTS));
    let stranger = stranger.display().to_string();
    list(&server, &[("AWS_CA_BUNDLE", &stranger)])
        .exits(4)
        .says("certificate")
        .says(&format!("(trusted are the certificates of \"{stranger}\")"));
    assert!(server.requests().is_empty(), "nothing is sent to a stranger");
}
