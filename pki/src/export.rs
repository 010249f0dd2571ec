//! Leaves and bundles in the forms that other programs take.
//!
//! Invariants: a private key is written only where the form is made for it (a Kubernetes secret) or where it was asked for; texts that come from outside
//! are checked before they stand in a configuration, so that no name can add a line to it.

use std::fmt::Write as _;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Error;
use crate::identity::PeerIdentity;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Pem,
    KubernetesSecret,
    Tfvars,
    ThanosFlags,
    ThanosEndpoints,
    Nginx,
    Haproxy,
    Envoy,
    Traefik,
    PrometheusOperator,
}

impl Format {
    /// Names as they are written on the command line.
    pub const ALL: [(&'static str, Self); 10] = [
        ("pem", Self::Pem),
        ("k8s-secret", Self::KubernetesSecret),
        ("tfvars", Self::Tfvars),
        ("thanos-flags", Self::ThanosFlags),
        ("thanos-endpoints", Self::ThanosEndpoints),
        ("nginx", Self::Nginx),
        ("haproxy", Self::Haproxy),
        ("envoy", Self::Envoy),
        ("traefik", Self::Traefik),
        ("prometheus-operator", Self::PrometheusOperator),
    ];
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, format)| *format).ok_or_else(|| Error::Name {
            what: "export format",
            text: text.to_owned(),
            reason: "see --help for the list",
        })
    }
}

/// What is exported: a leaf, where its files are for the program that will use them, and whom it talks to.
#[derive(Clone, Debug)]
pub struct Export<'a> {
    pub identity: &'a PeerIdentity,
    pub cert_pem: &'a str,
    /// `None`: it was not asked for, or we never had it.
    pub key_pem: Option<&'a str>,
    /// What verifies the peers of this leaf.
    pub ca_pem: &'a str,
    /// True if every CA in the bundle has a revocation list.
    pub has_lists: bool,
    /// Where the program finds `tls.crt`, `tls.key` and `ca.crt`.
    pub directory: &'a str,
    /// Name and namespace of Kubernetes objects.
    pub object: &'a str,
    pub namespace: Option<&'a str>,
    /// The other side, `host:port`: what a proxy passes on to, or an endpoint's address.
    pub address: &'a str,
    pub server_name: &'a str,
}

impl Export<'_> {
    /// The text of `format`. Errors: a setting that could break out of its place; a form that needs the key without it.
    pub fn render(&self, format: Format) -> Result<String, Error> {
        for (what, text) in [
            ("directory", self.directory),
            ("object name", self.object),
            ("namespace", self.namespace.unwrap_or("default")),
            ("address", self.address),
            ("server name", self.server_name),
        ] {
            check_word(what, text)?;
        }
        match format {
            Format::Pem => Ok(format!("{}{}", self.cert_pem, self.key_pem.unwrap_or_default())),
            Format::KubernetesSecret => self.kubernetes_secret(),
            Format::Tfvars => Ok(self.tfvars()),
            Format::ThanosFlags => Ok(self.thanos_flags()),
            Format::ThanosEndpoints => Ok(self.thanos_endpoints()),
            Format::Nginx => Ok(self.nginx()),
            Format::Haproxy => Ok(self.haproxy()),
            Format::Envoy => self.envoy(),
            Format::Traefik => Ok(self.traefik()),
            Format::PrometheusOperator => Ok(self.prometheus_operator()),
        }
    }

    fn is_server(&self) -> bool {
        crate::profile::Hierarchy::of(self.identity.role()) == crate::profile::Hierarchy::Observees
    }

    /// Reviewed as `kubernetes.io/tls`, with the bundle beside the pair as cert-manager has it.
    fn kubernetes_secret(&self) -> Result<String, Error> {
        let key = self.key_pem.ok_or_else(|| Error::Incomplete {
            given: "a Kubernetes secret",
            missing: "the private key (its leaf's directory is gone, or the holder made the key)",
        })?;
        let mut text = String::from("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata:\n");
        let _ = writeln!(text, "  name: {}", self.object);
        if let Some(namespace) = self.namespace {
            let _ = writeln!(text, "  namespace: {namespace}");
        }
        let _ = writeln!(text, "  annotations:\n    parallax.io/identity: {}\ndata:", self.identity);
        for (name, pem) in [("ca.crt", self.ca_pem), ("tls.crt", self.cert_pem), ("tls.key", key)] {
            let _ = writeln!(text, "  {name}: {}", BASE64.encode(pem));
        }
        Ok(text)
    }

    fn tfvars(&self) -> String {
        let mut text = String::new();
        let mut block = |name: &str, pem: &str| {
            let _ = write!(text, "{name} = <<-PEM\n{}\nPEM\n", pem.trim_end());
        };
        block("certificate_pem", self.cert_pem);
        block("trusted_ca_content", self.ca_pem);
        if let Some(key) = self.key_pem {
            block("private_key_pem", key);
        }
        text
    }

    fn thanos_flags(&self) -> String {
        let directory = self.directory;
        if self.is_server() {
            return format!(
                "--grpc-server-tls-cert={directory}/tls.crt\n--grpc-server-tls-key={directory}/tls.key\n\
                 --grpc-server-tls-client-ca={directory}/ca.crt\n"
            );
        }
        format!(
            "--grpc-client-tls-secure\n--grpc-client-tls-cert={directory}/tls.crt\n--grpc-client-tls-key={directory}/tls.key\n\
             --grpc-client-tls-ca={directory}/ca.crt\n--grpc-client-server-name={}\n",
            self.server_name
        )
    }

    /// Only the address: Thanos dials in plain text where an entry has `server_name` alone, or `client_config` on a `dns+` address.
    fn thanos_endpoints(&self) -> String {
        format!("endpoints:\n- address: {}\n", self.address)
    }

    fn nginx(&self) -> String {
        let Self { directory, address, server_name, .. } = self;
        let lists = if self.has_lists {
            format!("    ssl_crl {directory}/ca.crt;\n")
        } else {
            "    # No revocation list: nginx would refuse everybody. Export again after the first `pki revoke`.\n".to_owned()
        };
        format!(
            "# After a change of these files: nginx -s reload\nserver {{\n    listen 443 ssl http2;\n    server_name {server_name};\n    \
             ssl_certificate {directory}/tls.crt;\n    ssl_certificate_key {directory}/tls.key;\n    \
             ssl_client_certificate {directory}/ca.crt;\n    ssl_verify_client on;\n    ssl_protocols TLSv1.3;\n{lists}    \
             # The default of 1000 ends a connection under load.\n    keepalive_requests 1000000;\n    client_max_body_size 0;\n    \
             grpc_read_timeout 300s;\n    grpc_send_timeout 300s;\n    location / {{\n        \
             # Replaces what a client sent; the observee believes it of an ingress only.\n        \
             grpc_set_header x-ssl-client-cert $ssl_client_escaped_cert;\n        grpc_pass grpc://{address};\n    }}\n}}\n"
        )
    }

    /// A whole file. HAProxy reads certificates when it starts or is told to (`SIGUSR2` to its master process).
    fn haproxy(&self) -> String {
        let Self { directory, address, .. } = self;
        // As with nginx: with a list for some CAs only, it would refuse the clients of the others.
        let lists = if self.has_lists { format!(" crl-file {directory}/ca.crt") } else { String::new() };
        format!(
            "# After a change of these files, and again after the first `pki revoke` (which adds the revocation list): reload\nglobal\n    \
             # Finds tls.key beside tls.crt.\n    ssl-load-extra-del-ext\ndefaults\n    mode http\n    timeout connect 5s\n    \
             timeout http-request 10s\n    timeout client 300s\n    timeout server 300s\nfrontend parallax\n    \
             bind :443 ssl crt {directory}/tls.crt ca-file {directory}/ca.crt verify required alpn h2 ssl-min-ver TLSv1.3{lists}\n    \
             # Replaces what a client sent, as Traefik writes it; the observee believes it of an ingress only.\n    \
             http-request set-header x-forwarded-tls-client-cert %[ssl_c_der,base64]\n    default_backend observee\nbackend observee\n    \
             server observee {address} proto h2\n"
        )
    }

    /// A whole file. Envoy takes revocation lists out of `ca.crt` by itself, and follows the directory.
    fn envoy(&self) -> Result<String, Error> {
        let Self { directory, .. } = self;
        let domain = self.identity.trust_domain();
        let (host, port) = self.host_and_port()?;
        let tls = format!(
            "          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
             require_client_certificate: true\n          common_tls_context:\n            alpn_protocols: [h2]\n            \
             tls_params: {{tls_minimum_protocol_version: TLSv1_3}}\n            tls_certificates:\n            \
             - certificate_chain: {{filename: {directory}/tls.crt}}\n              private_key: {{filename: {directory}/tls.key}}\n              \
             watched_directory: {{path: {directory}}}\n            validation_context:\n              \
             trusted_ca: {{filename: {directory}/ca.crt}}\n              watched_directory: {{path: {directory}}}\n              \
             match_typed_subject_alt_names:\n              - san_type: URI\n                \
             matcher: {{prefix: \"spiffe://{domain}/observer/\"}}\n"
        );
        Ok(format!(
            "static_resources:\n  listeners:\n  - name: parallax\n    \
             address: {{socket_address: {{address: 0.0.0.0, port_value: 443}}}}\n    filter_chains:\n    - transport_socket:\n        \
             name: envoy.transport_sockets.tls\n        typed_config:\n{tls}      filters:\n      \
             - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \
             \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
             stat_prefix: parallax\n          codec_type: HTTP2\n          stream_idle_timeout: 300s\n          \
             # Replaces what a client sent; the observee believes it of an ingress only.\n          \
             forward_client_cert_details: SANITIZE_SET\n          set_current_client_cert_details: {{uri: true, cert: true}}\n          \
             route_config:\n            virtual_hosts:\n            - name: parallax\n              domains: [\"*\"]\n              \
             routes:\n              - match: {{prefix: \"/\"}}\n                route: {{cluster: observee, timeout: 0s}}\n          \
             http_filters:\n          - name: envoy.filters.http.router\n            typed_config:\n              \
             \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n  clusters:\n  - name: observee\n    \
             connect_timeout: 5s\n    type: STRICT_DNS\n    typed_extension_protocol_options:\n      \
             envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
             explicit_http_config: {{http2_protocol_options: {{}}}}\n    load_assignment:\n      cluster_name: observee\n      \
             endpoints:\n      - lb_endpoints:\n        \
             - endpoint: {{address: {{socket_address: {{address: \"{host}\", port_value: {port}}}}}}}\n"
        ))
    }

    fn host_and_port(&self) -> Result<(&str, u16), Error> {
        let split = self.address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = split.filter(|(host, _)| !host.is_empty()).ok_or_else(|| Error::Name {
            what: "address",
            text: self.address.to_owned(),
            reason: "write it as host:port",
        })?;
        Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
    }

    fn traefik(&self) -> String {
        let Self { directory, server_name, address, .. } = self;
        format!(
            "# Dynamic configuration. Traefik reads certificates again only when this file changes, and knows no revocation lists:\n\
             # replace the CA (pki rotate ca) to shut somebody out at once.\ntls:\n  certificates:\n  \
             - certFile: {directory}/tls.crt\n    keyFile: {directory}/tls.key\n  options:\n    parallax:\n      minVersion: VersionTLS13\n      \
             clientAuth:\n        caFiles: [{directory}/ca.crt]\n        clientAuthType: RequireAndVerifyClientCert\nhttp:\n  routers:\n    \
             parallax:\n      rule: Host(`{server_name}`)\n      service: parallax\n      middlewares: [parallax]\n      \
             tls: {{options: parallax}}\n  middlewares:\n    \
             # Replaces what a client sent; the observee believes it of an ingress only.\n    \
             parallax:\n      passTLSClientCert: {{pem: true}}\n  services:\n    \
             parallax:\n      loadBalancer:\n        servers:\n        - url: h2c://{address}\n"
        )
    }

    /// The `thanos` section of a `Prometheus` resource takes a secret's keys.
    fn prometheus_operator(&self) -> String {
        let object = self.object;
        if self.is_server() {
            return format!(
                "# In the spec of a Prometheus resource\nthanos:\n  grpcServerTlsConfig:\n    cert:\n      secret: {{name: {object}, key: tls.crt}}\n    \
                 keySecret: {{name: {object}, key: tls.key}}\n    ca:\n      secret: {{name: {object}, key: ca.crt}}\n"
            );
        }
        format!(
            "# In the spec of a ThanosRuler resource\ngrpcServerTlsConfig:\n  cert:\n    secret: {{name: {object}, key: tls.crt}}\n  \
             keySecret: {{name: {object}, key: tls.key}}\n  ca:\n    secret: {{name: {object}, key: ca.crt}}\n"
        )
    }
}

/// A bundle as a config map.
pub fn bundle_configmap(name: &str, namespace: Option<&str>, bundle: &str) -> Result<String, Error> {
    check_word("object name", name)?;
    check_word("namespace", namespace.unwrap_or("default"))?;
    let mut text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n");
    if let Some(namespace) = namespace {
        let _ = writeln!(text, "  namespace: {namespace}");
    }
    text.push_str("data:\n  ca.crt: |\n");
    for line in bundle.lines() {
        let _ = writeln!(text, "    {line}");
    }
    Ok(text)
}

/// Letters, digits and the few marks of paths, host names and ports: nothing that ends a line, a string or a statement.
fn check_word(what: &'static str, text: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:[]@+".contains(&byte);
    if text.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::Name {
        what,
        text: text.to_owned(),
        reason: "only letters, digits and - _ . / : are allowed here",
    })
}
