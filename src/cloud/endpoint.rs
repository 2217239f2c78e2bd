//! Where a cloud may be reached, and what can be wrong before the first request.

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
    LoopbackOnly,
    Allowed,
}

/// Checks an endpoint: `https`, or `http` where it may be.
///
/// Backups and credentials would cross the network readable by anyone on the way, so `http` is
/// taken only for this machine unless the user asked for it.
pub fn check_endpoint(text: &str, plain: PlainHttp) -> Result<Url, CloudError> {
    let url = Url::parse(text)
        .map_err(|error| CloudError::new(format!("endpoint \"{text}\" is not a URL: {error}")))?;
    if url.host().is_none() {
        return Err(CloudError::new(format!("endpoint \"{text}\" has no host name")));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain == PlainHttp::Allowed || is_loopback(&url) => Ok(url),
        "http" => Err(CloudError::new(format!("endpoint \"{text}\" has no TLS")).hint(
            "Use https, or allow unencrypted traffic with --allow-http (or the environment \
             variable BARMAN_CLOUD_ALLOW_HTTP=true).",
        )),
        scheme => {
            Err(CloudError::new(format!("endpoint \"{text}\" has an unknown scheme \"{scheme}\"")))
        }
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
    use crate::cloud::{PlainHttp, check_endpoint, is_protected};
    use url::Url;

    #[test]
    fn http_is_for_this_machine_unless_allowed() {
        for text in ["http://127.0.0.1:9000", "http://[::1]/", "http://localhost:4566"] {
            assert!(check_endpoint(text, PlainHttp::LoopbackOnly).is_ok(), "{text}");
        }
        let refused = check_endpoint("http://minio:9000", PlainHttp::LoopbackOnly);
        assert!(refused.expect_err("refused").hint.expect("hint").contains("--allow-http"));
        assert!(check_endpoint("http://minio:9000", PlainHttp::Allowed).is_ok());
        assert!(check_endpoint("https://minio:9000", PlainHttp::LoopbackOnly).is_ok());
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
        for text in ["minio:9000", "s3://b", "/x", ""] {
            assert!(check_endpoint(text, PlainHttp::Allowed).is_err(), "{text}");
        }
    }
}
