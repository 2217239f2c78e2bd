//! Names that nobody else has chosen.

use std::hash::{BuildHasher, RandomState};

/// 32 hex digits that differ between processes and calls. No secret.
pub fn random_token() -> String {
    let half = |salt: u8| RandomState::new().hash_one(salt);
    format!("{:016x}{:016x}", half(0), half(1))
}

#[cfg(test)]
mod tests {
    use crate::flow::random_token;
    use std::collections::BTreeSet;

    #[test]
    fn no_token_comes_twice() {
        let tokens: BTreeSet<String> = (0..1000).map(|_| random_token()).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 32));
    }
}
