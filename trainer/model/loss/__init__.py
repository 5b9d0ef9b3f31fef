"""The loss: weighted cross-entropy over supervised tokens, and the router's auxiliary loss."""
