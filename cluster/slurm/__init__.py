"""The SLURM backend: a batch script, one agent per node, and what the scheduler says about the job.

`submit` asks, `job` runs on the nodes, `scheduler` listens, `status` explains. `after`, `cancelled`, `preparing` and
`task` are the names that batch scripts of version 0.1 call. See docs/decisions/0008-slurm.md.
"""
