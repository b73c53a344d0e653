output "url" {
  description = "What to give Store.open, or HOLDFAST_STORE."
  sensitive   = true
  value = format(
    "valkeys://:%s@%s:6379/0%s",
    urlencode(var.password),
    var.shards > 1 ? aws_elasticache_replication_group.sessions.configuration_endpoint_address : aws_elasticache_replication_group.sessions.primary_endpoint_address,
    var.shards > 1 ? "?cluster=true" : "",
  )
}

output "security_group_id" {
  description = "The security group of the nodes."
  value       = aws_security_group.sessions.id
}
