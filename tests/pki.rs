//! `parallax pki` as it is typed: the newcomer's page, what is refused and with which exit code, and what other programs make of it.

#[path = "support/desk.rs"]
mod desk;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use desk::Desk;
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use program::PATIENCE;
use serde_json::Value;

/// Commands of the page that need no running mesh.
fn page_commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pki/README.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(|line| line.replace('"', "")).collect()
}

#[test]
fn the_commands_of_the_page_run_in_their_order() {
    let desk = Desk::empty();
    let commands = page_commands();
    assert!(commands.len() >= 10, "{commands:?}");
    for line in commands {
        let words = line.strip_prefix("parallax pki ").unwrap_or_else(|| panic!("{line}"));
        // No mesh runs here: what the peers would show is waived.
        let words = if words.contains("--peers") {
            let all =
                "--accept-missing observee/eu-1 --accept-missing observee/us-1 --accept-missing observer/hub";
            format!("{} {all} --reason page", words.replace("--peers peers.yaml", ""))
        } else {
            words.to_owned()
        };
        desk.ok(&words);
    }
    let status = desk.json("status --state file:pki");
    assert_eq!(status["rotations"][1]["phase"], "steady g2");
    assert_eq!(status["leaves"].as_array().unwrap().len(), 2, "{status}");
    assert!(desk.text("certs/hub/ca.crt").contains("X509 CRL"), "the list did not reach the hub");
}

#[test]
fn keys_are_encrypted_unless_asked_otherwise_and_nothing_prints_them() {
    let desk = Desk::new();
    for file in ["pki/ca/observers/g1/ca.key", "pki/ca/observees/g1/ca.key"] {
        assert!(desk.text(file).contains("ENCRYPTED PRIVATE KEY"), "{file}");
    }
    let issue = "issue --state file:pki --observer hub --out certs/hub";
    let wrong = desk.path("wrong");
    fs::write(&wrong, "not the passphrase\n").unwrap();
    let said = desk.code(&format!("{issue} --passphrase-file wrong"), 2);
    assert!(said.contains("does not open it") && !said.contains("not the passphrase"), "{said}");
    assert!(!desk.path("certs").exists());
    desk.ok(issue);
    let key = desk.text("certs/hub/tls.key");
    for words in [
        "status --state file:pki",
        "export --state file:pki --observer hub --format tfvars",
        "export --state file:pki --observer hub --format pem",
        "inspect certs/hub/tls.crt",
    ] {
        let said = desk.ok(words);
        assert!(!said.contains("PRIVATE KEY") && !said.contains(key.lines().nth(1).unwrap()), "{words}");
    }
    assert!(
        desk.ok("export --state file:pki --observer hub --format pem --with-key").contains("PRIVATE KEY")
    );
}

#[test]
fn exit_codes_say_what_kind_of_trouble_it_is() {
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --out certs/eu-1");
    desk.ok("issue --state file:pki --observer hub --days 1 --out certs/hub");
    desk.code("init --state file:pki --trust-domain mesh.example", 7);
    desk.code("issue --state file:nowhere --observer hub", 2);
    let said = desk.code("rotate ca observers --state file:pki --phase retire", 6);
    assert!(said.contains("possible now: prepare"), "{said}");
    desk.ok("rotate ca observers --state file:pki --phase prepare");
    let said = desk.code("rotate ca observers --state file:pki --phase activate", 6);
    assert!(said.contains("observee/eu-1") && said.contains("was not seen"), "{said}");
    // A leaf of one day is critical from its first second.
    desk.code("status --state file:pki", 5);
    desk.code("status --state file:pki --warn-days 60 --critical-days 1", 5);
    desk.code("revoke --state file:pki --observer nobody", 2);
    let held = fs::File::open(desk.path("pki/LOCK")).unwrap();
    held.lock().unwrap();
    desk.code("issue --state file:pki --observer other", 7);
    held.unlock().unwrap();
    let json = desk.pki("issue --state file:pki --observer A --output json");
    let error: Value = serde_json::from_str(json.stderr.lines().next().unwrap()).unwrap();
    assert_eq!((json.code, &error["error"]["code"]), (Some(2), &Value::from("name")));
    fs::write(desk.path("pki/journal.jsonl"), "nonsense\n").unwrap();
    let said = desk.code("status --state file:pki", 8);
    assert!(said.contains("backup"), "{said}");
}

#[test]
fn bad_input_07_no_name_leaves_the_state_directory() {
    let desk = Desk::new();
    let long = "a".repeat(64);
    for name in ["../x", "A", "a/b", &long, "a%2fb", "eu-1.", "еu-1"] {
        desk.code(&format!("issue --state file:pki --observee {name}"), 2);
    }
    let names: Vec<_> =
        fs::read_dir(desk.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["pki"]);
    assert_eq!(fs::read_dir(desk.path("pki/leaves")).unwrap().count(), 0);
}

#[test]
fn verify_judges_as_the_servers_do() {
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --dns eu-1.example --out certs/eu-1");
    desk.ok("issue --state file:pki --observer hub --out certs/hub");
    let server = "verify --cert certs/eu-1/tls.crt --key certs/eu-1/tls.key --bundle certs/hub/ca.crt";
    desk.ok(server);
    desk.ok(&format!("{server} --expect-identity spiffe://mesh.example/observee/eu-1"));
    let client = "verify --cert certs/hub/tls.crt --bundle certs/eu-1/ca.crt";
    desk.ok(client);
    for (words, word) in [
        (format!("{server} --expect-identity spiffe://mesh.example/observee/us-1"), "not spiffe"),
        (format!("{server} --server-name us-1.example"), "not for us-1.example"),
        (format!("{server} --at 2099-01-01T00:00:00Z"), "expired"),
        (format!("{client} --as server"), "not meant for"),
        ("verify --cert certs/hub/tls.crt --bundle certs/hub/ca.crt".to_owned(), "not signed by a CA"),
        (
            "verify --cert certs/hub/tls.crt --key certs/eu-1/tls.key --bundle certs/eu-1/ca.crt".to_owned(),
            "does not belong",
        ),
    ] {
        let said = desk.code(&words, 3);
        assert!(said.contains(word), "{words}: {said}");
    }
    desk.ok("revoke --state file:pki --observer hub");
    assert!(desk.code(client, 3).contains("revoked"));
    let shown = desk.json("inspect certs/eu-1/ca.crt");
    assert_eq!(
        (&shown["certificates"][0]["is_authority"], &shown["revocation_lists"][0]["revoked"]),
        (&true.into(), &1.into())
    );
}

#[test]
fn exports_are_what_the_other_programs_read() {
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --dns eu-1.example --out certs/eu-1");
    desk.ok("issue --state file:pki --observer hub --out certs/hub");
    let export = |words: &str| desk.ok(&format!("export --state file:pki {words}"));
    let secret = export("--observee eu-1 --format k8s-secret --namespace monitoring");
    let cert = secret.lines().find_map(|line| line.trim().strip_prefix("tls.crt: ")).unwrap();
    fs::write(desk.path("secret.b64"), cert).unwrap();
    let decoded =
        Command::new("base64").args(["-d", "secret.b64"]).current_dir(desk.path("")).output().unwrap();
    assert_eq!(String::from_utf8(decoded.stdout).unwrap(), desk.text("certs/eu-1/tls.crt"));
    assert!(secret.contains("kubernetes.io/tls") && secret.contains("namespace: monitoring"), "{secret}");
    let tfvars = export("--observee eu-1 --format tfvars");
    assert!(tfvars.contains("trusted_ca_content = <<-PEM"), "{tfvars}");
    let server = export("--observee eu-1 --format thanos-flags --directory /certs");
    assert!(server.contains("--grpc-server-tls-client-ca=/certs/ca.crt"), "{server}");
    let client = export("--observer hub --format thanos-flags --directory /certs --server-name eu-1.example");
    assert!(
        client.contains("--grpc-client-tls-secure\n")
            && client.contains("--grpc-client-server-name=eu-1.example")
    );
    assert!(
        export("--observer hub --format thanos-endpoints --address eu-1.example:443")
            .contains("- address: eu-1.example:443")
    );
    for format in ["envoy", "traefik", "prometheus-operator"] {
        assert!(export(&format!("--observee eu-1 --format {format}")).len() > 100, "{format}");
    }
    let map = desk.ok("bundle observers --state file:pki --format configmap --name trust");
    assert!(map.contains("kind: ConfigMap") && map.contains("    -----BEGIN CERTIFICATE-----"), "{map}");
    let digest = desk.json("bundle observers --state file:pki")["sha256"].as_str().unwrap().to_owned();
    desk.ok(&format!("bundle observers --state file:pki --expect-digest {digest}"));
    desk.code("bundle observers --state file:pki --expect-digest 00", 3);
    let broken = desk.pki("export --state file:pki --observee eu-1 --format nginx --server-name a;b");
    assert_eq!(broken.code, Some(2), "{broken:?}");
}

/// nginx asked with curl's help: what it says to a client with `leaf`.
fn ask(desk: &Desk, port: u16, leaf: &str) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-ign_eof", "-connect", &format!("127.0.0.1:{port}")])
        .args(["-cert", &format!("certs/{leaf}/tls.crt"), "-key", &format!("certs/{leaf}/tls.key")])
        .args([
            "-CAfile",
            &format!("certs/{leaf}/ca.crt"),
            "-verify_return_error",
            "-servername",
            "eu-1.example",
        ])
        .current_dir(desk.path(""))
        .stdin(fs::File::open(desk.path("request")).unwrap())
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn nginx_takes_what_is_exported_and_refuses_what_is_revoked() {
    let test = "nginx_takes_what_is_exported_and_refuses_what_is_revoked";
    let (Some(nginx), Some(_)) = (program_or_leave_out("nginx", test), program_or_leave_out("openssl", test))
    else {
        return;
    };
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --dns eu-1.example --out certs/eu-1");
    desk.ok("issue --state file:pki --observer hub --out certs/hub");
    desk.ok("issue --state file:pki --observer stolen --out certs/stolen");
    desk.ok("revoke --state file:pki --observer stolen");
    let port = free_port().unwrap();
    let server = desk.ok("export --state file:pki --observee eu-1 --format nginx --address 127.0.0.1:1");
    assert!(server.contains("ssl_crl"), "{server}");
    // Ours listens elsewhere, and answers itself.
    let server = server
        .replace("listen 443 ssl http2", &format!("listen 127.0.0.1:{port} ssl"))
        .replace("grpc_pass grpc://127.0.0.1:1;", "return 200 hello;");
    let home = desk.path("").display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
        .collect();
    let configuration = format!(
        "daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{server}}}\n"
    );
    fs::write(desk.path("nginx.conf"), configuration).unwrap();
    fs::write(desk.path("request"), "GET / HTTP/1.1\r\nHost: eu-1.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut start = Command::new(nginx);
    start.arg("-p").arg(desk.path("")).arg("-c").arg(desk.path("nginx.conf")).args(["-e", "stderr"]);
    let mut process = Process::spawn(&mut start, &desk.path("nginx.log")).unwrap();
    process.wait_for_tcp(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).await.unwrap();
    let taken = ask(&desk, port, "hub");
    assert!(taken.contains("200 OK") && taken.contains("hello"), "{taken}");
    let refused = ask(&desk, port, "stolen");
    assert!(refused.contains("400 Bad Request") && !refused.contains("hello"), "{refused}");
}
