//! What is accepted, what is refused and with which words, and that secrets stay secret.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_text_is_a_bucket_or_a_clear_error(
        text in r#"(type|config|prefix|[a-z:\-{}\[\]&*"' \n]|: |\n  ){0,40}"#,
    ) {
        if let Err(error) = BucketConfig::from_yaml(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

fn message(text: &str) -> String {
    BucketConfig::from_yaml(text).unwrap_err().to_string()
}

/// The message about `type: <kind>` with these lines in `config`.
fn message_of(kind: &str, config: &str) -> String {
    message(&format!("type: {kind}\nconfig: {{{config}}}\n"))
}

fn s3(config: &str) -> S3Config {
    let text = format!("type: S3\nconfig: {{bucket: b, endpoint: e, {config}}}\n");
    match BucketConfig::from_yaml(&text).unwrap().provider {
        Provider::S3(config) => *config,
        other => panic!("{other:?}"),
    }
}

fn azure(config: &str) -> AzureConfig {
    let text = format!("type: AZURE\nconfig: {{container: c, storage_account: acc, {config}}}\n");
    match BucketConfig::from_yaml(&text).unwrap().provider {
        Provider::Azure(config) => *config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_filesystem_bucket_in_any_case() {
    for kind in ["FILESYSTEM", "filesystem", "FileSystem"] {
        let text = format!("type: {kind}\nconfig:\n  directory: \"/data/bucket\"\nprefix: a/b\n");
        let config = BucketConfig::from_yaml(&text).unwrap();
        assert_eq!(config.provider, Provider::Filesystem { directory: "/data/bucket".into() });
        assert_eq!(config.prefix, "a/b");
    }
    let bare = BucketConfig::from_yaml("type: FILESYSTEM\nconfig: {directory: d}\n").unwrap();
    assert_eq!(bare.prefix, "");
}

/// Every key that Thanos documents, with its documented value.
const FULL_S3: &str = r#"type: s3
config:
  bucket: "blocks"
  endpoint: "s3.eu-west-1.amazonaws.com"
  region: "eu-west-1"
  disable_dualstack: false
  aws_sdk_auth: false
  access_key: "AKIAEXAMPLE"
  insecure: false
  signature_version2: false
  secret_key: "hunter2-secret"
  session_token: "hunter2-token"
  put_user_metadata: {X-Amz-Storage-Class: STANDARD_IA}
  http_config:
    idle_conn_timeout: 1m30s
    response_header_timeout: 2m
    insecure_skip_verify: false
    tls_handshake_timeout: 10s
    expect_continue_timeout: 1s
    max_idle_conns: 100
    max_idle_conns_per_host: 100
    max_conns_per_host: 0
    tls_config:
      ca_file: ""
      cert_file: ""
      key_file: ""
      server_name: ""
      insecure_skip_verify: false
    disable_compression: false
  trace:
    enable: false
  list_objects_version: ""
  bucket_lookup_type: auto
  send_content_md5: true
  disable_multipart: false
  part_size: 67108864
  sse_config:
    type: ""
    kms_key_id: ""
    kms_encryption_context: {}
    encryption_key: ""
  sts_endpoint: ""
  max_retries: 0
prefix: "team-a"
"#;

#[test]
fn every_documented_key_of_s3_is_accepted() {
    let config = BucketConfig::from_yaml(FULL_S3).unwrap();
    let Provider::S3(s3) = &config.provider else { panic!("{config:?}") };
    assert_eq!(
        (s3.bucket.as_str(), s3.region.as_str(), config.prefix.as_str()),
        ("blocks", "eu-west-1", "team-a")
    );
    let keys = s3.keys.as_ref().unwrap();
    assert_eq!((keys.access_key.as_str(), keys.secret_key.expose()), ("AKIAEXAMPLE", "hunter2-secret"));
    assert_eq!(s3.http, HttpConfig::default());
    assert_eq!((s3.part_size_bytes, s3.lookup), (64 << 20, BucketLookup::Auto));
}

#[test]
fn secrets_are_in_no_dump_and_no_message() {
    let mut dumps = vec![format!("{:?}", BucketConfig::from_yaml(FULL_S3).unwrap())];
    let gcs = "type: GCS\nconfig:\n  bucket: b\n  service_account: '{\"private_key\": \"hunter2\"}'\n";
    dumps.push(format!("{:?}", BucketConfig::from_yaml(gcs).unwrap()));
    dumps.push(format!("{:?}", azure("storage_account_key: hunter2")));
    dumps.push(format!("{:?}", azure("az_tenant_id: t, client_id: c, client_secret: hunter2")));
    dumps.push(format!("{:?}", azure("storage_connection_string: 'AccountName=a;AccountKey=hunter2'")));
    dumps.push(message_of("AZURE", "container: c, storage_account: a, storage_connection_string: hunter2"));
    dumps.push(message(&FULL_S3.replace("insecure: false", "insecure: perhaps")));
    dumps.push(message(&FULL_S3.replace("secret_key:", "secretkey:")));
    dumps.push(message(
        &FULL_S3.replace("endpoint: \"s3.eu-west-1.amazonaws.com\"", "endpoint: \"https://e\""),
    ));
    for dump in dumps {
        assert!(!dump.contains("hunter2"), "{dump}");
    }
}

#[test]
fn every_documented_key_of_gcs_and_azure_is_accepted() {
    let gcs = "type: GCS\nconfig:\n  bucket: b\n  service_account: ''\n  use_grpc: false\n  grpc_conn_pool_size: 0\n  \
               http_config: {idle_conn_timeout: 1m30s}\n  chunk_size_bytes: 0\n  max_retries: 3\n";
    let Provider::Gcs(gcs) = BucketConfig::from_yaml(gcs).unwrap().provider else { panic!() };
    assert_eq!((gcs.bucket.as_str(), gcs.max_attempts, gcs.part_size_bytes), ("b", 3, 16 << 20));
    let azure = azure(
        "az_tenant_id: '', client_id: '', client_secret: '', storage_account_key: k, storage_connection_string: '', \
         storage_create_container: true, endpoint: blob.core.chinacloudapi.cn, user_assigned_id: '', max_retries: 0, \
         reader_config: {max_retry_requests: 0}, pipeline_config: {max_tries: 7, try_timeout: 5s, retry_delay: 1s, \
         max_retry_delay: 2s}, http_config: {}, msi_resource: ''",
    );
    assert_eq!(azure.url, "https://acc.blob.core.chinacloudapi.cn");
    assert_eq!((azure.max_attempts, azure.http.response_timeout.as_secs()), (8, 5));
    assert_eq!(azure.credential, AzureCredential::AccountKey(Secret::new("k")));
}

#[test]
fn azure_signs_in_as_configured() {
    assert_eq!(azure("").credential, AzureCredential::Environment);
    assert_eq!(azure("user_assigned_id: i").credential, AzureCredential::UserAssigned("i".to_owned()));
    let text = "storage_connection_string: 'DefaultEndpointsProtocol=https;AccountName=x;AccountKey=a2V5==;\
                EndpointSuffix=core.windows.net'";
    let from_text = azure(text);
    assert_eq!(
        (from_text.account.as_str(), from_text.url.as_str()),
        ("x", "https://x.blob.core.windows.net")
    );
    assert_eq!(from_text.credential, AzureCredential::AccountKey(Secret::new("a2V5==")));
    let sas = azure(
        "storage_connection_string: 'BlobEndpoint=https://y.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=2'",
    );
    assert_eq!(
        (sas.account.as_str(), sas.credential),
        ("y", AzureCredential::SharedAccess(Secret::new("sv=1&sig=2")))
    );
    for (config, words) in [
        ("client_id: x", "belong together"),
        ("user_assigned_id: x, storage_account_key: y", "user_assigned_id and storage_account_key"),
        (
            "user_assigned_id: x, storage_connection_string: y",
            "user_assigned_id and storage_connection_string",
        ),
        ("storage_account_key: x, storage_connection_string: y", "exclude each other"),
    ] {
        let text = message_of("AZURE", &format!("container: c, storage_account: a, {config}"));
        assert!(text.contains(words), "{config}: {text}");
    }
}

#[test]
fn what_s3_cannot_do_is_refused_with_what_to_do() {
    for (config, words) in [
        ("signature_version2: true", "version 4"),
        ("list_objects_version: v1", "ListObjectsV2"),
        ("list_objects_version: v3", "v3"),
        ("disable_multipart: true", "part_size"),
        ("sse_config: {type: SSE-X}", "SSE-X"),
        ("sse_config: {type: SSE-KMS}", "kms_key_id"),
        ("sse_config: {type: SSE-C}", "encryption_key"),
        ("sse_config: {type: SSE-C, encryption_key: f}, insecure: true", "insecure must be false"),
        (
            "sse_config: {type: SSE-KMS, kms_key_id: k, kms_encryption_context: {a: b}}",
            "kms_encryption_context",
        ),
        ("bucket_lookup_type: dns", "dns"),
        ("part_size: 1", "part_size 1"),
        ("access_key: a", "without secret_key"),
        ("secret_key: a", "without access_key"),
        ("access_key: a, secret_key: b, aws_sdk_auth: true", "exclude each other"),
        ("http_config: {tls_config: {cert_file: c}}", "key_file"),
        ("http_config: {idle_conn_timeout: soon}", "soon"),
    ] {
        let text = message_of("S3", &format!("bucket: b, endpoint: e, {config}"));
        assert!(text.contains(words), "{config}: {text}");
    }
    for (config, words) in [
        ("endpoint: e", "config.bucket"),
        ("bucket: b", "config.endpoint"),
        ("bucket: a/b, endpoint: e", "a/b"),
        ("bucket: b, endpoint: \"https://minio:9000/\"", "endpoint: minio:9000"),
        ("bucket: b, endpoint: \"http://minio:9000\"", "insecure: true"),
        ("bucket: b, endpoint: e/path", "host or host:port"),
    ] {
        let text = message_of("S3", config);
        assert!(text.contains(words), "{config}: {text}");
    }
    assert!(message_of("GCS", "").contains("config.bucket"));
    assert!(message_of("GCS", "bucket: b, use_grpc: true").contains("use_grpc"));
    assert!(message_of("AZURE", "storage_account: a").contains("config.container"));
}

#[test]
fn encryption_and_timeouts_are_read() {
    assert_eq!(s3("sse_config: {type: SSE-S3}").encryption, Encryption::S3);
    let kms = s3("sse_config: {type: SSE-KMS, kms_key_id: k}").encryption;
    assert_eq!(kms, Encryption::Kms { key_id: "k".to_owned() });
    let http =
        s3("http_config: {response_header_timeout: 5s, max_conns_per_host: 3, insecure_skip_verify: true}")
            .http;
    assert_eq!(
        (http.response_timeout.as_secs(), http.max_connections, http.tls.insecure_skip_verify),
        (5, Some(3), true)
    );
    assert!(s3("http_config: {tls_config: {insecure_skip_verify: true}}").http.tls.insecure_skip_verify);
    assert_eq!(s3("max_retries: 2").max_attempts, 2);
}

#[test]
fn hedging_is_off_unless_asked_for() {
    let hedging = |text: &str| {
        let text = format!("type: FILESYSTEM\nconfig: {{directory: d}}\nhedging_config: {{{text}}}\n");
        BucketConfig::from_yaml(&text).map(|config| config.hedging).map_err(|error| error.to_string())
    };
    assert_eq!(hedging("").unwrap(), None);
    let on = HedgingConfig { up_to: 3, quantile_permille: 900 };
    assert_eq!(hedging("enabled: true").unwrap(), Some(on));
    assert_eq!(hedging("enabled: true, up_to: 1").unwrap(), None);
    assert!(hedging("enabled: true, quantile: 2").unwrap_err().contains("quantile"));
    assert!(hedging("enabled: true, up_to: 99").unwrap_err().contains("up_to"));
    assert!(hedging("upto: 3").unwrap_err().contains("upto"));
}

#[test]
fn other_clouds_are_refused_by_name() {
    for kind in ["SWIFT", "COS", "ALIYUNOSS", "BOS", "OCI", "OBS"] {
        let error = BucketConfig::from_yaml(&format!("type: {kind}\nconfig: {{}}\n")).unwrap_err();
        assert!(matches!(error, BucketError::Unsupported { provider } if provider == kind));
    }
}

#[test]
fn unknown_keys_are_named_with_their_line_and_successor() {
    let old = message("type: S3\nconfig:\n  bucket: b\n  encryptsse: true\n");
    assert!(old.contains("encryptsse") && old.contains("line 4") && old.contains("sse_config"), "{old}");
    let top = message("type: FILESYSTEM\nconfg:\n  directory: d\n");
    assert!(top.contains("\"confg\"") && top.contains("line 2"), "{top}");
    let inner = message("type: FILESYSTEM\nconfig:\n  directory: d\n  bucket: x\n");
    assert!(inner.contains("\"bucket\"") && inner.contains("line 4"), "{inner}");
    let deep = message("type: S3\nconfig:\n  bucket: b\n  http_config:\n    tls_config:\n      ca: x\n");
    assert!(deep.contains("\"ca\"") && deep.contains("line 6"), "{deep}");
}

#[test]
fn mistakes_say_what_is_wrong() {
    assert!(message("config: {}\n").contains("type"));
    assert!(message("type: FTP\n").contains("FTP"));
    assert!(message("type: FILESYSTEM\n").contains("directory"));
    assert!(message("type: FILESYSTEM\nconfig: {directory: d}\nprefix: ../up\n").contains("../up"));
    assert!(message("type: [").contains("objstore configuration"));
    assert!(message("").contains("objstore configuration"));
    assert!(message("- type: FILESYSTEM").contains("objstore configuration"));
}
