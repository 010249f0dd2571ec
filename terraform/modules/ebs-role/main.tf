# The role of the EBS CSI driver, which makes the volumes of Prometheus and Parallax: for the driver's service account, by EKS Pod Identity.
#
# It depends on no cluster, so that the cluster can be made with the driver in it.

variable "name" {
  description = "Name of the role, such as the cluster's name with -ebs."
  type        = string
}

variable "tags" {
  description = "Tags."
  type        = map(string)
  default     = {}
}

resource "aws_iam_role" "this" {
  name        = var.name
  description = "Volumes of an EKS cluster"
  tags        = var.tags
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
    }]
  })
}

resource "aws_iam_role_policy_attachment" "this" {
  role       = aws_iam_role.this.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

output "role_arn" {
  description = "For the add-on aws-ebs-csi-driver."
  value       = aws_iam_role.this.arn
  depends_on  = [aws_iam_role_policy_attachment.this]
}
