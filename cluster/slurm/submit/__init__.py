"""What is asked of SLURM: the texts of the scripts, their submission, and which jobs a run has had."""
