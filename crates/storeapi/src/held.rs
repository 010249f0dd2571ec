//! A store as one caller sees it: [`Caller::hold`] applied to every question and every answer.
//!
//! Invariants:
//! - Matchers are added to each request, so that a store that honours matchers sends nothing else; and whatever carries labels is looked at again before it is handed on, so
//!   that one that does not leaks nothing either. What could not be looked at is not handed on.
//! - Labels that a matcher needs are taken off here, after the look, never by the stores.
//! - What does not say whose it is (metadata of metrics, statistics) is left out, or kept by what can be found out otherwise.
//!
//! A caller that may see everything costs nothing but its tenant's header.

mod side;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use futures::Stream;
use parallax_model::Labels;
use tonic::{Request, Status};

use crate::caller::{Caller, Hold};
use crate::encoded::{WireStream, from_decoded};
use crate::proto::thanos::info::InfoResponse;
use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
    SeriesResponse,
};
use crate::{Resorter, SeriesStream, SideServices, Store, frames, labels, resort};

/// See [`Caller::over`].
pub(crate) struct Held {
    store: Arc<dyn Store>,
    caller: Caller,
}

impl Held {
    pub fn new(store: Arc<dyn Store>, caller: Caller) -> Self {
        Self { store, caller }
    }

    fn hold(&self) -> &Hold {
        &self.caller.hold
    }

    fn signed<T>(&self, mut request: Request<T>) -> Request<T> {
        self.caller.sign(&mut request);
        request
    }

    /// Of what the store says of itself, what concerns the caller. One that can have nothing for it says so by an empty time: without label sets, it might have anything.
    fn shown(&self, mut info: InfoResponse) -> InfoResponse {
        let had_sets = !info.label_sets.is_empty();
        info.label_sets.retain(|set| self.hold().may_know_of(set));
        if let Some(store) = &mut info.store {
            store
                .tsdb_infos
                .retain(|tsdb| tsdb.labels.as_ref().is_none_or(|set| self.hold().may_know_of(set)));
            if had_sets && info.label_sets.is_empty() {
                (store.min_time, store.max_time) = (i64::MAX, i64::MIN);
                store.tsdb_infos.clear();
            }
        }
        if !self.store.side().evaluates_held() {
            info.query = None;
        }
        info
    }
}

#[async_trait]
impl Store for Held {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let info = self.store.info().await?;
        Ok(if self.hold().is_everything() { info } else { self.shown(info) })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let mut request = self.signed(request);
        let hold = self.hold();
        if hold.is_everything() {
            return self.store.series(request).await;
        }
        let message = request.get_mut();
        message.matchers.extend(hold.to_wire());
        let removed = hold.take_named(&mut message.without_replica_labels);
        if removed.is_empty() {
            return Ok(sifted(self.store.series(request).await?, hold));
        }
        let limit = std::mem::take(&mut message.limit);
        let batch_size = std::mem::take(&mut message.response_batch_size);
        let stream = sifted(self.store.series(request).await?, hold);
        let stream = resort(stream, Resorter::new(&Labels::empty(), &removed));
        Ok(frames::batched(frames::limited(stream, limit), batch_size))
    }

    async fn series_encoded(&self, request: Request<SeriesRequest>) -> Result<WireStream, Status> {
        if self.hold().is_everything() {
            return self.store.series_encoded(self.signed(request)).await;
        }
        // What is to be looked at has to be taken apart.
        self.series(request).await.map(from_decoded)
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let mut request = self.signed(request);
        request.get_mut().matchers.extend(self.hold().to_wire());
        self.store.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let mut request = self.signed(request);
        request.get_mut().matchers.extend(self.hold().to_wire());
        let label = request.get_ref().label.clone();
        let mut answer = self.store.label_values(request).await?;
        answer.values.retain(|value| self.hold().admits_value(&label, value));
        Ok(answer)
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

/// Leaves what `hold` admits.
fn sifted(stream: SeriesStream, hold: &Hold) -> SeriesStream {
    Box::pin(Sifted { stream, sieve: Sieve { hold: hold.clone(), left_out: 0, first: None } })
}

struct Sifted {
    stream: SeriesStream,
    sieve: Sieve,
}

/// What is left out, which is nothing where stores honour matchers.
struct Sieve {
    hold: Hold,
    left_out: u64,
    first: Option<String>,
}

impl Sieve {
    fn admits(&mut self, series: &Series) -> bool {
        let is_admitted = self.hold.admits(&series.labels);
        if !is_admitted {
            self.left_out += 1;
            self.first.get_or_insert_with(|| labels::display(&series.labels));
        }
        is_admitted
    }

    /// Whether there is anything left of a frame.
    fn sift(&mut self, frame: &mut SeriesResponse) -> bool {
        match &mut frame.result {
            Some(Frame::Series(series)) => self.admits(series),
            Some(Frame::Batch(batch)) => {
                batch.series.retain(|series| self.admits(series));
                !batch.series.is_empty()
            }
            Some(Frame::Warning(_) | Frame::Hints(_)) => true,
            None => false,
        }
    }
}

impl Drop for Sieve {
    fn drop(&mut self) {
        if let Some(first) = &self.first {
            tracing::warn!(
                series = self.left_out,
                first,
                "a store sent series that the matchers of the caller's label policy exclude; they are left out"
            );
        }
    }
}

impl Stream for Sifted {
    type Item = Result<SeriesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.stream.as_mut().poll_next(context)) {
                Some(Ok(mut frame)) => {
                    if self.sieve.sift(&mut frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                other => return Poll::Ready(other),
            }
        }
    }
}
