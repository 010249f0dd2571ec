//! Logs, metrics registry, tracing.
