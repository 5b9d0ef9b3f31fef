"""The scheduler's own verdict: a script with the profile's directives, tried with `sbatch --test-only`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from cluster.errors import ClusterError
from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.errors import SlurmError
from cluster.slurm.submit.batch_script import SbatchJob, SbatchSettings, render
from launcher.doctor import Check, fail, ok
from launcher.doctor.slurm.cluster_facts import ClusterFacts

PROBED_SECONDS = 600


def probe(profile: Profile, facts: ClusterFacts, scheduler: Scheduler) -> Check:
    """What SLURM says to one node of this profile. Nothing is queued."""
    try:
        with tempfile.TemporaryDirectory(prefix="tuneyard-doctor-") as folder:
            script = Path(folder) / "probe.sh"
            script.write_text(_script(profile, facts, Path(folder)), encoding="utf-8")
            return ok("sbatch --test-only", scheduler.test_only(script))
    except SlurmError as error:
        return fail("sbatch --test-only", error.words.replace("\n", "; "), error.remedy)
    except ClusterError as error:
        return fail("sbatch --test-only", error.message, error.remedy)


def _script(profile: Profile, facts: ClusterFacts, folder: Path) -> str:
    partition = facts.partition_of(profile)
    nodes = facts.nodes_of(partition) if partition else []
    gpus = profile.gpus_per_node or max((sum(node.gpus.values()) for node in nodes), default=0)
    gpus = 0 if profile.gpu_request == "none" else gpus
    most = partition.max_time_seconds if partition else None
    job = SbatchJob(
        run_dir=folder,
        nodes=1,
        grace_seconds=1,
        submitted=time.time(),
        python=sys.executable,
        code=folder,
        cpus_per_node=(profile.cpus_per_gpu or 0) * gpus or None,
        gpus_per_node=gpus,
        walltime_seconds=int(min(PROBED_SECONDS, most or PROBED_SECONDS)),
    )
    return render(job, SbatchSettings(**profile.site(next(iter(profile.gpu_types), ""), facts.version)))
