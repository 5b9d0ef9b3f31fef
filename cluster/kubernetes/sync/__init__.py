"""Copying a run directory and a model from the claim to the submitting machine."""
