"""Decorators of any backend: the same contract in and out."""
