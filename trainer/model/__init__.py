"""The model on the GPUs: loading, attention without padding, the loss head, adapters."""
