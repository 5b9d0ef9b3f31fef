"""How an attempt ended, and what proves it."""
