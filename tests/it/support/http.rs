//! One plain HTTP request to a server on this machine: enough to create a bucket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends a request to `endpoint` (`http://host:port`) and returns status and body.
pub fn request(
    method: &str,
    endpoint: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let address = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address)
        .unwrap_or_else(|error| panic!("no server at {endpoint}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
    (status.unwrap_or_else(|| panic!("not HTTP: {answer}")), body.unwrap_or_default())
}
