mock_provider "aws" {
  alias = "eu_1"
}
mock_provider "aws" {
  alias = "us_1"
}
mock_provider "kubernetes" {
  alias = "hub"
}
mock_provider "kubernetes" {
  alias = "eu_1"
}
mock_provider "kubernetes" {
  alias = "us_1"
}
mock_provider "helm" {
  alias = "hub"
}
mock_provider "helm" {
  alias = "eu_1"
}
mock_provider "helm" {
  alias = "us_1"
}

run "the_hub_asks_what_the_observees_offer" {
  command = plan
  assert {
    condition     = output.endpoints == { eu-1 = tolist(["eu-1.mesh.example.com:443"]), us-1 = tolist(["us-1.mesh.example.com:443"]) }
    error_message = "endpoints"
  }
}
