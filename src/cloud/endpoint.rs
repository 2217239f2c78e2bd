//! Where a cloud may be reached, and what can be wrong before the first request.

use crate::cloud::Environment;
use crate::cloud::kept::Said;
use std::net::IpAddr;
use url::{Host, Url};

/// What keeps a store from being opened at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CloudError {
    pub message: String,
    /// The likeliest mistake or the next step, a full sentence.
    pub hint: Option<String>,
}

impl CloudError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whether an endpoint without TLS is allowed beyond this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only for requests that are signed, which gives no secret away; and with a warning.
    IfSigned,
    Allowed,
}

/// Checks an endpoint whose requests carry what lets anybody in who reads it: a bearer token, a
/// shared access signature. `http` is taken only for this machine unless the user asked for it.
pub fn check_endpoint(text: &str, plain: PlainHttp) -> Result<Url, CloudError> {
    let url = check_signed_endpoint(text)?;
    refuse_in_clear(&url, plain, "what gives access")?;
    Ok(url)
}

/// Checks an endpoint whose requests are signed: `https` or `http`.
pub fn check_signed_endpoint(text: &str) -> Result<Url, CloudError> {
    let shown = without_user(text);
    let url = Url::parse(text)
        .map_err(|error| CloudError::new(format!("endpoint \"{shown}\" is not a URL: {error}")))?;
    if url.host().is_none() {
        return Err(CloudError::new(format!("endpoint \"{shown}\" has no host name")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CloudError::new(format!("endpoint \"{shown}\" has a user name or password"))
            .hint("Nothing takes credentials there; set those of the provider."));
    }
    match url.scheme() {
        "https" | "http" => Ok(url),
        scheme => {
            Err(CloudError::new(format!("endpoint \"{shown}\" has an unknown scheme \"{scheme}\"")))
        }
    }
}

/// Refuses to send `what` over a network where anyone can read it.
pub(crate) fn refuse_in_clear(url: &Url, plain: PlainHttp, what: &str) -> Result<(), CloudError> {
    if plain == PlainHttp::Allowed || is_protected(url) {
        return Ok(());
    }
    let message = format!("endpoint \"{url}\" has no TLS: {what} could be read on the way");
    Err(CloudError::new(message).hint(
        "Use https, or allow unencrypted traffic with --allow-http (or the environment \
         variable BARMAN_CLOUD_ALLOW_HTTP=true).",
    ))
}

/// Says, once a day, that backups cross the network readable. A command for each WAL segment
/// would say it each time.
pub(crate) fn warn_of_plain_http(environment: &Environment, url: &Url, plain: PlainHttp) {
    if plain == PlainHttp::Allowed || is_protected(url) {
        return;
    }
    if !Said::new(environment, &format!("no TLS {url}")).already() {
        tracing::warn!(
            endpoint = %url,
            "the endpoint has no TLS: whoever is on the way can read the backups \
             (--allow-http says that this is meant)"
        );
    }
}

/// `text` for people: what may be a password before the host is left out.
pub fn without_user(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may have a slash that nobody has encoded: the last sign counts.
    let at = rest[..end].rfind('@').or_else(|| rest.split(['?', '#']).next()?.rfind('@'));
    match (at, scheme) {
        (None, _) => text.to_string(),
        (Some(at), "") => format!("***{}", &rest[at..]),
        (Some(at), scheme) => format!("{scheme}://***{}", &rest[at..]),
    }
}

/// Whether nobody on the way can change what is sent: by TLS, or because it never leaves this
/// machine.
pub fn is_protected(url: &Url) -> bool {
    url.scheme() == "https" || is_loopback(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        // RFC 6761: names below localhost. never leave the machine.
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::endpoint::without_user;
    use crate::cloud::{PlainHttp, check_endpoint, check_signed_endpoint, is_protected};
    use url::Url;

    #[test]
    fn what_gives_access_goes_over_http_to_this_machine_only_unless_allowed() {
        for text in ["http://127.0.0.1:9000", "http://[::1]/", "http://localhost:4566"] {
            assert!(check_endpoint(text, PlainHttp::IfSigned).is_ok(), "{text}");
        }
        let refused = check_endpoint("http://minio:9000", PlainHttp::IfSigned);
        assert!(refused.expect_err("refused").hint.expect("hint").contains("--allow-http"));
        assert!(check_endpoint("http://minio:9000", PlainHttp::Allowed).is_ok());
        assert!(check_endpoint("https://minio:9000", PlainHttp::IfSigned).is_ok());
    }

    #[test]
    fn signed_requests_go_over_http() {
        assert!(check_signed_endpoint("http://minio:9000").is_ok());
    }

    #[test]
    fn only_plain_http_over_a_network_is_unprotected() {
        let protected = |text: &str| is_protected(&Url::parse(text).expect("URL"));
        assert!(protected("https://s3.eu-west-1.amazonaws.com"));
        assert!(protected("http://127.0.0.1:9000") && protected("http://localhost:4566"));
        assert!(!protected("http://minio:9000") && !protected("http://10.0.0.1:9000"));
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["minio:9000", "s3://b", "/x", "", "https://", "http://a b/"] {
            assert!(check_endpoint(text, PlainHttp::Allowed).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        for text in [
            "https://me:hush@minio:9000",
            "http://me:hush@minio",
            "s3://me:hush@minio",
            "https://me:hu/sh@minio:x",
            "me:hush@minio:9000",
            "https://hush@minio",
        ] {
            let error = check_endpoint(text, PlainHttp::Allowed).expect_err(text);
            assert!(!error.message.contains("hu"), "{}", error.message);
            assert!(error.message.contains("minio"), "{}", error.message);
        }
    }

    #[test]
    fn a_url_without_a_user_is_shown_as_it_is() {
        for text in ["https://minio:9000/a", "minio", "", "https://h/?x=a@b"] {
            assert_eq!(without_user(text), text);
        }
    }
}
