terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.70"
    }
    helm = {
      source  = "hashicorp/helm"
      version = ">= 2.17"
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

# One of each kind per cluster. Give them your regions and credentials: profiles, kubeconfig contexts or exec plugins.
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
  config_context = "hub"
}

provider "kubernetes" {
  alias          = "eu_1"
  config_context = "eu-1"
}

provider "kubernetes" {
  alias          = "us_1"
  config_context = "us-1"
}

provider "helm" {
  alias = "hub"
}

provider "helm" {
  alias = "eu_1"
}

provider "helm" {
  alias = "us_1"
}
