//! What fetching a WAL file makes of a store that answers badly: an absence is reported only
//! when it is certain, and nothing half-done is left behind.

use barman_cloud::catalog::{Catalog, Layout, ServerName};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::{Cancel, Limits, RetryLimits};
use barman_cloud::monitor::Silent;
use barman_cloud::store::{Store, StoreErrorKind, StoreOptions, StoreUrl};
use barman_cloud::wal::WalFileName;
use barman_cloud::wal_archive::{
    Absence, FetchOptions, FetchOutcome, PartialSegments, SpoolOptions, WalArchiveError, fetch,
};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NAME: &str = "00000001000000000000001A";
const NOTHING_LISTED: &str =
    "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";

/// One answer of the store.
#[derive(Clone)]
enum Answer {
    Status(u16, String),
    /// Announces more than it sends, then keeps the connection open.
    Stall(Vec<u8>),
}

/// An S3 server that answers the n-th request by a script.
struct Script {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

impl Script {
    fn play(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
                std::thread::spawn(move || serve(connection, &count, &*answer));
            }
        });
        Self { endpoint, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn catalog(&self) -> Catalog {
        let url = StoreUrl::parse("s3://bucket/p", CloudProvider::AwsS3).expect("url");
        let mut options = StoreOptions::new(RetryLimits { attempts_max: 1, ..retry() });
        options.endpoint_url = Some(self.endpoint.clone());
        let environment = Environment::of([
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ]);
        let store = Store::open_in(&url, &options, &environment).expect("store");
        let server = ServerName::parse("main").expect("server");
        Catalog::new(store, Layout::new(url.prefix(), &server).expect("layout"))
    }
}

fn serve(connection: TcpStream, count: &AtomicUsize, answer: &dyn Fn(usize, &str) -> Answer) {
    let mut reader = BufReader::new(connection.try_clone().expect("clone"));
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let request = line.trim_end().to_string();
    while line != "\r\n" && !line.is_empty() {
        line.clear();
        if reader.read_line(&mut line).is_err() {
            return;
        }
    }
    let mut connection = connection;
    let send = |connection: &mut TcpStream, status, length: usize, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\
             ETag: \"x\"\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n"
        );
        let _ = connection.write_all(head.as_bytes());
        let _ = connection.write_all(body);
    };
    match answer(count.fetch_add(1, Ordering::SeqCst), &request) {
        Answer::Status(status, body) => {
            send(&mut connection, status, body.len(), body.as_bytes());
        }
        Answer::Stall(body) => {
            send(&mut connection, 200, body.len() + 1000, &body);
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

fn error(status: u16, code: &str) -> Answer {
    Answer::Status(status, format!("<Error><Code>{code}</Code><Message>m</Message></Error>"))
}

/// As S3 answers in an empty bucket.
fn absent(request: &str) -> Answer {
    if request.contains("list-type=2") {
        Answer::Status(200, NOTHING_LISTED.into())
    } else {
        error(404, "NoSuchKey")
    }
}

fn retry() -> RetryLimits {
    RetryLimits {
        attempts_max: 4,
        deadline: Duration::from_secs(20),
        delay_first: Duration::from_millis(1),
        delay_max: Duration::from_millis(5),
    }
}

async fn fetched(
    script: &Script,
    folder: &Path,
    cancel: &Cancel,
) -> Result<FetchOutcome, WalArchiveError> {
    let two = NonZeroUsize::new(2).expect("2");
    let limits = Limits {
        jobs: two,
        workers: two,
        memory_max_bytes: 1 << 26,
        bandwidth_max: None,
        retry: retry(),
    };
    let options = FetchOptions {
        partial: PartialSegments::Accept,
        absence: Absence::Listed,
        ahead: None,
        spool: SpoolOptions { directory: folder.join("spool"), scope: script.endpoint.clone() },
    };
    let name = WalFileName::parse(NAME).expect("name");
    let destination = folder.join("RECOVERYXLOG");
    fetch(&name, &destination, &script.catalog(), &options, &limits, &Silent, cancel).await
}

async fn outcome_of(script: &Script) -> Result<FetchOutcome, WalArchiveError> {
    let folder = tempfile::tempdir().expect("folder");
    let outcome = fetched(script, folder.path(), &Cancel::new()).await;
    let left = std::fs::read_dir(folder.path()).expect("folder").count();
    assert_eq!(left, 0, "nothing is left behind");
    outcome
}

#[tokio::test]
async fn a_certain_absence_is_an_outcome() {
    let script = Script::play(|_, request| absent(request));
    assert_eq!(outcome_of(&script).await.expect("outcome"), FetchOutcome::NotThere);
    assert_eq!(script.requests(), 2, "one guess beside one listing");
}

#[tokio::test]
async fn an_absence_behind_trouble_is_found_by_asking_again() {
    let script = Script::play(
        |index, request| {
            if index < 4 { error(503, "SlowDown") } else { absent(request) }
        },
    );
    assert_eq!(outcome_of(&script).await.expect("outcome"), FetchOutcome::NotThere);
}

#[tokio::test]
async fn trouble_without_end_is_an_error_that_tells_attempts_and_time() {
    for status in [500, 503] {
        let script = Script::play(move |_, _| error(status, "InternalError"));
        let error = outcome_of(&script).await.expect_err("no answer");
        assert!(matches!(error, WalArchiveError::GaveUp { attempts: 4, .. }), "{error}");
        assert!(error.to_string().contains("gave up after 4 attempts in 0 s"), "{error}");
    }
}

#[tokio::test]
async fn denials_and_missing_buckets_are_never_an_absence() {
    let cases = [
        (error(403, "AccessDenied"), StoreErrorKind::Denied),
        (error(404, "NoSuchBucket"), StoreErrorKind::BucketMissing),
    ];
    for (answer, kind) in cases {
        let script = Script::play(move |_, _| answer.clone());
        match outcome_of(&script).await.expect_err("no answer") {
            WalArchiveError::Store(error) => assert_eq!(error.kind, kind, "{error}"),
            error => panic!("{error}"),
        }
    }
}

/// A balancer that has lost its servers, a gateway that sends everybody to its login page, and a
/// store that asks for patience.
fn strangers() -> [Answer; 4] {
    [
        Answer::Status(404, String::new()),
        Answer::Status(404, "<html>no such page</html>".into()),
        error(429, "TooManyRequests"),
        Answer::Status(429, String::new()),
    ]
}

#[tokio::test]
async fn odd_404s_and_throttling_are_asked_again_to_the_end_and_are_never_an_absence() {
    for answer in strangers() {
        let script = Script::play(move |_, _| answer.clone());
        let error = outcome_of(&script).await.expect_err("no answer");
        assert!(matches!(error, WalArchiveError::GaveUp { attempts: 4, .. }), "{error}");
    }
}

#[tokio::test]
async fn an_answer_after_odd_404s_and_throttling_counts() {
    for answer in strangers() {
        let script = Script::play(move |index, request| match index < 4 {
            true => answer.clone(),
            false => absent(request),
        });
        assert_eq!(outcome_of(&script).await.expect("outcome"), FetchOutcome::NotThere);
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    drop(listener);
    let script = Script { endpoint, requests: Arc::default() };
    assert!(outcome_of(&script).await.is_err());
}

#[tokio::test]
async fn a_cancelled_fetch_leaves_nothing_behind() {
    let script = Script::play(|_, request| {
        if request.contains("list-type=2") {
            Answer::Status(200, NOTHING_LISTED.into())
        } else {
            // The beginning of a gzip member.
            Answer::Stall(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])
        }
    });
    let folder = tempfile::tempdir().expect("folder");
    let cancel = Cancel::new();
    let (outcome, ()) = tokio::join!(fetched(&script, folder.path(), &cancel), async {
        let asked = async {
            while script.requests() < 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("a download");
        cancel.cancel();
    });
    assert!(matches!(outcome, Err(WalArchiveError::Cancelled(_))));
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}
