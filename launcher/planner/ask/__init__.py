"""Questions without a run: other GPUs, plans side by side, a model without a job file."""
