//! A series' labels: sorted by name, unique, immutable, cheap to clone and to compare.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde::ser::{Serialize, SerializeMap, Serializer};

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";

/// Sorted, unique labels of one series. A label with an empty value does not exist, so none is ever held.
///
/// All text lies in one buffer behind one `Arc`; a clone is a reference count. Ordering is by (name, value)
/// pairs, then by length: the order of series on the wire and in an index.
#[derive(Clone)]
pub struct Labels(Arc<Inner>);

struct Inner {
    /// name, value, name, value … without separators.
    text: Box<str>,
    /// Where each piece of `text` ends: two entries per label.
    ends: Box<[u32]>,
}

static EMPTY: LazyLock<Labels> =
    LazyLock::new(|| Labels(Arc::new(Inner { text: Box::default(), ends: Box::default() })));

impl Labels {
    pub fn empty() -> Self {
        EMPTY.clone()
    }

    /// From pairs in any order. Empty values are dropped; of two values for one name the later wins.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let pairs: Vec<(N, V)> = pairs.into_iter().collect();
        let mut sorted: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_ref(), v.as_ref())).collect();
        if sorted.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Self::from_sorted(sorted);
        }
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        let mut unique: Vec<(&str, &str)> = Vec::with_capacity(sorted.len());
        for pair in sorted {
            match unique.last_mut() {
                Some(last) if last.0 == pair.0 => *last = pair,
                _ => unique.push(pair),
            }
        }
        Self::from_sorted(unique)
    }

    /// From pairs the caller knows to be strictly sorted by name (checked in debug builds).
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        let mut ends = Vec::new();
        let mut last_name: Option<&str> = None;
        for (name, value) in pairs {
            debug_assert!(
                last_name.is_none_or(|last| last < name),
                "labels out of order: {last_name:?}, {name:?}"
            );
            last_name = Some(name);
            if value.is_empty() {
                continue;
            }
            text.push_str(name);
            ends.push(text.len() as u32);
            text.push_str(value);
            ends.push(text.len() as u32);
        }
        if ends.is_empty() {
            return Self::empty();
        }
        Self(Arc::new(Inner { text: text.into_boxed_str(), ends: ends.into_boxed_slice() }))
    }

    pub fn len(&self) -> usize {
        self.0.ends.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// (name, value) pairs in order of name.
    pub fn iter(&self) -> Iter<'_> {
        Iter { labels: self, next: 0 }
    }

    /// The value of `name`, or `""` if there is no such label.
    pub fn value_of(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let (candidate, value) = self.pair(middle);
            match candidate.cmp(name) {
                Ordering::Equal => return Some(value),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The metric's name, or `""`.
    pub fn metric_name(&self) -> &str {
        self.value_of(METRIC_NAME)
    }

    /// These labels without `names`; returns a clone when nothing has to go.
    pub fn without<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filtered(|name| !names.iter().any(|n| n.as_ref() == name))
    }

    /// Only the labels in `names`.
    pub fn keeping<S: AsRef<str>>(&self, names: &[S]) -> Self {
        self.filtered(|name| names.iter().any(|n| n.as_ref() == name))
    }

    fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self::from_sorted(self.iter().filter(|(name, _)| keep(name)))
    }

    /// These labels with `others` laid over them: a label of `others` replaces one of the same name.
    pub fn overlaid_with(&self, others: &Labels) -> Self {
        if others.is_empty() {
            return self.clone();
        }
        let mut mine = self.iter().peekable();
        let mut theirs = others.iter().peekable();
        let mut merged = Vec::with_capacity(self.len() + others.len());
        loop {
            match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) => match a.0.cmp(b.0) {
                    Ordering::Less => merged.extend(mine.next()),
                    Ordering::Greater => merged.extend(theirs.next()),
                    Ordering::Equal => {
                        mine.next();
                        merged.extend(theirs.next());
                    }
                },
                (Some(_), None) => merged.extend(mine.next()),
                (None, Some(_)) => merged.extend(theirs.next()),
                (None, None) => return Self::from_sorted(merged),
            }
        }
    }

    /// Bytes of text held, for budgets.
    pub fn size_bytes(&self) -> usize {
        self.0.text.len() + self.0.ends.len() * 4
    }

    fn pair(&self, index: usize) -> (&str, &str) {
        let inner = &*self.0;
        let start = if index == 0 { 0 } else { inner.ends[2 * index - 1] as usize };
        let middle = inner.ends[2 * index] as usize;
        let end = inner.ends[2 * index + 1] as usize;
        (&inner.text[start..middle], &inner.text[middle..end])
    }
}

/// Iterator over (name, value) pairs.
#[derive(Clone)]
pub struct Iter<'a> {
    labels: &'a Labels,
    next: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.labels.len()).then(|| {
            self.next += 1;
            self.labels.pair(self.next - 1)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.labels.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.ends == other.0.ends && self.0.text == other.0.text)
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
        self.0.ends.hash(state);
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

/// As PromQL writes a series: `name{a="b"}`, or `{a="b"}` without a metric name.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        f.write_str(name)?;
        if !name.is_empty() && self.len() == 1 {
            return Ok(());
        }
        f.write_str("{")?;
        let mut separator = "";
        for (name, value) in self.iter().filter(|(name, _)| *name != METRIC_NAME) {
            write!(f, "{separator}{name}={value:?}")?;
            separator = ", ";
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Changes labels one by one, then builds the result.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder(BTreeMap<String, String>);

impl LabelsBuilder {
    pub fn new(base: &Labels) -> Self {
        Self(base.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    /// Sets a label; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.0.remove(name);
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.0.iter().map(|(n, v)| (n.as_str(), v.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_unique_and_never_empty() {
        let labels = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", ""), ("b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "3")]);
        assert_eq!(labels.value_of("b"), "3");
        assert_eq!(labels.get("c"), None);
    }

    #[test]
    fn order_is_by_pair_and_then_by_length() {
        let of = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        assert!(of(&[("a", "1")]) < of(&[("a", "1"), ("b", "1")]));
        assert!(of(&[("a", "1"), ("c", "1")]) > of(&[("a", "1"), ("b", "9")]));
        assert!(of(&[("a", "10")]) < of(&[("a", "2")]));
        // The same text cut at another place is another label set.
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
    }

    #[test]
    fn overlaid_labels_win() {
        let series = Labels::from_pairs([("a", "1"), ("cluster", "local")]);
        let external = Labels::from_pairs([("cluster", "eu-1"), ("replica", "0")]);
        assert_eq!(
            series.overlaid_with(&external),
            Labels::from_pairs([("a", "1"), ("cluster", "eu-1"), ("replica", "0")])
        );
    }

    #[test]
    fn display_is_promql() {
        let labels = Labels::from_pairs([(METRIC_NAME, "up"), ("job", "a\"b")]);
        assert_eq!(labels.to_string(), r#"up{job="a\"b"}"#);
        assert_eq!(Labels::from_pairs([(METRIC_NAME, "up")]).to_string(), "up");
        assert_eq!(Labels::empty().to_string(), "{}");
    }
}
