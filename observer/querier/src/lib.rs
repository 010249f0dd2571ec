//! StoreAPIs to one deduplicated answer: fan-out, merge, dedup, PromQL, the Prometheus HTTP API, and StoreAPI again.
