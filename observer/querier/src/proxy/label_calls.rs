//! Label names and values of all stores: asked at once, united, sorted, limited.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parallax_model::TimeRange;
use parallax_storeapi::matchers;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
};
use tonic::{Code, Request, Status};

use super::{Call, Proxy, aborted, gap_of, late};
use crate::coverage::{Gap, GapKind, bounded};
use crate::select::Held;
use crate::store_selection::Selected;

/// What one endpoint, or all of them, answered.
#[derive(Default)]
struct Found {
    texts: Vec<String>,
    warnings: Vec<String>,
    /// What the texts take of the query's budget.
    held: Option<Held>,
}

/// Most warnings of one endpoint in one answer.
const MAX_WARNINGS: usize = 10_000;

impl Found {
    fn new(texts: Vec<String>, mut warnings: Vec<String>) -> Self {
        warnings.truncate(MAX_WARNINGS);
        Self { texts, warnings: warnings.into_iter().map(bounded).collect(), held: None }
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
        let selection = self.select(&call, &matchers, TimeRange::new(request.start, request.end))?;
        let asked =
            LabelNamesRequest { matchers: matchers::to_wire(&matchers), hints: None, ..request.clone() };
        let call = &call;
        let asking = selection.ask.iter().map(|selected| {
            let mut asked = asked.clone();
            let without = if selected.supports_without_replica_labels() {
                Vec::new()
            } else {
                // Its names are filtered here, so its limit would count some that go.
                asked.limit = 0;
                request.without_replica_labels.clone()
            };
            self.ask(call, selected, move || {
                let request = call.outgoing(asked.clone());
                let without = without.clone();
                async move {
                    let mut answer = selected.endpoint.store().label_names(request).await?;
                    answer.names.retain(|name| !without.contains(name));
                    Ok(Found::new(answer.names, answer.warnings))
                }
            })
        });
        let answers = self.gather(call, asking).await?;
        let found = self.unite(call, selection.gaps, answers, request.limit)?;
        Ok(LabelNamesResponse { names: found.texts, warnings: found.warnings, hints: None })
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
        let selection = self.select(&call, &matchers, TimeRange::new(request.start, request.end))?;
        let asked =
            LabelValuesRequest { matchers: matchers::to_wire(&matchers), hints: None, ..request.clone() };
        let is_removed = request.without_replica_labels.contains(&request.label);
        let (call, asked) = (&call, &asked);
        let asking = selection.ask.iter().map(|selected| {
            let drop_all = is_removed && !selected.supports_without_replica_labels();
            self.ask(call, selected, move || {
                let request = call.outgoing(asked.clone());
                async move {
                    let mut answer = selected.endpoint.store().label_values(request).await?;
                    if drop_all {
                        answer.values.clear();
                    }
                    Ok(Found::new(answer.values, answer.warnings))
                }
            })
        });
        let answers = self.gather(call, asking).await?;
        let found = self.unite(call, selection.gaps, answers, request.limit)?;
        Ok(LabelValuesResponse { values: found.texts, warnings: found.warnings, hints: None })
    }

    /// Asks one endpoint within its budget, again after a transport error.
    async fn ask<F: Future<Output = Result<Found, Status>>>(
        &self,
        call: &Call,
        selected: &Selected,
        attempt: impl Fn() -> F,
    ) -> Result<Found, Gap> {
        let config = &self.inner.config;
        let began = Instant::now();
        let attempts = async {
            let mut retries = 0;
            loop {
                match attempt().await {
                    Err(status) if status.code() == Code::Unavailable && retries < config.max_retries => {
                        retries += 1;
                    }
                    result => return result,
                }
            }
        };
        match tokio::time::timeout_at(call.silence_ends().into(), attempts).await {
            Ok(Ok(found)) => found.counted(call, selected),
            Ok(Err(status)) => Err(gap_of(&selected.endpoint, &status, false)),
            Err(_) => Err(late(&selected.endpoint, config, began.elapsed(), 0)),
        }
    }

    /// Waits for all answers, in the order of the questions. Where no partial answer is allowed, for no longer than until the first failure.
    async fn gather(
        &self,
        call: &Call,
        asking: impl Iterator<Item = impl Future<Output = Result<Found, Gap>>>,
    ) -> Result<Vec<Result<Found, Gap>>, Status> {
        let asking = asking.enumerate().map(|(index, answer)| async move { (index, answer.await) });
        let mut open: FuturesUnordered<_> = asking.collect();
        let mut answers = Vec::with_capacity(open.len());
        while let Some((index, answer)) = open.next().await {
            match &answer {
                Err(gap) => {
                    self.count(gap);
                    if call.abort {
                        return Err(aborted(gap));
                    }
                }
                Ok(found) => {
                    if let Some(warning) = found.warnings.first().filter(|_| call.abort) {
                        return Err(Status::aborted(warning.clone()));
                    }
                }
            }
            answers.push((index, answer));
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
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
        Ok(Found { texts: texts.into_iter().take(limit).collect(), warnings, held: None })
    }
}
