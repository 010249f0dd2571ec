//! What stands before the servers of a mesh: nginx, which ends TLS, and a proxy that passes TCP on.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use parallax_testkit::process::{Process, free_port};
use tokio::net::{TcpListener, TcpStream};

use crate::desk::Desk;
use crate::program::PATIENCE;
use crate::sides::server_name;

/// nginx before `backend`, with a leaf of its own as server and one as client. It reads files when it is told to.
pub async fn serve_nginx(program: &Path, desk: &Desk, cluster: &str, backend: &str) -> (Process, String) {
    let (home, port) = (desk.path("nginx"), free_port().unwrap());
    fs::create_dir(&home).unwrap();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "{kind}_temp_path {}/{kind};", home.display()).unwrap();
    }
    let file = |leaf: &str, name: &str| desk.path(&format!("certs/{leaf}/{name}")).display().to_string();
    let text = format!(
        "user root; daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  access_log off; {temporary}
  server {{
    listen 127.0.0.1:{port} ssl http2;
    server_name {name};
    ssl_certificate {server_crt}; ssl_certificate_key {server_key};
    ssl_client_certificate {server_ca}; ssl_verify_client on;
    ssl_protocols TLSv1.3; client_max_body_size 0;
    location / {{
      grpc_pass grpcs://{backend};
      grpc_ssl_certificate {client_crt}; grpc_ssl_certificate_key {client_key};
      grpc_ssl_trusted_certificate {client_ca}; grpc_ssl_verify on;
      grpc_ssl_name {name}; grpc_ssl_server_name on; grpc_ssl_protocols TLSv1.3;
    }}
  }}
}}
",
        home = home.display(),
        name = server_name(cluster),
        server_crt = file("nginx", "tls.crt"),
        server_key = file("nginx", "tls.key"),
        server_ca = file("nginx", "ca.crt"),
        client_crt = file("ingress", "tls.crt"),
        client_key = file("ingress", "tls.key"),
        client_ca = file("ingress", "ca.crt"),
    );
    fs::write(home.join("nginx.conf"), text).unwrap();
    let mut command = Command::new(program);
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
    let mut process = Process::spawn(&mut command, &desk.path("nginx.log")).unwrap();
    process.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).await.unwrap();
    (process, format!("127.0.0.1:{port}"))
}

/// Passes TCP on, as a load balancer does that does not look inside: to each of `backends` in turn, and to the next where one takes no connection.
pub async fn proxy(backends: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let backends: Arc<[String]> = backends.into();
    tokio::spawn(async move {
        let mut turn = 0;
        while let Ok((mut front, _)) = listener.accept().await {
            turn += 1;
            let backends = Arc::clone(&backends);
            tokio::spawn(async move {
                for index in 0..backends.len() {
                    if let Ok(mut back) = TcpStream::connect(&backends[(turn + index) % backends.len()]).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut front, &mut back).await;
                        return;
                    }
                }
            });
        }
    });
    address
}
