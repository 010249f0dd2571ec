//! `--index-cache.config`. Source of keys and defaults: Thanos `pkg/store/cache/factory.go`.

use std::time::Duration;

use parallax_cache::config::{GoDuration, parse};
use parallax_cache::{Backend, CacheError, MemoryConfig};
use serde::Deserialize;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NAMES: [&str; 3] = ["Postings", "Series", "ExpandedPostings"];

/// Where parts of indexes are remembered, which, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexCacheConfig {
    pub backend: Backend,
    pub(super) items: Items,
    pub ttl: Duration,
}

/// Which items are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Items {
    pub postings: bool,
    pub series: bool,
    pub expanded: bool,
}

impl Items {
    const ALL: Self = Self { postings: true, series: true, expanded: true };

    /// Of these, the outcomes of matchers.
    pub fn outcomes(self) -> Self {
        Self { postings: false, series: false, ..self }
    }
}

#[derive(Deserialize)]
struct Section {
    enabled_items: Option<Vec<String>>,
    ttl: Option<GoDuration>,
}

impl IndexCacheConfig {
    /// # Errors
    /// [`CacheError::Config`] with the line where there is one.
    pub fn from_yaml(text: &str) -> Result<Self, CacheError> {
        let backend = Backend::from_yaml(text, &["enabled_items", "ttl"])?;
        let section: Section = parse(text)?;
        let names = section.enabled_items.unwrap_or_default();
        if let Some(name) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
            let reason = format!("enabled_items: {name:?} is not one of {}", NAMES.join(", "));
            return Err(CacheError::config(reason));
        }
        let has = |name: &str| names.iter().any(|found| found == name);
        let items = if names.is_empty() {
            Items::ALL
        } else {
            Items { postings: has("Postings"), series: has("Series"), expanded: has("ExpandedPostings") }
        };
        let ttl = section.ttl.map(|ttl| ttl.0).filter(|ttl| !ttl.is_zero()).unwrap_or(DAY);
        Ok(Self { backend, items, ttl })
    }

    /// In memory, with this bound.
    pub fn in_memory(max_size_bytes: u64) -> Self {
        let max_item_size_bytes = max_size_bytes / 2;
        let backend = Backend::Memory(MemoryConfig { max_size_bytes, max_item_size_bytes });
        Self { backend, items: Items::ALL, ttl: DAY }
    }

    /// For a bucket that is a directory, which the operating system remembers already: outcomes of matchers only, so many bytes at most.
    pub fn of_outcomes(max_size_bytes: u64) -> Self {
        Self { items: Items::ALL.outcomes(), ..Self::in_memory(max_size_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_and_times_are_read_and_mistakes_named() {
        let config =
            IndexCacheConfig::from_yaml("type: IN-MEMORY\nenabled_items: [Postings]\nttl: 1h\n").unwrap();
        assert_eq!(config.ttl.as_secs(), 3600);
        assert_eq!(config.items, Items { postings: true, series: false, expanded: false });
        assert_eq!(IndexCacheConfig::from_yaml("type: IN-MEMORY").unwrap().items, Items::ALL);
        for (text, word) in
            [("type: IN-MEMORY\nenabled_items: [Chunks]", "Chunks"), ("type: IN-MEMORY\nitems: []", "items")]
        {
            let error = IndexCacheConfig::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
