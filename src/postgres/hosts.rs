//! Which hosts to try, on which ports, with which passwords.
//!
//! Source: `pqConnectOptions2`, PostgreSQL src/interfaces/libpq/fe-connect.c.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::Settings;
use crate::postgres::passfile::{PasswordQuery, find_password, read_passfile};
use crate::postgres::user::Account;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// One place where PostgreSQL may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTarget {
    /// The host's name as given, against which its certificate is checked.
    pub name: Option<String>,
    pub address: HostAddress,
    pub port: u16,
    pub password: Option<Password>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// To be resolved; every address is tried.
    Name(String),
    Ip(IpAddr),
    /// The directory of a Unix socket; one that begins with `@` is in the abstract namespace.
    SocketDirectory(String),
}

/// Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// Where distributions' libpq looks for sockets: Debian's and Red Hat's place, then upstream's.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;

/// The hosts of `settings` in their order; never empty.
pub(crate) fn hosts(
    settings: &Settings,
    account: &Account,
    user: &str,
    dbname: &str,
) -> Result<Vec<HostTarget>, PostgresError> {
    let list = |name| settings.non_empty(name).map(|text| text.split(',').collect::<Vec<_>>());
    let (names, addresses) = (list("host"), list("hostaddr"));
    if let (Some(names), Some(addresses)) = (&names, &addresses)
        && names.len() != addresses.len()
    {
        return Err(PostgresError::malformed(format!(
            "could not match {} host names to {} hostaddr values",
            names.len(),
            addresses.len()
        )));
    }
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    let ports = ports(settings, count)?;
    let mut hosts = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let pick = |list: &Option<Vec<&str>>| {
            list.as_ref().map(|list| list[index].trim().to_string()).filter(|text| !text.is_empty())
        };
        hosts.extend(targets(pick(&names), pick(&addresses), port)?);
    }
    add_passwords(&mut hosts, settings, account, user, dbname);
    Ok(hosts)
}

/// One port for each of `count` hosts; a single one serves all.
fn ports(settings: &Settings, count: usize) -> Result<Vec<u16>, PostgresError> {
    let Some(text) = settings.non_empty("port") else { return Ok(vec![DEFAULT_PORT; count]) };
    let ports = text.split(',').map(parse_port).collect::<Result<Vec<_>, _>>()?;
    match ports.len() {
        1 => Ok(vec![ports[0]; count]),
        given if given == count => Ok(ports),
        given => Err(PostgresError::malformed(format!(
            "could not match {given} port numbers to {count} hosts"
        ))),
    }
}

fn parse_port(text: &str) -> Result<u16, PostgresError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let port = text.parse().ok().filter(|&port| port != 0);
    port.ok_or_else(|| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => PostgresError::malformed(format!("invalid port number: \"{text}\"")),
        // What stands here when a sign in a password is not percent-encoded is the password.
        false => PostgresError::malformed("invalid port number: it is not a number"),
    })
}

/// The targets of one host entry: one, except that an empty entry means the local sockets.
fn targets(
    name: Option<String>,
    address: Option<String>,
    port: u16,
) -> Result<Vec<HostTarget>, PostgresError> {
    let target = |name, address| HostTarget { name, address, port, password: None };
    if let Some(address) = address {
        let ip = address.parse().map_err(|_| {
            PostgresError::malformed(format!("could not parse network address \"{address}\""))
        })?;
        return Ok(vec![target(name, HostAddress::Ip(ip))]);
    }
    Ok(match name {
        None => SOCKET_DIRECTORIES
            .map(|directory| target(None, HostAddress::SocketDirectory(directory.into())))
            .to_vec(),
        Some(directory) if directory.starts_with(['/', '@']) => {
            vec![target(None, HostAddress::SocketDirectory(directory))]
        }
        Some(name) => vec![target(Some(name.clone()), HostAddress::Name(name))],
    })
}

fn add_passwords(
    hosts: &mut [HostTarget],
    settings: &Settings,
    account: &Account,
    user: &str,
    dbname: &str,
) {
    if let Some(password) = settings.non_empty("password") {
        for host in hosts {
            host.password = Some(Password(password.into()));
        }
        return;
    }
    let path = settings.non_empty("passfile").map(PathBuf::from);
    let path = path.or_else(|| account.home.as_ref().map(|home| home.join(".pgpass")));
    let Some(text) = path.and_then(|path| read_passfile(&path)) else { return };
    for host in hosts {
        let query = PasswordQuery { host: &passfile_host(host), port: host.port, dbname, user };
        host.password = find_password(&text, &query).map(Password);
    }
}

/// What the password file calls this host: the default sockets are `localhost`.
fn passfile_host(host: &HostTarget) -> String {
    match (&host.name, &host.address) {
        (Some(name), _) | (None, HostAddress::Name(name)) => name.clone(),
        (None, HostAddress::Ip(ip)) => ip.to_string(),
        (None, HostAddress::SocketDirectory(directory)) => {
            let is_default = SOCKET_DIRECTORIES.contains(&directory.as_str());
            if is_default { "localhost".into() } else { directory.clone() }
        }
    }
}

impl Password {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
