//! GCS and Azure from their configuration to their bytes; and what every cloud can do wrong, in the same words.

use std::time::Duration;

use http::StatusCode;
use parallax_bucket::{Bucket, BucketError, Environment};

use crate::cloud_server::{ACCESS_KEY, ACCOUNT, ACCOUNT_KEY, CONTAINER, CloudServer, Fault, SECRET_KEY};
use crate::s3::open_in;
use crate::suite::{self, Traits};

/// A cloud on loopback, and how to open its bucket.
struct Cloud {
    name: &'static str,
    server: CloudServer,
}

impl Cloud {
    async fn all() -> [Self; 3] {
        [
            Self { name: "s3", server: CloudServer::s3(None).await },
            Self { name: "gcs", server: CloudServer::gcs().await },
            Self { name: "azure", server: CloudServer::azure().await },
        ]
    }

    /// `more` goes into `config`, beneath the prefix `prefix`.
    fn open(&self, prefix: &str, more: &str) -> Bucket {
        let address = self.server.address;
        let emulator = address.to_string();
        let environment = match self.name {
            "gcs" => Environment::fixed([("STORAGE_EMULATOR_HOST", &emulator)]),
            _ => Environment::fixed([]),
        };
        let config = match self.name {
            "s3" => format!(
                "type: S3\nconfig: {{bucket: blocks, endpoint: \"{address}\", region: eu-test-1, insecure: true, access_key: {ACCESS_KEY}, \
                 secret_key: {SECRET_KEY}, part_size: 5242880, {more}}}\n"
            ),
            "gcs" => format!("type: GCS\nconfig: {{bucket: blocks, chunk_size_bytes: 5242880, {more}}}\n"),
            _ => format!(
                "type: AZURE\nconfig: {{container: {CONTAINER}, storage_account: {ACCOUNT}, storage_connection_string: \
                 \"BlobEndpoint=http://{address};AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY}\", {more}}}\n"
            ),
        };
        open_in(&format!("{config}prefix: \"{prefix}\"\n"), &environment).unwrap()
    }
}

#[tokio::test]
async fn every_cloud_conforms() {
    for cloud in Cloud::all().await {
        println!("{}", cloud.name);
        suite::conforms(&cloud.open("a/b", ""), Traits { replaces_unchanged: true }).await;
        suite::prefixes_are_isolated(&cloud.open("one", ""), &cloud.open("on", ""), &cloud.open("", ""))
            .await;
    }
}

#[tokio::test]
async fn a_clouds_passing_trouble_is_ridden_out_and_its_lasting_trouble_is_an_error() {
    for cloud in Cloud::all().await {
        let name = cloud.name;
        let bucket = cloud.open("", "max_retries: 3");
        bucket.put("x", "0123456789".into()).await.unwrap();
        for fault in [
            Fault::Status(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
            Fault::HalfBody,
            Fault::Slow(20),
        ] {
            cloud.server.fail([fault]);
            assert_eq!(bucket.get("x", 10).await.unwrap(), "0123456789", "{name} {fault:?}");
        }
        cloud.server.fail([Fault::Status(StatusCode::FORBIDDEN)]);
        let error = bucket.get("x", 10).await.unwrap_err();
        assert!(matches!(error, BucketError::Denied { .. }), "{name}: {error}");
        cloud.server.fail([Fault::Status(StatusCode::NOT_FOUND)]);
        assert!(bucket.get("x", 10).await.unwrap_err().is_not_found(), "{name}");
        cloud.server.fail([Fault::Status(StatusCode::INTERNAL_SERVER_ERROR); 9]);
        let error = bucket.get("x", 10).await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("500"), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_conditional_write_that_the_store_did_and_denied_is_uncertain_and_never_anothers() {
    for cloud in Cloud::all().await {
        let name = cloud.name;
        let bucket = cloud.open("", "max_retries: 3");
        for (i, fault) in [
            Fault::StatusAfter(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::StatusAfter(StatusCode::SERVICE_UNAVAILABLE),
            Fault::BreakAfter,
        ]
        .into_iter()
        .enumerate()
        {
            let lease = format!("lease-{i}");
            cloud.server.seen();
            cloud.server.fail([fault]);
            let error = bucket.put_if_absent(&lease, "ours".into()).await.unwrap_err();
            assert!(error.is_uncertain() && !error.is_condition(), "{name} {fault:?}: {error}");
            assert!(error.to_string().contains("may have been written"), "{error}");
            assert_eq!(cloud.server.seen().len(), 1, "{name} {fault:?}: it was sent once");
            assert_eq!(bucket.get(&lease, 10).await.unwrap(), "ours");

            let (_, revision) = bucket.get_with_revision(&lease, 10).await.unwrap();
            cloud.server.fail([fault]);
            let error = bucket.put_if_unchanged(&lease, "next".into(), &revision).await.unwrap_err();
            assert!(error.is_uncertain(), "{name} {fault:?}: {error}");
            assert_eq!(bucket.get(&lease, 10).await.unwrap(), "next");
            let stale = bucket.put_if_unchanged(&lease, "late".into(), &revision).await.unwrap_err();
            assert!(stale.is_condition(), "{name}: {stale}");
        }
        // What was refused was not written.
        for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST] {
            cloud.server.fail([Fault::Status(status); 9]);
            let error = bucket.put_if_absent("refused", "x".into()).await.unwrap_err();
            assert!(!error.is_uncertain() && !error.is_condition(), "{name} {status}: {error}");
            cloud.server.state.faults.lock().unwrap().clear();
            assert!(!bucket.exists("refused").await.unwrap());
        }
        cloud.server.fail([Fault::Status(StatusCode::NOT_IMPLEMENTED); 9]);
        let error = bucket.put_if_absent("refused", "x".into()).await.unwrap_err();
        assert!(matches!(error, BucketError::Unconditional { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_conditional_write_that_nobody_got_is_no_doubt() {
    let address = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    let yaml = format!(
        "type: S3\nconfig: {{bucket: b, endpoint: \"{address}\", insecure: true, access_key: a, secret_key: b, max_retries: 2}}\n"
    );
    let bucket = open_in(&yaml, &Environment::fixed([])).unwrap();
    let error = bucket.put_if_absent("lease", "x".into()).await.unwrap_err();
    assert!(!error.is_uncertain() && !error.is_condition() && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_place_among_the_connections_is_not_waited_for_without_end() {
    for cloud in Cloud::all().await {
        // Enough for what is answered, on a machine that is busy.
        let limits = "max_retries: 1, http_config: {max_conns_per_host: 1, response_header_timeout: 2s}";
        let bucket = cloud.open("", limits);
        bucket.put("x", "0123456789".into()).await.unwrap();
        cloud.server.fail([Fault::Stalled]);
        let held = tokio::spawn({
            let bucket = bucket.clone();
            async move { bucket.get("x", 10).await }
        });
        while !cloud.server.state.faults.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let waited = tokio::time::timeout(Duration::from_secs(120), bucket.get("x", 10)).await;
        let error = waited.expect("the wait has an end").unwrap_err().to_string();
        assert!(error.contains("max_conns_per_host"), "{}: {error}", cloud.name);
        held.abort();
        // Whoever gave up has given its place back.
        let _ = held.await;
        assert_eq!(bucket.get("x", 10).await.unwrap(), "0123456789", "{}", cloud.name);
    }
}
