//! Where credentials come from: configuration, environment, shared files, web identity tokens; and that none of them is shown.

use std::sync::Arc;

use parallax_bucket::{Access, Bucket, BucketConfig, Environment};

use crate::cloud_server::{
    ACCESS_KEY, CloudServer, SECRET_KEY, STS_SECRET_KEY, STS_SESSION_TOKEN, WEB_IDENTITY_TOKEN,
};
use crate::s3::{Tls, open_in};

async fn works(bucket: &Bucket) {
    bucket.put("x", "y".into()).await.unwrap();
    assert_eq!(bucket.get("x", 10).await.unwrap(), "y");
}

#[tokio::test]
async fn keys_come_from_the_environment() {
    let server = CloudServer::s3(None).await;
    let yaml = server.yaml_without_keys("", "insecure: true");
    let environment =
        Environment::fixed([("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]);
    works(&open_in(&yaml, &environment).unwrap()).await;
}

#[tokio::test]
async fn keys_come_from_a_shared_file() {
    let server = CloudServer::s3(None).await;
    let yaml = server.yaml_without_keys("", "insecure: true");
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let keys = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(home.path().join(".aws/credentials"), &keys).unwrap();
    let home_path = home.path().display().to_string();
    works(&open_in(&yaml, &Environment::fixed([("HOME", &home_path)])).unwrap()).await;

    // The tools' configuration file counts only where the SDK's order is asked for.
    std::fs::rename(home.path().join(".aws/credentials"), home.path().join(".aws/config")).unwrap();
    let sdk = server.yaml_without_keys("", "insecure: true, aws_sdk_auth: true");
    works(&open_in(&sdk, &Environment::fixed([("HOME", &home_path)])).unwrap()).await;
    let environment = Environment::fixed([("HOME", &home_path), ("AWS_PROFILE", "absent")]);
    assert!(open_in(&sdk, &environment).unwrap_err().to_string().contains("absent"));
    std::fs::write(home.path().join(".aws/config"), "[default]\nsso_session = corp\n").unwrap();
    let error = open_in(&sdk, &Environment::fixed([("HOME", &home_path)])).unwrap_err().to_string();
    assert!(error.contains("sso_session") && error.contains("not supported"), "{error}");
}

#[tokio::test]
async fn a_web_identity_token_is_exchanged_for_keys() {
    let tls = Tls::new(false);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let token = tls.directory.path().join("token");
    std::fs::write(&token, WEB_IDENTITY_TOKEN).unwrap();
    let more = format!(
        "sts_endpoint: \"https://{}\", http_config: {{tls_config: {{ca_file: \"{}\"}}}}",
        server.address,
        tls.file("ca.pem")
    );
    let yaml = server.yaml_without_keys("", &more);
    let token_file = token.display().to_string();
    let environment = Environment::fixed([
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token_file),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
    ]);
    let bucket = open_in(&yaml, &environment).unwrap();
    works(&bucket).await;
    let session =
        server.seen().into_iter().filter(|seen| seen.headers.contains_key("x-amz-security-token")).count();
    assert_eq!(session, 2);
    let shown = format!("{bucket:?}");
    for secret in [STS_SECRET_KEY, STS_SESSION_TOKEN, WEB_IDENTITY_TOKEN] {
        assert!(!shown.contains(secret), "{shown}");
    }

    std::fs::write(&token, "somebody-else").unwrap();
    let error = open_in(&yaml, &environment).unwrap().get("x", 10).await.unwrap_err().to_string();
    assert!(!error.contains("somebody-else"), "{error}");
}

#[tokio::test]
async fn what_is_trusted_for_the_bucket_is_not_trusted_for_who_gives_credentials() {
    let tls = Tls::new(false);
    let bucket_server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let token_server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let token = tls.directory.path().join("token");
    std::fs::write(&token, WEB_IDENTITY_TOKEN).unwrap();
    let token_file = token.display().to_string();
    let environment = Environment::fixed([
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token_file),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
    ]);
    for trust in [
        format!("tls_config: {{ca_file: \"{}\"}}", tls.file("ca.pem")),
        format!("tls_config: {{ca_file: \"{}\", server_name: s3.test}}", tls.file("ca.pem")),
        "insecure_skip_verify: true".to_owned(),
    ] {
        let more = format!(
            "max_retries: 1, sts_endpoint: \"https://{}\", http_config: {{{trust}}}",
            token_server.address
        );
        let bucket = open_in(&bucket_server.yaml_without_keys("", &more), &environment).unwrap();
        let error = bucket.get("x", 10).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{trust}: {error}");
        assert!(token_server.seen().is_empty(), "{trust}: no token was shown");
        // The same trust is enough for the bucket itself.
        let more = format!("max_retries: 1, http_config: {{{trust}}}");
        let bucket = open_in(&bucket_server.yaml("", &more), &Environment::fixed([])).unwrap();
        assert!(bucket.get("x", 10).await.unwrap_err().is_not_found(), "{trust}");
    }
}

#[test]
fn an_open_bucket_does_not_show_its_secrets() {
    let key = "aHVudGVyMg==";
    for yaml in [
        "type: S3\nconfig: {bucket: b, endpoint: e, access_key: a, secret_key: hunter2, session_token: hunter2}\n".to_owned(),
        format!("type: AZURE\nconfig: {{container: c, storage_account: a, storage_account_key: \"{key}\"}}\n"),
        "type: AZURE\nconfig: {container: c, storage_account: a, az_tenant_id: t, client_id: i, client_secret: hunter2}\n"
            .to_owned(),
    ] {
        let config = BucketConfig::from_yaml(&yaml).unwrap();
        let bucket = Bucket::open_in(&config, Access::Read, &Environment::fixed([])).unwrap();
        let shown = format!("{config:?} {bucket:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(key), "{shown}");
    }
}

#[test]
fn credentials_that_cannot_be_used_are_refused_without_showing_them() {
    for (yaml, word) in [
        (
            "type: GCS\nconfig: {bucket: b, service_account: '{\"private_key\": \"hunter2'}\n",
            "service_account",
        ),
        (
            "type: AZURE\nconfig: {container: c, storage_account: a, storage_account_key: 'hunter2 not base64!'}\n",
            "key",
        ),
    ] {
        let config = BucketConfig::from_yaml(yaml).unwrap();
        let error = Bucket::open_in(&config, Access::Read, &Environment::fixed([])).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("hunter2"), "{error}");
    }
}
