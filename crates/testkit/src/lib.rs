//! Test certificate authority, StoreAPI fakes, process harness, fault schedules; a dev-dependency only.

pub mod fake_store;
pub mod process;
