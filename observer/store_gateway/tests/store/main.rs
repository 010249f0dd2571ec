//! The store gateway over golden and damaged buckets.

mod answers;
mod damage;
mod fixture;
mod golden;
