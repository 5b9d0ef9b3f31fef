"""Checkpoints: flat ranges in safetensors under a manifest, published by rename, verified before they are loaded."""
