"""What SLURM says: its commands, the facts in their output, accounting, and its refusals with a remedy."""
