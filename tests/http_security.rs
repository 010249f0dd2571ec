//! `--http.config`: TLS and passwords of a component's HTTP server, followed while it runs.

use std::time::{Duration, Instant};

use crate::program::{PATIENCE, Program, command, run};
use crate::sides::{Keys, server_name};
use parallax_net::{HttpAuth, HttpClient, HttpClientConfig};
use parallax_pki::{CredentialFiles, CredentialSource, Purpose};

/// Of "open sesame", at the lowest cost.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy";

#[tokio::test(flavor = "multi_thread")]
async fn an_http_server_takes_tls_and_passwords_from_its_file_and_follows_it() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    keys.observee("web");
    let file = directory.path().join("web.yml");
    let config = |user: &str| {
        format!(
            "tls_server_config:\n  cert_file: mesh.test/web/tls.crt\n  key_file: mesh.test/web/tls.key\nbasic_auth_users:\n  {user}: {HASH}\n"
        )
    };
    std::fs::write(&file, config("ali")).unwrap();
    let arguments = [
        "query".to_owned(),
        "--http-address=127.0.0.1:0".to_owned(),
        "--grpc-address=127.0.0.1:0".to_owned(),
        format!("--http.config={}", file.display()),
    ];
    let query = Program::start(&mut command(arguments), directory.path(), "query");
    let line = query.log_line("http server listens").await;
    let address = line.split_once("address=").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let leaf = keys.observer("hub");
    let ca = CredentialFiles { ca: Some(leaf.0.join("ca.crt")), ..CredentialFiles::default() };
    let tls = CredentialSource::from_files(ca, Purpose::Client { skip_verify: false }).unwrap();
    let status = async |user: &str| {
        let config = HttpClientConfig {
            tls: Some(tls.clone()),
            server_name: Some(server_name("web")),
            auth: HttpAuth::Basic { username: user.to_owned(), password: "open sesame".into() },
            ..HttpClientConfig::new(format!("https://{address}"))
        };
        let client = HttpClient::new(config).unwrap();
        client.get("/-/healthy", &[]).await.unwrap().status().as_u16()
    };
    assert_eq!(status("ali").await, 200);
    assert_eq!(status("baba").await, 401);

    std::fs::write(&file, config("baba")).unwrap();
    let began = Instant::now();
    while status("baba").await != 200 {
        assert!(began.elapsed() < PATIENCE, "{}", query.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status("ali").await, 401);

    std::fs::write(&file, "tls_server_config: {}\n").unwrap();
    query.log_line("http configuration is bad").await;
    std::fs::write(&file, "").unwrap();
    query.log_line("would take TLS or passwords away").await;
    assert_eq!(status("baba").await, 200, "the last good one stays");
}

#[test]
fn a_file_that_is_no_web_configuration_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yml");
    std::fs::write(&file, "tls_sever_config: {}\n").unwrap();
    let flag = format!("--http.config={}", file.display());
    let finished = run(["query", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0", &flag]);
    assert!(finished.code.is_some_and(|code| code != 0), "{finished:?}");
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(said.contains("tls_sever_config") && said.contains("--http.config"), "{said}");
}
