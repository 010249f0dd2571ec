terraform {
  required_version = ">= 1.9"
  required_providers {
    helm = {
      source  = "hashicorp/helm"
      version = ">= 3.0"
    }
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 2.35"
    }
    tls = {
      source  = "hashicorp/tls"
      version = ">= 4.0"
    }
  }
}

provider "kubernetes" {
  alias          = "hub"
  config_path    = var.kubeconfig
  config_context = "hub"
}

provider "helm" {
  alias      = "hub"
  kubernetes = { config_path = var.kubeconfig, config_context = "hub" }
}

provider "kubernetes" {
  alias          = "eu_1"
  config_path    = var.kubeconfig
  config_context = "eu-1"
}

provider "helm" {
  alias      = "eu_1"
  kubernetes = { config_path = var.kubeconfig, config_context = "eu-1" }
}
