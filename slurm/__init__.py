"""SLURM as data and as a test cluster: site profiles, and a private SLURM on one machine. No part of the wheel."""
