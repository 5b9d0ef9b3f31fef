"""From a model's files to its weights: complete, and with rows for new tokens."""
