variable "name" {
  description = "The table's name, as in dynamodb://REGION/NAME."
  type        = string
  default     = "holdfast-sessions"
}

variable "deletion_protection" {
  description = "Whether the table refuses to be deleted."
  type        = bool
  default     = true
}

variable "point_in_time_recovery" {
  description = "Whether the table can be restored to any second of the last 35 days. Deleted sessions stay in these backups for as long."
  type        = bool
  default     = true
}

variable "kms_key_arn" {
  description = "A key of your own to encrypt the table with; without it DynamoDB's own is used. Its users need kms:Decrypt beside the policy."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of the table and the policy."
  type        = map(string)
  default     = {}
}
