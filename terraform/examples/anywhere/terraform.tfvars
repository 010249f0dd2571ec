# S3-compatible storage (MinIO, Ceph, R2, …). Change all of these; the keys come from TF_VAR_credentials.
trust_domain = "mesh.example.com"
image        = { repository = "registry.example.com/parallax", tag = "0.1.0" }
bucket       = { bucket = "metrics-eu-1", endpoint = "minio.storage.svc:9000", insecure = true, path_style = true }
