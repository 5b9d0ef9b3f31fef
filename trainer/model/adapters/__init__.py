"""LoRA adapters, and the quantised weights below them."""
