"""The tests of agents."""
