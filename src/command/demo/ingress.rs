//! The mTLS ingress of a cluster: nginx, which demands an observer's certificate and passes gRPC on over TLS.

use std::path::Path;

use anyhow::Context as _;
use tokio::process::Command;

use super::layout::{ClusterLayout, Layout};

/// Writes nginx' configuration for `cluster` and gives the command that runs it.
pub fn nginx(program: &Path, layout: &Layout, cluster: &ClusterLayout) -> anyhow::Result<Command> {
    let directory = layout.directory.join("nginx").join(&cluster.name);
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let path = directory.join("nginx.conf");
    std::fs::write(&path, configuration(layout, cluster, &directory))
        .with_context(|| path.display().to_string())?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&directory).arg("-c").arg(&path).arg("-e").arg(directory.join("error.log"));
    Ok(command)
}

/// `observee` is the server leaf that the ingress shows, `ingress` the client leaf it shows to the observee.
fn configuration(layout: &Layout, cluster: &ClusterLayout, directory: &Path) -> String {
    let server = layout.certificates(&cluster.name);
    let client = layout.certificates(&format!("ingress-{}", cluster.name));
    format!(
        "# mTLS ends here: the observer shows its certificate, the ingress its own to the observee.
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{ingress_port} ssl http2;
        server_name {server_name};
        ssl_certificate {server}/tls.crt;
        ssl_certificate_key {server}/tls.key;
        ssl_client_certificate {server}/ca.crt;
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        keepalive_requests 1000000;
        client_max_body_size 0;
        grpc_connect_timeout 2s;
        grpc_read_timeout 5m;
        grpc_send_timeout 5m;
        location / {{
            grpc_pass grpcs://127.0.0.1:{observee_port};
            grpc_ssl_certificate {client}/tls.crt;
            grpc_ssl_certificate_key {client}/tls.key;
            grpc_ssl_trusted_certificate {client}/ca.crt;
            grpc_ssl_verify on;
            grpc_ssl_name {server_name};
            grpc_ssl_server_name on;
            grpc_ssl_protocols TLSv1.3;
        }}
    }}
}}
",
        directory = directory.display(),
        ingress_port = cluster.ingress_port,
        server_name = cluster.server_name(),
        server = server.display(),
        client = client.display(),
        observee_port = cluster.observee_grpc_port,
    )
}
