//! Opening a connection: hosts in turn, their addresses in turn, with and without TLS.
//!
//! ```text
//! host → address → attempt(s) as sslmode says → logged in → the kind of server we want?
//! ```
//!
//! A server that refuses the identity ends the search; one that cannot be reached, is
//! starting up, or is of the wrong kind is passed over.
//! Source: `PQconnectPoll`, PostgreSQL src/interfaces/libpq/fe-connect.c.

use crate::postgres::PostgresError;
use crate::postgres::hosts::{HostAddress, HostTarget};
use crate::postgres::login::{Link, Place, Refusal};
use crate::postgres::options::{ConnectOptions, HostOrder, SessionKind};
use crate::postgres::socket::{addresses, describe, describe_hosts};
use crate::postgres::tls::SslMode;
use std::hash::{BuildHasher, RandomState};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why one place did not give a session.
struct Failure {
    target: String,
    error: Refusal,
}

/// Finds the first host that gives a session of the wanted kind.
pub(crate) async fn dial(options: &ConnectOptions) -> Result<Link, PostgresError> {
    let connector = connector(options)?;
    let passes = match options.session_kind {
        SessionKind::PreferStandby => vec![SessionKind::Standby, SessionKind::Any],
        kind => vec![kind],
    };
    let hosts = in_order(options);
    let mut failures = Vec::new();
    for kind in passes {
        failures.clear();
        for host in &hosts {
            match dial_host(host, kind, options, connector.as_ref()).await {
                Ok(link) => return Ok(link),
                Err(more) => failures.extend(more),
            }
            if let Some(Failure { error: Refusal::Final(error), .. }) = failures.last() {
                return Err(error.clone());
            }
        }
    }
    Err(gave_up(&failures))
}

/// TLS files are read once, and only if TLS may be used.
fn connector(options: &ConnectOptions) -> Result<Option<MakeRustlsConnect>, PostgresError> {
    let all_local =
        options.hosts.iter().all(|host| matches!(host.address, HostAddress::SocketDirectory(_)));
    if options.tls.mode == SslMode::Disable || all_local {
        return Ok(None);
    }
    let config = options.tls.client_config().map_err(|reason| PostgresError::Connect {
        target: describe_hosts(&options.hosts),
        reason,
        hint: None,
    })?;
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn in_order(options: &ConnectOptions) -> Vec<&HostTarget> {
    let mut hosts: Vec<_> = options.hosts.iter().collect();
    if options.host_order == HostOrder::Random {
        // A fresh hasher is keyed at random, which spreads clients well enough.
        let random = RandomState::new();
        hosts.sort_by_cached_key(|host| random.hash_one(format!("{host:?}")));
    }
    hosts
}

async fn dial_host(
    host: &HostTarget,
    kind: SessionKind,
    options: &ConnectOptions,
    connector: Option<&MakeRustlsConnect>,
) -> Result<Link, Vec<Failure>> {
    let addresses = match addresses(host).await {
        Ok(addresses) => addresses,
        Err(reason) => {
            let error = Refusal::Passed(reason);
            return Err(vec![Failure { target: describe(host, None), error }]);
        }
    };
    let mut failures = Vec::new();
    for address in addresses {
        let target = describe(host, Some(&address));
        let place = Place { host, address, target, options, connector };
        match place.dial(kind).await {
            Ok(link) => return Ok(link),
            Err(error) => {
                let is_final = matches!(error, Refusal::Final(_));
                failures.push(Failure { target: place.target, error });
                if is_final {
                    break;
                }
            }
        }
    }
    Err(failures)
}

/// One error for all the places that were passed over, each with its reason.
fn gave_up(failures: &[Failure]) -> PostgresError {
    let reason_of = |failure: &Failure| match &failure.error {
        Refusal::Passed(reason) => reason.clone(),
        Refusal::Final(error) => error.to_string(),
    };
    let (target, mut reason) = match failures.split_first() {
        Some((first, _)) => (first.target.clone(), reason_of(first)),
        None => (String::new(), "no host to try".into()),
    };
    for failure in failures.iter().skip(1) {
        reason = format!("{reason}; at {}: {}", failure.target, reason_of(failure));
    }
    let hint = hint_for(&reason).map(Into::into);
    PostgresError::Connect { target, reason, hint }
}

fn hint_for(reason: &str) -> Option<&'static str> {
    let hints = [
        ("Connection refused", "Is PostgreSQL running there and accepting connections?"),
        ("No such file or directory", "Is PostgreSQL running there and accepting connections?"),
        ("UnknownIssuer", "Is sslrootcert the authority that issued the server's certificate?"),
        ("CaUsedAsEndEntity", "Is sslrootcert the authority that issued the server's certificate?"),
        (
            "not valid for name",
            "Does the certificate carry the host name as a subject alternative name?",
        ),
    ];
    hints.into_iter().find(|(words, _)| reason.contains(words)).map(|(_, hint)| hint)
}
