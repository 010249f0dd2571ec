# The cluster.
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
}

inputs = {
  name               = local.values.name
  kubernetes_version = "1.33"
  vpc_id             = dependency.vpc.outputs.vpc_id
  subnet_ids         = dependency.vpc.outputs.private_subnets
  enable_irsa        = true
  eks_managed_node_groups = {
    default = { instance_types = ["m7g.large"], ami_type = "AL2023_ARM_64_STANDARD", min_size = 3, max_size = 6, desired_size = 3 }
  }
}
