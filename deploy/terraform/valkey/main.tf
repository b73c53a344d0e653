# A Valkey for Holdfast sessions on ElastiCache: one shard or more, TLS, a password, a replica in another zone, nothing evicted.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.82"
    }
  }
}

# A full memory refuses writes, which Holdfast reports. Any other policy would drop parts of sessions to make room.
resource "aws_elasticache_parameter_group" "sessions" {
  name        = var.name
  family      = "valkey8"
  description = "Holdfast sessions: never evict."
  tags        = var.tags

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }

  parameter {
    name  = "cluster-enabled"
    value = var.shards > 1 ? "yes" : "no"
  }
}

resource "aws_elasticache_subnet_group" "sessions" {
  name       = var.name
  subnet_ids = var.subnet_ids
  tags       = var.tags
}

resource "aws_security_group" "sessions" {
  name        = "${var.name}-valkey"
  description = "Who may speak to the Valkey of ${var.name}."
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(var.client_security_group_ids)

  security_group_id            = aws_security_group.sessions.id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_elasticache_replication_group" "sessions" {
  replication_group_id = var.name
  description          = "Holdfast sessions"
  engine               = "valkey"
  engine_version       = var.engine_version
  node_type            = var.node_type
  port                 = 6379
  parameter_group_name = aws_elasticache_parameter_group.sessions.name
  subnet_group_name    = aws_elasticache_subnet_group.sessions.name
  security_group_ids   = [aws_security_group.sessions.id]

  num_node_groups            = var.shards
  replicas_per_node_group    = var.replicas
  automatic_failover_enabled = var.replicas > 0
  multi_az_enabled           = var.replicas > 0

  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  auth_token                 = var.password
  snapshot_retention_limit   = var.snapshot_days
  tags                       = var.tags

  lifecycle {
    precondition {
      condition     = var.shards == 1 || var.replicas > 0
      error_message = "Several shards need a replica each: ElastiCache runs a cluster only with automatic failover."
    }
  }
}
