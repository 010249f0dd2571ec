//! `parallax pki` as it is typed: the newcomer's page, what is refused and with which exit code, and what other programs make of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::desk::Desk;
use crate::program::{self, PATIENCE};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// The commands of the page, as they stand there.
fn page_commands() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pki/README.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 7, "{blocks:?}");
    blocks.concat()
}

/// A shell and whatever it has started, which end with it.
struct Shell {
    child: std::process::Child,
}

impl Drop for Shell {
    fn drop(&mut self) {
        // An error means that all of them have ended already.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn a_newcomer_who_follows_the_page_replaces_both_cas_under_a_loop_of_queries_and_none_fails() {
    let test = "a_newcomer_who_follows_the_page_replaces_both_cas_under_a_loop_of_queries_and_none_fails";
    let programs = ["prometheus", "curl", "bash"].map(|name| program_or_leave_out(name, test));
    let [Some(prometheus), Some(_), Some(bash)] = programs else { return };
    let desk = Desk::empty();
    // Only the ports are others than on the page: those may be somebody's.
    let mut commands = page_commands();
    for port in 19_000..19_300 {
        if commands.contains(&port.to_string()) {
            commands = commands.replace(&port.to_string(), &free_port().unwrap().to_string());
        }
    }
    let programs = desk.path("bin");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_parallax"), programs.join("parallax")).unwrap();
    std::os::unix::fs::symlink(prometheus, programs.join("prometheus")).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&path))).unwrap();
    let log = fs::File::create(desk.path("page.log")).unwrap();
    let mut command = Command::new(bash);
    command.args(["-eu", "-c", &commands]).current_dir(desk.path("")).env_clear().env("PATH", path);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
    let mut shell = Shell { child: command.spawn().unwrap() };
    let (began, said) = (Instant::now(), || desk.text("page.log"));
    let status = loop {
        if let Some(status) = shell.child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < 5 * PATIENCE, "the page does not come to its end:\n{}", said());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(status.success(), "{status}:\n{}", said());
    let answers = desk.text("answers.log");
    let failed: Vec<&str> = answers.lines().filter(|line| *line != "whole").collect();
    assert!(failed.is_empty() && answers.lines().count() > 5, "{failed:?}\n{}", said());
    assert!(said().contains(" whole answers, 0 failed"), "{}", said());
    let status = desk.json("status --state file:pki");
    for rotation in status["rotations"].as_array().unwrap() {
        assert_eq!(rotation["phase"], "steady g2", "{status}");
    }
    assert_eq!(status["leaves"].as_array().unwrap().len(), 2, "one is revoked: {status}");
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
    desk.code("rotate ca observees --state file:pki --phase prepare", 7);
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
    for format in ["haproxy", "envoy", "traefik", "prometheus-operator"] {
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

#[test]
fn t8_of_two_who_rotate_at_once_one_does_it_and_the_other_is_told() {
    let desk = Desk::new();
    let words = "rotate ca observers --state file:pki --phase prepare";
    let both = [(); 2].map(|()| {
        desk.command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let ended = both.map(|child| child.wait_with_output().unwrap());
    let mut codes: Vec<i32> = ended.iter().filter_map(|output| output.status.code()).collect();
    codes.sort_unstable();
    // Who comes when the other is done finds it done.
    assert!(codes == [0, 7] || codes == [0, 0], "{ended:?}");
    let status = desk.json("status --state file:pki");
    assert_eq!(status["rotations"][0]["phase"], "prepared g1 -> g2", "{status}");
    assert_eq!(status["authorities"].as_array().unwrap().len(), 3, "one new CA: {status}");
}

#[test]
fn t6_no_umask_makes_a_key_readable() {
    let desk = Desk::empty();
    let shell = |words: &str| {
        let line = format!("umask 0; exec \"$0\" pki {words}");
        let mut command = Command::new("sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_parallax")]).current_dir(desk.path(""));
        let finished = program::finish(&mut command);
        assert_eq!(finished.code, Some(0), "{words}: {finished:?}");
    };
    shell("init --state file:pki --trust-domain mesh.example --no-encrypt");
    shell("issue --state file:pki --observer hub --out certs/hub");
    shell("rotate ca observers --state file:pki --phase prepare");
    shell("renew --state file:pki --all --at 0");
    let mut left = vec![desk.path("pki"), desk.path("certs/hub")];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 15, "{seen} files and directories");
}

#[test]
fn t5_commands_that_are_killed_at_any_moment_leave_what_the_next_one_continues() {
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --dns eu-1.example --out certs/eu-1");
    desk.ok("issue --state file:pki --observer hub --out certs/hub");
    let whole = |what: &str| {
        let status = desk.pki("status --state file:pki --output json");
        assert_eq!(status.code, Some(0), "{what}: {status:?}");
        // The pair fits at every moment, and its CA is the one that others trust.
        desk.ok("verify --cert certs/eu-1/tls.crt --key certs/eu-1/tls.key --bundle certs/hub/ca.crt");
        desk.ok("verify --cert certs/hub/tls.crt --key certs/hub/tls.key --bundle certs/eu-1/ca.crt");
    };
    let waived = "--accept-missing observee/eu-1 --accept-missing observer/hub --reason kill";
    let rotate = |phase: &str| format!("rotate ca observees --state file:pki --phase {phase} {waived}");
    let renew = "renew --state file:pki --all --at 0".to_owned();
    let steps = ["prepare", "activate", "", "drain", "retire", ""];
    let began = Instant::now();
    desk.ok(&renew);
    // Follows what is found: a command may take less or more than this one did.
    let mut one_takes = began.elapsed();
    let mut killed = 0;
    for round in 0..24_u32 {
        let phase = steps[round as usize % steps.len()];
        let words = if phase.is_empty() { renew.clone() } else { rotate(phase) };
        let mut command = desk.command(&words);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From the first moment to the last, not in order.
        std::thread::sleep(one_takes * (round * 7 % 24) / 24);
        let is_in_time = child.try_wait().unwrap().is_none();
        killed += u32::from(is_in_time);
        one_takes = one_takes.mul_f64(if is_in_time { 1.1 } else { 0.7 });
        child.kill().unwrap();
        child.wait().unwrap();
        whole(&format!("after a kill in {words}"));
        // Repeated, it is done, or was already.
        let again = desk.pki(&words);
        // A rotation that is over has no step `retire`.
        let was_done = phase == "retire" && again.stderr.contains("does not follow steady");
        assert!(again.code == Some(0) || was_done, "{words} after a kill: {again:?}");
        whole(&words);
    }
    assert!(killed > 5, "hardly any was still running: {killed} of 24");
    assert_eq!(desk.json("status --state file:pki")["rotations"][1]["phase"], "steady g5");
}

/// Nobody in particular.
const SOMEBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As for a program that is not there: a test that is nothing without the superuser is left out aloud, and in CI it fails.
fn root_or_leave_out(test: &str) -> bool {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(is_root() || !in_ci, "{test} needs two users, and CI has to run it as root");
    if !is_root() {
        println!("left out: {test} (it needs two users: run it as root)");
    }
    is_root()
}

/// A state, and the program where every user reaches it.
struct Shared {
    desk: Desk,
    program: std::path::PathBuf,
}

impl Shared {
    /// With a leaf in it.
    fn new() -> Self {
        let desk = Desk::new();
        desk.ok("issue --state file:pki --observer hub");
        fs::set_permissions(desk.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let program = desk.path("parallax");
        let built = env!("CARGO_BIN_EXE_parallax");
        if fs::hard_link(built, &program).is_err() {
            fs::copy(built, &program).unwrap();
        }
        Self { desk, program }
    }

    /// Runs `pki` with these words as the user `uid`; only the superuser may name another than itself.
    fn pki_as(&self, uid: u32, words: &str) -> program::Finished {
        let asked = self.desk.command(words);
        let mut command = Command::new(&self.program);
        command.env_clear().envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(asked.get_args()).current_dir(self.desk.path(""));
        if uid != rustix::process::geteuid().as_raw() {
            command.uid(uid).gid(uid);
        }
        program::finish(&mut command)
    }

    /// Every path of the state with its content, in order.
    fn content(&self) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let (mut left, mut found) = (vec![self.desk.path("pki")], Vec::new());
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                found.push((path, Vec::new()));
            } else {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
        found.sort();
        found
    }

    fn each(&self, change: impl Fn(&Path)) {
        self.content().iter().for_each(|(path, _)| change(path));
    }

    /// Nothing that changes the state does; each says so in one line with `parts`.
    fn refuses_changes(&self, uid: u32, parts: &[&str]) {
        let before = self.content();
        for words in [
            "issue --state file:pki --observee eu-1",
            "renew --state file:pki --all --at 0",
            "rotate ca observers --state file:pki --phase prepare",
            "revoke --state file:pki --observer hub",
        ] {
            let finished = self.pki_as(uid, words);
            assert_eq!(finished.code, Some(8), "{words}: {finished:?}");
            let errors: Vec<&str> =
                finished.stderr.lines().filter(|line| line.starts_with("parallax:")).collect();
            assert_eq!(errors.len(), 1, "{words}: {finished:?}");
            for part in parts {
                assert!(errors[0].contains(part), "{words}: no {part:?} in {}", errors[0]);
            }
            assert!(self.content() == before, "{words} changed something");
        }
    }
}

#[test]
fn bad_input_15_a_state_without_permission_to_write_is_read_and_not_changed() {
    let shared = Shared::new();
    // Permissions are nothing to the superuser: the state is somebody else's then, who owns it and asks.
    let uid = if is_root() { SOMEBODY } else { rustix::process::geteuid().as_raw() };
    let set = |mode_of_directories: u32, mode_of_files: u32| {
        shared.each(|path| {
            let mode = if path.is_dir() { mode_of_directories } else { mode_of_files };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        });
    };
    if is_root() {
        shared.each(|path| std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap());
    }
    set(0o500, 0o400);
    let status = shared.pki_as(uid, "status --state file:pki");
    assert!(status.code == Some(0) && status.stdout.contains("hub"), "{status:?}");
    shared.refuses_changes(uid, &["pki/LOCK", "ermission denied", "chmod -R u+rwX "]);
    set(0o700, 0o600);
    let issued = shared.pki_as(uid, "issue --state file:pki --observee eu-1");
    assert_eq!(issued.code, Some(0), "{issued:?}");
}

#[test]
fn bad_input_15_a_state_of_another_user_is_not_changed() {
    if !root_or_leave_out("bad_input_15_a_state_of_another_user_is_not_changed") {
        return;
    }
    let shared = Shared::new();
    // The superuser's, and another user asks.
    let own = rustix::process::geteuid().as_raw();
    let refused = shared.pki_as(SOMEBODY, "status --state file:pki");
    assert_eq!(refused.code, Some(8), "{refused:?}");
    assert!(refused.stderr.contains("pki: it belongs to uid 0, this is uid 65534"), "{refused:?}");
    shared.refuses_changes(SOMEBODY, &["pki: it belongs to uid 0", "run this as its owner"]);
    // Another user's, and the superuser asks: it may look, and what it wrote the owner could not read.
    shared.each(|path| std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap());
    assert_eq!(shared.pki_as(own, "status --state file:pki").code, Some(0));
    shared.refuses_changes(own, &["pki: it belongs to uid 65534", "run this as its owner"]);
    let issued = shared.pki_as(SOMEBODY, "issue --state file:pki --observee eu-1");
    assert_eq!(issued.code, Some(0), "{issued:?}");
    // One key that is somebody else's than the state.
    let key = shared.desk.path("pki/ca/observees/g1/ca.key");
    std::os::unix::fs::chown(&key, Some(own), Some(own)).unwrap();
    shared.refuses_changes(own, &["ca/observees/g1/ca.key", "belongs to uid 0", "chown 65534"]);
}

#[test]
fn status_is_one_table_of_the_mesh_with_what_each_peer_was_seen_to_trust() {
    let desk = Desk::new();
    desk.ok("issue --state file:pki --observee eu-1 --out certs/eu-1");
    let table = desk.ok("status --state file:pki");
    for part in ["SEEN TO TRUST", "LEFT", "RENEW AT", "observee", "eu-1", "not seen", "observers", "signing"]
    {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let at = now_ms();
    let seen = format!(
        r#"{{"peers":{{"spiffe://mesh.example/observee/eu-1":{{"trusts":{{"observers":{{"at_ms":{at},"what":[1,2]}}}}}}}}}}"#
    );
    fs::write(desk.path("pki/observations.json"), seen).unwrap();
    assert!(desk.ok("status --state file:pki").contains("observers g1+g2"));
    assert_eq!(desk.json("status --state file:pki")["leaves"][0]["trusts"], "observers g1+g2");
}

fn now_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
}

#[test]
fn status_over_five_hundred_clusters() {
    let desk = Desk::empty();
    let state = desk.path("pki");
    let domain = parallax_pki::TrustDomain::new("mesh.example").unwrap();
    let options = parallax_pki::AuthorityOptions::new(domain.clone());
    let authority = parallax_pki::Authority::init(&state, &options).unwrap();
    for number in 0..500 {
        let identity = parallax_pki::PeerIdentity::observee(&domain, &format!("cluster-{number}")).unwrap();
        authority.issue(&parallax_pki::LeafRequest::new(identity)).unwrap();
    }
    drop(authority);
    let began = Instant::now();
    // More than a pipe holds.
    let output = desk.command("status --state file:pki --output json").output().unwrap();
    // Nothing is asserted about time; BENCHMARKS.md has it.
    println!(
        "\n| `pki status` over 500 clusters, the whole command | 1 s | {:.3} s |",
        began.elapsed().as_secs_f64()
    );
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["leaves"].as_array().unwrap().len(), 500);
}
