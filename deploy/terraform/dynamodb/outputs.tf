output "url" {
  description = "What to give Store.open, or HOLDFAST_STORE."
  value       = "dynamodb://${split(":", aws_dynamodb_table.sessions.arn)[3]}/${aws_dynamodb_table.sessions.name}"
}

output "table_arn" {
  description = "The table."
  value       = aws_dynamodb_table.sessions.arn
}

output "policy_arn" {
  description = "The policy to attach to the role of a function, a task or an instance."
  value       = aws_iam_policy.sessions.arn
}
