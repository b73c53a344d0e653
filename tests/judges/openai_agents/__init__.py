"""The OpenAI Agents SDK's suite."""
