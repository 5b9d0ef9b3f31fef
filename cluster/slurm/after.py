"""The name of `cluster.slurm.job.post_job` in batch scripts of version 0.1, which may still be requeued."""

import sys

from cluster.slurm.job.post_job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
