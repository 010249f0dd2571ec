variables {
  access      = "reader"
  bucket_arns = ["arn:aws:s3:::metrics"]
}

run "a_reader_reads" {
  command = plan
  assert {
    condition     = [for statement in jsondecode(output.policy).Statement : statement.Action if statement.Sid == "Objects"] == [["s3:GetObject"]]
    error_message = "a reader does more than read"
  }
}

run "a_writer_never_deletes" {
  command = plan
  variables {
    access = "writer"
  }
  assert {
    condition     = !strcontains(output.policy, "DeleteObject") && strcontains(output.policy, "PutObject")
    error_message = "a writer writes and does not delete"
  }
}

run "only_the_compactor_deletes" {
  command = plan
  variables {
    access       = "compactor"
    kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:key/k"]
  }
  assert {
    condition     = strcontains(output.policy, "DeleteObject") && strcontains(output.policy, "kms:GenerateDataKey")
    error_message = "a compactor deletes, and encrypts"
  }
}

run "a_prefix_narrows_objects_and_listing" {
  command = plan
  variables {
    prefix = "eu-1"
  }
  assert {
    condition     = strcontains(output.policy, "arn:aws:s3:::metrics/eu-1/*") && strcontains(output.policy, "\"s3:prefix\"")
    error_message = "the prefix is lost"
  }
}

run "a_wildcard_bucket_is_refused" {
  command = plan
  variables {
    bucket_arns = ["arn:aws:s3:::*"]
  }
  expect_failures = [var.bucket_arns]
}

run "an_unknown_access_is_refused" {
  command = plan
  variables {
    access = "admin"
  }
  expect_failures = [var.access]
}
