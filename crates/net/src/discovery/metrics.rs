//! What looking names up comes to, under Thanos' names.

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::{DnsName, Found};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    addr: String,
}

/// Counts the look-ups of a querier's endpoints. A clone counts into the same numbers.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    lookups: Counter,
    failures: Counter,
    results: Family<NameLabel, Gauge>,
}

impl LookupMetrics {
    /// Under the names of Thanos' queriers, and of lookups and failures also under those that its dashboards and alerts still ask for.
    pub fn register(metrics: &Metrics) -> Self {
        let twice = |now: &str, former: &str, help: &str| {
            let counter: Counter = metrics.register(now, help, Counter::default());
            metrics.register(former, help, counter)
        };
        Self {
            lookups: twice(
                "thanos_query_endpoints_dns_lookups",
                "thanos_query_store_apis_dns_lookups",
                "Names of endpoints that were looked up",
            ),
            failures: twice(
                "thanos_query_endpoints_dns_failures",
                "thanos_query_store_apis_dns_failures",
                "Names of endpoints that were looked up and not found",
            ),
            results: metrics.register(
                "thanos_query_endpoints_dns_provider_results",
                "Servers that a name of endpoints stands for, by its last answer",
                Family::default(),
            ),
        }
    }

    /// A name was looked up. One that was not found keeps the servers of its last answer.
    pub fn looked_up(&self, name: &DnsName, answer: Result<&Found, &String>) {
        self.lookups.inc();
        let Ok(found) = answer else {
            self.failures.inc();
            return;
        };
        let servers = i64::try_from(found.targets.len()).unwrap_or(i64::MAX);
        self.results.get_or_create(&NameLabel { addr: name.to_string() }).set(servers);
    }

    /// A name that is no longer looked up.
    pub fn forget(&self, name: &DnsName) {
        self.results.remove(&NameLabel { addr: name.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Target;
    use super::*;

    #[test]
    fn a_name_that_is_not_found_counts_as_a_failure_and_keeps_its_servers() {
        let metrics = Metrics::new();
        let lookups = LookupMetrics::register(&metrics);
        let name: DnsName = "dns+stores.example:10901".parse().unwrap();
        let targets = ["10.0.0.1:10901", "10.0.0.2:10901"]
            .map(|address| Target { address: address.into(), host: "a".into() });
        let found = Found { targets: targets.to_vec(), valid_until: Instant::now() };
        lookups.looked_up(&name, Ok(&found));
        lookups.looked_up(&name, Err(&"no such name".to_owned()));
        let results = "thanos_query_endpoints_dns_provider_results{addr=\"dns+stores.example:10901\"} 2";
        let text = metrics.encode().unwrap();
        for line in [
            "thanos_query_endpoints_dns_lookups_total 2",
            "thanos_query_endpoints_dns_failures_total 1",
            "thanos_query_store_apis_dns_lookups_total 2",
            "thanos_query_store_apis_dns_failures_total 1",
            results,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        lookups.forget(&name);
        assert!(!metrics.encode().unwrap().contains(results));
    }
}
