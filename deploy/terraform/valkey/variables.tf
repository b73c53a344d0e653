variable "name" {
  description = "What the replication group and its companions are called: letters, digits and hyphens, at most 40."
  type        = string
  default     = "holdfast-sessions"
}

variable "vpc_id" {
  description = "The network it is in."
  type        = string
}

variable "subnet_ids" {
  description = "The subnets of its nodes, in two zones or more where there are replicas."
  type        = list(string)
}

variable "client_security_group_ids" {
  description = "The security groups of those who may use it."
  type        = list(string)
}

variable "password" {
  description = "The password, 16 to 128 characters. It is in Terraform's state, as every argument is."
  type        = string
  sensitive   = true
}

variable "engine_version" {
  description = "Valkey's version; its parameter group is of the family valkey8."
  type        = string
  default     = "8.0"
}

variable "node_type" {
  description = "The size of a node."
  type        = string
  default     = "cache.t4g.small"
}

variable "shards" {
  description = "1 for a single primary, more for a cluster."
  type        = number
  default     = 1
}

variable "replicas" {
  description = "Replicas of each shard. Replication is asynchronous: a failover may lose the last writes."
  type        = number
  default     = 1
}

variable "snapshot_days" {
  description = "For how many days daily snapshots are kept; 0 makes none."
  type        = number
  default     = 7
}

variable "tags" {
  description = "Tags of everything here."
  type        = map(string)
  default     = {}
}
