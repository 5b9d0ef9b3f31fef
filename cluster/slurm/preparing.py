"""The name of `cluster.slurm.job.prepare_entry` in batch scripts of version 0.1, which may still be requeued."""

import sys

from cluster.slurm.job.prepare_entry import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
