//! `/api/v1/stores`, and what a querier says of itself under `/api/v1/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;

use super::Api;
use super::endpoints::StoreStatus;
use super::json::{write_labels, write_list, write_string, write_strings};
use super::params::Params;
use super::respond::{ApiError, Finished, Success};
use crate::endpoint::Declared;
use crate::shipping::Shipping;

/// Thanos' shape, endpoints under what they are; beside it `missingClusters`, the expected ones that nothing serves.
///
/// A caller that may not see everything is shown the endpoints that may have something for it.
pub(super) async fn stores(State(api): State<Arc<Api>>, params: Params) -> Result<Finished, ApiError> {
    let hold = &params.caller.hold;
    let mut by_component: BTreeMap<String, Vec<StoreStatus>> = BTreeMap::new();
    for mut store in api.stores.stores() {
        let had_sets = !store.label_sets.is_empty();
        store.label_sets.retain(|set| hold.may_be_in(set));
        store.shipping.retain(|shipping| hold.may_be_in(&shipping.labels));
        if had_sets && store.label_sets.is_empty() {
            continue;
        }
        let component =
            if store.component.is_empty() { "unknown".to_owned() } else { store.component.clone() };
        by_component.entry(component).or_default().push(store);
    }
    let mut success = Success::begin();
    let data = success.data();
    data.push(b'{');
    for (index, (component, stores)) in by_component.iter().enumerate() {
        if index > 0 {
            data.push(b',');
        }
        write_string(data, component);
        data.push(b':');
        write_list(data, stores, write_store);
    }
    data.push(b'}');
    let missing = api.stores.missing_clusters();
    let mut more = b",\"missingClusters\":".to_vec();
    write_strings(&mut more, &missing);
    let warnings: Vec<String> =
        missing.iter().map(|cluster| format!("expected cluster {cluster} is missing")).collect();
    Ok(success.finish(&warnings, &[], &more))
}

fn write_store(data: &mut Vec<u8>, store: &StoreStatus) {
    data.extend_from_slice(b"{\"name\":");
    write_string(data, &store.name);
    data.extend_from_slice(b",\"lastCheck\":");
    match store.last_check {
        Some(time) => write_string(data, &time.to_string()),
        // Go's zero time, which is what Thanos shows before the first check.
        None => write_string(data, "0001-01-01T00:00:00Z"),
    }
    data.extend_from_slice(b",\"lastError\":");
    match &store.last_error {
        Some(error) => write_string(data, error),
        None => data.extend_from_slice(b"null"),
    }
    data.extend_from_slice(b",\"labelSets\":");
    write_list(data, &store.label_sets, write_labels);
    let range = format!(",\"minTime\":{},\"maxTime\":{}", store.range.min_ms, store.range.max_ms);
    data.extend_from_slice(range.as_bytes());
    // Thanos' shape where nothing is shipped.
    if !store.shipping.is_empty() {
        data.extend_from_slice(b",\"shipping\":");
        write_list(data, &store.shipping, write_shipping);
    }
    write_declared(data, &store.declared);
    data.push(b'}');
}

/// Nothing where nothing is declared, as in Thanos.
fn write_declared(data: &mut Vec<u8>, declared: &Declared) {
    if declared.is_empty() {
        return;
    }
    if let Some(region) = &declared.region {
        data.extend_from_slice(b",\"region\":");
        write_string(data, region);
    }
    if !declared.labels.is_empty() {
        data.extend_from_slice(b",\"declaredLabels\":");
        write_labels(data, &declared.labels);
    }
    if let Some(budget) = declared.budget {
        data.extend_from_slice(format!(",\"budgetSeconds\":{:.3}", budget.as_secs_f64()).as_bytes());
    }
    data.extend_from_slice(format!(",\"required\":{}", declared.required).as_bytes());
}

fn write_shipping(data: &mut Vec<u8>, shipping: &Shipping) {
    data.extend_from_slice(b"{\"labels\":");
    write_labels(data, &shipping.labels);
    let counts = format!(
        ",\"blocksWaiting\":{},\"lagSeconds\":{:.3},\"nearsRetention\":{}",
        shipping.blocks_waiting,
        shipping.lag.as_secs_f64(),
        shipping.nears_retention
    );
    data.extend_from_slice(counts.as_bytes());
    for (name, time_ms) in
        [("oldestWaiting", shipping.oldest_waiting_ms), ("lastUpload", shipping.last_upload_ms)]
    {
        data.extend_from_slice(format!(",\"{name}\":").as_bytes());
        match time_ms.and_then(|time_ms| jiff::Timestamp::from_millisecond(time_ms).ok()) {
            Some(time) => write_string(data, &time.to_string()),
            None => data.extend_from_slice(b"null"),
        }
    }
    data.extend_from_slice(b",\"retentionSeconds\":");
    match shipping.retention {
        Some(retention) => data.extend_from_slice(format!("{:.3}", retention.as_secs_f64()).as_bytes()),
        None => data.extend_from_slice(b"null"),
    }
    data.push(b'}');
}

/// What Grafana asks first.
pub(super) async fn build_info() -> Finished {
    object(&[
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", ""),
        ("branch", ""),
        ("buildUser", ""),
        ("buildDate", ""),
        ("goVersion", ""),
    ])
}

/// Of what Prometheus shows, what a querier has.
pub(super) async fn runtime_info(State(api): State<Arc<Api>>) -> Finished {
    let directory = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
    object(&[
        ("startTime", &api.started.to_string()),
        ("CWD", &directory),
        ("serverTime", &jiff::Timestamp::now().to_string()),
    ])
}

pub(super) async fn flags(State(api): State<Arc<Api>>) -> Finished {
    let flags: Vec<(&str, &str)> =
        api.options.flags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    object(&flags)
}

fn object(members: &[(&str, &str)]) -> Finished {
    let mut success = Success::begin();
    let data = success.data();
    data.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            data.push(b',');
        }
        write_string(data, name);
        data.push(b':');
        write_string(data, value);
    }
    data.push(b'}');
    success.finish(&[], &[], b"")
}
