"""What others take of the machine is seen while a run is timed."""

from __future__ import annotations

import subprocess
import sys
import time

import torch

from trainer.metrics.other_load import OtherLoad, load


def test_work_of_another_process_is_not_taken_for_ours() -> None:
    ours = OtherLoad(torch.device("cpu"))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(0.6)
        found = load([ours.of_this_rank()])
        other.kill()
    assert found["other_cores"] > 0.2
    assert found["our_cores"] < 0.5
    assert (found["cores"] >= 1, found["other_gpu_bytes"]) == (True, 0)


def test_ranks_of_one_node_are_put_together() -> None:
    rank = {"host": "a", "cores": 4, "wall_seconds": 10.0, "own_seconds": 10.0, "busy_seconds": 38.0}
    everyone = [rank | {"other_gpu_bytes": 0}, rank | {"other_gpu_bytes": 7}]
    assert load(everyone) == {"cores": 4, "our_cores": 2.0, "other_cores": 1.8, "other_gpu_bytes": 7}
    elsewhere = rank | {"host": "b", "other_gpu_bytes": 0}
    assert load([everyone[0], elsewhere])["our_cores"] == 1.0
