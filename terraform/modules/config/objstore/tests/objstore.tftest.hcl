run "an_aws_bucket_uses_the_pods_identity" {
  command = plan
  variables {
    bucket = { bucket = "metrics-eu-1", region = "eu-west-3" }
  }
  assert {
    condition     = yamldecode(output.objstore_yaml) == { type = "S3", config = { bucket = "metrics-eu-1", endpoint = "s3.eu-west-3.amazonaws.com", region = "eu-west-3", sse_config = { type = "SSE-S3" } } }
    error_message = "unexpected document"
  }
}

run "s3_compatible_storage_has_keys_and_no_aws_encryption" {
  command = plan
  variables {
    bucket      = { bucket = "metrics", endpoint = "minio:9000", insecure = true, path_style = true, prefix = "eu-1" }
    credentials = { access_key = "a", secret_key = "b" }
  }
  assert {
    condition     = yamldecode(output.objstore_yaml).config == { bucket = "metrics", endpoint = "minio:9000", insecure = true, bucket_lookup_type = "path", access_key = "a", secret_key = "b" }
    error_message = "unexpected config"
  }
  assert {
    condition     = yamldecode(output.objstore_yaml).prefix == "eu-1"
    error_message = "the prefix is lost"
  }
}

run "gcs" {
  command = plan
  variables {
    bucket = { type = "GCS", bucket = "metrics" }
  }
  assert {
    condition     = yamldecode(output.objstore_yaml) == { type = "GCS", config = { bucket = "metrics" } }
    error_message = "unexpected document"
  }
}

run "azure" {
  command = plan
  variables {
    bucket = { type = "AZURE", bucket = "metrics", storage_account = "example" }
  }
  assert {
    condition     = yamldecode(output.objstore_yaml) == { type = "AZURE", config = { storage_account = "example", container = "metrics" } }
    error_message = "unexpected document"
  }
}

run "an_azure_container_without_its_account_is_refused" {
  command = plan
  variables {
    bucket = { type = "AZURE", bucket = "metrics" }
  }
  expect_failures = [var.bucket]
}

run "a_kms_key" {
  command = plan
  variables {
    bucket = { bucket = "m", region = "eu-west-1", kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/k" }
  }
  assert {
    condition     = yamldecode(output.objstore_yaml).config.sse_config == { type = "SSE-KMS", kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/k" }
    error_message = "no KMS"
  }
}

run "an_unknown_type_is_refused" {
  command = plan
  variables {
    bucket = { type = "FTP", bucket = "m" }
  }
  expect_failures = [var.bucket]
}

run "a_bucket_nowhere_is_refused" {
  command = plan
  variables {
    bucket = { bucket = "m" }
  }
  expect_failures = [var.bucket]
}

run "an_endpoint_with_a_scheme_is_refused" {
  command = plan
  variables {
    bucket = { bucket = "m", endpoint = "https://minio:9000" }
  }
  expect_failures = [var.bucket]
}
