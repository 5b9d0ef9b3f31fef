"""What a model's files say without being loaded: names and shapes, limits, fingerprint. Imports no torch."""
