"""What all backends ask about one run: its lock, its logs, its goodput, whether it is started again."""
