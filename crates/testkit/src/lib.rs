//! StoreAPI fakes with scripted faults, process harness; a dev-dependency only.

pub mod fake_store;
pub mod process;
