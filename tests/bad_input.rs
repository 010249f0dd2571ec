//! Wrong certificates, dead and hanging endpoints, damaged blocks, wrong files: each is one clear error or warning that names its subject, and the rest
//! keeps working.

#[path = "bad_input/blocks.rs"]
mod blocks;
#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/connections.rs"]
mod connections;
