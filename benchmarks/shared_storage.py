"""What a run of two nodes makes of storage whose clients remember names, as NFS does.

`python -m benchmarks.shared_storage` puts real ranks on a real SLURM whose nodes see the shared folder each through a
mount of its own (mergerfs), which keeps in mind for `--seconds` which names there are, and which are not. The run is
warned once, resumes, and finishes; beside it the same on plain storage. Needs root, `/dev/fuse`, and the packages
slurm-wlm, munge and mergerfs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster import backend
from cluster.slurm.submit.submission_record import job_ids
from rundir.attempts import read_attempts
from rundir.progress import read_progress
from slurm.testbed import Testbed
from tests.cluster.outcomes.real_run import checkpoint_hashes, trains
from tests.cluster.slurm.slurm_runs import make_job, submitted

STEPS = 300
PATIENCE_SECONDS = 400.0


@dataclass(frozen=True)
class Result:
    """One run: seconds from submit and from the warning until steps are made, outcomes, and what it trained."""

    trains_after_seconds: tuple[float, float]
    outcomes: list[str]
    lost_steps: int
    exactness: str
    digests: dict[str, str]


@contextlib.contextmanager
def cluster_with_shared(folder: Path, remember_seconds: int) -> Iterator[Testbed]:
    """A SLURM whose nodes see `folder`/shared with names remembered for so long; 0: as it is."""
    behind, shared, bed = folder / "behind", folder / "shared", Testbed(folder / "slurm")
    for made in (behind, shared):
        made.mkdir()
    subprocess.run(["mount", "--bind", behind, shared], check=True)
    try:
        bed.up()
        for node in bed.node_states() if remember_seconds else ():
            (daemon,) = bed.host(node).processes("slurmd")[:1]
            times = f"cache.entry={remember_seconds},cache.negative_entry={remember_seconds}"
            options = f"allow_other,cache.attr=0,{times}"  # as NFS: whoever opens a file asks how long it is
            enter = ["nsenter", "--target", str(daemon), "--mount"]
            subprocess.run([*enter, "mergerfs", "-o", options, behind, shared], check=True)
        yield bed
    finally:
        bed.down()
        subprocess.run(["umount", "--lazy", shared], check=False)


def measure(remember_seconds: int) -> Result:
    """One run on a cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="ty-") as name, cluster_with_shared(Path(name), remember_seconds) as bed:
        shared = Path(name) / "shared"
        make_job(shared, STEPS)
        os.environ["SLURM_CONF"] = str(bed.conf)  # of the backend in this process, too
        began = time.monotonic()
        run = submitted("job", shared)
        first = _seconds_until_training(run, 0, began)
        bed.run("scancel", "--batch", "--signal=USR1", *job_ids(run))
        second = _seconds_until_training(run, 1, time.monotonic())
        backend("slurm").wait(run, PATIENCE_SECONDS)
        return _result(run, (first, second))


def _seconds_until_training(run: Path, attempt: int, since: float) -> float:
    trains(run, attempt, seconds=PATIENCE_SECONDS)
    return round(time.monotonic() - since, 1)


def _result(run: Path, seconds: tuple[float, float]) -> Result:
    records = read_attempts(run)
    return Result(
        trains_after_seconds=seconds,
        outcomes=[record.outcome.value if record.outcome else None for record in records],
        lost_steps=sum(record.lost_steps or 0 for record in records),
        exactness=read_progress(run).exactness,
        digests=checkpoint_hashes(run, STEPS),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_storage", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="for how long names are remembered (30)")
    asked = parser.parse_args()
    if missing := [name for name in ("mergerfs", "slurmctld", "munged") if shutil.which(name) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    plain, remembering = measure(0), measure(asked.seconds)
    bit_equal = plain.digests == remembering.digests != {}
    print(json.dumps({"plain": asdict(plain), "remembering": asdict(remembering), "bit_equal": bit_equal}, indent=1))
    return 0 if bit_equal else 1


if __name__ == "__main__":
    sys.exit(main())
