//! Sockets to where PostgreSQL listens.

use crate::postgres::hosts::{HostAddress, HostTarget};
use crate::postgres::options::ConnectOptions;
use crate::postgres::user::name_of_uid;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// Bytes to and from the server, before TLS.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

/// Where `host` can be reached, in the order to try.
pub(crate) async fn addresses(host: &HostTarget) -> Result<Vec<Address>, String> {
    match &host.address {
        HostAddress::Ip(ip) => Ok(vec![Address::Tcp(SocketAddr::new(*ip, host.port))]),
        HostAddress::SocketDirectory(directory) => {
            Ok(vec![Address::Unix(format!("{directory}/.s.PGSQL.{}", host.port))])
        }
        HostAddress::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
            let found: Vec<_> = found
                .map_err(|error| format!("could not translate host name to address: {error}"))?
                .map(Address::Tcp)
                .collect();
            if found.is_empty() { Err("host name has no address".into()) } else { Ok(found) }
        }
    }
}

pub(crate) async fn open(address: &Address, options: &ConnectOptions) -> Result<Stream, String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            tune(&stream, options).map_err(|error| error.to_string())?;
            Ok(Either::Left(stream))
        }
        Address::Unix(path) => {
            // tokio takes a leading zero byte for the abstract namespace.
            let name = path.strip_prefix('@').map(|name| format!("\0{name}"));
            let stream = UnixStream::connect(name.as_ref().unwrap_or(path)).await;
            let stream = stream.map_err(|error| error.to_string())?;
            if let Some(required) = &options.require_peer {
                check_peer(&stream, required)?;
            }
            Ok(Either::Right(stream))
        }
    }
}

fn tune(stream: &TcpStream, options: &ConnectOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    if let Some(keepalives) = options.keepalives {
        let settings = socket2::TcpKeepalive::new()
            .with_time(keepalives.idle)
            .with_interval(keepalives.interval)
            .with_retries(keepalives.count);
        socket.set_tcp_keepalive(&settings)?;
    }
    // As in libpq, without effect where the system has no such thing.
    #[cfg(target_os = "linux")]
    if let Some(limit) = options.tcp_user_timeout {
        socket.set_tcp_user_timeout(Some(limit))?;
    }
    Ok(())
}

fn check_peer(stream: &UnixStream, required: &str) -> Result<(), String> {
    let uid = stream.peer_cred().map_err(|error| error.to_string())?.uid();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_of_uid(&passwd, uid) {
        Some(name) if name == required => Ok(()),
        Some(name) => Err(format!(
            "requirepeer specifies \"{required}\", but actual peer user name is \"{name}\""
        )),
        None => Err(format!(
            "requirepeer specifies \"{required}\", but the peer's user ID {uid} has no name"
        )),
    }
}

pub(crate) fn describe_hosts(hosts: &[HostTarget]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| describe(host, None)).collect();
    hosts.join(", ")
}

/// `socket "/tmp/.s.PGSQL.5432"` or `"db.example" (192.0.2.1), port 5432`.
pub(crate) fn describe(host: &HostTarget, address: Option<&Address>) -> String {
    let HostTarget { name, address: given, port, .. } = host;
    let ip = match (given, address) {
        (HostAddress::SocketDirectory(directory), _) => {
            return format!("socket \"{directory}/.s.PGSQL.{port}\"");
        }
        (HostAddress::Ip(ip), _) => Some(ip.to_string()),
        (HostAddress::Name(_), Some(Address::Tcp(address))) => Some(address.ip().to_string()),
        (HostAddress::Name(_), _) => None,
    };
    match (name, ip) {
        (Some(name), Some(ip)) if *name != ip => format!("\"{name}\" ({ip}), port {port}"),
        (Some(name), _) => format!("\"{name}\", port {port}"),
        (None, ip) => format!("\"{}\", port {port}", ip.unwrap_or_default()),
    }
}
