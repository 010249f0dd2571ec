//! Components of Thanos that this version does not have: each is answered with what to do instead.

use super::{Component, Flag};

fn none() -> Vec<Flag> {
    Vec::new()
}

const fn unbuilt(name: &'static str, instead: &'static str) -> Component {
    Component { name, about: "not in this version", flags: none, unbuilt: Some(instead) }
}

pub(super) const RULE: Component = unbuilt("rule", "run `thanos rule` with --query pointing at this querier");
pub(super) const QUERY_FRONTEND: Component = unbuilt(
    "query-frontend",
    "run `thanos query-frontend` in front of this querier, or ask the querier directly",
);
pub(super) const RECEIVE: Component =
    unbuilt("receive", "run `thanos receive`; this querier reads it as a StoreAPI endpoint");
