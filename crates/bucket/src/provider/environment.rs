//! [`Environment`]: where credentials come from that are not in the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variables of the process, or a stand-in for tests.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `None` asks the process.
    fixed: Option<BTreeMap<String, String>>,
}

impl Environment {
    /// The variables of this process.
    pub fn process() -> Self {
        Self::default()
    }

    /// These variables and no others.
    pub fn fixed<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let fixed = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { fixed: Some(fixed) }
    }

    /// A variable that is set to something.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let value = match &self.fixed {
            Some(fixed) => fixed.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// A file in the user's home directory.
    pub(super) fn home(&self, file: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| PathBuf::from(home).join(file))
    }
}
