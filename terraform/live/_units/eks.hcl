# The cluster, with what pods need to run at all: network, names, identities, volumes.
terraform {
  source = "tfr:///terraform-aws-modules/eks/aws?version=21.10.1"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
}

dependency "vpc" {
  config_path = "${get_original_terragrunt_dir()}/../vpc"
  mock_outputs = {
    vpc_id          = "vpc-00000000"
    private_subnets = ["subnet-00000000", "subnet-00000001", "subnet-00000002"]
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

dependency "ebs_role" {
  config_path = "${get_original_terragrunt_dir()}/../ebs-role"
  mock_outputs = {
    role_arn = "arn:aws:iam::123456789012:role/mock"
  }
  mock_outputs_allowed_terraform_commands = ["init", "validate", "plan"]
}

inputs = {
  name               = local.values.name
  kubernetes_version = "1.33"
  vpc_id             = dependency.vpc.outputs.vpc_id
  subnet_ids         = dependency.vpc.outputs.private_subnets
  enable_irsa        = true
  # Terraform and kubectl reach the API from where they run; narrow it with endpoint_public_access_cidrs. Whoever applies is an administrator.
  endpoint_public_access                   = true
  enable_cluster_creator_admin_permissions = true
  addons = {
    # Before the nodes: without it none becomes ready. Network policies are enforced only if it is told to.
    vpc-cni                = { before_compute = true, configuration_values = jsonencode({ enableNetworkPolicy = "true" }) }
    eks-pod-identity-agent = { before_compute = true }
    kube-proxy             = {}
    coredns                = {}
    # Volumes, and a default class for claims that name none: EKS has had none since 1.30.
    aws-ebs-csi-driver = {
      configuration_values     = jsonencode({ defaultStorageClass = { enabled = true } })
      pod_identity_association = [{ role_arn = dependency.ebs_role.outputs.role_arn, service_account = "ebs-csi-controller-sa" }]
    }
  }
  eks_managed_node_groups = {
    default = { instance_types = [local.values.node_instance_type], ami_type = local.values.node_ami_type, min_size = 3, max_size = 6, desired_size = 3 }
  }
}
