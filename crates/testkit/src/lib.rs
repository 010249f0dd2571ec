//! StoreAPI fakes with scripted faults, networks and buckets that fail from a seed, buckets that count, process harness; a dev-dependency only.

pub mod counting_bucket;
pub mod fake_store;
pub mod faulty_bucket;
pub mod faulty_network;
pub mod process;
pub mod seeded;
