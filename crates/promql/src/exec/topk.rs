//! Aggregations that choose: `topk`, `bottomk`, `limitk`, `limit_ratio` give some of the rows they take.

use std::collections::HashMap;

use parallax_model::Labels;

use super::aggregate::GroupKey;
use super::leaf::LazyScalar;
use super::row::Row;
use super::{Bitmap, Context};
use crate::ast::{AggregateOp, PosRange};
use crate::engine::QueryError;

/// Which rows to choose, and the places that notes speak of.
pub(crate) struct Choice {
    pub op: AggregateOp,
    pub key: GroupKey,
    /// `k`, or the ratio.
    pub parameter: LazyScalar,
    /// The whole aggregation.
    pub position: PosRange,
    pub parameter_position: PosRange,
    pub steps: usize,
}

/// Beyond these, a `k` is no 64-bit integer.
const INTEGER_LIMIT: f64 = 9_223_372_036_854_775_808.0;

impl Choice {
    /// The chosen rows. At a single step `topk` and `bottomk` give them in order, group by group.
    ///
    /// # Errors
    /// If the parameter is NaN or out of range.
    pub fn choose(mut self, rows: Vec<Row>, context: &Context<'_>) -> Result<Vec<Row>, QueryError> {
        let parameters = self.parameter.values(context)?.to_vec();
        if !self.check(&parameters, context)? {
            return Ok(Vec::new());
        }
        match self.op {
            AggregateOp::Limitk => self.limit(rows, &parameters, context),
            AggregateOp::LimitRatio => Self::sample(rows, &parameters, context),
            _ => self.rank(rows, &parameters, context),
        }
    }

    /// False if nothing can be chosen.
    fn check(&self, parameters: &[f64], context: &Context<'_>) -> Result<bool, QueryError> {
        let has_nan = parameters.iter().any(|value| value.is_nan());
        let max = parameters.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = parameters.iter().copied().fold(f64::INFINITY, f64::min);
        let failed = |text: String| Err(QueryError::Execution(text));
        if self.op == AggregateOp::LimitRatio {
            if !has_nan && max == 0.0 && min == 0.0 {
                return Ok(false);
            }
            if has_nan {
                return failed("Ratio value is NaN".to_owned());
            }
            let at = self.parameter_position;
            if max > 1.0 {
                context.annotate(|notes| notes.invalid_ratio(max, 1.0, at));
            }
            if min < -1.0 {
                context.annotate(|notes| notes.invalid_ratio(min, -1.0, at));
            }
            return Ok(true);
        }
        if !has_nan && max < 1.0 {
            return Ok(false);
        }
        if has_nan {
            return failed("Parameter value is NaN".to_owned());
        }
        let go = parallax_model::float_histogram::format_g;
        if min <= -INTEGER_LIMIT {
            return failed(format!("Scalar value {} underflows int64", go(min)));
        }
        if max >= INTEGER_LIMIT {
            return failed(format!("Scalar value {} overflows int64", go(max)));
        }
        Ok(true)
    }

    /// The group of each row, and how many there are.
    fn groups(&self, rows: &[Row], context: &Context<'_>) -> Result<(Vec<usize>, usize), QueryError> {
        let mut by_labels: HashMap<Labels, usize> = HashMap::new();
        let mut of_row = Vec::with_capacity(rows.len());
        for row in rows {
            context.spend(1)?;
            let next = by_labels.len();
            of_row.push(*by_labels.entry(self.key.of(&row.labels)).or_insert(next));
        }
        Ok((of_row, by_labels.len()))
    }

    fn limit(
        &self,
        mut rows: Vec<Row>,
        parameters: &[f64],
        context: &Context<'_>,
    ) -> Result<Vec<Row>, QueryError> {
        let (groups, count) = self.groups(&rows, context)?;
        let mut taken = vec![vec![0usize; self.steps]; count];
        for (row, group) in rows.iter_mut().zip(&groups) {
            context.spend(self.steps)?;
            let Some(taken) = taken.get_mut(*group) else { continue };
            let mut kept = Bitmap::empty(self.steps);
            for step in row.occupied().ones() {
                let (Some(taken), Some(k)) = (taken.get_mut(step), parameters.get(step)) else { continue };
                if *taken < whole(*k) {
                    *taken += 1;
                    kept.set(step);
                }
            }
            row.keep(&kept);
        }
        Ok(rows)
    }

    fn sample(mut rows: Vec<Row>, parameters: &[f64], context: &Context<'_>) -> Result<Vec<Row>, QueryError> {
        for row in &mut rows {
            context.spend(row.steps())?;
            let offset = sample_offset(&row.labels);
            let mut kept = Bitmap::empty(row.steps());
            for (step, ratio) in parameters.iter().enumerate() {
                let ratio = ratio.clamp(-1.0, 1.0);
                if (ratio > 0.0 && offset < ratio) || (ratio < 0.0 && offset >= 1.0 + ratio) {
                    kept.set(step);
                }
            }
            row.keep(&kept);
        }
        Ok(rows)
    }

    fn rank(
        &self,
        mut rows: Vec<Row>,
        parameters: &[f64],
        context: &Context<'_>,
    ) -> Result<Vec<Row>, QueryError> {
        let name = if self.op == AggregateOp::Topk { "topk" } else { "bottomk" };
        if rows.iter().any(|row| !row.histograms.is_empty()) {
            context.annotate(|notes| notes.histogram_ignored_in_aggregation(name, self.position));
        }
        let (groups, group_count) = self.groups(&rows, context)?;
        let mut kept = vec![Bitmap::empty(self.steps); rows.len()];
        let mut order = Vec::new();
        for (step, k) in parameters.iter().enumerate() {
            context.interrupt.check()?;
            let k = whole(*k).min(rows.len());
            if k == 0 {
                continue;
            }
            let mut heaps: Vec<Best> = (0..group_count)
                .map(|_| Best { largest: self.op == AggregateOp::Topk, heap: Vec::new() })
                .collect();
            for (at, (row, group)) in rows.iter().zip(&groups).enumerate() {
                context.spend(1)?;
                if let (Some(value), Some(heap)) = (row.float(step), heaps.get_mut(*group)) {
                    heap.offer(value, at, k);
                }
            }
            for at in heaps.into_iter().flat_map(Best::sorted) {
                if let Some(kept) = kept.get_mut(at) {
                    kept.set(step);
                }
                if self.steps == 1 {
                    order.push(at);
                }
            }
        }
        for (row, kept) in rows.iter_mut().zip(&kept) {
            row.histograms.clear();
            row.present.intersect_with(kept);
        }
        if self.steps == 1 {
            let mut by_index: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
            return Ok(order.into_iter().filter_map(|at| by_index.get_mut(at)?.take()).collect());
        }
        Ok(rows)
    }
}

/// `k` as a number of rows.
fn whole(k: f64) -> usize {
    if k < 1.0 { 0 } else { k as usize }
}

/// The `k` best values so far, the worst of them on top. The order among equals is that of Prometheus' heap.
struct Best {
    largest: bool,
    heap: Vec<(f64, usize)>,
}

impl Best {
    /// Whether `a` is worse than `b`. NaN is worse than anything.
    fn worse(&self, a: f64, b: f64) -> bool {
        a.is_nan() || if self.largest { a < b } else { a > b }
    }

    fn worse_at(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some(a), Some(b)) => self.worse(a.0, b.0),
            _ => false,
        }
    }

    fn offer(&mut self, value: f64, row: usize, k: usize) {
        if self.heap.len() < k {
            self.heap.push((value, row));
            self.rise(self.heap.len() - 1);
            return;
        }
        let Some(top) = self.heap.first_mut() else { return };
        let better = if self.largest { top.0 < value } else { top.0 > value };
        if better || (top.0.is_nan() && !value.is_nan()) {
            *top = (value, row);
            self.sink();
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.worse_at(at, parent) {
                break;
            }
            self.heap.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self) {
        let mut at = 0;
        loop {
            let left = 2 * at + 1;
            if left >= self.heap.len() {
                break;
            }
            let right = left + 1;
            let child = if right < self.heap.len() && self.worse_at(right, left) { right } else { left };
            if !self.worse_at(child, at) {
                break;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }

    /// The rows, best first, NaN last.
    fn sorted(self) -> Vec<usize> {
        let mut best = self.heap.clone();
        best.sort_by(|a, b| compare(a.0, b.0, self.largest));
        best.into_iter().map(|(_, row)| row).collect()
    }
}

/// The order of values from large to small, or from small to large; NaN last.
pub(crate) fn compare(a: f64, b: f64, descending: bool) -> std::cmp::Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Greater,
        (false, true) => std::cmp::Ordering::Less,
        (false, false) => {
            let order = a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal);
            if descending { order.reverse() } else { order }
        }
    }
}

/// Where in [0, 1] a label set lies for `limit_ratio`: its hash, as Prometheus hashes labels (xxHash64 over the
/// length-prefixed names and values), so that both choose the same series.
fn sample_offset(labels: &Labels) -> f64 {
    let mut data = Vec::with_capacity(labels.size_bytes());
    for (name, value) in labels {
        for text in [name, value] {
            let length = text.len();
            if length < 255 {
                data.push(length as u8);
            } else {
                let [low, middle, high, ..] = (length as u64).to_le_bytes();
                data.extend([255, low, middle, high]);
            }
            data.extend_from_slice(text.as_bytes());
        }
    }
    xxhash_rust::xxh64::xxh64(&data, 0) as f64 / u64::MAX as f64
}
