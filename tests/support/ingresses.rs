//! nginx, HAProxy, Envoy and Traefik before a gRPC server: they end mTLS as `pki export` has it, or pass TLS on by its name. They can be killed, frozen and started again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use parallax_pki::export::{Export, Format};
use parallax_pki::{PeerIdentity, TrustDomain};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};

use super::program::PATIENCE;
use super::sides::{Leaf, server_name};

/// A whole configuration of nginx around the `server` block of an export.
pub fn nginx_configuration(home: &str, server: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{server}}}\n"
    )
}

pub fn nginx(program: &Path, home: &Path, configuration: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-p").arg(home).arg("-c").arg(configuration).args(["-e", "stderr"]);
    command
}

pub fn haproxy(program: &Path, configuration: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(configuration);
    command
}

pub fn envoy(program: &Path, configuration: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-c").arg(configuration).args([
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "-l",
        "warning",
    ]);
    command
}

pub fn traefik(program: &Path, port: u16, configuration: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(format!("--entrypoints.grpc.address=127.0.0.1:{port}"))
        .arg(format!("--providers.file.filename={}", configuration.display()))
        .args(["--global.checknewversion=false", "--global.sendanonymoususage=false", "--log.level=ERROR"]);
    command
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    Traefik,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
        }
    }

    pub fn program(self, test: &str) -> Option<PathBuf> {
        program_or_leave_out(self.name(), test)
    }

    fn format(self) -> Format {
        self.name().parse().unwrap()
    }

    /// Where an export listens, and where it shall.
    fn listens(self, port: u16) -> (&'static str, String) {
        match self {
            Self::Nginx => ("listen 443 ssl http2", format!("listen 127.0.0.1:{port} ssl http2")),
            Self::Haproxy => ("bind :443", format!("bind 127.0.0.1:{port}")),
            Self::Envoy => {
                ("address: 0.0.0.0, port_value: 443", format!("address: 127.0.0.1, port_value: {port}"))
            }
            Self::Traefik => ("http:\n", "http:\n".to_owned()),
        }
    }

    /// What of an export keeps answers from being ended, and what ends them after a second.
    fn short_of_patience(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Nginx => Some(("grpc_read_timeout 300s", "grpc_read_timeout 1s")),
            Self::Haproxy => Some(("timeout server 300s", "timeout server 1s")),
            Self::Envoy => Some(("timeout: 0s", "timeout: 1s")),
            Self::Traefik => None,
        }
    }

    /// Passes TLS on by its name, unread.
    fn passing(self, name: &str, backend: &str, port: u16) -> String {
        let backend_port = backend.rsplit_once(':').map_or("0", |(_, port)| port);
        match self {
            Self::Nginx => unreachable!("Debian's nginx-light has no streams"),
            Self::Haproxy => format!(
                "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 300s\n    timeout server 300s\n\
                 frontend parallax\n    bind 127.0.0.1:{port}\n    tcp-request inspect-delay 5s\n    \
                 tcp-request content accept if {{ req.ssl_hello_type 1 }}\n    \
                 use_backend observee if {{ req.ssl_sni -i {name} }}\nbackend observee\n    server observee {backend}\n"
            ),
            Self::Envoy => format!(
                "static_resources:\n  listeners:\n  - name: parallax\n    \
                 address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    listener_filters:\n    \
                 - name: envoy.filters.listener.tls_inspector\n      typed_config:\n        \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector\n    \
                 filter_chains:\n    - filter_chain_match: {{server_names: [\"{name}\"]}}\n      filters:\n      \
                 - name: envoy.filters.network.tcp_proxy\n        typed_config:\n          \
                 \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
                 stat_prefix: parallax\n          cluster: observee\n  clusters:\n  - name: observee\n    connect_timeout: 5s\n    \
                 type: STATIC\n    load_assignment:\n      cluster_name: observee\n      endpoints:\n      - lb_endpoints:\n        \
                 - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend_port}}}}}}}\n"
            ),
            Self::Traefik => format!(
                "tcp:\n  routers:\n    parallax:\n      rule: HostSNI(`{name}`)\n      service: parallax\n      \
                 tls: {{passthrough: true}}\n  services:\n    parallax:\n      loadBalancer:\n        servers:\n        \
                 - address: {backend}\n"
            ),
        }
    }
}

/// What an ingress does with TLS.
pub enum Tls<'a> {
    /// Shows this certificate, asks for one of an observer, and speaks plain text to the observee.
    Ends(&'a Leaf),
    Passes,
}

/// A proxy before the observee of eu-1.
pub struct Ingress {
    kind: Kind,
    program: PathBuf,
    home: PathBuf,
    port: u16,
    text: String,
    /// Flags beside the file.
    more: Vec<&'static str>,
    process: Option<Process>,
}

impl Ingress {
    /// Comes back when it listens.
    pub async fn start(kind: Kind, program: PathBuf, tls: Tls<'_>, backend: &str, directory: &Path) -> Self {
        let home = directory.join("ingress");
        fs::create_dir(&home).unwrap();
        let (port, name) = (free_port().unwrap(), server_name("eu-1"));
        let text = match tls {
            Tls::Passes => kind.passing(&name, backend, port),
            Tls::Ends(leaf) => exported(kind, leaf, &name, backend, port, &home),
        };
        let mut ingress = Self { kind, program, home, port, text, more: Vec::new(), process: None };
        ingress.again().await;
        ingress
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it at once, with all that passes through it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it where it stands: its sockets stay open.
    pub fn freeze(&self) {
        self.process.as_ref().unwrap().suspend().unwrap();
    }

    pub fn thaw(&self) {
        self.process.as_ref().unwrap().resume().unwrap();
    }

    /// Starts it where it was.
    pub async fn again(&mut self) {
        let path = self.home.join("configuration.yaml");
        fs::write(&path, &self.text).unwrap();
        let mut command = match self.kind {
            Kind::Nginx => nginx(&self.program, &self.home, &path),
            Kind::Haproxy => haproxy(&self.program, &path),
            Kind::Envoy => envoy(&self.program, &path),
            Kind::Traefik => traefik(&self.program, self.port, &path),
        };
        command.args(&self.more);
        let mut process = Process::spawn(&mut command, &self.home.join("log")).unwrap();
        process.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], self.port)), PATIENCE).await.unwrap();
        self.process = Some(process);
    }

    /// Starts it again as one that ends answers which take, or are silent for, a second.
    pub async fn again_with_little_patience(&mut self) {
        self.kill();
        match self.kind.short_of_patience() {
            Some((patient, impatient)) => {
                assert!(self.text.contains(patient), "{}", self.text);
                self.text = self.text.replace(patient, impatient);
            }
            None => self.more = vec!["--entrypoints.grpc.transport.respondingtimeouts.writetimeout=1s"],
        }
        self.again().await;
    }
}

fn exported(kind: Kind, leaf: &Leaf, name: &str, backend: &str, port: u16, home: &Path) -> String {
    let read = |file: &str| fs::read_to_string(leaf.file(file)).unwrap();
    let domain = TrustDomain::new("mesh.test").unwrap();
    let export = Export {
        identity: &PeerIdentity::observee(&domain, "eu-1").unwrap(),
        cert_pem: &read("tls.crt"),
        key_pem: None,
        ca_pem: &read("ca.crt"),
        has_lists: false,
        directory: &leaf.0.display().to_string(),
        object: "eu-1",
        namespace: None,
        address: backend,
        server_name: name,
    };
    let text = export.render(kind.format()).unwrap();
    let (there, here) = kind.listens(port);
    assert!(text.contains(there), "{text}");
    let text = text.replace(there, &here);
    match kind {
        Kind::Nginx => nginx_configuration(&home.display().to_string(), &text),
        _ => text,
    }
}
