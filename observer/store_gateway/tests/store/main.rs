//! The store gateway over golden and damaged buckets.

mod answers;
mod bad_input;
mod caches;
mod damage;
mod faults;
mod fixture;
mod golden;
mod lazy;
mod order;
mod vanishing;
