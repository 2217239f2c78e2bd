//! Who the commands are to a cloud, where its servers are and which authority vouches for them:
//! metadata servers, token services and the clouds themselves are played by the test.
//!
//! Azure and Google have no plain endpoint for tokens other than an emulator's: there the test
//! is the proxy, and the cloud behind it.

use crate::support::commands::{Commands, clean_environment};
use crate::support::fixtures::segment_name;
use crate::support::outside::skip;
use crate::support::process::{Outcome, run};
use crate::support::scratch::{as_postgres, give_to_postgres, scratch};
use crate::support::web::{WebAnswer, WebRequest, WebServer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const S3_PLACE: [&str; 3] = ["s3://bucket/p", "main", "--format=json"];
const NO_OBJECTS: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
const NO_BLOBS: &str = "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>";
/// What the token service of AWS gives for a web identity.
const WEB_KEYS: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
    <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>web</AccessKeyId>\
    <SecretAccessKey>hush</SecretAccessKey><SessionToken>token-of-web</SessionToken>\
    <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser>\
    <Arn>arn:aws:sts::123456789012:assumed-role/backup/x</Arn>\
    <AssumedRoleId>AROA:x</AssumedRoleId></AssumedRoleUser>\
    </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
const EMPTY: &str = "{\"backups_list\": []}\n";

/// Lists backups, as the sidecar of CloudNativePG would: nothing in the environment but
/// `variables`.
fn list(words: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let commands = Commands::ours();
    let mut command = Command::new(commands.program("barman-cloud-backup-list"));
    clean_environment(&mut command, Path::new("/nonexistent"));
    as_postgres(&mut command).args(words).envs(variables.iter().copied());
    run(&mut command)
}

/// A file that the commands may read.
fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("write");
    give_to_postgres(&path);
    path.display().to_string()
}

/// Keys in the form that metadata servers hand out.
fn aws_keys(id: &str) -> WebAnswer {
    let expiry = "2099-01-01T00:00:00Z";
    WebAnswer::new(
        200,
        format!(
            "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{id}\",\
             \"SecretAccessKey\":\"hush\",\"Token\":\"token-of-{id}\",\"Expiration\":\"{expiry}\"}}"
        ),
    )
    .with("content-type", "application/json")
}

/// An S3 server that is empty, whoever asks.
fn empty_s3() -> WebServer {
    WebServer::play(|_| WebAnswer::new(200, NO_OBJECTS))
}

/// Who signed the only request, for which region, and with which token.
fn signed(s3: &WebServer) -> (String, String) {
    let requests = s3.requests();
    let request = requests.last().expect("S3 was asked");
    let authorization = request.header("authorization");
    let (_, credential) = authorization.split_once("Credential=").expect("a signature");
    let mut parts = credential.split('/');
    let (id, region) = (parts.next().expect("an ID"), parts.nth(1).expect("a region"));
    (format!("{id} {region}"), request.header("x-amz-security-token").to_string())
}

#[test]
fn the_region_is_aws_default_region_and_none_is_needed_with_an_endpoint() {
    let s3 = empty_s3();
    let url = s3.url();
    let keys = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let words = [&["--endpoint-url", url.as_str()][..], &S3_PLACE].concat();
    let with = |more: &[(&'static str, &'static str)]| {
        assert_eq!(list(&words, &[&keys[..], more].concat()).ok(), EMPTY);
        signed(&s3)
    };
    let region = ("AWS_DEFAULT_REGION", "eu-west-3");
    assert_eq!(with(&[region]).0, "me eu-west-3");
    assert_eq!(with(&[region, ("AWS_REGION", "us-west-2")]).0, "me eu-west-3");
    assert_eq!(with(&[]).0, "me us-east-1");
    let when_required = ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required");
    assert_eq!(with(&[when_required, ("AWS_SESSION_TOKEN", "t")]).1, "t");
}

#[test]
fn keys_come_from_the_instance_metadata_of_version_2() {
    let s3 = empty_s3();
    let metadata = WebServer::play(|request: &WebRequest| match request.target.as_str() {
        "/latest/api/token" if request.method == "PUT" => {
            WebAnswer::new(200, "session").with("x-aws-ec2-metadata-token-ttl-seconds", "21600")
        }
        _ if request.header("x-aws-ec2-metadata-token") != "session" => WebAnswer::new(401, ""),
        path if path.ends_with("/role") => aws_keys("instance"),
        path if path.contains("security-credentials") => WebAnswer::new(200, "role"),
        _ => WebAnswer::new(404, ""),
    });
    let endpoint = s3.url();
    let words = [&["--endpoint-url", endpoint.as_str()][..], &S3_PLACE].concat();
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(list(&words, &variables).ok(), EMPTY);
    assert_eq!(signed(&s3), ("instance us-east-1".into(), "token-of-instance".into()));
}

#[test]
fn keys_come_from_a_container_with_the_token_of_its_pod() {
    let (s3, folder) = (empty_s3(), scratch());
    let agent = WebServer::play(|request: &WebRequest| {
        match (request.target.as_str(), request.header("authorization")) {
            ("/v1/credentials", "pod-token") => aws_keys("pod"),
            _ => WebAnswer::new(403, ""),
        }
    });
    let uri = format!("{}/v1/credentials", agent.url());
    let token = file(&folder, "token", "pod-token");
    let endpoint = s3.url();
    let words = [&["--endpoint-url", endpoint.as_str()][..], &S3_PLACE].concat();
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    assert_eq!(list(&words, &variables).ok(), EMPTY);
    assert_eq!(signed(&s3).1, "token-of-pod");
}

#[test]
fn keys_come_from_a_web_identity() {
    let (s3, folder) = (empty_s3(), scratch());
    let sts = WebServer::play(|request: &WebRequest| {
        let right = request.body.contains("Action=AssumeRoleWithWebIdentity")
            && request.body.contains("WebIdentityToken=web-token");
        if !right {
            return WebAnswer::new(400, "");
        }
        WebAnswer::new(200, WEB_KEYS)
    });
    let (url, token) = (sts.url(), file(&folder, "token", "web-token"));
    let endpoint = s3.url();
    let words = [&["--endpoint-url", endpoint.as_str()][..], &S3_PLACE].concat();
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup"),
        ("AWS_ENDPOINT_URL_STS", url.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    assert_eq!(list(&words, &variables).ok(), EMPTY);
    assert_eq!(signed(&s3), ("web us-east-1".into(), "token-of-web".into()));
}

/// Answers as the token service does, after `delay`, with keys that live long.
fn slow_sts(delay: Duration) -> WebServer {
    WebServer::play(move |_| {
        std::thread::sleep(delay);
        WebAnswer::new(200, WEB_KEYS)
    })
}

#[test]
fn a_slow_token_service_is_asked_once_for_many_commands_of_one_identity() {
    let (s3, folder, sts) = (empty_s3(), scratch(), slow_sts(Duration::from_millis(100)));
    let (url, token) = (sts.url(), file(&folder, "token", "web-token"));
    let (endpoint, cache) = (s3.url(), folder.path().join("cache"));
    fs::create_dir(&cache).expect("folder");
    give_to_postgres(&cache);
    let cache = cache.display().to_string();
    let words = [&["--endpoint-url", endpoint.as_str()][..], &S3_PLACE].concat();
    let with = |role: &str, cache: &str| {
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
            ("AWS_ROLE_ARN", role),
            ("AWS_ENDPOINT_URL_STS", url.as_str()),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("BARMAN_CLOUD_CACHE", cache),
        ];
        assert_eq!(list(&words, &variables).ok(), EMPTY);
        assert_eq!(signed(&s3), ("web us-east-1".into(), "token-of-web".into()));
        sts.requests().len()
    };
    let role = "arn:aws:iam::123456789012:role/backup";
    assert_eq!((with(role, &cache), with(role, &cache), with(role, &cache)), (1, 1, 1));
    assert_eq!(with("arn:aws:iam::123456789012:role/other", &cache), 2);
    assert_eq!((with(role, "off"), with(role, "off")), (3, 4));
    assert_eq!(with(role, &cache), 4);
}

/// An authority of the test's own, and a certificate for the clouds' hosts.
pub fn certificates(hosts: &str) -> Option<TempDir> {
    if Command::new("openssl").arg("version").output().is_err() {
        skip("program openssl is missing");
        return None;
    }
    let folder = scratch();
    let openssl = |line: &str| {
        run(Command::new("openssl").args(line.split(' ')).current_dir(folder.path())).exits(0);
    };
    fs::write(folder.path().join("ext"), format!("subjectAltName={hosts}\n")).expect("write");
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
    );
    openssl("req -newkey rsa:2048 -nodes -subj /CN=cloud -keyout cloud.key -out cloud.csr");
    openssl(
        "x509 -req -in cloud.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
         -out cloud.crt",
    );
    Some(folder)
}

/// The clouds behind a proxy: empty, and told who asks. The login takes `delay`.
fn clouds(certificates: &TempDir, token: &str, delay: Duration) -> WebServer {
    let path = |name: &str| certificates.path().join(name);
    let answer_to_login =
        format!("{{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"{token}\"}}");
    let answer = move |request: &WebRequest| match request.header("host") {
        host if host.ends_with("blob.core.windows.net") => WebAnswer::new(200, NO_BLOBS),
        "login.example" => {
            std::thread::sleep(delay);
            WebAnswer::new(200, answer_to_login.clone())
        }
        _ => WebAnswer::new(200, NO_OBJECTS),
    };
    WebServer::play_encrypted(&path("cloud.crt"), &path("cloud.key"), answer)
}

pub const HOSTS: &str = "DNS:account.blob.core.windows.net,DNS:storage.googleapis.com,\
    DNS:login.example,DNS:s3.us-east-1.amazonaws.com,DNS:*.s3.us-east-1.amazonaws.com,IP:127.0.0.1";

const AZURE: [&str; 4] = [
    "--cloud-provider=azure-blob-storage",
    "https://account.blob.core.windows.net/container/p",
    "main",
    "--format=json",
];

/// Lists through the proxy and returns the `Authorization` of the last request behind it.
fn list_behind(words: &[&str], variables: &[(&str, &str)], folder: &TempDir) -> String {
    let server = clouds(folder, "workload", Duration::ZERO);
    list_through(&server, words, variables, folder)
}

fn list_through(
    server: &WebServer,
    words: &[&str],
    variables: &[(&str, &str)],
    folder: &TempDir,
) -> String {
    let proxy = server.url();
    let bundle = folder.path().join("ca.crt").display().to_string();
    let common = [
        ("HTTPS_PROXY", proxy.as_str()),
        ("REQUESTS_CA_BUNDLE", bundle.as_str()),
        ("AWS_CA_BUNDLE", bundle.as_str()),
    ];
    assert_eq!(list(words, &[&common[..], variables].concat()).ok(), EMPTY);
    server.requests().last().expect("the cloud was asked").header("authorization").to_string()
}

#[test]
fn azure_tokens_come_from_a_managed_identity_whatever_the_option_is_called() {
    let Some(folder) = certificates(HOSTS) else { return };
    let metadata = WebServer::play(|request: &WebRequest| {
        let right = request.target.contains("resource=https%3A%2F%2Fstorage.azure.com")
            && request.header("metadata") == "true";
        if !right {
            return WebAnswer::new(400, "");
        }
        WebAnswer::new(
            200,
            "{\"access_token\":\"managed\",\"expires_on\":\"4070908800\",\"expires_in\":\"9999\",\
             \"resource\":\"https://storage.azure.com/\",\"token_type\":\"Bearer\"}",
        )
    });
    let endpoint = format!("{}/metadata/identity/oauth2/token", metadata.url());
    let variables = [("IDENTITY_ENDPOINT", endpoint.as_str())];
    for option in ["--credential", "--azure-credential", "--default"] {
        for kind in ["managed-identity", "default"] {
            let words = [&[option, kind][..], &AZURE].concat();
            assert_eq!(list_behind(&words, &variables, &folder), "Bearer managed", "{words:?}");
        }
    }
}

#[test]
fn azure_tokens_come_from_a_workload_identity() {
    let Some(folder) = certificates(HOSTS) else { return };
    let token = file(&folder, "token", "federated");
    let variables = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", token.as_str()),
        ("AZURE_AUTHORITY_HOST", "https://login.example"),
    ];
    let words = [&["--credential", "default"][..], &AZURE].concat();
    assert_eq!(list_behind(&words, &variables, &folder), "Bearer workload");
}

#[test]
fn a_slow_login_to_azure_is_asked_once_for_many_commands() {
    let Some(folder) = certificates(HOSTS) else { return };
    let claims = URL_SAFE_NO_PAD.encode("{\"exp\":4102444800}");
    let token = format!("head.{claims}.signature");
    let server = clouds(&folder, &token, Duration::from_millis(100));
    let (assertion, cache) = (file(&folder, "token", "federated"), folder.path().join("cache"));
    fs::create_dir(&cache).expect("folder");
    give_to_postgres(&cache);
    let cache = cache.display().to_string();
    let variables = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", assertion.as_str()),
        ("AZURE_AUTHORITY_HOST", "https://login.example"),
        ("BARMAN_CLOUD_CACHE", cache.as_str()),
    ];
    let words = [&["--credential", "default"][..], &AZURE].concat();
    for _ in 0..3 {
        assert_eq!(list_through(&server, &words, &variables, &folder), format!("Bearer {token}"));
    }
    let requests = server.requests();
    let logins = requests.iter().filter(|request| request.header("host") == "login.example");
    assert_eq!(logins.count(), 1);
}

#[test]
fn google_tokens_come_from_the_metadata_server() {
    let Some(folder) = certificates(HOSTS) else { return };
    let metadata =
        WebServer::play(|request: &WebRequest| match request.header("metadata-flavor") {
            "Google" => WebAnswer::new(
                200,
                "{\"access_token\":\"machine\",\"expires_in\":3599,\"token_type\":\"Bearer\"}",
            ),
            _ => WebAnswer::new(403, ""),
        });
    let host = format!("127.0.0.1:{}", metadata.port);
    let words = ["--cloud-provider=google-cloud-storage", "gs://bucket/p", "main", "--format=json"];
    let authorization = list_behind(&words, &[("GCE_METADATA_HOST", &host)], &folder);
    assert_eq!(authorization, "Bearer machine");
}

#[test]
fn the_authority_is_that_of_the_bundle_and_a_stranger_is_never_an_absence() {
    let Some(folder) = certificates(HOSTS) else { return };
    let server = clouds(&folder, "workload", Duration::ZERO);
    let url = format!("https://127.0.0.1:{}", server.port);
    let bundle = folder.path().join("ca.crt").display().to_string();
    let keys = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush")];
    let words = [&["--endpoint-url", url.as_str()][..], &S3_PLACE].concat();
    for variable in ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        assert_eq!(list(&words, &[&keys[..], &[(variable, &bundle)]].concat()).ok(), EMPTY);
    }
    let asked = server.requests().len();
    list(&words, &keys).exits(4).says("certificate");
    let target = folder.path().join("x").display().to_string();
    let commands = Commands::ours();
    let mut fetch = Command::new(commands.program("barman-cloud-wal-restore"));
    clean_environment(&mut fetch, Path::new("/nonexistent"));
    as_postgres(&mut fetch).envs(keys).args(["--endpoint-url", &url, "s3://bucket/p", "main"]);
    run(fetch.args([&segment_name(1), &target])).exits(4).says("certificate");
    assert_eq!(server.requests().len(), asked, "nothing is sent to a stranger");
}
