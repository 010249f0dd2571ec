//! Flags of `parallax doctor`.

use super::Flag;
use super::Kind::{Duration, List, Text};
use super::{common, query};

pub(super) fn flags() -> Vec<Flag> {
    let own = vec![
        Flag::new("endpoint", List, "", "Address (host:port) to look at; may be repeated"),
        Flag::new("config", Text, "", "An observer's file: every cluster of it is looked at"),
        Flag::new("timeout", Duration, "5s", "How long one step may take"),
        Flag::new("output", Text, "table", "table or json"),
    ];
    let tls = query::client_tls().into_iter().filter(|flag| flag.name.starts_with("grpc-client-"));
    own.into_iter().chain(tls).chain(common::process()).collect()
}
