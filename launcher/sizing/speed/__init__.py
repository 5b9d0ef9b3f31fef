"""How long a step takes on known GPUs, and what it costs."""
