# What a process needs to keep sessions in the table: these calls and no others. Making the table is not among them.

data "aws_iam_policy_document" "sessions" {
  statement {
    sid = "Sessions"
    actions = [
      "dynamodb:BatchGetItem",
      "dynamodb:BatchWriteItem",
      "dynamodb:ConditionCheckItem",
      "dynamodb:DeleteItem",
      "dynamodb:DescribeTable",
      "dynamodb:DescribeTimeToLive",
      "dynamodb:GetItem",
      "dynamodb:PutItem",
      "dynamodb:Query",
      "dynamodb:Scan",
      "dynamodb:UpdateItem",
    ]
    resources = [aws_dynamodb_table.sessions.arn]
  }

  statement {
    sid = "Lists"
    actions = [
      "dynamodb:Query",
      "dynamodb:Scan",
    ]
    resources = ["${aws_dynamodb_table.sessions.arn}/index/*"]
  }
}

resource "aws_iam_policy" "sessions" {
  name        = "${var.name}-sessions"
  description = "Reads and writes Holdfast sessions in the table ${var.name}."
  policy      = data.aws_iam_policy_document.sessions.json
  tags        = var.tags
}
