"""The SLURM backend: a rendered batch script, one agent per node, and what the scheduler says about it.

Submission and job handles are submitit's; requeueing, signals, outcomes and exclusion are the script's and the
agents' (docs/decisions/0008-slurm.md).
"""
