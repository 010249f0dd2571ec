//! [`Selector`]: relabel rules that choose blocks, for gateways that share a bucket (`--selector.relabel-config`); or label sets of endpoints, for a querier.
//!
//! Rules see a block's external labels and `__block_id`, one after the other: `keep` and `drop` decide, `hashmod` writes a number that later rules may
//! look at. As in Thanos, a block without any labels left is dropped, and other actions are refused. Sources: Thanos `pkg/block/fetcher.go`,
//! Prometheus `model/relabel/relabel.go`.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};
use parallax_model::{MatchOp, Matcher};
use serde::Deserialize;

use crate::{BlockError, KeptMeta};

/// The label that rules see besides the external ones.
const BLOCK_ID_LABEL: &str = "__block_id";

/// No configuration has more rules.
const MAX_RULES: usize = 1000;

/// Rules, in order; without any, every block is chosen.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    source_labels: Vec<String>,
    separator: String,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Keep(Matcher),
    Drop(Matcher),
    HashMod { modulus: u64, target_label: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    #[serde(default)]
    source_labels: Vec<String>,
    separator: Option<String>,
    regex: Option<String>,
    modulus: Option<u64>,
    target_label: Option<String>,
    /// Accepted; none of the three actions looks at it.
    #[serde(rename = "replacement")]
    _replacement: Option<String>,
    action: Option<String>,
}

impl Selector {
    /// Reads Prometheus' relabel rules.
    ///
    /// # Errors
    /// [`BlockError::Selector`], naming the rule by its number.
    pub fn from_yaml(text: &str) -> Result<Self, BlockError> {
        let wrong = |reason: String| BlockError::Selector { reason };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let sections: Vec<RuleSection> =
            serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if sections.len() > MAX_RULES {
            return Err(wrong(format!("{} rules are more than {MAX_RULES}", sections.len())));
        }
        let numbered = sections.into_iter().enumerate();
        let rules = numbered
            .map(|(index, section)| {
                section.resolve().map_err(|reason| wrong(format!("rule {}: {reason}", index + 1)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule looks at the name of a block.
    pub fn looks_at_block_id(&self) -> bool {
        self.rules.iter().any(|rule| rule.source_labels.iter().any(|label| label == BLOCK_ID_LABEL))
    }

    /// Whether the rules choose a block.
    pub fn chooses(&self, meta: &impl KeptMeta) -> bool {
        let id = meta.id().to_string();
        self.chooses_labels(meta.labels().chain([(BLOCK_ID_LABEL, id.as_str())]))
    }

    /// Whether the rules choose what has these external labels.
    pub fn chooses_labels<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let mut labels: BTreeMap<&str, String> =
            labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        for rule in &self.rules {
            let values: Vec<&str> = rule
                .source_labels
                .iter()
                .map(|name| labels.get(name.as_str()).map_or("", String::as_str))
                .collect();
            let text = values.join(&rule.separator);
            match &rule.action {
                Action::Keep(expression) if !expression.matches(&text) => return false,
                Action::Drop(expression) if expression.matches(&text) => return false,
                Action::Keep(_) | Action::Drop(_) => {}
                Action::HashMod { modulus, target_label } => {
                    labels.insert(target_label, hash_mod(&text, *modulus).to_string());
                }
            }
        }
        true
    }
}

/// The last eight bytes of the MD5 sum, as a number, modulo `modulus` (which is not zero).
fn hash_mod(text: &str, modulus: u64) -> u64 {
    let sum: [u8; 16] = Md5::digest(text.as_bytes()).into();
    let [.., a, b, c, d, e, f, g, h] = sum;
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).checked_rem(modulus).unwrap_or(0)
}

impl RuleSection {
    fn resolve(self) -> Result<Rule, String> {
        let action = self.action.as_deref().unwrap_or("replace").to_ascii_lowercase();
        let regex = self.regex.as_deref().unwrap_or("(.*)");
        let expression =
            || Matcher::new(MatchOp::Regex, BLOCK_ID_LABEL, regex).map_err(|error| format!("regex: {error}"));
        let action = match action.as_str() {
            "keep" => Action::Keep(expression()?),
            "drop" => Action::Drop(expression()?),
            "hashmod" => {
                let modulus = self.modulus.filter(|modulus| *modulus > 0);
                let target_label = self.target_label.filter(|label| !label.is_empty());
                Action::HashMod {
                    modulus: modulus.ok_or("hashmod needs a modulus that is not 0")?,
                    target_label: target_label.ok_or("hashmod needs a target_label")?,
                }
            }
            other => return Err(format!("action {other:?} cannot choose blocks: use keep, drop or hashmod")),
        };
        let separator = self.separator.unwrap_or_else(|| ";".to_owned());
        Ok(Rule { source_labels: self.source_labels, separator, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockMeta;

    fn meta(number: u32, cluster: &str) -> BlockMeta {
        let json = format!(
            r#"{{"ulid":"01M7ZT2XAE94D33BEGH3SZ{number:04}","minTime":1,"maxTime":2,"version":1,"thanos":{{"labels":{{"cluster":"{cluster}","replica":"a"}}}}}}"#
        );
        BlockMeta::parse("test", json.as_bytes()).unwrap()
    }

    fn chooses(yaml: &str, meta: &BlockMeta) -> bool {
        Selector::from_yaml(yaml).unwrap().chooses(meta)
    }

    #[test]
    fn rules_keep_and_drop_by_external_labels_and_by_name() {
        let eu = meta(1, "eu-1");
        assert!(chooses("", &eu));
        assert!(chooses("[{action: keep, source_labels: [cluster], regex: eu.*}]", &eu));
        assert!(!chooses("[{action: keep, source_labels: [cluster], regex: eu}]", &eu), "anchored");
        assert!(!chooses("[{action: Drop, source_labels: [cluster, replica], regex: eu-1;a}]", &eu));
        assert!(chooses(
            "[{action: drop, source_labels: [cluster, replica], separator: '/', regex: eu-1;a}]",
            &eu
        ));
        assert!(!chooses("[{action: drop, source_labels: [__block_id], regex: .*0001}]", &eu));
        assert!(!chooses("[{action: keep, source_labels: [absent], regex: .+}]", &eu));
    }

    #[test]
    fn a_hash_is_prometheus_own() {
        // echo -n a | md5sum -> 0cc175b9c0f1b6a831c399e269772661
        assert_eq!(hash_mod("a", u64::MAX), 0x31c3_99e2_6977_2661);
        assert_eq!(hash_mod("", 10), 0xe980_0998_ecf8_427e % 10);
    }

    #[test]
    fn shards_share_all_blocks_out_once() {
        let shard = |of: u64| {
            format!(
                "- {{action: hashmod, source_labels: [__block_id], modulus: 3, target_label: shard}}\n\
                 - {{action: keep, source_labels: [shard], regex: {of}}}\n"
            )
        };
        let mut sizes = [0; 3];
        for number in 0..300 {
            let meta = meta(number, "eu-1");
            let owners: Vec<u64> = (0..3).filter(|of| chooses(&shard(*of), &meta)).collect();
            let [owner] = owners[..] else { panic!("{number}: {owners:?}") };
            sizes[owner as usize] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 60), "{sizes:?}");
    }

    #[test]
    fn mistakes_name_the_rule() {
        for (yaml, words) in [
            ("[{action: replace, target_label: x}]", ["rule 1", "keep, drop or hashmod"]),
            ("[{action: keep}, {action: hashmod, target_label: x}]", ["rule 2", "modulus"]),
            ("[{action: hashmod, modulus: 2}]", ["rule 1", "target_label"]),
            ("[{action: keep, regex: '('}]", ["rule 1", "regex"]),
            ("[{action: keep, sourcelabels: [a]}]", ["sourcelabels", "selector"]),
            ("keep", ["selector", ""]),
        ] {
            let message = Selector::from_yaml(yaml).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{yaml}: {message}");
        }
    }
}
