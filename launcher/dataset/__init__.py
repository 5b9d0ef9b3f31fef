"""How much data a job has: its files, and the tokens in them."""
