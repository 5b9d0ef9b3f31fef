"""Tokenised conversations on disk: shards, the index over them, and what they were made from."""
