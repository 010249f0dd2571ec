//! Flags of `parallax store`.

use super::Flag;
use super::Kind::{Bytes, Decimal, Duration, Number, Switch, Text, Time};
use super::common;

const WEB: &str = "blocks are listed at /api/v1/blocks?view=loaded; for pages there is `tools bucket web`";

pub(super) fn flags() -> Vec<Flag> {
    let own = vec![
        Flag::new("data-dir", Text, "./data", "Directory for index-headers"),
        Flag::new("cache-index-header", Switch, "true", "Keep index-headers in --data-dir")
            .no_effect("index-headers are always kept there"),
        Flag::new("sync-block-duration", Duration, "15m", "How often the block list is read"),
        Flag::new("block-sync-concurrency", Number, "20", "Blocks opened at once")
            .no_effect("blocks are opened when a query first needs them"),
        Flag::new("block-meta-fetch-concurrency", Number, "32", "meta.json files fetched at once"),
        Flag::new("block-discovery-strategy", Text, "concurrent", "concurrent or recursive listing")
            .no_effect("the catalog and the end of the list are read, and the whole list every 30 minutes"),
        Flag::new("min-time", Time, "0000-01-01T00:00:00Z", "Start of the data this gateway serves"),
        Flag::new("max-time", Time, "9999-12-31T23:59:59Z", "End of the data this gateway serves"),
        Flag::new(
            "selector.relabel-config",
            Text,
            "",
            "YAML of relabel rules (keep, drop, hashmod) on external labels and __block_id: which blocks are this gateway's",
        ),
        Flag::new(
            "selector.relabel-config-file",
            Text,
            "",
            "File with the YAML of --selector.relabel-config",
        ),
        Flag::new("consistency-delay", Duration, "0s", "Age before a new block is read"),
        Flag::new(
            "ignore-deletion-marks-delay",
            Duration,
            "24h",
            "Age of a deletion mark before its block is left out",
        ),
        Flag::new("chunk-pool-size", Bytes, "2GB", "Size of Thanos' chunk pool")
            .no_effect("chunks are not pooled; requests are bounded by --store.limits.* and concurrency"),
        Flag::new(
            "store.grpc.downloaded-bytes-limit",
            Bytes,
            "0",
            "Most bytes one Series call may fetch; 0 is no limit",
        ),
        Flag::new("store.grpc.series-max-concurrency", Number, "20", "Series calls served at once"),
        Flag::new(
            "store.grpc.series-max-waiting",
            Number,
            "1000",
            "Series calls that may wait for their turn; further ones are refused",
        ),
        Flag::new(
            "store.max-held-bytes",
            Bytes,
            "2GB",
            "Most bytes of chunks that all Series calls together hold before they are sent",
        ),
        Flag::new(
            "index-cache-size",
            Bytes,
            "250MB",
            "Memory for parts of indexes, unless --index-cache.config says otherwise; for a FILESYSTEM bucket at most 16 MB, for what matchers select",
        ),
        Flag::new("index-cache.config", Text, "", "YAML of a cache for parts of indexes"),
        Flag::new("index-cache.config-file", Text, "", "File with the YAML of --index-cache.config"),
        Flag::new(
            "store.caching-bucket.config",
            Text,
            "",
            "YAML of a cache for chunks, metas and the list of blocks",
        ),
        Flag::new(
            "store.caching-bucket.config-file",
            Text,
            "",
            "File with the YAML of --store.caching-bucket.config",
        ),
        Flag::new(
            "store.enable-index-header-lazy-reader",
            Switch,
            "false",
            "Load index-headers on first use",
        )
        .no_effect("index-headers are always loaded on first use and dropped when idle"),
        Flag::new(
            "store.index-header-lazy-download-strategy",
            Text,
            "eager",
            "When index-headers are fetched",
        )
        .no_effect("index-headers are always loaded on first use and dropped when idle"),
        Flag::new(
            "store.enable-lazy-expanded-postings",
            Switch,
            "true",
            "Hold matchers against series where that is less to read than their postings",
        ),
        Flag::new(
            "store.posting-group-max-key-series-ratio",
            Decimal,
            "100",
            "With lazy postings: most postings lists of a matcher for each series that the others may leave; 0 is no such limit",
        ),
        Flag::new("store.posting-group-max-keys", Number, "0", "Lazy postings")
            .no_effect("--store.posting-group-max-key-series-ratio bounds the lists of a matcher"),
        Flag::new("matcher-cache-size", Number, "0", "Cache of compiled matchers")
            .no_effect("most regular expressions become sets of literals, which need no cache"),
        Flag::new("disable-admin-operations", Switch, "false", "Leave out the HTTP calls that mark blocks")
            .no_effect("there are no such calls in this version"),
        Flag::new("web.disable", Switch, "false", "Leave out the block viewer").no_effect(WEB),
        Flag::new("web.disable-cors", Switch, "false", "Block viewer").no_effect(WEB),
        Flag::new("web.external-prefix", Text, "", "Block viewer").no_effect(WEB),
        Flag::new("web.prefix-header", Text, "", "Block viewer").no_effect(WEB),
        Flag::new("bucket-web-label", Text, "", "External label that block viewers group blocks by"),
        Flag::new("objstore-parquet.config", Text, "", "").refused("parquet buckets are not read"),
        Flag::new("objstore-parquet.config-file", Text, "", "").refused("parquet buckets are not read"),
    ];
    [own, common::series_limits(), common::objstore(), common::server(), common::process()].concat()
}
