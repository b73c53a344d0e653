# Agents in an AWS Lambda function with a URL of its own, their sessions in DynamoDB.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.29"
    }
  }
}

variable "name" {
  description = "The function's name, and the table's with -sessions behind it."
  type        = string
  default     = "holdfast"
}

variable "package" {
  description = "The zip file: function.py, your agents, and holdfast with its extras (see README.md)."
  type        = string
  default     = "function.zip"
}

variable "agents" {
  description = "What to load, with commas between: a module, or MODULE:OBJECT."
  type        = string
  default     = "app"
}

variable "keys" {
  description = "Who may call, as JSON: what `holdfast keys new` prints. Hashes, not the keys."
  type        = string
}

variable "environment" {
  description = "More of the environment, such as OPENAI_API_KEY."
  type        = map(string)
  default     = {}
  sensitive   = true
}

module "sessions" {
  source = "../terraform/dynamodb"
  name   = "${var.name}-sessions"
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "function" {
  name               = var.name
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy_attachment" "sessions" {
  role       = aws_iam_role.function.name
  policy_arn = module.sessions.policy_arn
}

resource "aws_iam_role_policy_attachment" "logs" {
  role       = aws_iam_role.function.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_lambda_function" "agents" {
  function_name    = var.name
  role             = aws_iam_role.function.arn
  runtime          = "python3.13"
  architectures    = ["x86_64"]
  handler          = "function.handler"
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  timeout          = 300
  memory_size      = 1024

  environment {
    variables = merge(var.environment, {
      HOLDFAST_AGENTS             = var.agents
      HOLDFAST_STORE              = module.sessions.url
      HOLDFAST_SESSION__TTL       = "2592000"
      HOLDFAST_SERVER__INBOX      = "false"
      HOLDFAST_SERVER__AUTH__KEYS = var.keys
    })
  }
}

# The server asks for a key itself: without keys it answers nobody here.
resource "aws_lambda_function_url" "agents" {
  function_name      = aws_lambda_function.agents.function_name
  authorization_type = "NONE"
  invoke_mode        = "BUFFERED"
}

resource "aws_lambda_permission" "url" {
  statement_id           = "FunctionURLAllowPublicAccess"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.agents.function_name
  principal              = "*"
  function_url_auth_type = "NONE"
}

resource "aws_lambda_permission" "invoke" {
  statement_id             = "FunctionURLAllowInvokeAction"
  action                   = "lambda:InvokeFunction"
  function_name            = aws_lambda_function.agents.function_name
  principal                = "*"
  invoked_via_function_url = true
}

# Goes on with runs that the function's end has cut off, and removes sessions that have expired.
resource "aws_cloudwatch_event_rule" "schedule" {
  name                = var.name
  schedule_expression = "rate(5 minutes)"
}

resource "aws_cloudwatch_event_target" "schedule" {
  rule = aws_cloudwatch_event_rule.schedule.name
  arn  = aws_lambda_function.agents.arn
}

resource "aws_lambda_permission" "schedule" {
  statement_id  = "Schedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.agents.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.schedule.arn
}

output "url" {
  description = "Where the function answers: POST run, GET sessions, and so on below it."
  value       = aws_lambda_function_url.agents.function_url
}
