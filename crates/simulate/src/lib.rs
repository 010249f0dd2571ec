//! Seeded series, history in real blocks, a stand-in Prometheus: used by demo and by tests.
