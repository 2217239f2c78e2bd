//! The last net for secrets: what a command says is searched for them before it is written.
//!
//! Every room leaves secrets out of its messages; but messages also quote what was typed, what
//! servers answered and what libraries said. Here the values that the environment declares to be
//! secret, and what stands where URLs and connection strings have passwords, become `***`.

use crate::command::environment::Environment;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Variables whose whole value is a secret.
const WHOLE: &[&str] = &[
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_CLIENT_SECRET",
    "IDENTITY_HEADER",
    "PGPASSWORD",
    "PGSSLPASSWORD",
];

/// URLs that may have a password.
const PROXIES: &[&str] =
    &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// What comes before a secret in a query, a connection string or a list of fields.
const BEFORE: &[&str] = &["password=", "sslpassword=", "sig=", "AccountKey="];

/// Shorter ones hide nothing and would make holes in ordinary words.
const BYTES_MIN: usize = 8;

const HIDDEN: &str = "***";

/// Knows the secrets of one process. Clones share them.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<[String]>,
}

impl Redactor {
    pub fn of(environment: &Environment) -> Self {
        let value = |name: &&str| environment.get(name)?.to_str();
        let mut secrets: Vec<String> = WHOLE.iter().filter_map(value).flat_map(parts_of).collect();
        let proxies = PROXIES.iter().filter_map(value);
        secrets.extend(proxies.filter_map(password_of).flat_map(parts_of));
        secrets.retain(|secret| secret.len() >= BYTES_MIN);
        // Whole ones before their parts.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets: secrets.into() }
    }

    /// `text` without secrets.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN).into();
            }
        }
        if text.contains("://") && text.contains('@') {
            text = without_users(&text).into();
        }
        for before in BEFORE {
            if text.contains(before) {
                text = without_values(&text, before).into();
            }
        }
        text
    }
}

/// The values are secrets.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.secrets.len())
    }
}

/// A secret as it is, without the blanks around it, and the secrets inside of it: a signature is
/// one parameter of many, a key one field.
fn parts_of(value: &str) -> Vec<String> {
    let mut parts = vec![value.to_string(), value.trim().to_string()];
    for field in value.split(['&', ';', '?']) {
        let Some((name, secret)) = field.split_once('=') else { continue };
        if ["sig", "AccountKey", "SharedAccessSignature"].contains(&name.trim()) {
            parts.push(secret.trim().to_string());
        }
    }
    let decoded: Vec<String> = parts
        .iter()
        .filter_map(|part| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned()))
        .collect();
    parts.extend(decoded);
    parts
}

fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let (user, _) = rest.rsplit_once('@')?;
    Some(user.split_once(':').map_or(user, |(_, password)| password))
}

/// What ends a URL in a sentence.
fn ends_a_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ',')
}

fn without_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("://") {
        let (before, url) = rest.split_at(begin + 3);
        out.push_str(before);
        let end = url.find(ends_a_url).unwrap_or(url.len());
        let address = url[..end].split(['?', '#']).next().unwrap_or_default();
        let host = address.split('/').next().unwrap_or_default();
        // A slash in a password that nobody has encoded; the path of an object has no colon first.
        let at = if host.contains(':') { address.rfind('@') } else { host.rfind('@') };
        match at {
            Some(at) => {
                out.push_str(HIDDEN);
                rest = &url[at..];
            }
            None => rest = url,
        }
    }
    out.push_str(rest);
    out
}

fn without_values(text: &str, before: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(before) {
        let (head, value) = rest.split_at(begin + before.len());
        out.push_str(head);
        // A quoted value goes to its quote, another to the next sign that ends a field.
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(value.len(), |at| at + 2),
            None => value
                .find(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | '"' | '\''))
                .unwrap_or(value.len()),
        };
        if end > 0 {
            out.push_str(HIDDEN);
        }
        rest = &value[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use crate::command::environment::Environment;
    use crate::command::redact::Redactor;

    #[test]
    fn secrets_of_the_environment_are_hidden_whole_and_in_part() {
        let redactor = Redactor::of(&Environment::of([
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI\n"),
            ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=abc%2Bdefgh%3D"),
            ("HTTPS_PROXY", "http://me:proxyhush@proxy:3128"),
            ("PGPASSWORD", "short"),
            ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ]));
        let cases = [
            ("no wJalrXUtnFEMI here", "no *** here"),
            ("signed abc%2Bdefgh%3D or abc+defgh=", "signed *** or ***"),
            ("with proxyhush.", "with ***."),
            ("AKIAEXAMPLE is short", "AKIAEXAMPLE is short"),
        ];
        for (text, expected) in cases {
            assert_eq!(redactor.clean(text), expected);
        }
        assert!(!format!("{redactor:?}").contains("hush"));
    }

    #[test]
    fn what_stands_where_passwords_stand_is_hidden() {
        let redactor = Redactor::default();
        let cases = [
            (
                "unrecognized \"postgresql://me:hush@h/db\"",
                "unrecognized \"postgresql://***@h/db\"",
            ),
            ("at https://u:hu/sh@h:1/x?y=a@b next", "at https://***@h:1/x?y=a@b next"),
            ("host=h password=hush user=u", "host=h password=*** user=u"),
            ("password='hu sh' user=u", "password=*** user=u"),
            ("password='hu", "password=***"),
            ("https://h/c?sv=1&sig=hush&se=2", "https://h/c?sv=1&sig=***&se=2"),
            ("AccountName=a;AccountKey=hush==;X=y", "AccountName=a;AccountKey=***;X=y"),
            ("no password= here", "no password= here"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("nothing to hide", "nothing to hide"),
        ];
        for (text, expected) in cases {
            assert_eq!(redactor.clean(text), expected);
        }
    }
}
