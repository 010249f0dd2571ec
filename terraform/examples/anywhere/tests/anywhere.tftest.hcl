mock_provider "kubernetes" {
  alias = "hub"
}
mock_provider "kubernetes" {
  alias = "eu_1"
}
mock_provider "helm" {
  alias = "hub"
}
mock_provider "helm" {
  alias = "eu_1"
}

run "static_keys_reach_both_secrets" {
  variables {
    credentials = { access_key = "a", secret_key = "s" }
  }
  assert {
    condition     = output.query_url == "http://parallax-query.monitoring.svc:10902"
    error_message = "the hub"
  }
}
