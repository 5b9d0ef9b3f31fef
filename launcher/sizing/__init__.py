"""How much memory, time and money a fine-tune takes, before anything runs."""
