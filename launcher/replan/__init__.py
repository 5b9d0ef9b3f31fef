"""Change the plan of an existing run, and create a run directory on a cluster's storage."""
