"""Where a run is: its job's state and record in words, and why a job waits."""
