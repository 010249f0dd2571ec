mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock", id = "mock" }
  }
}

variables {
  name_prefix       = "eu-1"
  oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.example/id/X"
  oidc_issuer_url   = "https://oidc.example/id/X"
  grants = {
    sidecar   = { access = "writer", bucket_arn = "arn:aws:s3:::m", service_account = "prometheus" }
    compactor = { access = "compactor", bucket_arn = "arn:aws:s3:::m", service_account = "parallax-compactor" }
  }
}

run "irsa_trusts_one_service_account" {
  assert {
    condition     = jsondecode(aws_iam_role.this["sidecar"].assume_role_policy).Statement[0].Condition.StringEquals["oidc.example/id/X:sub"] == "system:serviceaccount:monitoring:prometheus"
    error_message = "trust"
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.this["sidecar"].policy, "DeleteObject") && strcontains(aws_iam_role_policy.this["compactor"].policy, "DeleteObject")
    error_message = "least privilege"
  }
  assert {
    condition     = output.service_account_annotations["sidecar"]["eks.amazonaws.com/role-arn"] == "arn:aws:iam::123456789012:role/mock"
    error_message = "annotations"
  }
}

run "pod_identity_needs_no_annotations" {
  variables {
    mode         = "pod_identity"
    cluster_name = "eu-1"
  }
  assert {
    condition     = length(aws_eks_pod_identity_association.this) == 2 && length(output.service_account_annotations["sidecar"]) == 0
    error_message = "associations"
  }
}

run "irsa_without_a_provider_is_refused" {
  command = plan
  variables {
    oidc_provider_arn = null
  }
  expect_failures = [aws_iam_role.this]
}

run "two_compactors_on_a_bucket_are_refused" {
  command = plan
  variables {
    grants = {
      a = { access = "compactor", bucket_arn = "arn:aws:s3:::m", service_account = "a" }
      b = { access = "compactor", bucket_arn = "arn:aws:s3:::m", service_account = "b" }
    }
  }
  expect_failures = [var.grants]
}

run "a_wildcard_service_account_is_refused" {
  command = plan
  variables {
    grants = { a = { access = "reader", bucket_arn = "arn:aws:s3:::m", service_account = "thanos-*" } }
  }
  expect_failures = [var.grants]
}
