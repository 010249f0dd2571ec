# The cluster's network.
terraform {
  source = "tfr:///terraform-aws-modules/vpc/aws?version=6.5.0"
}

locals {
  values = merge(
    yamldecode(file("${get_repo_root()}/terraform/live/global_values.yaml")),
    yamldecode(file(find_in_parent_folders("region_values.yaml"))),
    yamldecode(file(find_in_parent_folders("cluster_values.yaml"))),
  )
  zones = [for letter in ["a", "b", "c"] : "${local.values.aws_region}${letter}"]
}

inputs = {
  name               = local.values.name
  cidr               = local.values.vpc_cidr
  azs                = local.zones
  private_subnets    = [for number in range(3) : cidrsubnet(local.values.vpc_cidr, 4, number)]
  public_subnets     = [for number in range(3) : cidrsubnet(local.values.vpc_cidr, 8, number + 200)]
  enable_nat_gateway = true
  single_nat_gateway = true
  # By these the load balancers of Services find their subnets.
  public_subnet_tags  = { "kubernetes.io/role/elb" = "1" }
  private_subnet_tags = { "kubernetes.io/role/internal-elb" = "1" }
}
