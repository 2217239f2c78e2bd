//! The connection parameters that libpq knows, and what becomes of each here.
//!
//! Source: `PQconninfoOptions`, PostgreSQL src/interfaces/libpq/fe-connect.c, versions 10
//! to 18. A parameter is used, or has no effect by its nature, or is refused: none is
//! accepted and then ignored where it would have changed anything.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::Settings;

/// One connection parameter.
pub(crate) struct Keyword {
    pub name: &'static str,
    /// The variable that gives it a default.
    pub variable: Option<&'static str>,
    effect: Effect,
}

#[derive(Clone, Copy)]
enum Effect {
    Used,
    /// Belongs to something this client never does (GSSAPI, TLS compression) or always
    /// does (UTF-8): any value gives the same result.
    None,
    /// Would need what this client cannot do, except with these values.
    RefusedUnless(&'static [&'static str]),
}

const fn used(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, effect: Effect::Used }
}

const fn without_effect(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, effect: Effect::None }
}

const fn refused(
    name: &'static str,
    variable: Option<&'static str>,
    unless: &'static [&'static str],
) -> Keyword {
    Keyword { name, variable, effect: Effect::RefusedUnless(unless) }
}

pub(crate) const KEYWORDS: [Keyword; 53] = [
    used("service", Some("PGSERVICE")),
    used("servicefile", Some("PGSERVICEFILE")),
    used("user", Some("PGUSER")),
    used("password", Some("PGPASSWORD")),
    used("passfile", Some("PGPASSFILE")),
    used("channel_binding", Some("PGCHANNELBINDING")),
    used("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    used("dbname", Some("PGDATABASE")),
    used("host", Some("PGHOST")),
    used("hostaddr", Some("PGHOSTADDR")),
    used("port", Some("PGPORT")),
    without_effect("client_encoding", Some("PGCLIENTENCODING")),
    used("options", Some("PGOPTIONS")),
    used("application_name", Some("PGAPPNAME")),
    used("fallback_application_name", None),
    used("keepalives", None),
    used("keepalives_idle", None),
    used("keepalives_interval", None),
    used("keepalives_count", None),
    used("tcp_user_timeout", None),
    used("sslmode", Some("PGSSLMODE")),
    used("sslnegotiation", Some("PGSSLNEGOTIATION")),
    without_effect("sslcompression", Some("PGSSLCOMPRESSION")),
    used("sslcert", Some("PGSSLCERT")),
    used("sslkey", Some("PGSSLKEY")),
    used("sslcertmode", Some("PGSSLCERTMODE")),
    refused("sslpassword", None, &[""]),
    used("sslrootcert", Some("PGSSLROOTCERT")),
    used("sslcrl", Some("PGSSLCRL")),
    used("sslcrldir", Some("PGSSLCRLDIR")),
    used("sslsni", Some("PGSSLSNI")),
    used("requirepeer", Some("PGREQUIREPEER")),
    refused("require_auth", Some("PGREQUIREAUTH"), &[""]),
    used("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    used("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    refused("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    without_effect("krbsrvname", Some("PGKRBSRVNAME")),
    without_effect("gsslib", Some("PGGSSLIB")),
    without_effect("gssdelegation", Some("PGGSSDELEGATION")),
    refused("replication", None, &["", "false", "off", "no", "0"]),
    used("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    used("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    refused("min_protocol_version", Some("PGMINPROTOCOLVERSION"), &["", "3.0"]),
    without_effect("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    refused("scram_client_key", None, &[""]),
    refused("scram_server_key", None, &[""]),
    refused("oauth_issuer", None, &[""]),
    refused("oauth_client_id", None, &[""]),
    refused("oauth_client_secret", None, &[""]),
    refused("oauth_scope", None, &[""]),
    refused("sslkeylogfile", None, &[""]),
    without_effect("authtype", None),
    without_effect("tty", None),
];

/// The parameter called `name`, if libpq has it.
pub(crate) fn keyword(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// Refuses settings whose effect this client does not have.
pub(crate) fn refuse_unsupported(settings: &Settings) -> Result<(), PostgresError> {
    for keyword in &KEYWORDS {
        let Effect::RefusedUnless(accepted) = keyword.effect else { continue };
        let Some(value) = settings.get(keyword.name) else { continue };
        if !accepted.contains(&value) {
            let name = keyword.name;
            return Err(PostgresError::malformed(format!(
                "parameter \"{name}\" asks for what this program does not support"
            )));
        }
    }
    Ok(())
}
