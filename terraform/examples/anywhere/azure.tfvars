# terraform apply -var-file=azure.tfvars, with TF_VAR_credentials='{ storage_account_key = "…" }'
trust_domain = "mesh.example.com"
image        = { repository = "example.azurecr.io/parallax", tag = "0.1.0" }
bucket       = { type = "AZURE", bucket = "metrics-eu-1", storage_account = "example" }
