"""Which layout is taken, and what would fit where none does."""
