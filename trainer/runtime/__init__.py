"""What every process of the trainer needs: files, progress, the clock of phases, collectives, its start."""
