//! S3 and what speaks it: the URL of a bucket, its region, and where credentials come from.
//!
//! Credentials, as Thanos looks for them: the configuration; the environment; the shared files of the AWS tools; then a web identity token
//! (IRSA), a container's endpoint (ECS, EKS pod identity), the machine's role. With `aws_sdk_auth` the web identity goes before the files.

use std::sync::Arc;

use base64::Engine as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{Attribute, AttributeValue, Attributes, ClientOptions};

use super::s3_profile::ProfileCredentials;
use super::{Environment, Opened, connector, refused, retry};
use crate::BucketError;
use crate::config::{BucketLookup, Encryption, S3Config};

const DEFAULT_REGION: &str = "us-east-1";

pub(crate) fn open(config: &S3Config, environment: &Environment) -> Result<Opened, BucketError> {
    let (region, endpoint) = place(config, environment);
    let scheme = if config.insecure { "http" } else { "https" };
    let in_host = lookup_in_host(config, &endpoint);
    let url = if in_host {
        format!("{scheme}://{}.{endpoint}", config.bucket)
    } else {
        format!("{scheme}://{endpoint}")
    };
    let builder = AmazonS3Builder::new()
        .with_http_connector(connector(&config.http, &url, environment)?)
        .with_client_options(ClientOptions::new().with_allow_http(config.insecure))
        .with_retry(retry(config.max_attempts, None, None))
        .with_bucket_name(&config.bucket)
        .with_region(&region)
        .with_endpoint(url)
        .with_virtual_hosted_style_request(in_host)
        // One object at a time is what is deleted here, and not every store knows the other call.
        .with_disable_bulk_delete(true);
    let builder = credentials(encryption(builder, &config.encryption)?, config, environment)?;
    let store = builder.build().map_err(refused)?;
    Ok(Opened {
        store: Arc::new(store),
        name: config.bucket.clone(),
        attributes: attributes(config)?,
        part_size_bytes: config.part_size_bytes,
    })
}

/// Region and endpoint. The region of an Amazon endpoint is in its name; Amazon's global endpoint becomes the region's own.
fn place(config: &S3Config, environment: &Environment) -> (String, String) {
    let of_endpoint = amazon_region(&config.endpoint);
    let region = Some(config.region.clone())
        .filter(|region| !region.is_empty())
        .or_else(|| of_endpoint.clone().filter(|region| !region.is_empty()))
        .or_else(|| environment.get("AWS_REGION"))
        .or_else(|| environment.get("AWS_DEFAULT_REGION"))
        .unwrap_or_else(|| DEFAULT_REGION.to_owned());
    let is_global = of_endpoint.is_some_and(|region| region.is_empty());
    let endpoint = if is_global && region != DEFAULT_REGION {
        format!("s3.{region}.amazonaws.com")
    } else {
        config.endpoint.clone()
    };
    (region, endpoint)
}

/// The region in the name of an Amazon endpoint: empty for the global one, `None` if it is no Amazon endpoint.
fn amazon_region(endpoint: &str) -> Option<String> {
    let host = endpoint.split(':').next()?.to_ascii_lowercase();
    let rest = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    if rest == "s3" {
        return Some(String::new());
    }
    let rest = rest.strip_prefix("s3.").or_else(|| rest.strip_prefix("s3-"));
    let rest = match rest {
        Some(rest) => rest,
        // A VPC endpoint: bucket.vpce-….s3.<region>.vpce.amazonaws.com
        None => host.split(".s3.").nth(1)?.split('.').next()?,
    };
    let region = ["dualstack.", "fips.dualstack.", "fips.", "accelerate"]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
        .unwrap_or(rest);
    Some(region.trim_start_matches(['.', '-']).to_owned())
}

fn lookup_in_host(config: &S3Config, endpoint: &str) -> bool {
    match config.lookup {
        BucketLookup::Path => false,
        BucketLookup::VirtualHosted => true,
        BucketLookup::Auto => {
            let host = endpoint.split(':').next().unwrap_or_default();
            let wants = amazon_region(endpoint).is_some_and(|_| !host.contains(".vpce."))
                || host == "storage.googleapis.com"
                || (host.contains("oss-") && host.ends_with(".aliyuncs.com"));
            // No wildcard certificate covers a name with a dot in it.
            wants && (config.insecure || !config.bucket.contains('.'))
        }
    }
}

fn encryption(builder: AmazonS3Builder, encryption: &Encryption) -> Result<AmazonS3Builder, BucketError> {
    Ok(match encryption {
        Encryption::None => builder,
        Encryption::S3 => {
            // The only way to its key: the type beneath it is not exported.
            let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>().map_err(refused)?;
            builder.with_config(key, "AES256")
        }
        Encryption::Kms { key_id } => builder.with_sse_kms_encryption(key_id),
        Encryption::Customer { key_file } => {
            let wrong = |reason: String| BucketError::Config {
                line: None,
                reason: format!("sse_config.encryption_key {key_file:?}: {reason}"),
            };
            let key = std::fs::read(key_file).map_err(|error| wrong(error.to_string()))?;
            if key.len() != CUSTOMER_KEY_BYTES {
                let reason = format!("an SSE-C key has {CUSTOMER_KEY_BYTES} bytes, this file {}", key.len());
                return Err(wrong(reason));
            }
            builder.with_ssec_encryption(base64::engine::general_purpose::STANDARD.encode(key))
        }
    })
}

const CUSTOMER_KEY_BYTES: usize = 32;

fn credentials(
    builder: AmazonS3Builder,
    config: &S3Config,
    environment: &Environment,
) -> Result<AmazonS3Builder, BucketError> {
    if let Some(keys) = &config.keys {
        let builder =
            builder.with_access_key_id(&keys.access_key).with_secret_access_key(keys.secret_key.expose());
        return Ok(match keys.session_token.is_empty() {
            true => builder,
            false => builder.with_token(keys.session_token.expose()),
        });
    }
    let key = environment.get("AWS_ACCESS_KEY_ID").or_else(|| environment.get("AWS_ACCESS_KEY"));
    let secret = environment.get("AWS_SECRET_ACCESS_KEY").or_else(|| environment.get("AWS_SECRET_KEY"));
    if let (Some(key), Some(secret)) = (key, secret) {
        let builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        return Ok(match environment.get("AWS_SESSION_TOKEN") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let identity = web_identity(environment);
    if !(config.aws_sdk_auth && identity.is_some())
        && let Some(profile) = ProfileCredentials::find(environment, config.aws_sdk_auth)?
    {
        return Ok(builder.with_credentials(Arc::new(profile)));
    }
    Ok(machine(builder, config, environment, identity))
}

/// A role and the file of the token that proves it.
fn web_identity(environment: &Environment) -> Option<(String, String)> {
    environment.get("AWS_WEB_IDENTITY_TOKEN_FILE").zip(environment.get("AWS_ROLE_ARN"))
}

/// What the machine or the cluster gives: a web identity, a container's endpoint, else the metadata service.
fn machine(
    mut builder: AmazonS3Builder,
    config: &S3Config,
    environment: &Environment,
    identity: Option<(String, String)>,
) -> AmazonS3Builder {
    if let Some((file, role)) = identity {
        builder = builder
            .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, file)
            .with_config(AmazonS3ConfigKey::RoleArn, role);
        if let Some(name) = environment.get("AWS_ROLE_SESSION_NAME") {
            builder = builder.with_config(AmazonS3ConfigKey::RoleSessionName, name);
        }
        if !config.sts_endpoint.is_empty() {
            let url = match config.sts_endpoint.contains("://") {
                true => config.sts_endpoint.clone(),
                false => format!("https://{}", config.sts_endpoint),
            };
            builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, url.trim_end_matches('/'));
        }
        return builder;
    }
    for (variable, key) in [
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
    ] {
        if let Some(value) = environment.get(variable) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// `put_user_metadata`: headers that S3 knows by name, the storage class, and metadata of the user's own.
fn attributes(config: &S3Config) -> Result<Attributes, BucketError> {
    let mut attributes = Attributes::new();
    for (name, value) in &config.put_user_metadata {
        let lower = name.to_ascii_lowercase();
        let attribute = match lower.as_str() {
            "x-amz-storage-class" => Attribute::StorageClass,
            "cache-control" => Attribute::CacheControl,
            "content-disposition" => Attribute::ContentDisposition,
            "content-encoding" => Attribute::ContentEncoding,
            "content-language" => Attribute::ContentLanguage,
            "content-type" => Attribute::ContentType,
            _ => {
                let own = lower.strip_prefix("x-amz-meta-").unwrap_or(&lower).to_owned();
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if own.starts_with("x-amz-") || own.is_empty() || !own.chars().all(fits) {
                    let reason = format!(
                        "put_user_metadata key {name:?} is not supported: X-Amz-Storage-Class, the Content-* headers and names \
                         of your own are"
                    );
                    return Err(BucketError::Config { line: None, reason });
                }
                Attribute::Metadata(own.into())
            }
        };
        if !value.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            let reason = format!("put_user_metadata {name:?}: its value cannot be a header");
            return Err(BucketError::Config { line: None, reason });
        }
        attributes.insert(attribute, AttributeValue::from(value.clone()));
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazon_endpoints_carry_their_region() {
        for (endpoint, region) in [
            ("s3.amazonaws.com", Some("")),
            ("s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("s3-eu-west-1.amazonaws.com:443", Some("eu-west-1")),
            ("s3.dualstack.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("s3.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("bucket.vpce-0a1b.s3.us-east-2.vpce.amazonaws.com", Some("us-east-2")),
            ("minio.example:9000", None),
        ] {
            assert_eq!(amazon_region(endpoint).as_deref(), region, "{endpoint}");
        }
    }

    fn config(text: &str) -> S3Config {
        let yaml = format!("type: S3\nconfig: {{bucket: b, {text}}}");
        let crate::Provider::S3(config) = crate::BucketConfig::from_yaml(&yaml).unwrap().provider else {
            panic!("no S3 configuration");
        };
        *config
    }

    #[test]
    fn the_bucket_stands_in_the_host_where_the_store_wants_it() {
        for (text, in_host) in [
            ("endpoint: s3.amazonaws.com", true),
            ("endpoint: s3.amazonaws.com, bucket_lookup_type: path", false),
            ("endpoint: minio:9000", false),
            ("endpoint: minio:9000, bucket_lookup_type: virtual-hosted", true),
            ("endpoint: storage.googleapis.com", true),
        ] {
            let config = config(text);
            assert_eq!(lookup_in_host(&config, &config.endpoint), in_host, "{text}");
        }
        let dotted = S3Config { bucket: "a.b".to_owned(), ..config("endpoint: s3.amazonaws.com") };
        assert!(!lookup_in_host(&dotted, &dotted.endpoint));
    }

    #[test]
    fn a_region_comes_from_the_configuration_then_the_endpoint_then_the_environment() {
        let none = Environment::fixed([]);
        let some = Environment::fixed([("AWS_REGION", "sa-east-1")]);
        let place = |text: &str, environment: &Environment| place(&config(text), environment);
        let global = "s3.amazonaws.com".to_owned();
        assert_eq!(place("endpoint: s3.amazonaws.com", &none), ("us-east-1".to_owned(), global));
        assert_eq!(
            place("endpoint: s3.amazonaws.com, region: eu-west-1", &some),
            ("eu-west-1".to_owned(), "s3.eu-west-1.amazonaws.com".to_owned())
        );
        assert_eq!(place("endpoint: s3.eu-west-2.amazonaws.com", &some).0, "eu-west-2");
        assert_eq!(place("endpoint: minio:9000", &some).0, "sa-east-1");
    }
}
