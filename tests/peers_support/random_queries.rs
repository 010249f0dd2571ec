//! Queries from a seed, over the metrics of the golden blocks: whatever PromQL can say, nested a few levels deep.
//!
//! They are well-typed, apart from what only execution finds (matches that are not one to one). Some select nothing.

/// xorshift64*: the same queries for the same seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Spread over all bits, and never zero, which the generator would not leave.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % bound.max(1)
    }

    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(usize::try_from(high - low).unwrap_or(1))).unwrap_or(0)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

const COUNTERS: &[&str] = &[
    "http_requests_total",
    "http_requests_total{code=\"200\"}",
    "http_requests_total{code!~\"2..\",method=\"get\"}",
    "http_request_duration_seconds_count",
    "http_request_duration_seconds_bucket{le!=\"+Inf\"}",
    "late_series_total",
    "{__name__=~\"late_.*|http_requests_total\",instance=~\"10.0.0.[12]:9100\"}",
    "http_requests_total{instance=~\"\\\\w+[.&&:]0\\\\Q.0.\\\\E.*\",code!~\"{id}|[[4]..\"}",
];
const GAUGES: &[&str] = &[
    "node_memory_free_bytes",
    "room_temperature_celsius",
    "room_temperature_celsius{instance!=\"10.0.0.1:9100\"}",
    "batch_last_success_timestamp_seconds",
    "up",
    "flapping_target",
    "special_values",
    "build_info",
    "{\"utf8.metric/имя\"}",
    "{job=\"node\",__name__!=\"flapping_target\"}",
    "no_such_metric",
];
const HISTOGRAMS: &[&str] = &[
    "rpc_latency_seconds",
    "rpc_latency_seconds{instance=\"10.0.0.2:9100\"}",
    "rpc_latency_float_seconds",
    "queue_wait_seconds",
    "classic_as_custom_seconds",
    "float_then_histogram",
];
/// For `label_replace` of instances, as they stand in a query: what Go's templates and expressions have of their own.
const TEMPLATES: &[&str] =
    &["$1", "${1}é", "$1区", "$01", "${a-b}q", "${}$1", "$n", "$1_$2", "$$1", "$", "<${n}-$2>", "$10"];
const PATTERNS: &[&str] = &[
    "(.*):.*",
    "(?P<n>[^:]*):(\\\\d+)",
    "(\\\\w+)[.&&:](.*)",
    "(?<n>10)(|.)*",
    "(?P<n>10)\\\\Q.0.\\\\E.*|{id}",
    "([[:^alpha:]]*)(?i)\\\\pL*",
    "(.*?)(\\\\.[12])?\\\\x3a.*",
];
const GROUPING: &[&str] = &["instance", "job", "code", "method", "instance, code", "le", "job, instance", ""];
const WINDOWS: &[&str] = &["1m", "2m", "5m", "10m", "17m", "40s", "1h", "30m"];

/// Windows that depend on the query's step, or are computed.
const COMPUTED_WINDOWS: &[&str] =
    &["step() + 2m", "2m * 3", "max(step(), 90s)", "-(1m - 5m)", "min(10m, 1h / 4)"];

/// Functions of a range whose answer does not depend on anything else.
const OVER_RANGE: &[&str] = &[
    "rate",
    "increase",
    "irate",
    "delta",
    "idelta",
    "deriv",
    "changes",
    "resets",
    "avg_over_time",
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "count_over_time",
    "last_over_time",
    "first_over_time",
    "present_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "mad_over_time",
    "absent_over_time",
    "ts_of_min_over_time",
    "ts_of_max_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
];
const OF_VECTOR: &[&str] = &[
    "abs",
    "ceil",
    "floor",
    "exp",
    "sqrt",
    "sgn",
    "round",
    "sinh",
    "tanh",
    "asinh",
    "deg",
    "rad",
    "timestamp",
    "absent",
];
/// Asked of plain counters only: of NaN, of huge or of tiny values they give what the processor that Prometheus runs on makes of
/// them, or turn a last bit into another number.
const OF_COUNTERS: &[&str] = &[
    "ln",
    "log2",
    "log10",
    "sin",
    "cos",
    "tan",
    "atan",
    "asin",
    "acos",
    "cosh",
    "acosh",
    "atanh",
    "hour",
    "minute",
    "month",
    "year",
    "day_of_week",
    "day_of_month",
    "day_of_year",
    "days_in_month",
];
const AGGREGATIONS: &[&str] = &["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"];
const ARITHMETIC: &[&str] = &["+", "-", "*", "/", "%", "^", "atan2"];
const COMPARISON: &[&str] = &["==", "!=", ">", "<", ">=", "<="];

/// Makes queries.
pub struct QueryGenerator {
    pub random: Random,
}

impl QueryGenerator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// A vector of floats, `depth` levels of nesting at most.
    pub fn floats(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.float_selector();
        }
        let below = depth - 1;
        match self.random.below(17) {
            0 => self.float_selector(),
            16 => self.with_info(below),
            1..=3 => self.over_range(below),
            4 | 5 => self.aggregation(below),
            6 => self.parametric_aggregation(below),
            7 => format!("{}({})", self.random.pick(OF_VECTOR), self.floats(below)),
            8 if self.random.one_in(3) => {
                format!("{}({})", self.random.pick(OF_COUNTERS), self.random.pick(COUNTERS))
            }
            8 => self.function_with_parameters(below),
            9 | 10 => self.with_scalar(below),
            11 | 12 => self.vector_match(below),
            13 => self.set_operation(below),
            14 => self.classic_quantile(),
            _ => format!("-({})", self.floats(below)),
        }
    }

    /// A vector in which native histograms take part.
    pub fn histograms(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.histogram_selector();
        }
        let below = depth - 1;
        let inner = self.histograms(below);
        match self.random.below(15) {
            0 => inner,
            14 => {
                let function = self.random.pick(&["info", "sort", "absent", "timestamp", "abs"]);
                format!("{function}({inner})")
            }
            1..=3 => self.histogram_over_range(),
            4 => {
                let function = ["avg", "count", "sum", "stddev", "stdvar"][self.random.below(5)];
                format!("histogram_{function}({inner})")
            }
            5 => format!("histogram_quantile({}, {inner})", self.quantile()),
            6 => {
                let low = self.random.pick(&["-1", "0", "0.1", "-Inf", "2"]);
                format!(
                    "histogram_fraction({low}, {}, {inner})",
                    self.random.pick(&["0.5", "1", "7.5", "+Inf"])
                )
            }
            7 | 8 => format!(
                "{} {}({inner})",
                self.random.pick(&["sum", "avg", "count", "group"]),
                self.grouping()
            ),
            9 => format!(
                "{inner} {} {}",
                self.random.pick(&["*", "/", "+"]),
                self.random.pick(&["2", "0.5", "-1"])
            ),
            10 => format!("{inner} {} {inner}", self.random.pick(&["+", "-", "==", "!=", "and", "or"])),
            11 => {
                format!(
                    "{inner} {} on (instance) group_left {}",
                    self.random.pick(&["*", "/"]),
                    self.float_selector()
                )
            }
            12 => format!("-{inner}"),
            _ => format!(
                "{} ({inner})",
                self.random.pick(&["limitk (2, up) or", "min", "max", "stddev", "topk by (job) (1, up) or"])
            ),
        }
    }

    fn histogram_selector(&mut self) -> String {
        let name = self.random.pick(HISTOGRAMS);
        self.placed(name.to_owned())
    }

    fn histogram_over_range(&mut self) -> String {
        let function = self.random.pick(&[
            "rate",
            "increase",
            "irate",
            "delta",
            "idelta",
            "sum_over_time",
            "avg_over_time",
            "last_over_time",
            "first_over_time",
            "count_over_time",
            "changes",
            "resets",
            "present_over_time",
            "absent_over_time",
            "ts_of_first_over_time",
            "ts_of_last_over_time",
            "ts_of_max_over_time",
            "max_over_time",
            "stddev_over_time",
            "deriv",
            "rate",
            "increase",
        ]);
        let window = self.random.pick(WINDOWS);
        let name = self.random.pick(HISTOGRAMS);
        let selector = self.placed(format!("{name}[{window}]"));
        format!("{function}({selector})")
    }

    fn float_selector(&mut self) -> String {
        let name = if self.random.one_in(2) { self.random.pick(COUNTERS) } else { self.random.pick(GAUGES) };
        self.placed(name.to_owned())
    }

    /// The selector, now and then with an offset or a fixed time.
    fn placed(&mut self, selector: String) -> String {
        match self.random.below(10) {
            0 => format!("{selector} offset {}", self.random.pick(&["1m", "7m", "1h", "-5m", "13s"])),
            1 => format!(
                "{selector} @ {}",
                self.random.pick(&["1782876543", "end()", "start()", "1782871200.123"])
            ),
            2 => format!("{selector} @ end() offset {}", self.random.pick(&["1m", "-90s"])),
            _ => selector,
        }
    }

    fn range(&mut self, depth: usize) -> String {
        let window = self.random.pick(WINDOWS);
        if self.random.one_in(5) {
            let step = self.random.pick(&["", "30s", "1m", "2m", "45s"]);
            let inner = self.floats(depth);
            return self.placed(format!("({inner})[{window}:{step}]"));
        }
        let name = if self.random.one_in(2) { self.random.pick(COUNTERS) } else { self.random.pick(GAUGES) };
        let window = if self.random.one_in(8) { self.random.pick(COMPUTED_WINDOWS) } else { window };
        self.placed(format!("{name}[{window}]"))
    }

    fn over_range(&mut self, depth: usize) -> String {
        match self.random.below(12) {
            0 => format!("quantile_over_time({}, {})", self.quantile(), self.range(depth)),
            1 => format!(
                "predict_linear({}, {})",
                self.range(depth),
                self.random.pick(&["60", "-300", "3600"])
            ),
            2 => format!("double_exponential_smoothing({}, 0.5, 0.3)", self.range(depth)),
            3 => {
                let function = self.random.pick(&["rate", "increase", "delta", "changes", "resets"]);
                let (name, window) = (self.random.pick(COUNTERS), self.random.pick(WINDOWS));
                let mode = if matches!(function, "changes" | "resets") {
                    "anchored"
                } else {
                    self.random.pick(&["anchored", "smoothed"])
                };
                format!("{function}({name}[{window}] {mode})")
            }
            _ => format!("{}({})", self.random.pick(OVER_RANGE), self.range(depth)),
        }
    }

    fn grouping(&mut self) -> String {
        match self.random.below(5) {
            0 => String::new(),
            1 => format!("without ({}) ", self.random.pick(GROUPING)),
            _ => format!("by ({}) ", self.random.pick(GROUPING)),
        }
    }

    fn aggregation(&mut self, depth: usize) -> String {
        format!("{} {}({})", self.random.pick(AGGREGATIONS), self.grouping(), self.floats(depth))
    }

    fn parametric_aggregation(&mut self, depth: usize) -> String {
        let grouping = self.grouping();
        // Which of equal values are chosen depends on the order of series, and of what most expressions give that is chance in
        // Prometheus. The text of a value that was computed shows its last bit, which nobody promises.
        match self.random.below(7) {
            // All or nothing: between them the hash of the labels decides, and the peer is built with Thanos' representation of labels
            // (slicelabels), whose hash is not that of a Prometheus as it is released. Recorded answers hold us to the latter.
            6 => {
                format!("limit_ratio {grouping}({}, {})", self.random.pick(&["1", "-1", "0"]), self.ordered())
            }
            0 | 1 => format!("quantile {grouping}({}, {})", self.quantile(), self.floats(depth)),
            2 => format!("topk {grouping}({}, {})", self.random.pick(&["1", "3", "100"]), self.ordered()),
            3 => format!("bottomk {grouping}({}, {})", self.random.pick(&["1", "2", "5"]), self.ordered()),
            4 => format!("limitk {grouping}({}, {})", self.random.pick(&["1", "2", "7"]), self.ordered()),
            _ => format!("count_values {grouping}(\"value\", {})", self.float_selector()),
        }
    }

    /// Series in the order of their labels.
    fn ordered(&mut self) -> String {
        if self.random.one_in(2) {
            return self.float_selector();
        }
        let function =
            self.random.pick(&["rate", "increase", "max_over_time", "avg_over_time", "changes", "delta"]);
        let window = self.random.pick(WINDOWS);
        let name = self.random.pick(COUNTERS);
        format!("{function}({})", self.placed(format!("{name}[{window}]")))
    }

    fn quantile(&mut self) -> &'static str {
        self.random.pick(&["0.5", "0.9", "0.99", "0", "1", "0.123", "-1", "1.5", "NaN"])
    }

    /// Series with labels of those that describe them: of the golden blocks' `build_info`, or of `target_info`, which they lack.
    fn with_info(&mut self, depth: usize) -> String {
        let inner = if self.random.one_in(3) { self.floats(depth) } else { self.ordered() };
        let described = self.random.pick(&[
            "",
            ", {__name__=\"build_info\"}",
            ", {__name__=~\"build_.*\", version=~\".+\"}",
            ", {__name__=\"build_info\", version=~\"|1.*\"}",
            ", {__name__=\"build_info\", nothing=\"has\"}",
            ", {version!=\"\"}",
            ", {__name__=~\"build_info|up\"}",
        ]);
        format!("info({inner}{described})")
    }

    fn function_with_parameters(&mut self, depth: usize) -> String {
        let inner = self.floats(depth);
        match self.random.below(9) {
            8 => {
                // Series that all have these labels: of nothing and something Prometheus finds neither less, and the order is chance.
                let function = self.random.pick(&["sort_by_label", "sort_by_label_desc"]);
                let name = self.random.pick(&["http_requests_total", "rate(http_requests_total[5m])"]);
                format!("{function}({name}, \"code\", \"instance\", \"method\", \"job\")")
            }
            0 => format!("clamp({inner}, {}, 500)", self.random.pick(&["0", "21.5", "-1", "600"])),
            1 => format!("clamp_min({inner}, {})", self.random.pick(&["1", "-Inf", "22"])),
            2 => format!("clamp_max({inner}, {})", self.random.pick(&["1", "1e9", "+Inf"])),
            3 => format!("round({inner}, {})", self.random.pick(&["0.5", "10", "1e3"])),
            4 => {
                let (template, pattern) = (self.random.pick(TEMPLATES), self.random.pick(PATTERNS));
                format!("label_replace({inner}, \"host\", \"{template}\", \"instance\", \"{pattern}\")")
            }
            5 => format!("label_join({inner}, \"joined\", \"-\", \"job\", \"code\", \"instance\")"),
            6 => format!("vector(scalar({inner}))"),
            _ => format!("label_replace({inner}, \"__name__\", \"renamed_$1\", \"job\", \"(a.*|n.*)\")"),
        }
    }

    fn scalar(&mut self) -> String {
        match self.random.below(6) {
            0 => "time()".to_owned(),
            1 => "scalar(sum(up))".to_owned(),
            2 => "pi()".to_owned(),
            _ => self.random.pick(&["1", "2.5", "0", "-3", "1e6", "NaN", "+Inf", "300"]).to_owned(),
        }
    }

    fn with_scalar(&mut self, depth: usize) -> String {
        let (vector, scalar) = (self.floats(depth), self.scalar());
        let operator = self.operator();
        if self.random.one_in(2) {
            format!("({vector}) {operator} {scalar}")
        } else {
            format!("{scalar} {operator} ({vector})")
        }
    }

    fn operator(&mut self) -> String {
        match self.random.below(4) {
            0 => self.random.pick(COMPARISON).to_owned(),
            1 => format!("{} bool", self.random.pick(COMPARISON)),
            _ => self.random.pick(ARITHMETIC).to_owned(),
        }
    }

    fn vector_match(&mut self, depth: usize) -> String {
        let operator = self.operator();
        let left = self.floats(depth);
        match self.random.below(6) {
            0 if depends_on_order(&left) && compares(&operator) => {
                let alike = self.ordered();
                format!("({alike}) {operator} ({alike})")
            }
            0 => format!("({left}) {operator} ({left})"),
            1 => format!(
                "({left}) {operator} on (instance) group_left sum by (instance) ({})",
                self.floats(depth)
            ),
            2 => format!(
                "({left}) {operator} on (instance) group_left (job) max by (instance, job) ({})",
                self.float_selector()
            ),
            3 => format!(
                "sum by (instance) ({left}) {operator} on (instance) group_right ({})",
                self.floats(depth)
            ),
            4 => format!(
                "sum by (instance, code) ({left}) {operator} ignoring (code) group_left sum by (instance) ({left})"
            ),
            _ => format!("avg by (instance) ({left}) {operator} max by (instance) ({})", self.floats(depth)),
        }
    }

    fn set_operation(&mut self, depth: usize) -> String {
        let matching = self.random.pick(&["", "on (instance) ", "ignoring (code, method) ", "on () "]);
        let operator = self.random.pick(&["and", "or", "unless"]);
        format!("({}) {operator} {matching}({})", self.floats(depth), self.floats(depth))
    }

    fn classic_quantile(&mut self) -> String {
        let window = self.random.pick(WINDOWS);
        let rate = format!("rate(http_request_duration_seconds_bucket[{window}])");
        let buckets = if self.random.one_in(2) { rate } else { format!("sum by (le, instance) ({rate})") };
        if self.random.one_in(3) {
            return format!(
                "histogram_fraction(0.1, {}, {buckets})",
                self.random.pick(&["0.7", "5", "+Inf"])
            );
        }
        format!("histogram_quantile({}, {buckets})", self.quantile())
    }
}

/// Whether the last bit of what `expression` gives is chance in Prometheus, which adds up series in the order of a Go map.
fn depends_on_order(expression: &str) -> bool {
    const ADDING: [&str; 4] = ["sum", "avg", "stddev", "stdvar"];
    // Over time there is only one order.
    ADDING.iter().any(|name| {
        expression.match_indices(name).any(|(at, _)| {
            let behind = expression.get(at + name.len()..).unwrap_or_default();
            !behind.starts_with('_')
        })
    })
}

fn compares(operator: &str) -> bool {
    COMPARISON.iter().any(|comparison| operator.starts_with(comparison))
}
