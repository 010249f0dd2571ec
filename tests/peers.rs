//! Parallax among the real programs: Thanos' StoreAPI client, store gateway, sidecar and querier, and Prometheus' engine and block reader.
//!
//! The Go program `tests/peers` holds the real ones; `tests/run` builds it. Without it these tests are left out, in CI they fail. Nothing here
//! is recorded: both sides are asked the same in the same run. Environment: `PARALLAX_PEERS` (the Go program), `THANOS_BIN` (a real `thanos`, whose querier is let evaluate), `PARALLAX_SEED`
//! and `PARALLAX_QUERIES` (which and how many generated queries), `PARALLAX_BIN` (another binary to test).

#[path = "peers_support/blocks.rs"]
mod blocks;
#[path = "peers_support/compacted.rs"]
mod compacted;
#[allow(dead_code, reason = "benches/speed uses the rest")]
#[path = "peers_support/component.rs"]
mod component;
#[path = "peers_support/engine.rs"]
mod engine;
#[allow(dead_code, reason = "what runs over recorded answers is not used here")]
#[path = "../observer/querier/tests/support/golden.rs"]
mod golden;
#[path = "peers_support/mtls.rs"]
mod mtls;
#[allow(dead_code, reason = "benches/speed uses the rest")]
#[path = "peers_support/peer.rs"]
mod peer;
#[path = "peers_support/querier.rs"]
mod querier;
#[path = "peers_support/question.rs"]
mod question;
#[path = "peers_support/random_queries.rs"]
mod random_queries;
#[path = "peers_support/side.rs"]
mod side;
#[path = "peers_support/store.rs"]
mod store;
