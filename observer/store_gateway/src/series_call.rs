//! A Series call: chooses blocks, starts them, merges them, and ends with what it used.

use std::sync::Arc;
use std::time::Instant;

use parallax_model::TimeRange;
use parallax_storeapi::deadline::{by, until};
use parallax_storeapi::encoded::WireStream;
use parallax_storeapi::proto::thanos::{Aggr, PartialResponseStrategy, SeriesRequest};
use parallax_storeapi::withhold::withholds_from;
use parallax_storeapi::{Begun, ShardMatcher, deadline_of, frames, matchers};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use crate::answer::{Answer, Group, Part};
use crate::blocks::{Blocks, Chosen, Unserved};
use crate::error::BlockFailure;
use crate::gate::Turn;
use crate::gateway::Serving;
use crate::hints::{self, Hints};
use crate::limits::Usage;
use crate::merge::{Ended, Input, Merge, OnMissing};
use crate::select::{self, BlockSelect, SelectRequest};

/// Of the bytes that a call may hold, a block gets its share, but this at least.
const MIN_BATCH_BYTES: u64 = 256 << 10;

/// Of so many blocks each is begun by the call itself, one after the other; more are better read side by side from the start.
const BLOCKS_BEGUN_HERE: usize = 8;

/// A call, ready to run.
struct Call {
    serving: Arc<Serving>,
    chosen: Vec<Chosen>,
    unserved: Vec<Unserved>,
    request: Arc<SelectRequest>,
    hints: Hints,
    on_missing: OnMissing,
    usage: Arc<Usage>,
    /// From when on the caller follows one replica only.
    withholds_from_ms: Option<i64>,
    _turn: Turn,
}

pub async fn series(
    serving: &Arc<Serving>,
    blocks: Arc<Blocks>,
    request: Request<SeriesRequest>,
) -> Result<WireStream, Status> {
    let deadline = deadline_of(&request);
    let withholds_from_ms = withholds_from(request.metadata());
    let request = request.into_inner();
    let matchers = matchers::from_wire(&request.matchers)?;
    let hints = Hints::of_series(request.hints.as_ref())?;
    let shard = ShardMatcher::new(request.shard_info.as_ref())?;
    let range = TimeRange::new(request.min_time, request.max_time).intersect(&serving.time_range);
    let turn = by(deadline, turn(serving)).await?;
    let chosen = blocks.choose(&matchers, range, request.max_resolution_window, |block| hints.want(block));
    let call = Call {
        serving: Arc::clone(serving),
        chosen,
        unserved: unserved_in(&blocks, &range),
        request: Arc::new(SelectRequest {
            range,
            skip_chunks: request.skip_chunks,
            aggregates: request.aggregates.iter().filter_map(|a| Aggr::try_from(*a).ok()).collect(),
            without_replica_labels: request.without_replica_labels.clone(),
            shard,
            lazy: serving.lazy_postings,
        }),
        hints,
        on_missing: on_missing(request.partial_response_disabled, request.partial_response_strategy),
        usage: Arc::new(Usage::new(serving.limits)),
        withholds_from_ms,
        _turn: turn,
    };
    let (output, receiver) = mpsc::channel::<Group>(2);
    let task = Begun::here(call.run(output));
    // It lives as long as the stream.
    let answer = Answer::new(receiver, task, request.limit, request.response_batch_size);
    Ok(until(Box::pin(answer), deadline))
}

/// Waits for the turn of a call, and counts the wait, also one that is given up.
async fn turn(serving: &Serving) -> Result<Turn, Status> {
    struct Wait<'a>(&'a Serving, Instant);
    impl Drop for Wait<'_> {
        fn drop(&mut self) {
            self.0.metrics.gate_seconds.observe(self.1.elapsed().as_secs_f64());
        }
    }
    serving.metrics.gate_total.inc();
    let _wait = Wait(serving, Instant::now());
    serving.gate.turn().await
}

/// Blocks that cannot be served may lack from an answer about their time. A block holds nothing newer than its name.
pub fn unserved_in(blocks: &Blocks, range: &TimeRange) -> Vec<Unserved> {
    let concerns = |unserved: &&Unserved| !range.is_empty() && range.min_ms <= unserved.block.time_ms();
    blocks.unserved.iter().filter(concerns).cloned().collect()
}

pub fn on_missing(partial_response_disabled: bool, strategy: i32) -> OnMissing {
    if partial_response_disabled || strategy == PartialResponseStrategy::Abort as i32 {
        OnMissing::Abort
    } else {
        OnMissing::Warn
    }
}

impl Call {
    async fn run(self, output: mpsc::Sender<Group>) {
        let (metrics, withholds_from_ms) = (&self.serving.metrics, self.withholds_from_ms);
        let mut merge = Merge::new(self.on_missing, metrics, &self.usage, output, withholds_from_ms);
        let counted = Counted::begin(&self);
        if self.merge(&mut merge).await.is_err() {
            // The receiver has been told, or there is none.
            return;
        }
        // Who has read the answer to its end finds it counted.
        drop(counted);
        let _: Result<(), Ended> = merge.finish().await;
    }

    async fn merge(&self, merge: &mut Merge<'_>) -> Result<(), Ended> {
        for unserved in &self.unserved {
            let reason = format!("block {}: {}", unserved.block, unserved.reason);
            merge.missing(&BlockFailure::Repeated { reason }).await?;
        }
        let (inputs, _tasks): (Vec<_>, Vec<_>) =
            self.chosen.iter().map(|chosen| self.start(chosen.clone())).unzip();
        merge.run(inputs).await?;
        if self.hints.are_present {
            let ids = self.usage.queried(&self.chosen);
            let hints = hints::series_response(&ids, &self.usage, &self.hints);
            merge.push(Ok(Part::Other(frames::hints(hints)))).await?;
        }
        Ok(())
    }

    fn start(&self, chosen: Chosen) -> (Input, Begun) {
        let block = chosen.block.id();
        let share = self.serving.request_buffer_bytes / (2 * self.chosen.len().max(1) as u64);
        let select = BlockSelect {
            list: Arc::clone(&self.serving.list),
            fetch: self.serving.fetch.clone(),
            metrics: self.serving.metrics.clone(),
            usage: Arc::clone(&self.usage),
            chosen,
            request: Arc::clone(&self.request),
            batch_bytes: share.min(self.serving.max_batch_bytes).max(MIN_BATCH_BYTES),
        };
        let (sender, receiver) = select::channel();
        let is_one_of_few = self.chosen.len() <= BLOCKS_BEGUN_HERE;
        let reading = select.run(sender);
        let begun = if is_one_of_few { Begun::here(reading) } else { Begun::elsewhere(reading) };
        (Input { block, receiver }, begun)
    }
}

/// Counts a call when it ends, also when the caller went away.
struct Counted<'a> {
    call: &'a Call,
    started: Instant,
}

impl<'a> Counted<'a> {
    fn begin(call: &'a Call) -> Self {
        let metrics = &call.serving.metrics;
        metrics.gate_queries.inc();
        metrics.blocks_queried.observe(call.chosen.len() as f64);
        Self { call, started: Instant::now() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let metrics = &self.call.serving.metrics;
        metrics.gate_queries.dec();
        metrics.call_ended(&self.call.usage, self.started.elapsed());
    }
}
