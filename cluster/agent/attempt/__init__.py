"""One attempt: its record, its phases in order, and what follows: a restart, or the end of the run."""
