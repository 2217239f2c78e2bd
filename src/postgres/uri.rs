//! `postgresql://` connection URIs.
//!
//! Source: `conninfo_uri_parse_options`, PostgreSQL src/interfaces/libpq/fe-connect.c; a
//! general URL parser would refuse several hosts, sockets in the host part and empty parts.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::Settings;
use crate::postgres::keywords::keyword;
use percent_encoding::percent_decode_str;

/// What follows the scheme, if `text` is a connection URI.
pub(crate) fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Parses what follows the scheme:
/// `[user[:password]@][host][:port][,…][/dbname][?name=value[&…]]`.
pub(crate) fn parse_uri(rest: &str) -> Result<Settings, PostgresError> {
    let mut settings = Settings::default();
    let rest = take_user(rest, &mut settings)?;
    let hosts_end = end_of_hosts(rest);
    take_hosts(&rest[..hosts_end], &mut settings)?;
    let rest = &rest[hosts_end..];
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if let Some(dbname) = path.strip_prefix('/').filter(|dbname| !dbname.is_empty()) {
        settings.set("dbname", decode(dbname)?)?;
    }
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        take_parameter(parameter, &mut settings)?;
    }
    Ok(settings)
}

/// Takes the part before an `@`, if one comes before the first slash.
fn take_user<'a>(rest: &'a str, settings: &mut Settings) -> Result<&'a str, PostgresError> {
    let Some(at) = rest.find(['@', '/']).filter(|&at| rest[at..].starts_with('@')) else {
        return Ok(rest);
    };
    let (user, password) = match rest[..at].split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (&rest[..at], None),
    };
    if !user.is_empty() {
        settings.set("user", decode(user)?)?;
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        settings.set("password", decode(password)?)?;
    }
    Ok(&rest[at + 1..])
}

fn end_of_hosts(rest: &str) -> usize {
    rest.find(['/', '?']).unwrap_or(rest.len())
}

fn take_hosts(text: &str, settings: &mut Settings) -> Result<(), PostgresError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (host, port) = split_host(part)?;
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    // Nothing given is no setting: the environment may still name a host.
    if hosts.iter().any(|host| !host.is_empty()) {
        settings.set("host", hosts.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        settings.set("port", ports.join(","))?;
    }
    Ok(())
}

fn split_host(part: &str) -> Result<(&str, &str), PostgresError> {
    let Some(bracketed) = part.strip_prefix('[') else {
        return Ok(part.split_once(':').unwrap_or((part, "")));
    };
    let malformed = |reason: &str| PostgresError::malformed(format!("{reason} in URI: \"{part}\""));
    let (host, rest) = bracketed
        .split_once(']')
        .ok_or_else(|| malformed("\"]\" is missing from the IPv6 host address"))?;
    if host.is_empty() {
        return Err(malformed("the IPv6 host address may not be empty"));
    }
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(malformed("unexpected text after the IPv6 host address")),
    }
}

fn take_parameter(parameter: &str, settings: &mut Settings) -> Result<(), PostgresError> {
    let Some((name, value)) = parameter.split_once('=') else {
        let reason =
            format!("missing key/value separator \"=\" in URI query parameter: \"{parameter}\"");
        return Err(PostgresError::malformed(reason));
    };
    let name = decode(name)?;
    if value.contains('=') {
        let reason = format!("extra key/value separator \"=\" in URI query parameter: \"{name}\"");
        return Err(PostgresError::malformed(reason));
    }
    let value = decode(value)?;
    // What JDBC writes.
    if name == "ssl" && value == "true" {
        return settings.set("sslmode", "require".into());
    }
    if keyword(&name).is_none() && name != "requiressl" {
        return Err(PostgresError::malformed(format!("invalid URI query parameter: \"{name}\"")));
    }
    settings.set(&name, value)
}

/// Decodes percent-encoded text, refusing broken and zero bytes as libpq does.
///
/// The message does not repeat the text: it may be a password.
fn decode(text: &str) -> Result<String, PostgresError> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let is_token =
            bytes[at + 1..].iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2;
        if !is_token {
            return Err(PostgresError::malformed("invalid percent-encoded token in URI"));
        }
        if text[at..].starts_with("%00") {
            let reason = "forbidden value %00 in percent-encoded value in URI";
            return Err(PostgresError::malformed(reason));
        }
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| PostgresError::malformed("percent-encoded value in URI is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use crate::postgres::uri::{parse_uri, without_scheme};
    use proptest::prelude::{any, proptest};

    fn get(uri: &str, name: &str) -> Option<String> {
        let settings = parse_uri(without_scheme(uri).expect("scheme")).expect(uri);
        settings.get(name).map(Into::into)
    }

    #[test]
    fn the_parts_of_a_uri_are_found_as_libpq_finds_them() {
        // From PostgreSQL's documentation and its own URI tests.
        for (uri, name, value) in [
            ("postgresql://", "host", None),
            ("postgresql://localhost", "host", Some("localhost")),
            ("postgresql://localhost:5433", "port", Some("5433")),
            ("postgres://localhost/mydb", "dbname", Some("mydb")),
            ("postgresql://user:se%20cret@localhost", "password", Some("se cret")),
            ("postgresql://user@localhost", "user", Some("user")),
            (
                "postgresql://other@localhost/otherdb?connect_timeout=10",
                "connect_timeout",
                Some("10"),
            ),
            (
                "postgresql://host1:123,host2:456/db?target_session_attrs=any",
                "host",
                Some("host1,host2"),
            ),
            ("postgresql://host1:123,host2:456/db", "port", Some("123,456")),
            ("postgresql://host1,host2:456/db", "port", Some(",456")),
            ("postgresql://[2001:db8::1234]:5/db", "host", Some("2001:db8::1234")),
            ("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname", "host", Some("/var/lib/postgresql")),
            ("postgresql:///mydb?host=localhost&port=5433", "host", Some("localhost")),
            ("postgresql:///db?host=/path/to/socket/dir", "host", Some("/path/to/socket/dir")),
            ("postgresql://host?user=uri-user", "user", Some("uri-user")),
            ("postgresql://?hostaddr=127.0.0.1", "hostaddr", Some("127.0.0.1")),
            ("postgresql://:12345", "port", Some("12345")),
            ("postgresql://host/", "dbname", None),
            ("postgresql://host?ssl=true", "sslmode", Some("require")),
            ("postgresql://u:@host", "password", None),
            ("postgresql://host/db?application_name=a%26b", "application_name", Some("a&b")),
        ] {
            assert_eq!(get(uri, name).as_deref(), value, "{uri} {name}");
        }
    }

    #[test]
    fn malformed_uris_are_refused() {
        for uri in [
            "postgresql://host?uzer=",
            "postgresql://host?zzz",
            "postgresql://host?a=b=c",
            "postgresql://[::1",
            "postgresql://[]",
            "postgresql://[::1]z",
            "postgresql://host/%XX",
            "postgresql://%",
            "postgresql://%1",
            "postgresql://%00",
            "postgresql://%FF",
        ] {
            assert!(parse_uri(without_scheme(uri).expect("scheme")).is_err(), "{uri}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_password() {
        let error = parse_uri("user:hush%zz@host").expect_err("token").to_string();
        assert!(!error.contains("hush"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = parse_uri(&text);
        }
    }
}
