mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { id = "metrics-eu-1", arn = "arn:aws:s3:::metrics-eu-1" }
  }
}

variables {
  bucket = "metrics-eu-1"
  region = "eu-west-3"
}

run "private_and_tls_only" {
  assert {
    condition     = aws_s3_bucket_public_access_block.this.block_public_policy && aws_s3_bucket_public_access_block.this.restrict_public_buckets
    error_message = "public access"
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false" && length(jsondecode(aws_s3_bucket_policy.this.policy).Statement) == 1
    error_message = "TLS only, and nobody else let in"
  }
  assert {
    condition     = [for rule in aws_s3_bucket_lifecycle_configuration.this.rule : rule.id] == ["broken-uploads", "old-versions"]
    error_message = "lifecycle"
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this.rule[1].expiration[0].expired_object_delete_marker && alltrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : try(rule.expiration[0].days, null) == null])
    error_message = "marks of deletions go, objects never"
  }
}

run "readers_of_another_account_only_read" {
  variables {
    reader_principals = ["arn:aws:iam::210987654321:role/hub-parallax-observer"]
  }
  assert {
    condition     = strcontains(aws_s3_bucket_policy.this.policy, "210987654321") && !strcontains(aws_s3_bucket_policy.this.policy, "PutObject")
    error_message = "readers"
  }
}

run "a_class_that_can_be_read_at_once_is_fine" {
  variables {
    transitions = [{ days = 90, storage_class = "GLACIER_IR" }]
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this.rule) == 3
    error_message = "the transition is lost"
  }
}

run "glacier_is_refused" {
  command = plan
  variables {
    transitions = [{ days = 90, storage_class = "GLACIER" }]
  }
  expect_failures = [var.transitions]
}

run "an_early_transition_is_refused" {
  command = plan
  variables {
    transitions = [{ days = 1, storage_class = "STANDARD_IA" }]
  }
  expect_failures = [var.transitions]
}

run "expiry_of_objects_is_refused" {
  command = plan
  variables {
    expiration_days = 365
  }
  expect_failures = [var.expiration_days]
}

run "everybody_as_a_reader_is_refused" {
  command = plan
  variables {
    reader_principals = ["*"]
  }
  expect_failures = [var.reader_principals]
}
