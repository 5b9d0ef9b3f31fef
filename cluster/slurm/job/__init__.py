"""What runs inside a job, on its nodes, with the standard library only."""
