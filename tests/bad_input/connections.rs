//! Connections that cannot be made, or on which nothing comes.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use parallax_testkit::process::free_port;
use serde_json::{Value, json};

use crate::program::{PATIENCE, Program, command};
use crate::question::{Answer, ask, ask_until, get};
use crate::sides::{Keys, Leaf, MACHINES, MACHINES_UP, Observee, observer, observer_that_waits, server_name};

/// A cluster of the observer's file. Every one of them carries the name of `eu-1` in its certificate.
fn section(name: &str, address: &str) -> Value {
    json!({"name": name, "address": address, "server_name": server_name("eu-1")})
}

fn with(mut section: Value, key: &str, value: Value) -> Value {
    section[key] = value;
    section
}

/// A cluster, its address, and what its warning may give as the cause.
type Ill<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Waits until the healthy cluster answers, and each of the others has a warning with its address and one of its causes: on a machine that is busy, a connection
/// may first be given up for lasting too long. No other cluster may be warned of.
async fn settled(observer: &mut Program, others: &[Ill<'_>]) -> (String, Answer) {
    let url = observer.ready().await;
    let began = Instant::now();
    loop {
        let answer = ask(&url, MACHINES_UP).await;
        let wrong = what_is_wrong(&answer, others);
        if wrong.is_empty() {
            answer.warnings().iter().for_each(|warning| println!("{warning}"));
            return (url, answer);
        }
        assert!(began.elapsed() < PATIENCE, "{wrong:#?}: {answer:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn what_is_wrong(answer: &Answer, others: &[Ill<'_>]) -> Vec<String> {
    if answer.status != 200 {
        return vec![format!("status {}", answer.status)];
    }
    let mut wrong = Vec::new();
    if answer.by("cluster").get("eu-1") != Some(&MACHINES) {
        wrong.push("the rest has to keep working".to_owned());
    }
    for (cluster, address, causes) in others {
        let warning = answer.warning_about(cluster).unwrap_or_default();
        if !warning.contains(address) || !causes.iter().any(|cause| warning.contains(cause)) {
            wrong.push(format!("{cluster} at {address} without one of {causes:?}"));
        }
    }
    if answer.warnings().len() != others.len() {
        wrong.push(format!("{} warnings, one each would be {}", answer.warnings().len(), others.len()));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_certificate_is_a_warning_that_names_cluster_and_cause() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let good = Observee::start("eu-1", Some(&keys.observee("eu-1")), directory.path()).await;
    // Another authority that claims the same trust domain: only signatures tell them apart.
    let strangers = Keys::new(&directory.path().join("strangers"), "mesh.test");
    let elsewhere = Keys::new(directory.path(), "other.test").observer("hub");
    let ours = keys.observer("hub");
    let distrusting = strangers.observer("distrusting");
    let foreign = strangers.observer("foreign");
    for trusting in [&foreign, &elsewhere] {
        std::fs::copy(ours.file("ca.crt"), trusting.file("ca.crt")).unwrap();
    }
    // Whose certificate the server shows is not what is wrong.
    let identity = json!("spiffe://mesh.test/observee/eu-1");
    let own = |name: &str, leaf: &Leaf| {
        with(with(section(name, &good.grpc), "identity", identity.clone()), "tls", leaf.section())
    };
    let by_name = with(section("wrong-name", &good.grpc), "identity", json!("dns"));
    let clusters = [
        section("eu-1", &good.grpc),
        own("wrong-ca", &distrusting),
        own("foreign", &foreign),
        own("elsewhere", &elsewhere),
        own("expired", &keys.expired_observer("expired")),
        with(by_name, "server_name", json!("us-9.mesh.test")),
        with(section("wrong-identity", &good.grpc), "identity", json!("spiffe://mesh.test/observee/us-9")),
    ];
    let mut observer = observer(&clusters, Some(&ours), directory.path());
    let expected: [Ill<'_>; 6] = [
        ("wrong-ca", &good.grpc, &["not signed by a CA in our bundle"]),
        ("foreign", &good.grpc, &["not signed by a CA that the server trusts"]),
        ("elsewhere", &good.grpc, &["not of the trust domain other.test"]),
        ("expired", &good.grpc, &["expired"]),
        ("wrong-name", &good.grpc, &["us-9.mesh.test"]),
        ("wrong-identity", &good.grpc, &["us-9"]),
    ];
    let (url, _) = settled(&mut observer, &expected).await;
    let stores = get(&url, "/api/v1/stores", &[]).await;
    let missing = crate::question::texts(&stores.body["missingClusters"]);
    assert_eq!(missing, ["elsewhere", "expired", "foreign", "wrong-ca", "wrong-identity", "wrong-name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_and_tls_do_not_mix_and_the_answer_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let good = Observee::start("eu-1", Some(&keys.observee("eu-1")), directory.path()).await;
    let plain = Observee::start("us-1", None, directory.path()).await;
    let down = format!("127.0.0.1:{}", free_port().unwrap());
    let clusters = [
        section("eu-1", &good.grpc),
        with(section("us-1", &plain.grpc), "plaintext", json!(true)),
        with(section("plain-to-tls", &good.grpc), "plaintext", json!(true)),
        section("tls-to-plain", &plain.grpc),
        section("down", &down),
    ];
    let mut observer = observer(&clusters, Some(&keys.observer("hub")), directory.path());
    let expected: [Ill<'_>; 3] = [
        ("plain-to-tls", &good.grpc, &["TLS", "plain text", "closed the connection"]),
        ("tls-to-plain", &plain.grpc, &["does not speak TLS", "closed the connection"]),
        ("down", &down, &["refused"]),
    ];
    let (_, answer) = settled(&mut observer, &expected).await;
    assert_eq!(answer.by("cluster").get("us-1"), Some(&MACHINES), "plain text where it is meant: {answer:?}");
    // The server says it, too.
    good.program.log_line("plain text to this TLS port").await;
}

/// `parallax query` in front of `endpoint`.
fn query(endpoint: &str, more: &[String], directory: &Path) -> Program {
    let mut arguments = vec!["query".to_owned(), format!("--endpoint={endpoint}")];
    arguments.extend(["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"].map(str::to_owned));
    arguments.extend_from_slice(more);
    Program::start(&mut command(arguments), directory, "query")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused_and_the_answer_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let good = Observee::start("eu-1", Some(&keys.observee("eu-1")), directory.path()).await;
    let hub = keys.observer("hub");
    let bare = [
        "--grpc-client-tls-secure".to_owned(),
        format!("--grpc-client-tls-ca={}", hub.file("ca.crt")),
        format!("--grpc-client-server-name={}", server_name("eu-1")),
    ];
    let mut program = query(&good.grpc, &bare, directory.path());
    let url = program.ready().await;
    let answer = ask(&url, MACHINES_UP).await;
    assert_eq!((answer.status, answer.by("cluster").len()), (200, 0), "{answer:?}");
    let warnings = answer.warnings().join("\n");
    assert!(warnings.contains(&good.grpc) && warnings.contains("certificate"), "{warnings}");
    // The server says it, too.
    good.program.log_line("certificate").await;
}

/// A listener whose connections the kernel accepts and that never says anything.
fn hanging() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Thanos, measured: 13.8 s to 20 s for the first question, 10.3 s and an error where the client asked for 2 s (contract E5 to E8).
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_costs_a_bounded_time_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::new(directory.path(), "mesh.test");
    let good = Observee::start("eu-1", Some(&keys.observee("eu-1")), directory.path()).await;
    let (_keep, tls) = hanging();
    let (_keep_too, plain) = hanging();
    let clusters = [
        section("eu-1", &good.grpc),
        section("hangs", &tls),
        with(section("hangs-plain", &plain), "plaintext", json!(true)),
    ];
    let hub = keys.observer("hub");
    let mut observer = observer_that_waits("5s", "observer", &clusters, Some(&hub), directory.path());
    let url = observer.http().await;

    // At once, with a deadline of two seconds: what is there comes within it (times five).
    let parameters = [("query", MACHINES_UP), ("timeout", "2s")];
    let first = get(&url, "/api/v1/query", &parameters).await;
    println!("first answer after {:?}", first.took);
    assert!(first.took < Duration::from_secs(10), "{first:?}");
    assert_eq!(first.status, 200, "{first:?}");
    for cluster in ["hangs", "hangs-plain"] {
        assert!(first.warning_about(cluster).is_some(), "{cluster}: {first:?}");
    }

    // Without a deadline of its own: five seconds of silence (times five).
    let known = ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").contains_key("eu-1")).await;
    println!("next answer after {:?}", known.took);
    assert!(known.took < Duration::from_secs(25), "{known:?}");
    let later = ask(&url, MACHINES_UP).await;
    println!("later answer after {:?}", later.took);
    assert!(later.took < Duration::from_secs(25), "{later:?}");
    let causes: &[&str] = &["no answer", "in time", "nothing came", "no connection"];
    let wrong = what_is_wrong(&later, &[("hangs", &tls, causes), ("hangs-plain", &plain, causes)]);
    assert!(wrong.is_empty(), "{wrong:?}: {later:#?}");
}
