"""A drill: the user's own job for a few steps, a fault injected into its real processes, and what became of the run."""
