//! As much of a PostgreSQL server as a backup talks to: its protocol on a Unix socket, and the
//! dozen questions.
//!
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol".

use crate::simulation::cluster::{Cluster, SEGMENT_BYTES};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

const TEXT: u32 = 25;
const BOOL: u32 = 16;
const INT4: u32 = 23;
const INT8: u32 = 20;

/// A column's type and its value in binary form.
type Field = (u32, Option<Vec<u8>>);

pub type SharedCluster = Arc<Mutex<Cluster>>;

/// Serves every session until it is aborted.
pub fn serve(cluster: &SharedCluster) -> JoinHandle<()> {
    let path = locked(cluster).socket_directory().join(".s.PGSQL.5432");
    let listener = UnixListener::bind(path).expect("a socket");
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let cluster = Arc::clone(&cluster);
            // A session that the client drops ends with an error, as it should.
            tokio::spawn(async move { drop(converse(stream, &cluster).await) });
        }
    })
}

pub fn locked(cluster: &SharedCluster) -> std::sync::MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(mut stream: UnixStream, cluster: &SharedCluster) -> io::Result<()> {
    let length = stream.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length).unwrap_or(0).saturating_sub(4)];
    stream.read_exact(&mut startup).await?;
    let mut answer = message(b'R', &0u32.to_be_bytes());
    answer.extend(message(b'S', b"server_version\x0015.20\0"));
    answer.extend(message(b'S', b"client_encoding\0UTF8\0"));
    answer.extend(message(b'K', &[0; 8]));
    answer.extend(message(b'Z', b"I"));
    stream.write_all(&answer).await?;
    let (mut statements, mut portal) = (HashMap::<String, String>::new(), String::new());
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).unwrap_or(0).saturating_sub(4)];
        stream.read_exact(&mut body).await?;
        let answer = match kind {
            b'P' => {
                let (name, rest) = text(&body);
                statements.insert(name, text(rest).0);
                message(b'1', b"")
            }
            b'D' => described(&statements[&text(&body[1..]).0]),
            b'B' => {
                let (_, rest) = text(&body);
                portal = statements[&text(rest).0].clone();
                message(b'2', b"")
            }
            b'E' => executed(&portal, cluster),
            b'C' => message(b'3', b""),
            b'S' => message(b'Z', b"I"),
            b'Q' => [message(b'I', b""), message(b'Z', b"I")].concat(),
            _ => return Ok(()),
        };
        stream.write_all(&answer).await?;
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short");
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// A text that ends with a zero byte, and what follows it.
fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

fn described(statement: &str) -> Vec<u8> {
    let parameters = parameter_types(statement);
    let mut body = u16::try_from(parameters.len()).expect("few").to_be_bytes().to_vec();
    parameters.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    let mut answer = message(b't', &body);
    let columns = columns(statement);
    let mut body = u16::try_from(columns.len()).expect("few").to_be_bytes().to_vec();
    for oid in columns {
        body.extend(b"c\0");
        body.extend([0; 6]);
        body.extend(oid.to_be_bytes());
        body.extend([0, 8, 0, 0, 0, 0, 0, 1]);
    }
    answer.extend(message(b'T', &body));
    answer
}

fn parameter_types(statement: &str) -> Vec<u32> {
    if statement.contains("pg_backup_start($1, $2)") {
        vec![TEXT, BOOL]
    } else if statement.contains("pg_backup_stop($1)") {
        vec![BOOL]
    } else {
        (1..=4).filter(|n| statement.contains(&format!("${n}"))).map(|_| TEXT).collect()
    }
}

/// The types alone: asking for them changes nothing.
fn columns(statement: &str) -> Vec<u32> {
    if statement.contains("pg_backup_start(") {
        vec![TEXT, INT8, INT4, BOOL]
    } else if statement.contains("pg_backup_stop(") {
        vec![TEXT, TEXT, TEXT, INT8, INT4, INT4]
    } else if statement.contains("has_function_privilege") {
        vec![BOOL, BOOL, BOOL]
    } else if statement.contains("server_version_num") || statement.contains("SELECT timeline_id") {
        vec![INT4]
    } else if statement.contains("pg_control_system()") {
        vec![TEXT, BOOL, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, INT8]
    } else if statement.contains("wal_segment_size") || statement.contains("pg_tablespace_size") {
        vec![INT8]
    } else if statement.contains("pg_stat_archiver") {
        vec![TEXT, TEXT, INT8]
    } else if statement.contains("spcname") {
        vec![TEXT, 26, TEXT]
    } else {
        vec![TEXT]
    }
}

fn executed(statement: &str, cluster: &SharedCluster) -> Vec<u8> {
    let mut answer = Vec::new();
    for row in rows(statement, cluster) {
        let mut body = u16::try_from(row.len()).expect("few").to_be_bytes().to_vec();
        for (_, value) in row {
            match value {
                None => body.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
                    body.extend(value);
                }
            }
        }
        answer.extend(message(b'D', &body));
    }
    answer.extend(message(b'C', b"SELECT\0"));
    answer
}

fn word(value: impl ToString) -> Field {
    (TEXT, Some(value.to_string().into_bytes()))
}

fn flag(value: bool) -> Field {
    (BOOL, Some(vec![u8::from(value)]))
}

fn int4(value: u32) -> Field {
    (INT4, Some(value.to_be_bytes().to_vec()))
}

fn int8(value: u64) -> Field {
    (INT8, Some(value.to_be_bytes().to_vec()))
}

fn rows(statement: &str, cluster: &SharedCluster) -> Vec<Vec<Field>> {
    let mut cluster = locked(cluster);
    let data = cluster.data().display().to_string();
    let now = cluster.now.as_microsecond().cast_unsigned();
    let one = if statement.contains("pg_backup_start(") {
        vec![word(cluster.start_backup()), int8(now), int4(0), flag(false)]
    } else if statement.contains("pg_backup_stop(") {
        let (end, label) = cluster.stop_backup();
        let timeline = cluster.timeline;
        vec![word(end), word(label), (TEXT, None), int8(now), int4(0), int4(timeline)]
    } else if statement.contains("has_function_privilege") {
        vec![flag(true), flag(true), flag(true)]
    } else if statement.contains("server_version_num") {
        vec![int4(150_020)]
    } else if statement.contains("SELECT timeline_id") {
        vec![int4(cluster.timeline)]
    } else if statement.contains("pg_control_system()") {
        let file = |name: &str| word(format!("{data}/{name}"));
        let (id, off) = (word(cluster.system_identifier.cast_signed()), word("off"));
        let files = [file("postgresql.conf"), file("pg_hba.conf"), file("pg_ident.conf")];
        let first = [id, flag(false), word(&data)];
        let last = [off, (TEXT, None), (TEXT, None), word("on"), int8(0)];
        first.into_iter().chain(files).chain(last).collect()
    } else if statement.contains("wal_segment_size") {
        vec![int8(SEGMENT_BYTES)]
    } else if statement.contains("pg_tablespace_size") {
        vec![(INT8, None)]
    } else if ["spcname", "sourcefile", "pg_stat_archiver"].iter().any(|w| statement.contains(w)) {
        return Vec::new();
    } else {
        vec![word("")]
    };
    vec![one]
}
