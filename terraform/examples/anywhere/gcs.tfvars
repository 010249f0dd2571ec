# terraform apply -var-file=gcs.tfvars
trust_domain = "mesh.example.com"
image        = { repository = "europe-docker.pkg.dev/example-project/mesh/parallax", tag = "0.1.0" }
bucket       = { type = "GCS", bucket = "metrics-eu-1" }
# Workload Identity; the roles that each needs are in examples/gcs.
service_account_annotations = {
  sidecar   = { "iam.gke.io/gcp-service-account" = "parallax-sidecar@example-project.iam.gserviceaccount.com" }
  compactor = { "iam.gke.io/gcp-service-account" = "parallax-compactor@example-project.iam.gserviceaccount.com" }
  observer  = { "iam.gke.io/gcp-service-account" = "parallax-observer@example-project.iam.gserviceaccount.com" }
}
