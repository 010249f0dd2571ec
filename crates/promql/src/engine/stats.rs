//! What a query tells about itself: samples, times, and its operators one by one.

use std::time::Duration;

/// What is measured beyond what costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// Samples looked at for each step (Prometheus: `promql-per-step-stats`).
    pub per_step: bool,
    /// Time, series, samples and bytes of each operator.
    pub operators: bool,
}

/// What a query looked at, held, and took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryStats {
    /// Samples looked at, over all selectors and steps, as Prometheus' `totalQueryableSamples`: a sample counts at every
    /// step whose window it is in, a histogram by its size.
    pub total_samples: u64,
    /// The same for each step, with [`StatsOptions::per_step`]. Their sum is the total.
    pub total_samples_per_step: Option<Vec<u64>>,
    /// Most samples held at once. Operators work series by series, so this is less than Prometheus says of the same query.
    pub peak_samples: usize,
    pub timings: Timings,
    /// With [`StatsOptions::operators`].
    pub operators: Option<OperatorStats>,
}

/// How long the parts of an evaluation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Planning, and opening every selection.
    pub preparation: Duration,
    /// Running the operators, waiting for their data included.
    pub inner_eval: Duration,
    /// Making the value: sorting, taking names off.
    pub result: Duration,
}

impl Timings {
    pub fn total(&self) -> Duration {
        self.preparation + self.inner_eval + self.result
    }
}

/// An operator of a plan and those beneath it, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanNode {
    /// `[kind]` and what it works on: `[aggregate] sum by (pod)`.
    pub name: String,
    pub children: Vec<PlanNode>,
}

/// What an operator did, and those beneath it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorStats {
    /// As in [`PlanNode`].
    pub name: String,
    /// In the operator and those beneath it, on the query's own thread: not what others decode and prepare meanwhile.
    pub execution_time: Duration,
    /// Rows it handed on, and what they held: samples (a histogram by its size) and bytes, labels included.
    pub series: u64,
    pub samples: u64,
    pub size_bytes: u64,
    /// The samples of the largest batch that it or an operator beneath it handed on.
    pub peak_samples: u64,
    /// Samples that selectors in and beneath it looked at.
    pub total_samples: u64,
    pub children: Vec<OperatorStats>,
}
