//! The tests of the whole binary in one program: each program is linked with all that the workspace has, and that takes longer than most of its tests.
//! `peers.rs` is another: it is run against real peers by itself, too.

mod access;
mod architecture;
mod bad_input;
mod cli;
mod compact;
mod compact_crashes;
mod delegation;
mod demo;
#[path = "support/desk.rs"]
mod desk;
mod doctor;
mod federation;
mod golden_queries;
mod grafana;
mod http_security;
mod ingress;
mod ingress_exports;
mod ingress_federation;
#[path = "support/ingresses.rs"]
mod ingresses;
mod label_policy;
mod mesh_file;
mod pki;
#[path = "support/program.rs"]
mod program;
#[path = "support/question.rs"]
mod question;
mod rotation;
mod sidecar;
#[path = "support/sides.rs"]
mod sides;
mod stacking;
mod thanos_dashboards;
mod tools;
