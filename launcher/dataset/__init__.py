"""How much data a job has: its files, their conversations and their tokens."""
