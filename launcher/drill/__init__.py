"""A rehearsal: the user's own job for a few steps, a fault in its real processes, and what became of the run."""
