//! The front of one region of S3, before the emulator: it sends away whoever signed for another
//! region, and passes everything else on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How S3 says that a bucket is elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// 301 PermanentRedirect, the region in a header.
    Redirect,
    /// 400 AuthorizationHeaderMalformed, the region in the body.
    Malformed,
}

/// A running front. Its threads end with the test process.
pub struct Front {
    port: u16,
    sent_away: Arc<AtomicUsize>,
    passed_on: Arc<AtomicUsize>,
}

impl Front {
    /// Passes on to the server at `behind` what is signed for `region`.
    pub fn open(behind: &str, region: &'static str, elsewhere: Elsewhere) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let behind = behind.trim_start_matches("http://").trim_end_matches('/').to_string();
        let (sent_away, passed_on) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&sent_away), Arc::clone(&passed_on));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (behind, counts) = (behind.clone(), counts.clone());
                std::thread::spawn(move || {
                    let Some(head) = read_head(&client) else { return };
                    if head.contains(&format!("/{region}/s3/aws4_request")) {
                        counts.1.fetch_add(1, Ordering::SeqCst);
                        pass_on(&client, &head, &behind);
                    } else {
                        counts.0.fetch_add(1, Ordering::SeqCst);
                        // So that those that went out together are all answered alike.
                        std::thread::sleep(Duration::from_millis(50));
                        send_away(client, &head, region, elsewhere);
                    }
                });
            }
        });
        Self { port, sent_away, passed_on }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn sent_away(&self) -> usize {
        self.sent_away.load(Ordering::SeqCst)
    }

    pub fn passed_on(&self) -> usize {
        self.passed_on.load(Ordering::SeqCst)
    }
}

/// Byte for byte, because the body belongs to somebody else.
fn read_head(mut client: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

fn send_away(mut client: TcpStream, head: &str, region: &str, elsewhere: Elsewhere) {
    let lower = head.to_lowercase();
    let length = lower.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
    let length: u64 = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let _ = std::io::copy(&mut (&client).take(length), &mut std::io::sink());
    let (status, header, body) = match elsewhere {
        Elsewhere::Redirect => (
            "301 Moved Permanently",
            format!("x-amz-bucket-region: {region}\r\n"),
            "<Error><Code>PermanentRedirect</Code></Error>".to_string(),
        ),
        Elsewhere::Malformed => (
            "400 Bad Request",
            String::new(),
            format!(
                "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message>\
                 <Region>{region}</Region></Error>"
            ),
        ),
    };
    let body = if head.starts_with("HEAD ") { String::new() } else { body };
    // The answer to HEAD has no body to tell it in.
    let header = match head.starts_with("HEAD ") {
        true => format!("x-amz-bucket-region: {region}\r\n"),
        false => header,
    };
    let length = body.len();
    let _ = write!(
        client,
        "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

fn pass_on(client: &TcpStream, head: &str, behind: &str) {
    let Ok(server) = TcpStream::connect(behind) else { return };
    // One request on each connection: the next one is looked at, too.
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    if (&server).write_all(head.as_bytes()).is_err() {
        return;
    }
    let (mut client_in, mut server_in) =
        (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    let forth = std::thread::spawn(move || std::io::copy(&mut client_in, &mut server_in));
    let mut answer = BufReader::new(&server);
    loop {
        let length = match answer.fill_buf() {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                if { client }.write_all(bytes).is_err() {
                    break;
                }
                bytes.len()
            }
        };
        answer.consume(length);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = forth.join();
}
