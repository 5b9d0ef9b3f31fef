"""What the first process of a container does: its log, and the signals that reach it."""
