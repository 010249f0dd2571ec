terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.70"
    }
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

# One of each kind per cluster. Contexts of kubeconfig: aws eks update-kubeconfig --name eu-1 --alias eu-1. AWS credentials come from the environment; for
# several accounts give each aws provider its profile.
provider "aws" {
  alias  = "eu_1"
  region = "eu-west-1"
}

provider "aws" {
  alias  = "us_1"
  region = "us-east-1"
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

provider "kubernetes" {
  alias          = "us_1"
  config_path    = var.kubeconfig
  config_context = "us-1"
}

provider "helm" {
  alias      = "us_1"
  kubernetes = { config_path = var.kubeconfig, config_context = "us-1" }
}
