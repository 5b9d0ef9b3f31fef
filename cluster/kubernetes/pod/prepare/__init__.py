"""Tokenising before the pods with GPUs are made."""
