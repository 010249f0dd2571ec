//! The file of `--retention.policy-file`: how long blocks are kept, by their external labels and resolution.
//!
//! ```yaml
//! rules:
//! - match: '{cluster=~"eu-.*", team="infra"}'
//!   raw: 30d
//!   5m: 180d
//!   1h: 0d
//! ```
//!
//! The first rule that matches a block and speaks of its resolution decides; `0d` is for ever. Of what no rule speaks the `--retention.resolution-*` flags do.

use anyhow::Context as _;
use parallax_compactor::RetentionRule;
use serde::Deserialize;

use super::side_file::{self, DurationText};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    rules: Vec<RuleSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    /// A selector of external labels.
    #[serde(rename = "match")]
    matches: String,
    raw: Option<DurationText>,
    #[serde(rename = "5m")]
    five_minutes: Option<DurationText>,
    #[serde(rename = "1h")]
    one_hour: Option<DurationText>,
}

/// Reads the file.
pub fn read(path: &str) -> anyhow::Result<Vec<RetentionRule>> {
    let file: PolicyFile = side_file::read(path)?;
    let rule = |(place, rule): (usize, RuleSection)| -> anyhow::Result<RetentionRule> {
        let what = || format!("{path}: rule {} ({})", place + 1, rule.matches);
        let matchers = parallax_promql::parse::parse_selector(&rule.matches).with_context(what)?;
        anyhow::ensure!(
            rule.raw.is_some() || rule.five_minutes.is_some() || rule.one_hour.is_some(),
            "{}: it says nothing: give raw, 5m or 1h",
            what()
        );
        let kept = |text: Option<DurationText>| text.map(|text| text.0);
        Ok(RetentionRule {
            matchers,
            raw: kept(rule.raw),
            five_minutes: kept(rule.five_minutes),
            one_hour: kept(rule.one_hour),
        })
    };
    file.rules.into_iter().enumerate().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> anyhow::Result<Vec<RetentionRule>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, text)?;
        read(path.to_str().unwrap_or_default())
    }

    #[test]
    fn rules_have_a_selector_and_a_time_for_some_resolution() {
        let rules = rules("rules:\n- match: '{team=\"a\"}'\n  raw: 30d\n  1h: 0d\n- {match: '{}', 5m: 1w}\n")
            .unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].raw, Some(std::time::Duration::from_secs(30 * 86_400)));
        assert_eq!((rules[0].five_minutes, rules[0].one_hour), (None, Some(std::time::Duration::ZERO)));
        assert!(rules[1].matchers.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, complaint) in [
            ("rules:\n- {match: '{a=', raw: 1d}", "rule 1"),
            ("rules:\n- match: '{a=\"b\"}'", "says nothing"),
            ("rules:\n- {match: '{}', raw: soon}", "soon"),
            ("rules:\n- {match: '{}', 2h: 1d}", "2h"),
        ] {
            let error = format!("{:#}", rules(text).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
