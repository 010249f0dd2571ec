//! What the small services' answers become when several endpoints give one: merged, deduplicated, in order.
//!
//! Pure functions over the wire's messages; asking is in `proxy`, showing in `api`.

pub(crate) mod exemplars;
pub(crate) mod metadata;
pub(crate) mod rules;
pub(crate) mod statistics;
pub(crate) mod targets;
