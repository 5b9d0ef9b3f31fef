"""Agents on several nodes: the leader on the first one commands, the workers on the others carry out and report."""
