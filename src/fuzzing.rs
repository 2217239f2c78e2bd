//! Every parser of what others wrote, as a function of bytes, for whoever throws bytes at them:
//! the targets of `cargo fuzz` in `fuzz/`, and the tests in `tests/it/fuzzing.rs`, which do the
//! same for a bounded time on a stable compiler.
//!
//! A parser may refuse whatever it likes; it must not panic, hang, or take memory that its input
//! does not justify. No part of a command uses this.

use crate::catalog::format::{backup_info, backup_json, python, side_json, time};
use crate::catalog::{BackupId, BackupSelector, Keep, Layout, ServerName, TarballName, read_index};
use crate::cloud::error_body::read_answer;
use crate::cloud::{
    CloudProvider, ConnectionString, PlainHttp, aws_profile, azure_token, check_endpoint,
};
use crate::codec::zstd_jobs::JobWalk;
use crate::codec::{BlockDecoder, Compression, decoder};
use crate::command::recovery_time;
use crate::command::value::{ByteSize, Tag, lock_duration, lock_expiration};
use crate::pgdata::{BackupLabel, ControlFile, TablespaceMap};
use crate::postgres::passfile::{PasswordQuery, find_password};
use crate::postgres::{conninfo, service, uri};
use crate::restore::TablespaceMapping;
use crate::retention::RetentionPolicy;
use crate::snapshot::xml::Element;
use crate::snapshot::{PendingSnapshots, SnapshotsInfo, aws_answers};
use crate::store::{ObjectKey, StoreUrl};
use crate::tarball::{MemberPath, TarballReadError, read_members};
use crate::wal::{Lsn, TimelineHistory, TimelineId, WalFileName, WalPageHeader};
use http::{HeaderMap, StatusCode};
use jiff::tz::TimeZone;
use std::io::{self, Read};
use std::path::Path;

/// One parser, by the name of its corpus.
#[derive(Clone, Copy, Debug)]
pub struct Parser {
    pub name: &'static str,
    parse: fn(&[u8]),
}

impl Parser {
    const fn new(name: &'static str, parse: fn(&[u8])) -> Self {
        Self { name, parse }
    }

    /// Gives it one input; what it makes of it does not matter.
    pub fn feed(&self, input: &[u8]) {
        (self.parse)(input);
    }
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser::new("backup_info", |input| ignore(backup_info::parse(&text(input)))),
    Parser::new("backup_json", |input| ignore(backup_json::parse(input))),
    Parser::new("side_json", side_objects),
    Parser::new("python_literal", python_literal),
    Parser::new("tarball", tarball),
    Parser::new("tarball_index", |input| ignore(read_index(input))),
    Parser::new("index_lines", index_lines),
    Parser::new("backup_label", |input| ignore(BackupLabel::parse(&text(input)))),
    Parser::new("tablespace_map", |input| ignore(TablespaceMap::parse(&text(input)))),
    Parser::new("control_file", |input| ignore(ControlFile::parse(input))),
    Parser::new("timeline_history", timeline_history),
    Parser::new("wal_page_header", wal_page_header),
    Parser::new("names", names),
    Parser::new("conninfo", conninfo),
    Parser::new("passfile", passfile),
    Parser::new("service_file", service_file),
    Parser::new("command_line_values", command_line_values),
    Parser::new("recovery_time", recovery_time),
    Parser::new("store_url", store_url),
    Parser::new("cloud_settings", cloud_settings),
    Parser::new("cloud_answer", cloud_answer),
    Parser::new("ec2_answer", ec2_answer),
    Parser::new("snapshot_records", snapshot_records),
    Parser::new("decoder", decode),
    Parser::new("block_decoder", decode_block),
    Parser::new("zstd_jobs", walk_zstd_jobs),
];

/// The parser with this name.
pub fn parser(name: &str) -> Option<&'static Parser> {
    PARSERS.iter().find(|parser| parser.name == name)
}

/// More is not read of what an input unpacks to.
const UNPACKED_BYTES_MAX: u64 = 4 << 20;

const COMPRESSIONS: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Xz,
    Compression::Snappy,
    Compression::Zstd,
    Compression::Lz4,
];

fn ignore<T>(_: T) {}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn lines(input: &[u8]) -> Vec<String> {
    text(input).lines().map(String::from).collect()
}

/// The compression that the first byte stands for, and the rest.
fn with_compression(input: &[u8]) -> Option<(Compression, &[u8])> {
    let (first, rest) = input.split_first()?;
    Some((COMPRESSIONS[usize::from(*first) % COMPRESSIONS.len()], rest))
}

fn side_objects(input: &[u8]) {
    ignore(side_json::parse_started(input));
    ignore(side_json::parse_archive(input));
    let keep = Keep::parse(input);
    ignore(keep.stronger(Keep::parse(b"full")));
}

/// What was understood is also written again, and read again.
fn python_literal(input: &[u8]) {
    if let Ok(literal) = python::Literal::parse(&text(input)) {
        ignore(python::Literal::parse(&literal.to_string()));
        ignore(python::Literal::from_json(&literal.into_json()));
    }
    ignore(time::parse(&text(input)));
}

fn tarball(input: &[u8]) {
    let read = read_members(input, |member, content| {
        ignore(format!("{member:?}"));
        let copied = io::copy(&mut content.take(UNPACKED_BYTES_MAX), &mut io::sink());
        copied.map(|_| ()).map_err(|error| TarballReadError::Malformed(error.to_string()))
    });
    ignore(read);
    ignore(MemberPath::parse(input));
}

fn index_lines(input: &[u8]) {
    if let Ok(stored) = zstd::encode_all(input, 1) {
        ignore(read_index(&stored));
    }
}

fn timeline_history(input: &[u8]) {
    let Ok(timeline) = TimelineId::new(7) else { return };
    if let Ok(history) = TimelineHistory::parse(timeline, &text(input)) {
        for switch in history.switches() {
            ignore(history.left_at(switch.parent));
        }
    }
}

fn wal_page_header(input: &[u8]) {
    if let Some(header) = WalPageHeader::parse(input) {
        ignore(header.postgresql_major());
    }
}

fn names(input: &[u8]) {
    for line in lines(input) {
        if let Ok(name) = WalFileName::parse(&line) {
            ignore(name.to_string());
        }
        ignore(line.parse::<Lsn>());
        ignore(TarballName::parse(&line));
        ignore(BackupId::parse(&line));
        ignore(BackupSelector::parse(&line));
        ignore(ObjectKey::parse(&line));
        if let Ok(server) = ServerName::parse(&line) {
            ignore(Layout::new(&line, &server));
        }
    }
}

fn conninfo(input: &[u8]) {
    let text = text(input);
    match uri::without_scheme(&text) {
        Some(rest) => ignore(uri::parse_uri(rest)),
        None => ignore(conninfo::parse_conninfo(&text)),
    }
}

fn passfile(input: &[u8]) {
    let query = PasswordQuery { host: "localhost", port: 5432, dbname: "postgres", user: "u" };
    ignore(find_password(&text(input), &query));
}

fn service_file(input: &[u8]) {
    ignore(service::find_service(&text(input), "main", Path::new("pg_service.conf")));
}

fn command_line_values(input: &[u8]) {
    for line in lines(input) {
        ignore(RetentionPolicy::parse(&line));
        ignore(ByteSize::parse(&line));
        ignore(Tag::parse_csv(&line));
        ignore(Tag::parse_checked(&line));
        ignore(TablespaceMapping::parse(&line));
        ignore(lock_duration(&line));
        ignore(lock_expiration(&line));
    }
}

fn recovery_time(input: &[u8]) {
    for line in lines(input) {
        ignore(recovery_time::parse(&line, &TimeZone::UTC));
    }
}

fn store_url(input: &[u8]) {
    for provider in CloudProvider::ALL {
        if let Ok(url) = StoreUrl::parse(&text(input), provider) {
            ignore(format!("{url} {}", url.prefix()));
        }
    }
}

fn cloud_settings(input: &[u8]) {
    let text = text(input);
    ignore(ConnectionString::parse(&text));
    ignore(aws_profile::find(&text, &["profile backup", "backup"]));
    ignore(check_endpoint(&text, PlainHttp::Allowed));
}

/// An error of a store, or the answer to a request for a token.
fn cloud_answer(input: &[u8]) {
    ignore(read_answer(StatusCode::BAD_REQUEST, &HeaderMap::new(), input).to_string());
    ignore(azure_token::read_token(input).is_ok());
}

fn ec2_answer(input: &[u8]) {
    let Ok(root) = Element::parse(&text(input)) else { return };
    for item in
        ["volumeSet", "snapshotSet", "reservationSet"].into_iter().flat_map(|set| root.items(set))
    {
        ignore(aws_answers::volume_of(item, &root));
        ignore(aws_answers::snapshot_name(item));
        ignore(aws_answers::state_of(item));
    }
    ignore(aws_answers::instance_of(&root, "i-1"));
}

fn snapshot_records(input: &[u8]) {
    if let Ok(value) = serde_json::from_slice(input) {
        ignore(SnapshotsInfo::parse(&value));
        ignore(PendingSnapshots::parse(&value));
    }
}

fn decode(input: &[u8]) {
    let Some((compression, stored)) = with_compression(input) else { return };
    if let Ok(stream) = decoder(compression, io::Cursor::new(stored.to_vec())) {
        ignore(io::copy(&mut stream.take(UNPACKED_BYTES_MAX), &mut io::sink()));
    }
}

/// The second byte is the length of the block, in KiB.
fn decode_block(input: &[u8]) {
    let Some((compression, rest)) = with_compression(input) else { return };
    let Some((kibibytes, stored)) = rest.split_first() else { return };
    let mut block = vec![0; usize::from(*kibibytes) * 1024];
    ignore(BlockDecoder::new(Some(compression)).decode(stored, &mut block));
    ignore(BlockDecoder::new(None).decode(stored, &mut block));
}

fn walk_zstd_jobs(input: &[u8]) {
    let mut walk = JobWalk::default();
    walk.take_raw(input);
    // In pieces of every length: the walk stops and goes on anywhere.
    let mut rest = input;
    let mut length = 1;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        ignore(walk.take_stored(piece));
        (rest, length) = (behind, length % 7 + 1);
    }
    ignore(walk.finish());
}
