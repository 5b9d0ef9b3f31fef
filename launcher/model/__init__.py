"""Where a job's model lies, what its configuration says, and whether the hub has it."""
