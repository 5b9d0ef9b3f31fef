"""What needs no GPU holds none: data are tokenised before the run has pods, and one pod exports what many trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from disruptions import INDEX, Pods
from kubernetes_runs import KubernetesRun, tuneyard, until, use_cluster
from test_kubernetes_backend import make_job

from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.support.documents import read_attempts, read_progress

PREPARE = {"where": "job", "cpus": 1, "memory": "600Mi"}
GONE = ("Succeeded", "Failed")


@pytest.fixture(autouse=True)
def reachable(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cluster(namespace, monkeypatch)


def preparing(namespace: Namespace, folder: Path, trainer: dict[str, Any], **site: Any) -> KubernetesRun:
    """A submitted run whose data are tokenised in a Job of its own."""
    prepare = {"prepare": PREPARE | site.pop("prepare", {}), **site}
    run = KubernetesRun(namespace, folder, trainer, nodes=1, phases=["prepare", "train"], kubernetes=prepare)
    run.submit()
    return run


def training_pods(run: KubernetesRun) -> list[dict[str, Any]]:
    """Every pod of the run's own Job that there is or was."""
    release = run.state["release"]
    return run.namespace.pods(f"app.kubernetes.io/instance={release},app.kubernetes.io/component=trainer")


def ever_created(namespace: Namespace, component: str) -> list[str]:
    """The Jobs that pods were created for, by the events of Kubernetes itself."""
    made = [one for one in namespace.get("events")["items"] if one["reason"] == "SuccessfulCreate"]
    labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in namespace.get("jobs")["items"]}
    names = [one["involvedObject"]["name"] for one in made]
    return [name for name in names if labels.get(name, {}).get("app.kubernetes.io/component") == component]


def exporting(namespace: Namespace, folder: Path, seconds: int, **more: Any) -> tuple[KubernetesRun, Pods]:
    """A run of three pods whose export takes so long; it has begun."""
    run = KubernetesRun(namespace, folder, {"steps": 20, "export_seconds": seconds}, nodes=3, **more)
    release = run.submit()
    shared = remote(run)
    until(lambda: (shared / "export.pid").exists(), "the export to begin")
    return run, Pods(namespace, release)


def remote(run: KubernetesRun) -> Path:
    """The run directory on the claim, as this machine sees it."""
    assert isinstance(run.namespace.cluster, Testbed)
    return Path(run.namespace.cluster.runs(run.namespace.name)) / run.state["release"]


def set_trainer(run: KubernetesRun, **settings: Any) -> None:
    """Changes what the stand-in does from its next phase on."""
    path = remote(run) / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "trainer": plan["trainer"] | settings}))


def living(pods: Pods) -> list[int]:
    """The posts whose pods hold what they have asked for."""
    found = pods.namespace.pods(f"app.kubernetes.io/instance={pods.release},app.kubernetes.io/component=trainer")
    alive = [one for one in found if one["status"]["phase"] not in GONE]
    return sorted(int(one["metadata"]["labels"][INDEX]) for one in alive)


@pytest.mark.testbed
def test_the_run_waits_for_its_data_and_has_no_pod_meanwhile(namespace: Namespace, tmp_path: Path) -> None:
    run = preparing(namespace, tmp_path / "data", {"steps": 20, "prepare_seconds": 20})
    until(lambda: run.backend.status(run.dir).state == "running", "the data to be tokenised")
    status = run.backend.status(run.dir)
    assert "waits for its data: pod" in status.reason and "tokenises them on n" in status.reason
    assert (status.outcome, training_pods(run)) == (None, [])
    (pod,) = namespace.pods("app.kubernetes.io/component=prepare")
    containers = {one["name"]: one for one in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}
    asked = containers["prepare"]["resources"]["requests"]
    assert asked == {"cpu": "1", "memory": "600Mi"}
    tokens = [name for name, one in containers.items() if "api" in [mount["name"] for mount in one["volumeMounts"]]]
    assert tokens == ["unsuspend"], "what runs the user's code has no token of the API"
    assert run.ended() == "finished"
    (record,) = run.records()
    assert (record["attempt"], record["outcome"]) == (0, "finished")
    (trained,) = training_pods(run)
    assert record["generation"].startswith(trained["metadata"]["uid"])


@pytest.mark.testbed
def test_a_bad_row_ends_the_run_with_the_trainers_words_and_no_pod_with_gpus(
    namespace: Namespace, tmp_path: Path
) -> None:
    """The real trainer, through the command line; the row is mended, and the run resumed."""
    make_job(namespace, tmp_path, 4, prepare=PREPARE)
    job = tmp_path / "job.yaml"
    job.write_text(job.read_text().replace("nodes: 2", "nodes: 1"))
    assert isinstance(namespace.cluster, Testbed)
    rows = Path(namespace.cluster.runs(namespace.name)) / "in" / "rows.jsonl"
    good = rows.read_text()
    rows.write_text(good + '{"messages": "none"}\n')
    done = tuneyard(namespace, "submit", "job.yaml", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["outcome"] == "fatal", done.stdout + done.stderr
    run = Path(said["run"])
    (record,) = read_attempts(run)
    assert (record["decision"]["action"], list(record["exit_codes"])) == ("stop", ["prepare"])
    assert "rows.jsonl:201" in record["cause"], record
    assert ever_created(namespace, "prepare") and not ever_created(namespace, "trainer")
    logs = tuneyard(namespace, "logs", run, cwd=tmp_path).stdout
    assert "rows.jsonl" in logs
    rows.write_text(good)
    done = tuneyard(namespace, "resume", run, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["outcome"] == "finished", done.stdout + done.stderr
    assert ever_created(namespace, "trainer")


@pytest.mark.testbed
def test_a_run_is_cancelled_while_its_data_are_tokenised_and_nothing_is_left(
    namespace: Namespace, tmp_path: Path
) -> None:
    run = preparing(namespace, tmp_path / "cancelled", {"prepare_seconds": 300})
    until(lambda: run.backend.status(run.dir).state == "running", "the data to be tokenised")
    run.backend.cancel(run.dir)
    assert run.backend.status(run.dir).outcome == "stopped"
    (record,) = run.records()
    assert (record["outcome"], list(record["exit_codes"])) == ("stopped", ["prepare"])
    assert Pods(namespace, run.state["release"]).left() == []
    assert namespace.get("roles,rolebindings", "--selector=app.kubernetes.io/name=tuneyard")["items"] == []
    assert not ever_created(namespace, "trainer")


@pytest.mark.testbed
def test_a_pod_that_tokenises_is_evicted_and_another_one_goes_on(namespace: Namespace, tmp_path: Path) -> None:
    """`stop` reaches it as well; and where the data are there, a resume has no such Job."""
    run = preparing(namespace, tmp_path / "evicted", {"steps": 10**6, "save_every": 5, "prepare_seconds": 300})
    until(lambda: run.backend.status(run.dir).state == "running", "the data to be tokenised")
    (pod,) = namespace.pods("app.kubernetes.io/component=prepare")
    set_trainer(run, prepare_seconds=0)
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    run.trains(1)
    assert run.records()[0]["outcome"] == "preempted"
    run.backend.stop(run.dir)
    assert run.ended() == "stopped"
    shared = remote(run) / "data"
    shared.mkdir(exist_ok=True)
    (shared / "preflight.json").write_text("{}")
    run.backend.status(run.dir)
    (run.dir / "data").mkdir(exist_ok=True)
    (run.dir / "data" / "preflight.json").write_text("{}")
    run.submit()
    run.trains(2)
    assert namespace.pods("app.kubernetes.io/component=prepare") == []
    run.backend.cancel(run.dir)


@pytest.mark.testbed
def test_a_run_that_may_not_be_opened_says_so_in_the_api_servers_words(namespace: Namespace, tmp_path: Path) -> None:
    """An account that the site has named, and given no right."""
    run = preparing(namespace, tmp_path / "shut", {"steps": 5}, prepare={"service_account": "default"})
    assert run.ended() == "fatal"
    reason = run.backend.status(run.dir).reason
    assert "refused: status 403" in reason and 'cannot patch resource "jobs"' in reason
    assert not ever_created(namespace, "trainer")
    run.backend.cancel(run.dir)


@pytest.mark.testbed
def test_a_jobset_waits_for_its_data_too(namespace: Namespace, tmp_path: Path) -> None:
    assert isinstance(namespace.cluster, Testbed)
    namespace.cluster.install_jobset()
    run = preparing(namespace, tmp_path / "set", {"steps": 20, "prepare_seconds": 6}, jobset="always")
    until(lambda: run.backend.status(run.dir).state == "running", "the data to be tokenised")
    assert "waits for its data" in run.backend.status(run.dir).reason
    assert training_pods(run) == []
    assert run.ended() == "finished"


@pytest.mark.testbed
def test_two_of_three_pods_are_given_back_while_the_first_one_exports(namespace: Namespace, tmp_path: Path) -> None:
    run, pods = exporting(namespace, tmp_path / "export", 30)
    until(lambda: living(pods) == [0], "the other pods to be given back", 30)
    assert [one["status"]["phase"] for one in run.pods()[1:]] == ["Succeeded", "Succeeded"]
    status = run.backend.status(run.dir)
    assert (status.state, status.reason) == ("running", "trained; pod 0 exports and evaluates alone")
    assert run.records()[-1]["outcome"] is None, "the export goes on"
    assert run.ended() == "finished"
    (record,) = run.records()
    assert len(record["nodes"]) == 3 and (read_progress(run.dir) or {})["state"] == "finished"
    assert [len(pods.alive(index)) for index in range(3)] == [0, 0, 0]


@pytest.mark.testbed
@pytest.mark.parametrize("how", ["killed", "evicted"])
def test_a_head_that_is_lost_while_it_exports_comes_back_alone_and_finishes(
    namespace: Namespace, tmp_path: Path, how: str
) -> None:
    run, pods = exporting(namespace, tmp_path / how, 300)
    until(lambda: living(pods) == [0], "the other pods to be given back", 30)
    trained = (remote(run) / "progress.json").read_text()
    first = pods.at(0)["metadata"]
    set_trainer(run, export_seconds=2)
    if how == "killed":
        namespace.kubectl("delete", "pod", first["name"], "--grace-period=0", "--force")
    else:
        pods.evict(0)
    assert run.ended(240) == "finished"
    lost, last = run.records()
    assert (lost["outcome"], lost["decision"]["action"]) == ("preempted", "restart")
    assert (last["outcome"], list(last["exit_codes"])) == ("finished", ["export"])
    assert (len(lost["nodes"]), len(last["nodes"])) == (3, 1)
    assert (last["first_step"], last["last_step"]) == (20, 20)
    assert (remote(run) / "progress.json").read_text() == trained, "nothing was trained again"
    created = [one["metadata"]["name"] for one in run.pods()]
    assert len([name for name in created if "-1-" in name or "-2-" in name]) == 2, "no other pod was made again"
