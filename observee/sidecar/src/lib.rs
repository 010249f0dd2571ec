//! Prometheus to StoreAPI, and its finished blocks to the bucket.
