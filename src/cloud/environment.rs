//! The environment variables that clouds are configured by, read in one place.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A snapshot of environment variables. An empty value counts as unset.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { variables }
    }

    /// Made of the given variables alone.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of `names` that is set.
    pub fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// All variables whose names begin with one of `prefixes`, in the order of their names.
    pub fn starting_with(&self, prefixes: &[&str]) -> BTreeMap<&str, &str> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .collect()
    }

    /// Whether a switch is on: `true`, `yes`, `on` or `1`, in any case.
    pub fn switch(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| {
            ["true", "yes", "on", "1"].iter().any(|on| value.eq_ignore_ascii_case(on))
        })
    }
}

/// Values may be secrets: only the number of variables is shown.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}
