//! From command line, environment and files to one resolved set of connection options.
//!
//! Strongest first, as in libpq: connection string, service file, `PG*` variables,
//! defaults. Source: `conninfo_add_defaults` and `pqConnectOptions2`, PostgreSQL
//! src/interfaces/libpq/fe-connect.c; how `-d`, `-h`, `-p` and `-U` combine: contract §8.1.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::{Settings, parse_conninfo};
use crate::postgres::hosts::{HostTarget, hosts};
use crate::postgres::keywords::{KEYWORDS, refuse_unsupported};
use crate::postgres::service::apply_service;
use crate::postgres::tls::TlsOptions;
use crate::postgres::uri::{parse_uri, without_scheme};
use crate::postgres::user::Account;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::config::ChannelBinding;
use tracing::warn;

/// Where to connect, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTarget {
    /// A database name, a connection string (anything with `=`) or a `postgresql://` URI.
    /// A connection string or URI stands alone: the other fields are not looked at.
    pub dbname: String,
    pub host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
}

/// Everything that [`crate::postgres::Session::connect`] needs; nothing is looked up later
/// but host names and TLS files.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Tried in turn; never empty.
    pub hosts: Vec<HostTarget>,
    pub host_order: HostOrder,
    pub user: String,
    pub dbname: String,
    pub application_name: String,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// Settings made right after connecting (`PGTZ`, `PGDATESTYLE`).
    pub session_settings: Vec<(&'static str, String)>,
    pub session_kind: SessionKind,
    /// For each address, from the first packet to a ready session.
    pub connect_timeout: Option<Duration>,
    pub keepalives: Option<Keepalives>,
    pub tcp_user_timeout: Option<Duration>,
    pub tls: TlsOptions,
    pub channel_binding: ChannelBinding,
    /// The operating system user that must run the server behind a Unix socket.
    pub require_peer: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOrder {
    AsGiven,
    Random,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// When TCP asks a silent peer whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

/// Looks up one environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `PGSYSCONFDIR` as Debian, Red Hat and upstream build it.
const CONFIG_DIRECTORIES: [&str; 3] =
    ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];
/// A backup keeps its session idle for hours while it copies; the kernel's two hours of
/// silence would notice a lost server too late, and firewalls forget idle connections.
const KEEPALIVES: Keepalives =
    Keepalives { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };

impl ConnectOptions {
    /// Resolves `target` for a program that calls itself `application_name` unless told
    /// otherwise. Reads the service file, the password file and the user database.
    pub fn resolve(
        target: &ConnectTarget,
        application_name: &str,
        environment: Environment<'_>,
    ) -> Result<Self, PostgresError> {
        let mut settings = settings_of(target)?;
        let account = Account::look_up(environment);
        add_service(&mut settings, &account, environment)?;
        add_environment(&mut settings, environment);
        refuse_unsupported(&settings)?;
        let user = user(&settings, &account)?;
        let dbname = settings.non_empty("dbname").unwrap_or(&user).to_string();
        Ok(Self {
            hosts: hosts(&settings, &account, &user, &dbname)?,
            host_order: host_order(&settings)?,
            application_name: ["application_name", "fallback_application_name"]
                .iter()
                .find_map(|name| settings.get(name))
                .unwrap_or(application_name)
                .into(),
            options: settings.non_empty("options").map(Into::into),
            session_settings: session_settings(environment),
            session_kind: session_kind(&settings)?,
            connect_timeout: connect_timeout(&settings)?,
            keepalives: keepalives(&settings)?,
            tcp_user_timeout: positive(&settings, "tcp_user_timeout")?
                .map(|millis| Duration::from_millis(u64::from(millis))),
            tls: TlsOptions::resolve(&settings, account.home.as_deref())?,
            channel_binding: channel_binding(&settings)?,
            require_peer: settings.non_empty("requirepeer").map(Into::into),
            user,
            dbname,
        })
    }
}

fn settings_of(target: &ConnectTarget) -> Result<Settings, PostgresError> {
    let alone = if let Some(rest) = without_scheme(&target.dbname) {
        Some(parse_uri(rest)?)
    } else if target.dbname.contains('=') {
        Some(parse_conninfo(&target.dbname)?)
    } else {
        None
    };
    if let Some(settings) = alone {
        if target.host.is_some() || target.port.is_some() || target.user.is_some() {
            warn!("options --host, --port and --user do not count beside a connection string");
        }
        return Ok(settings);
    }
    let mut settings = Settings::default();
    let dbname = Some(&target.dbname).filter(|dbname| !dbname.is_empty());
    let given = [
        ("dbname", dbname),
        ("host", target.host.as_ref()),
        ("port", target.port.as_ref()),
        ("user", target.user.as_ref()),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            settings.set(name, value.clone())?;
        }
    }
    Ok(settings)
}

fn add_service(
    settings: &mut Settings,
    account: &Account,
    environment: Environment<'_>,
) -> Result<(), PostgresError> {
    settings.set_default("service", || environment("PGSERVICE"));
    let Some(service) = settings.non_empty("service").map(ToString::to_string) else {
        return Ok(());
    };
    settings.set_default("servicefile", || environment("PGSERVICEFILE"));
    let named = settings.non_empty("servicefile").map(PathBuf::from);
    let mut files = Vec::new();
    if named.is_none() {
        files.extend(account.home.as_ref().map(|home| home.join(".pg_service.conf")));
    }
    let directories = match environment("PGSYSCONFDIR") {
        Some(directory) => vec![directory],
        None => CONFIG_DIRECTORIES.map(Into::into).to_vec(),
    };
    files.extend(
        directories.into_iter().map(|directory| PathBuf::from(directory).join("pg_service.conf")),
    );
    apply_service(settings, &service, named.as_deref(), &files)
}

fn add_environment(settings: &mut Settings, environment: Environment<'_>) {
    for keyword in &KEYWORDS {
        if let Some(variable) = keyword.variable {
            settings.set_default(keyword.name, || environment(variable));
        }
    }
    settings.set_default("sslmode", || {
        environment("PGREQUIRESSL").filter(|value| value.starts_with('1')).map(|_| "require".into())
    });
}

fn user(settings: &Settings, account: &Account) -> Result<String, PostgresError> {
    settings.non_empty("user").or(account.name.as_deref()).map(Into::into).ok_or_else(|| {
        PostgresError::malformed(format!(
            "could not look up local user ID {}: user does not exist (name a role with --user)",
            account.uid
        ))
    })
}

/// Source: `EnvironmentOptions` in fe-connect.c; `PGGEQO` cannot matter to a backup.
fn session_settings(environment: Environment<'_>) -> Vec<(&'static str, String)> {
    [("TimeZone", "PGTZ"), ("DateStyle", "PGDATESTYLE")]
        .into_iter()
        .filter_map(|(setting, variable)| Some((setting, environment(variable)?)))
        .filter(|(_, value)| value != "default")
        .collect()
}

fn host_order(settings: &Settings) -> Result<HostOrder, PostgresError> {
    choose(
        settings,
        "load_balance_hosts",
        &[("disable", HostOrder::AsGiven), ("random", HostOrder::Random)],
    )
}

fn session_kind(settings: &Settings) -> Result<SessionKind, PostgresError> {
    let kinds = [
        ("any", SessionKind::Any),
        ("read-write", SessionKind::ReadWrite),
        ("read-only", SessionKind::ReadOnly),
        ("primary", SessionKind::Primary),
        ("standby", SessionKind::Standby),
        ("prefer-standby", SessionKind::PreferStandby),
    ];
    choose(settings, "target_session_attrs", &kinds)
}

fn channel_binding(settings: &Settings) -> Result<ChannelBinding, PostgresError> {
    let modes = [
        ("prefer", ChannelBinding::Prefer),
        ("disable", ChannelBinding::Disable),
        ("require", ChannelBinding::Require),
    ];
    choose(settings, "channel_binding", &modes)
}

/// The value of `name` among `choices`, whose first is the default.
pub(crate) fn choose<T: Copy>(
    settings: &Settings,
    name: &str,
    choices: &[(&str, T)],
) -> Result<T, PostgresError> {
    let Some(text) = settings.non_empty(name) else { return Ok(choices[0].1) };
    choices
        .iter()
        .find(|(word, _)| *word == text)
        .map(|&(_, value)| value)
        .ok_or_else(|| PostgresError::malformed(format!("invalid {name} value: \"{text}\"")))
}

/// Zero and less mean "wait for ever"; one second is too short to be meant (libpq takes two).
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, PostgresError> {
    let seconds = positive(settings, "connect_timeout")?;
    Ok(seconds.map(|seconds| Duration::from_secs(u64::from(seconds.max(2)))))
}

fn keepalives(settings: &Settings) -> Result<Option<Keepalives>, PostgresError> {
    if integer(settings, "keepalives")? == Some(0) {
        return Ok(None);
    }
    let seconds = |name, default| -> Result<Duration, PostgresError> {
        Ok(positive(settings, name)?
            .map_or(default, |seconds| Duration::from_secs(u64::from(seconds))))
    };
    Ok(Some(Keepalives {
        idle: seconds("keepalives_idle", KEEPALIVES.idle)?,
        interval: seconds("keepalives_interval", KEEPALIVES.interval)?,
        count: positive(settings, "keepalives_count")?.unwrap_or(KEEPALIVES.count),
    }))
}

/// The value of `name` when it is above zero; the others mean "the default".
fn positive(settings: &Settings, name: &str) -> Result<Option<u32>, PostgresError> {
    Ok(integer(settings, name)?
        .and_then(|value| u32::try_from(value).ok())
        .filter(|&value| value > 0))
}

fn integer(settings: &Settings, name: &str) -> Result<Option<i32>, PostgresError> {
    let Some(text) = settings.non_empty(name) else { return Ok(None) };
    i32::from_str(text.trim()).map(Some).map_err(|_| {
        PostgresError::malformed(format!(
            "invalid integer value \"{text}\" for connection option \"{name}\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use crate::postgres::{
        ConnectOptions, ConnectTarget, HostAddress, PostgresError, SessionKind, SslMode,
    };
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn named(dbname: &str) -> ConnectTarget {
        ConnectTarget { dbname: dbname.into(), host: None, port: None, user: None }
    }

    fn resolve(
        target: &ConnectTarget,
        environment: &[(&str, &str)],
    ) -> Result<ConnectOptions, PostgresError> {
        // No home: what lies in the developer's must not decide the test.
        let mut variables = BTreeMap::from([("HOME", "/nonexistent"), ("PGUSER", "me")]);
        variables.extend(environment.iter().copied());
        let look_up = |name: &str| variables.get(name).map(ToString::to_string);
        ConnectOptions::resolve(target, "tool", &look_up)
    }

    fn of_conninfo(conninfo: &str) -> ConnectOptions {
        resolve(&named(conninfo), &[]).expect(conninfo)
    }

    #[test]
    fn separate_options_are_combined_and_beat_the_environment() {
        let target = ConnectTarget {
            dbname: "main".into(),
            host: Some("db".into()),
            port: Some("6000".into()),
            user: Some("backup".into()),
        };
        let environment = [("PGHOST", "other"), ("PGPORT", "1"), ("PGDATABASE", "x")];
        let options = resolve(&target, &environment).expect("resolves");
        assert_eq!(options.dbname, "main");
        assert_eq!(options.user, "backup");
        assert_eq!(options.hosts[0].address, HostAddress::Name("db".into()));
        assert_eq!(options.hosts[0].port, 6000);
    }

    #[test]
    fn a_connection_string_in_dbname_stands_alone() {
        let mut target = named("host=/run/pg dbname='my db'");
        target.user = Some("ignored".into());
        target.port = Some("6000".into());
        for dbname in ["host=/run/pg dbname='my db'", "postgresql://%2Frun%2Fpg/my%20db"] {
            target.dbname = dbname.into();
            let options = resolve(&target, &[]).expect("resolves");
            assert_eq!(options.user, "me");
            assert_eq!(options.dbname, "my db");
            let socket = HostAddress::SocketDirectory("/run/pg".into());
            assert_eq!(options.hosts[0].address, socket);
            assert_eq!(options.hosts[0].port, 5432);
        }
    }

    #[test]
    fn an_empty_dbname_keeps_the_other_options() {
        let target = ConnectTarget { host: Some("db".into()), ..named("") };
        let options = resolve(&target, &[]).expect("resolves");
        assert_eq!(options.hosts[0].address, HostAddress::Name("db".into()));
        assert_eq!(options.dbname, "me", "as libpq: the database is named like the role");
    }

    #[test]
    fn without_a_host_the_local_sockets_are_tried() {
        let options = of_conninfo("port=5433");
        let directory = |index: usize| options.hosts[index].address.clone();
        assert_eq!(directory(0), HostAddress::SocketDirectory("/var/run/postgresql".into()));
        assert_eq!(directory(1), HostAddress::SocketDirectory("/tmp".into()));
        assert!(options.hosts.iter().all(|host| host.port == 5433));
    }

    #[test]
    fn several_hosts_have_their_own_ports_and_passwords() {
        let folder = tempfile::tempdir().expect("folder");
        let passfile = folder.path().join("pgpass");
        fs::write(&passfile, "a:1:*:me:one\n127.0.0.1:2:*:me:two\nlocalhost:3:*:me:three\n")
            .expect("write");
        fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("chmod");
        let conninfo = format!(
            "host=a,,/var/run/postgresql hostaddr=,127.0.0.1, port=1,2,3 passfile={}",
            passfile.display()
        );
        let options = of_conninfo(&conninfo);
        let passwords: Vec<_> =
            options.hosts.iter().map(|host| host.password.as_ref().map(|p| p.reveal())).collect();
        assert_eq!(passwords, [Some("one"), Some("two"), Some("three")]);
        assert!(!format!("{options:?}").contains("three"), "passwords are not printed");
    }

    #[test]
    fn a_service_stands_between_the_connection_string_and_the_environment() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(
            folder.path().join("pg_service.conf"),
            "[s]\nhost=service\nport=7\ndbname=service\n",
        )
        .expect("write");
        let folder = folder.path().display().to_string();
        let environment = [("PGSYSCONFDIR", folder.as_str()), ("PGPORT", "9"), ("PGTZ", "UTC")];
        let options = resolve(&named("service=s dbname=mine"), &environment).expect("resolves");
        assert_eq!(options.hosts[0].address, HostAddress::Name("service".into()));
        assert_eq!(options.hosts[0].port, 7);
        assert_eq!(options.dbname, "mine");
        assert_eq!(options.session_settings, [("TimeZone", "UTC".to_string())]);
        let missing = resolve(&named("service=t"), &environment).expect_err("no such service");
        assert!(missing.to_string().contains("service \"t\" not found"), "{missing}");
    }

    #[test]
    fn the_application_is_named_by_whoever_names_it_first() {
        let name = |conninfo, environment: &[_]| {
            resolve(&named(conninfo), environment).expect("resolves").application_name
        };
        assert_eq!(name("port=1", &[]), "tool");
        assert_eq!(name("port=1", &[("PGAPPNAME", "env")]), "env");
        assert_eq!(name("fallback_application_name=f", &[]), "f");
        assert_eq!(name("application_name=a", &[("PGAPPNAME", "env")]), "a");
    }

    #[test]
    fn numbers_and_words_are_read_as_libpq_reads_them() {
        let options = of_conninfo("connect_timeout=1 keepalives_idle=5 tcp_user_timeout=1500");
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(options.keepalives.expect("on").idle, Duration::from_secs(5));
        assert_eq!(options.tcp_user_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(of_conninfo("connect_timeout=0").connect_timeout, None);
        assert_eq!(of_conninfo("keepalives=0").keepalives, None);
        let standby = of_conninfo("target_session_attrs=prefer-standby");
        assert_eq!(standby.session_kind, SessionKind::PreferStandby);
        assert_eq!(of_conninfo("requiressl=1").tls.mode, SslMode::Require);
        assert_eq!(of_conninfo("sslrootcert=system").tls.mode, SslMode::VerifyFull);
        assert_eq!(of_conninfo("port=1").tls.mode, SslMode::Prefer);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for conninfo in [
            "port=abc",
            "port=0",
            "port=70000",
            "host=a,b port=1,2,3",
            "host=a,b hostaddr=127.0.0.1",
            "hostaddr=a",
            "connect_timeout=soon",
            "sslmode=perhaps",
            "target_session_attrs=best",
            "channel_binding=maybe",
            "gssencmode=require",
            "replication=database",
            "require_auth=scram-sha-256",
            "min_protocol_version=3.2",
            "sslcertmode=require",
            "sslnegotiation=direct",
            "sslrootcert=system sslmode=require",
            "ssl_max_protocol_version=TLSv1.1",
            "servicefile=/nonexistent service=x",
        ] {
            let refused = resolve(&named(conninfo), &[]);
            assert!(matches!(refused, Err(PostgresError::ConninfoMalformed { .. })), "{conninfo}");
        }
        of_conninfo("gssencmode=prefer replication=false krbsrvname=postgres sslcompression=1");
    }
}
