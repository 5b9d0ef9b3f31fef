"""Attention within conversations that lie end to end in one row."""
