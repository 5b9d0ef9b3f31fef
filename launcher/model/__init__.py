"""Find a job's model: its files on this machine, its configuration, and whether the hub has it."""
