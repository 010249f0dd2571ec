//! Label names and values of all stores: asked at once, united, sorted, limited.

use std::collections::BTreeSet;

use parallax_model::{Matcher, TimeRange};
use parallax_storeapi::matchers;
use parallax_storeapi::proto::Any;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
};
use tonic::{Request, Status};

use super::attest::Attested;
use super::gather::gather;
use super::open::open_with_retries;
use super::patience::Patience;
use super::{Call, Proxy};
use crate::chosen::Narrowing;
use crate::claim::{Claim, ForeignLabels};
use crate::coverage::{Coverage, Gap, GapKind, bounded, from_hint, to_hint};
use crate::select::Held;
use crate::store_selection::{Selected, Selection};

/// What one endpoint, or all of them, answered.
#[derive(Default)]
struct Found {
    texts: Vec<String>,
    warnings: Vec<String>,
    /// What the texts take of the query's budget.
    held: Option<Held>,
    /// What a querier says of those beneath it.
    beneath: Option<Coverage>,
}

/// Most warnings of one endpoint in one answer.
const MAX_WARNINGS: usize = 10_000;

impl Found {
    fn new(texts: Vec<String>, mut warnings: Vec<String>, hints: Option<&Any>) -> Self {
        warnings.truncate(MAX_WARNINGS);
        let warnings = warnings.into_iter().map(bounded).collect();
        Self { texts, warnings, held: None, beneath: hints.and_then(from_hint).and_then(Result::ok) }
    }

    /// Of values of the label by which clusters are told apart: leaves those of the declared cluster.
    fn hold_to(&mut self, claim: &Claim, selected: &Selected) -> Result<(), Gap> {
        let endpoint = &selected.endpoint;
        if claim.mode() == ForeignLabels::Inject {
            self.texts = claim.own().iter().map(|(_, value)| value.to_owned()).collect();
            return Ok(());
        }
        let Some(reason) = self.texts.iter().find_map(|value| claim.foreign_value(value)) else {
            return Ok(());
        };
        let before = self.texts.len();
        self.texts.retain(|value| claim.foreign_value(value).is_none());
        let left_out = before - self.texts.len();
        endpoint.foreign_counter().inc_by(u64::try_from(left_out).unwrap_or(u64::MAX));
        if claim.mode() == ForeignLabels::Refuse {
            let reason = format!("a value of the label {reason}; nothing of it is believed");
            return Err(endpoint.gap(GapKind::Refused, reason));
        }
        let gap = endpoint.gap(GapKind::Partial, format!("a value of the label {reason}; it is left out"));
        self.warnings.push(gap.to_string());
        Ok(())
    }

    /// Counts what it takes, or is a gap.
    fn counted(mut self, call: &Call, selected: &Selected) -> Result<Self, Gap> {
        let size_bytes = self.texts.iter().map(|text| text.len() + size_of::<String>()).sum();
        let held = call.budget.hold(size_bytes);
        self.held = Some(held.map_err(|over| selected.endpoint.gap(GapKind::Refused, over.to_string()))?);
        Ok(self)
    }
}

impl Proxy {
    pub(super) async fn merged_label_names(
        &self,
        request: Request<LabelNamesRequest>,
    ) -> Result<LabelNamesResponse, Status> {
        let message = request.get_ref();
        let (disabled, strategy) = (message.partial_response_disabled, message.partial_response_strategy);
        let call = Call::of(&request, &self.inner.config, disabled, strategy);
        let request = request.into_inner();
        let Some(matchers) = self.matchers(&request.matchers)? else {
            return Ok(LabelNamesResponse::default());
        };
        let range = TimeRange::new(request.start, request.end);
        let selection = self.select(&call, &matchers, range)?;
        let attested = self.attest(&selection, matchers.clone(), range);
        let asked =
            LabelNamesRequest { matchers: matchers::to_wire(&matchers), hints: None, ..request.clone() };
        let call = &call;
        let asking = selection.ask.iter().map(|selected| {
            let mut asked = asked.clone();
            let claim = selected.endpoint.claim();
            let injects = claim.as_ref().filter(|claim| claim.mode() == ForeignLabels::Inject);
            let injected = injects.map(|claim| claim.label().to_owned());
            if let Some(claim) = &claim {
                claim.adapt_narrow(&mut asked.matchers);
            }
            if let Some(narrowing) = selected.metadata.as_deref().and_then(Narrowing::of) {
                narrowing.adapt(&mut asked.matchers);
            }
            let removed = &request.without_replica_labels;
            let without = if selected.supports_without_replica_labels() {
                Vec::new()
            } else {
                // Its names are filtered here, so its limit would count some that go.
                asked.limit = 0;
                request.without_replica_labels.clone()
            };
            self.ask(call, selected, move || {
                let request = call.outgoing_once(&selected.endpoint, asked.clone());
                let (without, injected) = (without.clone(), injected.clone());
                async move {
                    let mut answer = selected.endpoint.store().label_names(request).await?;
                    answer.names.retain(|name| !without.contains(name));
                    answer.names.extend(injected.filter(|name| !removed.contains(name)));
                    Ok(Found::new(answer.names, answer.warnings, answer.hints.as_ref()))
                }
            })
        });
        let answers = gather(asking, |answer| self.judge(call, answer)).await?;
        let hints = tell(call, &attested, &answers);
        let found = self.unite(call, selection.gaps, answers, request.limit)?;
        Ok(LabelNamesResponse { names: found.texts, warnings: found.warnings, hints })
    }

    pub(super) async fn merged_label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let message = request.get_ref();
        let (disabled, strategy) = (message.partial_response_disabled, message.partial_response_strategy);
        let call = Call::of(&request, &self.inner.config, disabled, strategy);
        let request = request.into_inner();
        if request.label.is_empty() {
            return Err(Status::invalid_argument("label name parameter cannot be empty"));
        }
        let Some(matchers) = self.matchers(&request.matchers)? else {
            return Ok(LabelValuesResponse::default());
        };
        let range = TimeRange::new(request.start, request.end);
        let selection = self.select(&call, &matchers, range)?;
        let attested = self.attest(&selection, matchers.clone(), range);
        let asked =
            LabelValuesRequest { matchers: matchers::to_wire(&matchers), hints: None, ..request.clone() };
        let is_removed = request.without_replica_labels.contains(&request.label);
        let call = &call;
        let asking = selection.ask.iter().map(|selected| {
            let drop_all = is_removed && !selected.supports_without_replica_labels();
            let mut asked = asked.clone();
            let claim = selected.endpoint.claim();
            if let Some(claim) = &claim {
                claim.adapt_narrow(&mut asked.matchers);
            }
            if let Some(narrowing) = selected.metadata.as_deref().and_then(Narrowing::of) {
                narrowing.adapt(&mut asked.matchers);
            }
            let claim = claim.filter(|claim| claim.label() == asked.label && !is_removed);
            let asking = self.ask(call, selected, move || {
                let request = call.outgoing_once(&selected.endpoint, asked.clone());
                async move {
                    let mut answer = selected.endpoint.store().label_values(request).await?;
                    if drop_all {
                        answer.values.clear();
                    }
                    Ok(Found::new(answer.values, answer.warnings, answer.hints.as_ref()))
                }
            });
            async move {
                let mut found = asking.await?;
                if let Some(claim) = claim {
                    let held = found.hold_to(&claim, selected);
                    held.map_err(|gap| call.left_by(&selected.endpoint, gap))?;
                }
                whole_if_required(call, selected, found)
            }
        });
        let answers = gather(asking, |answer| self.judge(call, answer)).await?;
        let hints = tell(call, &attested, &answers);
        let found = self.unite(call, selection.gaps, answers, request.limit)?;
        Ok(LabelValuesResponse { values: found.texts, warnings: found.warnings, hints })
    }

    async fn ask<F: Future<Output = Result<Found, Status>>>(
        &self,
        call: &Call,
        selected: &Selected,
        attempt: impl Fn() -> F,
    ) -> Result<Found, Gap> {
        let (endpoint, config) = (&selected.endpoint, &self.inner.config);
        let mut patience = Patience::new(call, endpoint);
        let answer = match open_with_retries(endpoint, &mut patience, config, attempt).await {
            Ok(found) => found.counted(call, selected),
            Err(failure) => Err(failure.gap(endpoint, &patience, config)),
        };
        whole_if_required(call, selected, answer.map_err(|gap| call.left_by(endpoint, gap))?)
    }

    fn attest(&self, selection: &Selection, matchers: Vec<Matcher>, range: TimeRange) -> Attested {
        Attested::new(selection, &[matchers], range, &self.inner.endpoints.options().cluster_label)
    }

    /// What fails the call at once, where no partial answer is allowed. Gaps are counted.
    fn judge(&self, call: &Call, answer: &Result<Found, Gap>) -> Option<Status> {
        match answer {
            Err(gap) => {
                self.count(call, gap);
                call.failure(gap)
            }
            Ok(found) => found.warnings.first().filter(|_| call.abort).map(Status::aborted),
        }
    }

    /// Unites answers, sorted. Where no partial answer is allowed, a gap that was known before is an error.
    fn unite(
        &self,
        call: &Call,
        known_gaps: Vec<Gap>,
        answers: Vec<Result<Found, Gap>>,
        limit: i64,
    ) -> Result<Found, Status> {
        let mut texts = BTreeSet::new();
        let mut warnings: Vec<String> = known_gaps.iter().map(Gap::to_string).collect();
        if let Some(warning) = warnings.first().filter(|_| call.abort) {
            return Err(Status::aborted(warning.clone()));
        }
        for answer in answers {
            match answer {
                Ok(found) => {
                    texts.extend(found.texts);
                    warnings.extend(found.warnings);
                }
                Err(gap) => warnings.push(gap.to_string()),
            }
        }
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        Ok(Found { texts: texts.into_iter().take(limit).collect(), warnings, held: None, beneath: None })
    }
}

/// A required endpoint that warns has not given all it has.
fn whole_if_required(call: &Call, selected: &Selected, found: Found) -> Result<Found, Gap> {
    let endpoint = &selected.endpoint;
    match found.warnings.first().filter(|_| endpoint.declared().required) {
        None => Ok(found),
        Some(text) => {
            let odd = || endpoint.gap(GapKind::Partial, text.as_str());
            Err(call.left_by(endpoint, Gap::parse(text).unwrap_or_else(odd)))
        }
    }
}

/// Says what the answers have: to whoever asked in this process, or as hints to a querier above.
fn tell(call: &Call, attested: &Attested, answers: &[Result<Found, Gap>]) -> Option<Any> {
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Ok(found) => {
                found.warnings.iter().for_each(|text| attested.warning(index, text));
                found.beneath.iter().for_each(|beneath| attested.beneath(index, beneath.clone()));
            }
            Err(gap) => attested.gap(index, gap),
        }
        attested.ended(index);
    }
    let coverage = attested.coverage(false);
    match &call.coverage {
        Some(entry) => {
            entry.leave(coverage);
            None
        }
        None => Some(to_hint(&coverage)),
    }
}
