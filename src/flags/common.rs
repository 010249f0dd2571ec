//! The flags all components share: addresses, gRPC server TLS, logs, object storage.

use super::Kind::{Decimal, Duration, List, Switch, Text};
use super::{Flag, SETTINGS_FLAG};

const NO_GO_RUNTIME: &str = "there is no garbage collector to tune";
const TLS13_ONLY: &str = "TLS 1.3 has a fixed, safe set";
const TRACING: &str = "tracing comes with a later version; leave the flag out";

pub(super) fn http_config() -> Flag {
    Flag::new(
        "http.config",
        Text,
        "",
        "File with TLS and basic authentication of the HTTP server, as Prometheus' web configuration; changes are applied within seconds",
    )
}

/// Flags of every component with an HTTP and a gRPC server.
pub(super) fn server() -> Vec<Flag> {
    vec![
        Flag::new("http-address", Text, "0.0.0.0:10902", "Address of the HTTP server"),
        Flag::new("http-grace-period", Duration, "2m", "How long requests may finish after a stop signal")
            .no_effect("requests are given a few seconds"),
        http_config(),
        Flag::new("grpc-address", Text, "0.0.0.0:10901", "Address of the gRPC server"),
        Flag::new("grpc-grace-period", Duration, "2m", "How long streams may finish after a stop signal"),
        Flag::new("grpc-server-tls-cert", Text, "", "PEM file with the gRPC server's certificate chain"),
        Flag::new("grpc-server-tls-key", Text, "", "PEM file with the gRPC server's key"),
        Flag::new("grpc-server-tls-client-ca", Text, "", "PEM file with the CAs that clients must chain to"),
        Flag::new(
            "grpc-server-allowed-identity",
            List,
            "",
            "Who may call the gRPC server: observer/hub, observer/*, ingress/eu-1, a whole SPIFFE name, or dns:name; may be repeated. Without it, whoever shows a certificate of the CA",
        ),
        Flag::new(
            "grpc-server-forwarded-certificates",
            Text,
            "",
            "Header in which an ingress passes client certificates on (xfcc, nginx, ingress-nginx or traefik); it counts only from a peer with an ingress certificate",
        ),
        Flag::new(
            "label-policy.config",
            Text,
            "",
            "Rules as YAML by which callers, told apart by their certificates, may read some series only; without them, all",
        ),
        Flag::new("label-policy.config-file", Text, "", "File with these rules; read at the start"),
        Flag::new(
            "grpc-server-tls-min-version",
            Text,
            "1.3",
            "Lowest TLS version of the gRPC server: 1.2 or 1.3",
        ),
        Flag::new("grpc-server-tls-ciphers", List, "", "Cipher suites").no_effect(TLS13_ONLY),
        Flag::new("grpc-server-tls-curves", List, "", "Key exchange groups").no_effect(TLS13_ONLY),
        Flag::new("grpc-server-max-connection-age", Duration, "60m", "Oldest a gRPC connection may grow")
            .no_effect(
                "certificates are swapped without closing connections, and clients renew theirs themselves",
            ),
    ]
}

/// Flags of every component.
pub(super) fn process() -> Vec<Flag> {
    vec![
        Flag::new(SETTINGS_FLAG, Text, "", "YAML file with values for these flags ('_' for '-' and '.')"),
        Flag::new("log.level", Text, "info", "error, warn, info or debug"),
        Flag::new("log.format", Text, "logfmt", "logfmt or json (journald reads either)"),
        Flag::new("tracing.config", Text, "", "Tracing").refused(TRACING),
        Flag::new("tracing.config-file", Text, "", "Tracing").refused(TRACING),
        Flag::new("request.logging-config", Text, "", "Request logs")
            .refused("use --log.level=debug, which logs each request"),
        Flag::new("request.logging-config-file", Text, "", "Request logs")
            .refused("use --log.level=debug, which logs each request"),
        Flag::new("enable-auto-gomemlimit", Switch, "false", "Go memory limit").no_effect(NO_GO_RUNTIME),
        Flag::new("auto-gomemlimit.ratio", Decimal, "0.9", "Go memory limit").no_effect(NO_GO_RUNTIME),
    ]
}

/// The object storage, inline or by file.
pub(super) fn objstore() -> Vec<Flag> {
    vec![
        Flag::new("objstore.config", Text, "", "Object storage as YAML (type, config, prefix)"),
        Flag::new("objstore.config-file", Text, "", "File with the object storage as YAML"),
    ]
}

/// Limits on one Series call.
pub(super) fn series_limits() -> Vec<Flag> {
    use super::Kind::Number;
    vec![
        Flag::new(
            "store.limits.request-series",
            Number,
            "0",
            "Most series one Series call may return; 0 is no limit",
        ),
        Flag::new(
            "store.limits.request-samples",
            Number,
            "0",
            "Most samples one Series call may return; 0 is no limit",
        ),
    ]
}
