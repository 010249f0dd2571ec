//! The command line as somebody who comes from Thanos types it, and the layers beneath it.
//!
//! Every flag of sections 1.0 to 1.3 of the contract stands here by hand: it parses, or it is refused by name with what to use instead.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::program::{Finished, Program, command, finish, run};
use crate::question::get;
use serde_json::Value;

/// Flags of all components, each with a value that is not its default.
const COMMON: &[&str] = &[
    "--http-address=127.0.0.1:1",
    "--http-grace-period=1m",
    "--http.config=web.yaml",
    "--grpc-address=127.0.0.1:2",
    "--grpc-grace-period=1m",
    "--grpc-server-tls-cert=c.pem",
    "--grpc-server-tls-key=k.pem",
    "--grpc-server-tls-client-ca=ca.pem",
    "--grpc-server-tls-min-version=1.2",
    "--grpc-server-tls-ciphers=TLS_AES_128_GCM_SHA256",
    "--grpc-server-tls-curves=X25519",
    "--grpc-server-max-connection-age=30m",
    "--log.format=json",
    "--tracing.config=type: OTLP",
    "--tracing.config-file=tracing.yaml",
    "--request.logging-config=http: {}",
    "--request.logging-config-file=logging.yaml",
    "--enable-auto-gomemlimit",
    "--no-enable-auto-gomemlimit",
    "--auto-gomemlimit.ratio=0.8",
];

const OBJSTORE: &[&str] = &["--objstore.config=type: FILESYSTEM", "--objstore.config-file=bucket.yaml"];

const SELECTOR: &[&str] =
    &["--selector.relabel-config=- action: keep", "--selector.relabel-config-file=relabel.yaml"];

const SERIES_LIMITS: &[&str] = &["--store.limits.request-series=10", "--store.limits.request-samples=1000"];

const SIDECAR: &[&str] = &[
    "--prometheus.url=http://prometheus:9090",
    "--prometheus.ready_timeout=1m",
    "--prometheus.get_config_interval=1m",
    "--prometheus.get_config_timeout=1m",
    "--prometheus.http-client=basic_auth: {}",
    "--prometheus.http-client-file=client.yaml",
    "--tsdb.path=/prometheus",
    "--min-time=-2w",
    "--shipper.upload-compacted",
    "--shipper.meta-file-name=shipped.json",
    "--shipper.upload-concurrency=4",
    "--hash-func=SHA256",
    "--shipper.ignore-unequal-block-size",
    "--shipper.allow-out-of-order-uploads",
    "--shipper.skip-corrupted-blocks",
    "--reloader.config-file=prometheus.yaml",
    "--reloader.config-envsubst-file=out.yaml",
    "--reloader.rule-dir=rules",
    "--reloader.watch-interval=1m",
    "--reloader.retry-interval=1s",
    "--reloader.method=signal",
    "--reloader.process-name=prom",
    "--reloader.tolerate-unset-variables",
];

const STORE: &[&str] = &[
    "--data-dir=/data",
    "--no-cache-index-header",
    "--sync-block-duration=1m",
    "--block-sync-concurrency=4",
    "--block-meta-fetch-concurrency=4",
    "--block-discovery-strategy=recursive",
    "--min-time=-30d",
    "--max-time=2026-07-01T00:00:00Z",
    "--consistency-delay=30m",
    "--ignore-deletion-marks-delay=12h",
    "--chunk-pool-size=1GB",
    "--store.grpc.downloaded-bytes-limit=1GiB",
    "--store.grpc.series-max-concurrency=4",
    "--index-cache-size=100MB",
    "--index-cache.config=type: REDIS",
    "--index-cache.config-file=cache.yaml",
    "--store.caching-bucket.config=type: REDIS",
    "--store.caching-bucket.config-file=cache.yaml",
    "--store.enable-index-header-lazy-reader",
    "--store.index-header-lazy-download-strategy=lazy",
    "--store.enable-lazy-expanded-postings",
    "--store.posting-group-max-key-series-ratio=50",
    "--matcher-cache-size=100",
    "--disable-admin-operations",
    "--web.disable",
    "--objstore-parquet.config=type: S3",
    "--objstore-parquet.config-file=parquet.yaml",
];

const QUERY: &[&str] = &[
    "--endpoint=a:1",
    "--endpoint-group=b:1",
    "--endpoint-strict=c:1",
    "--endpoint-group-strict=d:1",
    "--store=e:1",
    "--store-strict=f:1",
    "--store.sd-files=*.yaml",
    "--store.sd-interval=1m",
    "--store.sd-dns-interval=1m",
    "--store.unhealthy-timeout=1m",
    "--endpoint.info-timeout=1s",
    "--endpoint.sd-config=endpoints: []",
    "--endpoint.sd-config-file=endpoints.yaml",
    "--endpoint.sd-config-reload-interval=1m",
    "--grpc-client-tls-secure",
    "--grpc-client-tls-skip-verify",
    "--grpc-client-tls-cert=c.pem",
    "--grpc-client-tls-key=k.pem",
    "--grpc-client-tls-ca=ca.pem",
    "--grpc-client-server-name=eu-1.example",
    "--grpc-client-tls-min-version=1.2",
    "--grpc-compression=snappy",
    "--query.timeout=1m",
    "--query.max-concurrent=4",
    "--query.max-concurrent-select=2",
    "--query.lookback-delta=1m",
    "--query.dynamic-lookback-delta",
    "--no-query.dynamic-lookback-delta",
    "--query.default-evaluation-interval=30s",
    "--query.default-step=5s",
    "--query.metadata.default-time-range=1d",
    "--query.active-query-path=/tmp",
    "--store.response-timeout=1s",
    "--query.replica-label=replica",
    "--deduplication.func=chain",
    "--no-query.partial-response",
    "--no-rule.partial-response",
    "--no-target.partial-response",
    "--no-metric-metadata.partial-response",
    "--no-exemplar.partial-response",
    "--no-status.partial-response",
    "--query.auto-downsampling",
    "--query.instant.default.max_source_resolution=1h",
    "--query.promql-engine=thanos",
    "--query.enable-x-functions",
    "--enable-feature=promql-experimental-functions",
    "--query.disable-fallback",
    "--query.mode=distributed",
    "--query.partition-label=cluster",
    "--query.distributed-with-overlapping-interval",
    "--selector-label=region=\"eu\"",
    "--query.tenant-header=X-Tenant",
    "--query.default-tenant-id=me",
    "--query.tenant-certificate-field=commonName",
    "--query.enforce-tenancy",
    "--query.tenant-label-name=tenant",
    "--grpc.proxy-strategy=lazy",
    "--web.route-prefix=/thanos",
    "--web.external-prefix=/thanos",
    "--web.prefix-header=X-Prefix",
    "--web.disable-cors",
];

/// Ends the program with an error of its own, once all flags are parsed and judged.
const STOP: &str = "--log.level=no-such-level";

fn check_each(component: &str, groups: &[&[&str]]) {
    let mut refused = Vec::new();
    for flag in groups.concat() {
        let finished = run([component, flag, STOP]);
        assert_eq!(finished.code, Some(2), "{component} {flag}: {finished:?}");
        let (name, _) = flag.split_once('=').unwrap_or((flag, ""));
        let stderr = &finished.stderr;
        if stderr.contains("no-such-level") {
            continue;
        }
        let instead = stderr.split_once(&format!("flag {name} is not supported: "));
        let Some((_, instead)) = instead else {
            panic!("{component} {flag}: neither parsed nor refused: {stderr}")
        };
        assert!(instead.trim().len() > 10, "{component} {flag} says nothing to use instead: {stderr}");
        refused.push(name);
    }
    println!(
        "{component}: {} flags, refused with what to use instead: {}",
        groups.concat().len(),
        refused.join(" ")
    );
}

#[test]
fn every_flag_of_a_thanos_sidecar_parses_or_is_refused_by_name() {
    check_each("sidecar", &[COMMON, OBJSTORE, SERIES_LIMITS, SIDECAR]);
}

#[test]
fn every_flag_of_a_thanos_store_parses_or_is_refused_by_name() {
    check_each("store", &[COMMON, OBJSTORE, SELECTOR, SERIES_LIMITS, STORE]);
}

#[test]
fn every_flag_of_a_thanos_query_parses_or_is_refused_by_name() {
    check_each("query", &[COMMON, SELECTOR, SERIES_LIMITS, QUERY]);
}

#[test]
fn unknown_flags_are_named() {
    for component in ["sidecar", "store", "query"] {
        for flag in ["--no-such-flag", "--no-such-flag=1", "--no-http-address"] {
            let finished = run([component, flag]);
            assert_eq!(finished.code, Some(2), "{component} {flag}: {finished:?}");
            let name = flag.split('=').next().unwrap();
            assert!(finished.stderr.contains(name), "{component} {flag}: {}", finished.stderr);
        }
    }
}

#[test]
fn values_that_a_flag_cannot_have_are_refused_by_name() {
    for (component, flag, complaint) in [
        ("query", "--query.timeout=soon", "\"soon\" is not a duration"),
        ("query", "--query.max-concurrent=many", "\"many\" is not a whole number"),
        ("query", "--query.max-concurrent=-1", "\"-1\" is not a whole number"),
        ("query", "--deduplication.func=best", "use penalty, chain or gap-aware"),
        ("store", "--index-cache-size=large", "unknown unit"),
        ("store", "--min-time=yesterday", "\"yesterday\" is not a time"),
        ("store", "--store.posting-group-max-key-series-ratio=x", "\"x\" is not a number"),
    ] {
        let finished = run([component, flag]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        let name = flag.split('=').next().unwrap();
        assert!(finished.stderr.contains(name) && finished.stderr.contains(complaint), "{}", finished.stderr);
    }
}

#[test]
fn components_of_thanos_that_are_not_here_say_what_to_use_instead() {
    for component in ["rule", "query-frontend", "receive"] {
        for more in [vec![], vec!["--wait", "--objstore.config-file=x", "bucket", "ls"]] {
            let finished = run([vec![component], more].concat());
            assert_eq!(finished.code, Some(2), "{finished:?}");
            let instead = format!("run `thanos {component}`");
            assert!(finished.stderr.contains(&instead), "{component}: {}", finished.stderr);
        }
    }
}

#[test]
fn help_lists_commands_and_the_flags_that_are_used() {
    let finished = run(["--help"]);
    assert_eq!(finished.code, Some(0));
    for word in ["demo", "observee", "observer", "pki", "sidecar", "store", "query"] {
        assert!(finished.stdout.contains(word), "{word}: {}", finished.stdout);
    }
    for (component, flags) in [
        (
            "sidecar",
            ["--prometheus.url", "--tsdb.path", "--objstore.config-file", "--grpc-server-tls-client-ca"],
        ),
        ("store", ["--data-dir", "--sync-block-duration", "--objstore.config", "--log.format"]),
        ("query", ["--endpoint", "--query.replica-label", "--grpc-client-tls-secure", "--settings-file"]),
    ] {
        let help = run([component, "--help"]);
        assert_eq!(help.code, Some(0));
        for flag in flags {
            assert!(help.stdout.contains(flag), "{component} {flag}: {}", help.stdout);
        }
        assert!(
            !help.stdout.contains("--request.logging-config"),
            "{component} shows a flag that it refuses"
        );
    }
    assert_eq!(run::<&str>([]).code, Some(2), "no command is a wrong command line");
}

/// The log lines of a start that ends with a wrong selector label, after a warning about a flag without effect.
fn log_of(more: &[&str]) -> Finished {
    run([&["query", "--web.external-prefix=/x", "--selector-label=wrong"], more].concat())
}

#[test]
fn logs_have_the_asked_level_and_format() {
    let logfmt = log_of(&[]).stderr;
    let line = logfmt.lines().find(|line| line.contains("web.external-prefix")).unwrap();
    assert!(line.starts_with("ts=") && line.contains("level=warn"), "{line}");

    let json = log_of(&["--log.format=json"]).stderr;
    let line = json.lines().find(|line| line.contains("web.external-prefix")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "warn");
    assert_eq!(line["flag"], "web.external-prefix");

    let journald = log_of(&["--log.format=journald"]).stderr;
    assert!(journald.contains("web.external-prefix"), "{journald}");

    let quiet = log_of(&["--log.level=error"]).stderr;
    assert!(!quiet.contains("web.external-prefix"), "{quiet}");
    assert!(quiet.contains("--selector-label=wrong"), "{quiet}");

    for flag in ["--log.level=loud", "--log.format=xml"] {
        let finished = log_of(&[flag]);
        let (name, value) = flag.split_once('=').unwrap();
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(name) && finished.stderr.contains(value), "{}", finished.stderr);
    }
}

/// What a querier says its flags are.
async fn flags_of(command: &mut std::process::Command, directory: &Path, name: &str) -> Value {
    let mut program = Program::start(command, directory, name);
    let url = program.http().await;
    get(&url, "/api/v1/status/flags", &[]).await.data().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_are_written_in_kingpins_styles() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command([
        "query",
        "--http-address",
        "127.0.0.1:0",
        "--grpc-address=127.0.0.1:0",
        "--query.replica-label",
        "r1",
        "--query.replica-label=r2,r3",
        "--no-query.partial-response",
        "--query.timeout=1m",
        "--query.timeout=90s",
        "--web.disable-cors",
        "--endpoint=127.0.0.1:1",
        "--endpoint",
        "127.0.0.1:2",
    ]);
    let flags = flags_of(&mut command, directory.path(), "query").await;
    assert_eq!(flags["query.replica-label"], "r1,r2,r3");
    assert_eq!(flags["query.partial-response"], "false");
    assert_eq!(
        flags["query.timeout"].as_str().unwrap().rsplit(',').next(),
        Some("90s"),
        "the last one counts"
    );
    assert_eq!(flags["web.disable-cors"], "true");
    assert_eq!(flags["endpoint"], "127.0.0.1:1,127.0.0.1:2");
    assert_eq!(flags["query.max-concurrent"], "20", "a default");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_beats_the_environment_which_beats_the_settings_file() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("settings.yaml");
    let text = "query_timeout: 10s\nquery_default_step: 7s\nquery_lookback_delta: 2m\n\
                query_replica_label: [a, b]\nquery_partial_response: false\n";
    std::fs::write(&settings, text).unwrap();
    for by_environment in [false, true] {
        let mut command = command(["query", "--query.lookback-delta=4m", "--grpc-address=127.0.0.1:0"]);
        if by_environment {
            command.env("PARALLAX_SETTINGS_FILE", &settings);
        } else {
            command.arg("--settings-file").arg(&settings);
        }
        command
            .env("PARALLAX_HTTP_ADDRESS", "127.0.0.1:0")
            .env("PARALLAX_QUERY_TIMEOUT", "20s")
            .env("PARALLAX_QUERY_LOOKBACK_DELTA", "3m");
        let flags = flags_of(&mut command, directory.path(), &format!("query-{by_environment}")).await;
        assert_eq!(flags["query.default-step"], "7s", "from the file; by environment: {by_environment}");
        assert_eq!(flags["query.replica-label"], "a,b", "from the file");
        assert_eq!(flags["query.partial-response"], "false", "from the file");
        assert_eq!(flags["query.timeout"], "20s", "from the environment");
        assert_eq!(flags["query.lookback-delta"], "4m", "from the flag");
    }
}

#[test]
fn settings_and_environment_are_judged_like_flags() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("settings.yaml");
    let with = |text: &str| {
        std::fs::write(&settings, text).unwrap();
        finish(command(["query", STOP, "--settings-file"]).arg(&settings))
    };
    for (text, words) in [
        ("query_tiemout: 10s\n", vec!["unknown key", "query_tiemout", "settings.yaml"]),
        ("query_enable_x_functions: true\n", vec!["--query.enable-x-functions", "not supported", "use rate"]),
        ("query_timeout: soon\n", vec!["--query.timeout", "soon"]),
        ("query_timeout: [\n", vec!["settings"]),
    ] {
        let finished = with(text);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "{text:?} without {word:?}: {}", finished.stderr);
        }
    }
    let missing = run(["query", STOP, "--settings-file=/no/such/settings.yaml"]);
    assert!(missing.stderr.contains("/no/such/settings.yaml"), "{}", missing.stderr);
    let refused = finish(command(["query", STOP]).env("PARALLAX_QUERY_ENABLE_X_FUNCTIONS", "true"));
    assert!(refused.stderr.contains("--query.enable-x-functions is not supported"), "{}", refused.stderr);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

/// All files and directories below and including `path`.
fn tree(path: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![path.to_path_buf()];
    if path.is_dir() {
        all.extend(std::fs::read_dir(path).unwrap().flat_map(|entry| tree(&entry.unwrap().path())));
    }
    all
}

#[test]
fn an_authority_is_made_once_and_issues_leaves_that_only_their_owner_reads() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("authority");
    let state_flag = format!("--state=file:{}", state.display());
    let init = run(["pki", "init", &state_flag, "--trust-domain=mesh.test", "--no-encrypt"]);
    assert_eq!(init.code, Some(0), "{init:?}");
    assert!(init.stderr.contains("not encrypted"), "{}", init.stderr);
    let before: Vec<_> = tree(&state);
    let again = run(["pki", "init", &state_flag, "--trust-domain=mesh.test", "--no-encrypt"]);
    assert_ne!(again.code, Some(0), "an authority must not be overwritten");
    assert!(again.stderr.contains(&*state.display().to_string()), "{}", again.stderr);
    assert_eq!(tree(&state), before);

    let mut bundles = Vec::new();
    for (role, name, identity) in [
        ("--observee", "eu-1", "spiffe://mesh.test/observee/eu-1"),
        ("--observer", "hub", "spiffe://mesh.test/observer/hub"),
        ("--ingress", "eu-1", "spiffe://mesh.test/ingress/eu-1"),
    ] {
        let out = directory.path().join(format!("leaf{role}"));
        let out_flag = format!("--out={}", out.display());
        let dns = if role == "--observee" {
            vec!["--dns=eu-1.mesh.test", "--dns=b.test", "--ip=127.0.0.1"]
        } else {
            vec![]
        };
        let issue = run([vec!["pki", "issue", &state_flag, role, name, &out_flag], dns].concat());
        assert_eq!(issue.code, Some(0), "{issue:?}");
        assert!(issue.stdout.contains(identity), "{}", issue.stdout);
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            assert_eq!(mode(&out.join(file)), 0o600, "{role} {file}");
        }
        assert_eq!(mode(&out), 0o700, "{role}");
        assert!(std::fs::read_to_string(out.join("tls.key")).unwrap().contains("PRIVATE KEY"));
        bundles.push(std::fs::read_to_string(out.join("ca.crt")).unwrap());
    }
    assert_ne!(bundles[0], bundles[1], "each direction has its own authority");
    assert_eq!(bundles[1], bundles[2], "observers and ingresses verify observees");
    for path in tree(&state) {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
    }
}

#[test]
fn wrong_pki_commands_name_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let state = format!("--state=file:{}", directory.path().join("authority").display());
    let out = format!("--out={}", directory.path().join("leaf").display());
    let missing = run(["pki", "issue", &state, "--observer=hub", &out]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("authority"), "{}", missing.stderr);
    assert_eq!(run(["pki", "init", &state, "--trust-domain=mesh.test", "--no-encrypt"]).code, Some(0));
    for (arguments, word) in [
        (vec!["pki", "init", "--state=/somewhere", "--trust-domain=mesh.test"], "file:DIR"),
        (vec!["pki", "init", "--state=file:/nowhere", "--trust-domain=mesh.test"], "--passphrase-file"),
        (vec!["pki", "init", &state, "--trust-domain=NOT A DOMAIN"], "NOT A DOMAIN"),
        (vec!["pki", "issue", &state, &out], "--observee"),
        (vec!["pki", "issue", &state, &out, "--observer=hub", "--observee=eu-1"], "cannot be used with"),
        (vec!["pki", "issue", &state, &out, "--observer=a/b"], "a/b"),
        (vec!["pki", "issue", &state, &out, "--observee=eu-1", "--ip=nowhere"], "--ip=nowhere"),
        (vec!["pki", "issue", &state, &out, "--observer=hub", "--days=0"], "--days"),
    ] {
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
    }
    assert!(!directory.path().join("leaf").exists(), "nothing was issued");
}
