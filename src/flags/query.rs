//! Flags of `parallax query`.

use super::Flag;
use super::Kind::{Bytes, Duration, List, Number, Switch, Text};
use super::common;

const OVERLAPS: &str =
    "an endpoint whose series another one may hold in the time of a query is read, not asked to evaluate";
const WEB: &str = "the web pages come with a later version";

pub(super) fn flags() -> Vec<Flag> {
    [
        endpoints(),
        client_tls(),
        query(),
        tenancy_and_web(),
        common::series_limits(),
        selector(),
        common::server(),
        common::process(),
    ]
    .concat()
}

/// Relabel rules that choose whose series are asked for.
fn selector() -> Vec<Flag> {
    vec![
        Flag::new(
            "selector.relabel-config",
            Text,
            "",
            "Relabel rules (keep, drop, hashmod) over the external labels that endpoints advertise: who has none that is chosen is asked nothing",
        ),
        Flag::new(
            "selector.relabel-config-file",
            Text,
            "",
            "File with the YAML of --selector.relabel-config; read at the start",
        ),
    ]
}

fn endpoints() -> Vec<Flag> {
    vec![
        Flag::new(
            "endpoint",
            List,
            "",
            "Address of a StoreAPI (host:port), or name to look up (dns+host:port); may be repeated",
        ),
        Flag::new(
            "endpoint-strict",
            List,
            "",
            "Like --endpoint: every static endpoint is expected and never dropped",
        ),
        Flag::new("store", List, "", "Old name of --endpoint"),
        Flag::new("store-strict", List, "", "Old name of --endpoint-strict"),
        Flag::new(
            "endpoint-group",
            List,
            "",
            "Name (host:port) of several servers that hold the same; each call goes to the next",
        ),
        Flag::new("endpoint-group-strict", List, "", "Like --endpoint-group: every endpoint is expected"),
        Flag::new(
            "store.sd-files",
            List,
            "",
            "Files of addresses in Prometheus' format of file discovery; one * in the last part of a path; may be repeated",
        ),
        Flag::new("store.sd-interval", Duration, "5m", "How often Thanos reads such files again")
            .no_effect("files are looked at every second"),
        Flag::new(
            "store.sd-dns-interval",
            Duration,
            "30s",
            "Longest until a name (dns+, dnssrv+, dnssrvnoa+) is looked up again; its TTL may say sooner",
        ),
        Flag::new("store.sd-dns-resolver", Text, "", "Discovery").no_effect("the system's resolver is used"),
        Flag::new("store.unhealthy-timeout", Duration, "5m", "When Thanos forgets an endpoint")
            .no_effect("a static endpoint is never forgotten: its absence is a warning"),
        Flag::new("endpoint.info-timeout", Duration, "5s", "How long an endpoint may take to answer Info"),
        Flag::new("endpoint.sd-config", Text, "", "Endpoints as YAML, each with its own TLS"),
        Flag::new(
            "endpoint.sd-config-file",
            Text,
            "",
            "File with endpoints as YAML; changes are applied within seconds",
        ),
        Flag::new("endpoint.sd-config-reload-interval", Duration, "5m", "How often Thanos looks at the file")
            .no_effect("the file is looked at every second"),
        Flag::new(
            "endpoint.cluster-label",
            Text,
            "cluster",
            "External label that holds the name of a cluster",
        ),
        Flag::new(
            "endpoint.foreign-labels",
            Text,
            "drop",
            "What becomes of labels by which an endpoint that is declared as one cluster claims another: drop, inject or refuse",
        ),
        // Thanos' default is 0, no limit of its own: there one hung store stalls every query.
        Flag::new(
            "store.response-timeout",
            Duration,
            "10s",
            "Longest wait for one frame of one store; 0 is the query's timeout",
        ),
        Flag::new(
            "selector-label",
            List,
            "",
            "Label (name=\"value\") that this querier advertises; may be repeated",
        ),
    ]
}

pub(super) fn client_tls() -> Vec<Flag> {
    vec![
        Flag::new("grpc-client-tls-secure", Switch, "false", "Use TLS to the endpoints"),
        Flag::new(
            "grpc-client-tls-skip-verify",
            Switch,
            "false",
            "Do not verify the endpoints' certificates",
        ),
        Flag::new("grpc-client-tls-cert", Text, "", "PEM file with the client's certificate chain"),
        Flag::new("grpc-client-tls-key", Text, "", "PEM file with the client's key"),
        Flag::new("grpc-client-tls-ca", Text, "", "PEM file with the CAs that endpoints must chain to"),
        Flag::new("grpc-client-server-name", Text, "", "Name to expect in the endpoints' certificates"),
        Flag::new("grpc-client-tls-min-version", Text, "1.3", "Lowest TLS version: 1.2 or 1.3"),
        Flag::new(
            "grpc-compression",
            Text,
            "none",
            "Compression of requests, and so of answers: none, snappy (Thanos knows it, too) or zstd",
        ),
        Flag::new("grpc.proxy-strategy", Text, "lazy", "How Thanos reads stores")
            .no_effect("streams are always merged as they arrive"),
    ]
}

fn query() -> Vec<Flag> {
    vec![
        Flag::new("query.replica-label", List, "", "Label that tells replicas apart; may be repeated"),
        Flag::new("query.timeout", Duration, "2m", "Longest a query may run"),
        Flag::new("query.max-concurrent", Number, "20", "Queries run at once"),
        Flag::new(
            "query.max-concurrent-select",
            Number,
            "4",
            "Selectors of one query that wait for stores at once",
        ),
        Flag::new("query.lookback-delta", Duration, "5m", "How far back an instant selector looks"),
        Flag::new(
            "query.dynamic-lookback-delta",
            Switch,
            "true",
            "Look further back where coarse downsampled data is allowed",
        ),
        Flag::new("query.default-evaluation-interval", Duration, "1m", "Step of subqueries that give none"),
        Flag::new("query.default-step", Duration, "1s", "Step of range queries that give none"),
        Flag::new(
            "query.metadata.default-time-range",
            Duration,
            "0s",
            "Range of series and labels calls without one; 0 is all",
        ),
        Flag::new(
            "query.active-query-path",
            Text,
            "",
            "Directory of queries.active, from which the next process tells what ran when this one crashed; without it, nothing is written",
        ),
        Flag::new("query.max-samples", Number, "50000000", "Most samples one query may hold"),
        Flag::new(
            "query.max-held-bytes",
            Bytes,
            "1GiB",
            "Most bytes of series one query may hold before they are evaluated; 0 is no limit",
        ),
        Flag::new(
            "endpoint.max-frame-size",
            Bytes,
            "64MiB",
            "Largest frame of series taken from an endpoint",
        ),
        Flag::new(
            "endpoint.max-response-size",
            Bytes,
            "16GiB",
            "Most bytes of series taken from an endpoint in one answer; 0 is no limit",
        ),
        Flag::new(
            "query.partial-response",
            Switch,
            "true",
            "Answer with what is there, and warn of what is missing",
        ),
        Flag::new("rule.partial-response", Switch, "true", "The same for rules and alerts"),
        Flag::new("target.partial-response", Switch, "true", "The same for targets"),
        Flag::new("metric-metadata.partial-response", Switch, "true", "The same for metadata of metrics"),
        Flag::new("exemplar.partial-response", Switch, "true", "The same for exemplars"),
        Flag::new("status.partial-response", Switch, "true", "The same for statistics of TSDBs"),
        Flag::new(
            "query.auto-downsampling",
            Switch,
            "false",
            "Read downsampled data of a fifth of the step where a query does not say",
        ),
        Flag::new(
            "query.instant.default.max_source_resolution",
            Duration,
            "0s",
            "Coarsest data of instant queries under auto",
        ),
        Flag::new("query.promql-engine", Text, "prometheus", "Engine")
            .no_effect("there is one engine, with Prometheus' semantics"),
        Flag::new("query.enable-x-functions", Switch, "false", "xrate, xincrease, xdelta")
            .refused("use rate, increase and delta"),
        Flag::new("query.disable-fallback", Switch, "false", "Engine").no_effect("there is one engine"),
        Flag::new(
            "query.mode",
            Text,
            "local",
            "Where aggregations are evaluated: local (here, from series), or distributed (by the queriers among the endpoints, where nobody else \
             has their series)",
        ),
        Flag::new(
            "query.partition-label",
            List,
            "",
            "External label by which distributed queriers are told apart; may be repeated. Without it, all that are no replica labels",
        ),
        Flag::new("query.distributed-with-overlapping-interval", Switch, "false", "Distributed queries")
            .no_effect(OVERLAPS),
        Flag::new("enable-feature", List, "", "promql-experimental-functions, promql-duration-expr, …"),
        Flag::new(
            "deduplication.func",
            Text,
            "penalty",
            "How replicas become one series where a query does not say (dedup_func): penalty, chain, or gap-aware, which follows one replica and \
             takes the other one's sample where a scrape is missed",
        ),
        Flag::new(
            "query.telemetry.request-duration-seconds-quantiles",
            List,
            "",
            "Buckets of a metric of Thanos",
        )
        .no_effect("the metric has fixed buckets"),
        Flag::new("query.conn-metric.label", List, "", "Labels of a metric of Thanos")
            .no_effect("there is no such metric"),
    ]
}

fn tenancy_and_web() -> Vec<Flag> {
    vec![
        Flag::new(
            "query.tenant-header",
            Text,
            "THANOS-TENANT",
            "HTTP header that names the tenant of a request; THANOS-TENANT is looked at, too",
        ),
        Flag::new("query.default-tenant-id", Text, "default-tenant", "Tenant of requests that name none"),
        Flag::new(
            "query.tenant-certificate-field",
            Text,
            "",
            "Field of the client's certificate that names the tenant, instead of headers: organization, organizationalUnit or commonName",
        ),
        Flag::new(
            "query.enforce-tenancy",
            Switch,
            "false",
            "Answer a tenant from series that carry its label, over HTTP and gRPC",
        ),
        Flag::new("query.tenant-label-name", Text, "tenant_id", "Label that says whose a series is"),
        Flag::new("web.route-prefix", Text, "", "").refused("let the proxy in front strip the prefix"),
        Flag::new("web.external-prefix", Text, "", "Web pages").no_effect(WEB),
        Flag::new("web.prefix-header", Text, "", "Web pages").no_effect(WEB),
        Flag::new("web.disable-cors", Switch, "false", "Answer without CORS headers"),
        Flag::new("alert.query-url", Text, "", "Web pages").no_effect(WEB),
    ]
}
