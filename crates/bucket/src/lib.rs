//! Thanos' objstore configuration over object_store, with metrics and retry.
