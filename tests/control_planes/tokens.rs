//! Bearer tokens: given out for an audience and a time, checked at every call.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Tokens that were given out.
#[derive(Debug)]
pub struct Tokens {
    pub lifetime: Duration,
    issued: BTreeMap<String, Token>,
}

#[derive(Debug)]
struct Token {
    audience: String,
    expires: Instant,
}

/// What a call's token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Missing,
    Unknown,
    OtherAudience,
    Expired,
}

impl Tokens {
    pub fn new() -> Self {
        Self { lifetime: Duration::from_secs(3600), issued: BTreeMap::new() }
    }

    pub fn issue(&mut self, audience: &str) -> String {
        let token = format!("token-{}-of-the-fake", self.issued.len() + 1);
        let expires = Instant::now() + self.lifetime;
        self.issued.insert(token.clone(), Token { audience: audience.to_string(), expires });
        token
    }

    pub fn count(&self) -> usize {
        self.issued.len()
    }

    /// Judges an `Authorization` header.
    pub fn judge(&self, header: Option<&str>, audiences: &[&str]) -> Verdict {
        let Some(header) = header else { return Verdict::Missing };
        let token = header.strip_prefix("Bearer ").and_then(|token| self.issued.get(token));
        match token {
            None => Verdict::Unknown,
            Some(token) if !audiences.contains(&token.audience.as_str()) => Verdict::OtherAudience,
            Some(token) if token.expires <= Instant::now() => Verdict::Expired,
            Some(_) => Verdict::Good,
        }
    }
}
