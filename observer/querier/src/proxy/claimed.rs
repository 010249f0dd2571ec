//! The answers of the small services, held to the cluster that their endpoint is declared as.

use parallax_storeapi::labels;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::{
    ExemplarData, Label, MetricMetadata, Rule, RuleGroup, TargetDiscovery, TsdbStatistics, ZLabelSet,
};

use crate::claim::{Claim, ForeignLabels};

/// What was left out of one item.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub count: u64,
    /// Why the first of it was.
    pub first: Option<String>,
}

/// An item of an answer whose parts say whose they are, or do not.
pub(crate) trait Claimed: Sized {
    /// Takes out what is not the declared cluster's, or makes it so. `None` if nothing is left.
    fn restrict(self, claim: &Claim, left_out: &mut LeftOut) -> Option<Self>;
}

/// Nothing here says whose it is.
impl Claimed for MetricMetadata {
    fn restrict(self, _: &Claim, _: &mut LeftOut) -> Option<Self> {
        Some(self)
    }
}

/// Nothing here says whose it is.
impl Claimed for TsdbStatistics {
    fn restrict(self, _: &Claim, _: &mut LeftOut) -> Option<Self> {
        Some(self)
    }
}

impl Claimed for RuleGroup {
    fn restrict(mut self, claim: &Claim, left_out: &mut LeftOut) -> Option<Self> {
        let had_rules = !self.rules.is_empty();
        self.rules.retain_mut(|rule| may_keep_rule(rule, claim, left_out));
        (!self.rules.is_empty() || !had_rules).then_some(self)
    }
}

fn may_keep_rule(rule: &mut Rule, claim: &Claim, left_out: &mut LeftOut) -> bool {
    match &mut rule.result {
        None => true,
        Some(Kind::Recording(recording)) => {
            let what = || format!("rule {:?}", recording.name);
            may_keep(&mut recording.labels, claim, left_out, what)
        }
        Some(Kind::Alert(alert)) => {
            let name = alert.name.clone();
            if !may_keep(&mut alert.labels, claim, left_out, || format!("rule {name:?}")) {
                return false;
            }
            alert.alerts.retain_mut(|instance| {
                may_keep(&mut instance.labels, claim, left_out, || format!("an alert of rule {name:?}"))
            });
            true
        }
    }
}

impl Claimed for TargetDiscovery {
    fn restrict(mut self, claim: &Claim, left_out: &mut LeftOut) -> Option<Self> {
        self.active_targets.retain_mut(|target| {
            let url = &target.scrape_url;
            may_keep(&mut target.labels, claim, left_out, || format!("target {url:?}"))
        });
        self.dropped_targets.retain_mut(|target| {
            may_keep(&mut target.discovered_labels, claim, left_out, || "a dropped target".to_owned())
        });
        (!self.active_targets.is_empty() || !self.dropped_targets.is_empty()).then_some(self)
    }
}

impl Claimed for ExemplarData {
    fn restrict(mut self, claim: &Claim, left_out: &mut LeftOut) -> Option<Self> {
        may_keep(&mut self.series_labels, claim, left_out, || "exemplars of a series".to_owned())
            .then_some(self)
    }
}

/// Whether what has these labels stays; they are made the declared cluster's where that is the rule.
fn may_keep(
    set: &mut Option<ZLabelSet>,
    claim: &Claim,
    left_out: &mut LeftOut,
    what: impl FnOnce() -> String,
) -> bool {
    if claim.mode() == ForeignLabels::Inject {
        let own = labels::to_wire(&claim.own());
        let known = set.get_or_insert_default();
        let mut all: Vec<Label> = std::mem::take(&mut known.labels);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        known.labels = labels::overlay(all, &own);
        return true;
    }
    let found = set.as_ref().map_or(&[][..], |set| &set.labels);
    let Some(reason) = claim.foreign(found) else { return true };
    left_out.count += 1;
    left_out.first.get_or_insert_with(|| format!("{} {reason}", what()));
    false
}
