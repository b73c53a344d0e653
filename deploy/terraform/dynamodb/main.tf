# The table of a Holdfast store, `dynamodb://REGION/NAME`, and the policy of whoever uses it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

resource "aws_dynamodb_table" "sessions" {
  name                        = var.name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "session_id"
  range_key                   = "key"
  deletion_protection_enabled = var.deletion_protection
  tags                        = var.tags

  attribute {
    name = "session_id"
    type = "S"
  }

  attribute {
    name = "key"
    type = "S"
  }

  attribute {
    name = "tenant_list"
    type = "S"
  }

  attribute {
    name = "user_list"
    type = "S"
  }

  attribute {
    name = "waiting_list"
    type = "S"
  }

  attribute {
    name = "place"
    type = "N"
  }

  # Lists, the newest session first. Only heads are in them, and commits seldom change what they hold.
  global_secondary_index {
    name               = "by_tenant"
    hash_key           = "tenant_list"
    range_key          = "place"
    projection_type    = "INCLUDE"
    non_key_attributes = ["due"]
  }

  global_secondary_index {
    name            = "by_user"
    hash_key        = "user_list"
    range_key       = "place"
    projection_type = "KEYS_ONLY"
  }

  global_secondary_index {
    name            = "by_waiting"
    hash_key        = "waiting_list"
    range_key       = "place"
    projection_type = "KEYS_ONLY"
  }

  # Forgets the marks of ended sessions after a week. Sessions themselves are removed by a sweep, with everything they hold.
  ttl {
    attribute_name = "expiry_time"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  server_side_encryption {
    enabled     = var.kms_key_arn != null
    kms_key_arn = var.kms_key_arn
  }
}
