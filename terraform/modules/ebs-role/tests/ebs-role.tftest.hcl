mock_provider "aws" {}

run "only_pods_may_take_it" {
  variables {
    name = "eu-1-ebs"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal == { Service = "pods.eks.amazonaws.com" }
    error_message = "who may take the role"
  }
  assert {
    condition     = endswith(aws_iam_role_policy_attachment.this.policy_arn, "AmazonEBSCSIDriverPolicy")
    error_message = "volumes"
  }
}
