"""Watching a phase while it runs: its process, its ranks, and whether training stands still."""
