"""Real training ranks in real pods through everything that happens to pods and nodes: nothing is lost but time."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disruptions import Pods, Stopwatch, cordoned, drain, preempted
from kubernetes_runs import profile, tuneyard, until, use_cluster

from cluster.kubernetes.backend import KubernetesBackend
from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.cluster.outcomes.real_run import checkpoint_hashes, closed, losses, trains
from tests.support import tiny
from tests.support.documents import read_attempts, read_progress

STEPS = 150
SET_STEPS = 80
SAVE_EVERY = 10
SLOW = "/opt/tuneyard/tests/cluster/slurm/slow"
SLOWLY = {"PYTHONPATH": f"{SLOW}:/opt/tuneyard", "TEST_STEP_SECONDS": "0.25"}
JOB = """
name: {name}
model: {{path: {shared}/model}}
data: {{train: [{{path: {shared}/rows.jsonl}}], max_length: 512}}
training: {{max_steps: {steps}, learning_rate: 0.01, lr_scheduler_type: constant, warmup_steps: 0,
  tokens_per_step: 2048, full_determinism: true, gradient_checkpointing: false}}
checkpoint: {{every_steps: 10, every_minutes: null}}
logging: {{every_seconds: 0}}
resources: {{gpu: none, engine: zero2, micro_batch: 1, grace_seconds: 30, {resources}}}
cluster: {{profile: {profile}}}
"""


class RealRun:
    """A run of real ranks: its copy here, as its user sees it, and its own directory on the claim."""

    def __init__(self, namespace: Namespace, folder: Path, name: str, steps: int, **site: Any) -> None:
        assert isinstance(namespace.cluster, Testbed)
        self.namespace, self.folder, self.steps, self.backend = namespace, folder, steps, KubernetesBackend()
        self.shared = namespace.cluster.runs(namespace.name)
        make_model_and_rows(self.shared / "in")
        (folder / "site.yaml").write_text(json.dumps(profile(namespace, environment=SLOWLY, **site)))
        self.write_job(name, "/runs/in", "./site.yaml", "nodes: 2, cpu_ranks: 1")
        self.here = Path(self.verb("submit", f"{name}.yaml", "--detach")["run"])
        self.release = json.loads((self.here / "kubernetes.json").read_text())["release"]
        self.dir, self.pods = self.shared / self.release, Pods(namespace, self.release)

    def write_job(self, name: str, shared: Any, site: str, resources: str) -> None:
        text = JOB.format(name=name, shared=shared, steps=self.steps, profile=site, resources=resources)
        (self.folder / f"{name}.yaml").write_text(text)

    def verb(self, *arguments: Any) -> Any:
        done = tuneyard(self.namespace, *arguments, "--json", cwd=self.folder)
        assert done.returncode in (0, 75), done.stderr + done.stdout
        return json.loads(done.stdout)

    def waits_for(self, words: str) -> str:
        """Waits until `status` says something; gives all of its words."""

        def said() -> str:
            found = self.backend.status(self.here).reason
            return found if words in found else ""

        return until(said, words)

    def finished(self) -> None:
        assert self.backend.wait(self.here, 240).outcome == "finished"

    def undisturbed(self) -> Path:
        """Its twin: the same job, two ranks on this machine, at full speed."""
        self.write_job("twin", self.shared / "in", "local", "cpu_ranks: 2")
        return Path(self.verb("submit", "twin.yaml")["run"])


def make_model_and_rows(folder: Path) -> None:
    tiny.make_model(folder / "model")
    tiny.write_rows(folder / "rows.jsonl", 300)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)


@pytest.fixture(autouse=True)
def reachable(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cluster(namespace, monkeypatch)


@pytest.fixture
def stopwatch() -> Iterator[Stopwatch]:
    """Prints what it has measured; nothing is asserted about it."""
    found = Stopwatch()
    yield found
    print(json.dumps(found.seconds))


@pytest.mark.testbed
@pytest.mark.timeout(1200)
def test_ranks_in_pods_through_everything_end_as_if_nothing_had_happened(
    namespace: Namespace, tmp_path: Path, stopwatch: Stopwatch
) -> None:
    with stopwatch.timed("submit to first steps"):
        run = RealRun(namespace, tmp_path, "struck", STEPS, unreachable_seconds=1)
        trains(run.dir, 0, steps=2)
    evict_both(run, stopwatch)
    empty_for_maintenance(run, stopwatch)
    cancel_and_resume(run)
    with cordoned(namespace, "n1"):
        take_away_for_something_better(run, stopwatch)
        cut_the_power(run, stopwatch)
    crash_beside_a_restarting_api_server(run, stopwatch)
    run.finished()
    check(run)
    twin = run.undisturbed()
    assert checkpoint_hashes(run.dir, STEPS) == checkpoint_hashes(twin, STEPS) != {}
    assert losses(run.dir) == losses(twin)
    assert sorted(losses(twin)) == list(range(1, STEPS + 1))


def evict_both(run: RealRun, stopwatch: Stopwatch) -> None:
    """A follower, then the head. Each comes back to the node that it had: the other one is taken."""
    for attempt, index in enumerate((1, 0)):
        with stopwatch.timed(f"eviction of pod {index} to training again"):
            run.pods.evict(index)
            trains(run.dir, attempt + 1, steps=2)
    assert {run.pods.node_of(0), run.pods.node_of(1)} == {"n1", "n2"}


def empty_for_maintenance(run: RealRun, stopwatch: Stopwatch) -> None:
    """The run waits for the node, and says so."""
    with cordoned(run.namespace, "n1"), stopwatch.timed("drain to training again"):
        drain(run.namespace, "n2")
        run.waits_for("fitting nodes are free")
        run.namespace.cluster.kubectl("uncordon", "n2")
        trains(run.dir, 3, steps=2)


def cancel_and_resume(run: RealRun) -> None:
    """Nothing stays but what is on the claim. Then there is a new Job, to which Kubernetes grants short waits again."""
    assert run.verb("cancel", run.here)["outcome"] == "stopped"
    assert run.pods.left() == []
    run.verb("resume", run.here, "--detach")
    trains(run.dir, 4, steps=2)
    assert {run.pods.node_of(0), run.pods.node_of(1)} == {"n1", "n2"}


def take_away_for_something_better(run: RealRun, stopwatch: Stopwatch) -> None:
    with stopwatch.timed("preemption to training again"):
        with preempted(run.namespace, "n2"):
            assert "1 of 2 pods are there" in run.waits_for("Insufficient cpu")
        trains(run.dir, 5, steps=2)


def cut_the_power(run: RealRun, stopwatch: Stopwatch) -> None:
    """Nobody says goodbye. Kubernetes waits for a word on the node, and `status` says what for."""
    bed, victim = run.namespace.cluster, next(index for index in (0, 1) if run.pods.node_of(index) == "n2")
    assert isinstance(bed, Testbed)
    with stopwatch.timed("power cut to training again"):
        bed.kill_node("n2")
        said = run.waits_for("its pod stays Terminating until somebody says that it is gone")
        assert f"pod {victim} on n2" in said and "1 of 2 pods are there" in said
        with stopwatch.timed("power back to training again"):
            bed.restart_node("n2")
            trains(run.dir, 6, steps=2)


def crash_beside_a_restarting_api_server(run: RealRun, stopwatch: Stopwatch) -> None:
    bed = run.namespace.cluster
    assert isinstance(bed, Testbed)
    with stopwatch.timed("killed rank to training again"):
        run.pods.kill_rank(run.dir, 6, 1)
        bed.stop_api_server()
        closed(run.dir, 6)
        assert run.backend.status(run.here).state in ("running", "unknown")
        trains(run.dir, 7)
    bed.start_api_server()


def check(run: RealRun) -> None:
    """Every disruption is in the records under its own name; none but the crash has cost any of the budget."""
    records = read_attempts(run.dir)
    power = "node_failure" if records[5]["outcome"] == "node_failure" else "preempted"  # a follower's; the head's
    planned = ["preempted", "preempted", "preempted", "stopped", "preempted"]
    assert [one["outcome"] for one in records] == [*planned, power, "crashed", "finished"]
    assert [one["decision"]["action"] for one in records if one["outcome"] != "stopped"][:-1] == ["restart"] * 6
    assert all((one["lost_steps"], one["last_checkpoint_step"]) == (0, one["last_step"]) for one in records[:5])
    assert all(0 <= one["lost_steps"] <= SAVE_EVERY for one in records[5:7])
    assert [after["first_step"] for after in records[1:]] == [one["last_checkpoint_step"] or 0 for one in records[:-1]]
    assert read_attempts(run.here) == records, "the copy of the one who submitted tells the same"
    assert (read_progress(run.here) or {})["exactness"] == "bit-exact"


@pytest.mark.testbed
@pytest.mark.timeout(1200)
def test_a_jobset_is_evicted_and_a_pod_of_it_dies(namespace: Namespace, tmp_path: Path, stopwatch: Stopwatch) -> None:
    assert isinstance(namespace.cluster, Testbed)
    namespace.cluster.install_jobset()
    run = RealRun(namespace, tmp_path, "set", SET_STEPS, jobset="always")
    trains(run.dir, 0, steps=2)
    with stopwatch.timed("JobSet: eviction of pod 1 to training again"):
        run.pods.evict(1)
        trains(run.dir, 1, steps=2)
    with stopwatch.timed("JobSet: death of pod 1 to training again"):
        run.pods.kill_first_process(1)
        trains(run.dir, 2, steps=2)
    run.finished()
    check_set(read_attempts(run.dir))
    twin = run.undisturbed()
    assert checkpoint_hashes(run.dir, SET_STEPS) == checkpoint_hashes(twin, SET_STEPS) != {}
    assert losses(run.dir) == losses(twin)


def check_set(records: list[dict[str, Any]]) -> None:
    evicted, dead, last = records
    assert (evicted["outcome"], evicted["lost_steps"]) == ("preempted", 0)
    assert dead["outcome"] in ("crashed", "node_failure", "preempted") and 0 <= dead["lost_steps"] <= SAVE_EVERY
    assert (last["outcome"], last["first_step"]) == ("finished", dead["last_checkpoint_step"])
