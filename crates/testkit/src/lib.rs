//! StoreAPI fakes with scripted faults, buckets that fail or count, process harness; a dev-dependency only.

pub mod counting_bucket;
pub mod fake_store;
pub mod faulty_bucket;
pub mod process;
