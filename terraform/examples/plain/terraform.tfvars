# Change all of these.
trust_domain  = "mesh.example.com"
bucket_prefix = "example-metrics"
image         = { repository = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/parallax", tag = "0.1.0" }

# aws eks describe-cluster --name eu-1 --query cluster.identity.oidc.issuer, and the provider of that URL in IAM.
eks = {
  hub  = { oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/HUB", oidc_issuer_url = "https://oidc.eks.eu-west-1.amazonaws.com/id/HUB" }
  eu-1 = { oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EU1", oidc_issuer_url = "https://oidc.eks.eu-west-1.amazonaws.com/id/EU1" }
  us-1 = { oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/US1", oidc_issuer_url = "https://oidc.eks.us-east-1.amazonaws.com/id/US1" }
}
