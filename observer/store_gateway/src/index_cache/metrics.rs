//! What an index cache counts, under Thanos' names.

use std::time::Duration;

use parallax_cache::Backend;
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// The label `name` of the cache beneath.
pub(super) const CACHE_NAME: &str = "index-cache";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Postings,
    Series,
    ExpandedPostings,
}

impl Item {
    const ALL: [Self; 3] = [Self::Postings, Self::Series, Self::ExpandedPostings];

    const fn labels(self) -> ItemLabels {
        let item_type = match self {
            Self::Postings => "Postings",
            Self::Series => "Series",
            Self::ExpandedPostings => "ExpandedPostings",
        };
        ItemLabels { item_type }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemLabels {
    item_type: &'static str,
}

type ItemHistogram = Family<ItemLabels, Histogram>;

#[derive(Clone, Debug)]
pub(super) struct IndexCacheMetrics {
    requests: Family<ItemLabels, Counter>,
    hits: Family<ItemLabels, Counter>,
    added: Family<ItemLabels, Counter>,
    damaged: Family<ItemLabels, Counter>,
    sizes: ItemHistogram,
    latency: ItemHistogram,
}

/// Upper bounds in bytes: Thanos' own.
fn sizes() -> Histogram {
    const MIB: f64 = 1_048_576.0;
    Histogram::new([
        32.0,
        256.0,
        512.0,
        1024.0,
        32_768.0,
        262_144.0,
        524_288.0,
        MIB,
        32.0 * MIB,
        64.0 * MIB,
        128.0 * MIB,
        256.0 * MIB,
        512.0 * MIB,
    ])
}

/// Upper bounds in seconds: Thanos' own.
fn seconds() -> Histogram {
    Histogram::new([0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0])
}

impl IndexCacheMetrics {
    pub fn register(metrics: &Metrics, backend: &Backend) -> Self {
        let name = |rest: &str| format!("thanos_store_index_cache_{rest}");
        if let Backend::Memory(config) = backend {
            let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            let gauge = |rest: &str, help: &str| metrics.register(&name(rest), help, <Gauge>::default());
            gauge("max_size_bytes", "Most bytes in the index cache").set(signed(config.max_size_bytes));
            gauge("max_item_size_bytes", "Most bytes of one item in the index cache")
                .set(signed(config.max_item_size_bytes));
            // The cache beneath counts them, and does not know what they are.
            let evicted: Counter = metrics.scoped([("name", CACHE_NAME)]).register(
                "thanos_cache_inmemory_items_evicted",
                "Values that left for newer ones",
                Counter::default(),
            );
            metrics.register(
                &name("items_evicted"),
                "Items that left the index cache for newer ones",
                evicted,
            );
        }
        let made = Self {
            requests: metrics.register(
                &name("requests"),
                "Items asked of the index cache",
                Family::default(),
            ),
            hits: metrics.register(&name("hits"), "Items found in the index cache", Family::default()),
            added: metrics.register(
                &name("items_added"),
                "Items handed to the index cache, whether it kept them or not",
                Family::default(),
            ),
            damaged: metrics.register(
                "parallax_store_index_cache_damaged",
                "Items of the index cache that were not what was put there, and were read from the bucket instead",
                Family::default(),
            ),
            sizes: metrics.register(
                &name("stored_data_size_bytes"),
                "Bytes of items handed to the index cache",
                ItemHistogram::new_with_constructor(sizes),
            ),
            latency: metrics.register(
                &name("fetch_duration_seconds"),
                "Duration of fetching items from the index cache",
                ItemHistogram::new_with_constructor(seconds),
            ),
        };
        // At zero, so that rates have a start.
        for item in Item::ALL {
            for family in [&made.requests, &made.hits, &made.added] {
                drop(family.get_or_create(&item.labels()));
            }
        }
        made
    }

    pub fn fetched(&self, item: Item, asked: usize, found: usize, took: Duration) {
        self.requests.get_or_create(&item.labels()).inc_by(asked as u64);
        self.hits.get_or_create(&item.labels()).inc_by(found as u64);
        self.latency.get_or_create(&item.labels()).observe(took.as_secs_f64());
    }

    pub fn damaged(&self, item: Item) {
        self.damaged.get_or_create(&item.labels()).inc();
    }

    pub fn stored(&self, item: Item, size_bytes: usize) {
        self.added.get_or_create(&item.labels()).inc();
        self.sizes.get_or_create(&item.labels()).observe(size_bytes as f64);
    }
}
