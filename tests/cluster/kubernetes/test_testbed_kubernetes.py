"""The testbed behaves like the Kubernetes that it is: security, DNS, GPUs, lost nodes; and leaves nothing behind."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pods
import pytest

from tests.cluster.kubernetes.testbed import Cluster, Namespace, Testbed, TestbedError
from tests.cluster.kubernetes.testbed.host import processes, run, wait_until
from tests.cluster.kubernetes.testbed.places import Place

ROOT = Path(__file__).parents[3]
SLEEP = f"600.{os.getpid()}"  # known among all processes of this machine
ALL_REDUCE = """
import os, socket, time, torch, torch.distributed as dist, cluster.agent
rank = int(os.environ["JOB_COMPLETION_INDEX"])
while True:  # a name is published a moment after its pod has begun, and torch asks for it once
    try:
        socket.getaddrinfo("gang-0.gang", None)
        break
    except OSError:
        time.sleep(0.2)
dist.init_process_group("gloo", init_method="tcp://gang-0.gang:29500", rank=rank, world_size=2)
total = torch.ones(1) * (rank + 1)
dist.all_reduce(total)
open(f"/runs/{rank}", "w").write(f"{total.item()} as {os.getuid()}")
print(total.item(), cluster.agent.__name__, flush=True)
dist.barrier()
dist.destroy_process_group()  # else a thread of gloo's may end the process with an error when Python unloads it
"""
OWNER = """
import sys
from pathlib import Path
from tests.cluster.kubernetes.testbed.places import Place
with Place(9).locked() as handle:
    Place(9).note_holder(handle, Path(sys.argv[1]), owned=True)
print("noted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for testbeds: those of pytest are too deep for the kubelet's sockets."""
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as folder:
        yield Path(folder)


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    wait_until(condition, seconds, "it did not happen in time")


def phase(namespace: Namespace, name: str) -> str:
    return namespace.get("pod", name)["status"]["phase"]


def runs(namespace: Namespace, name: str) -> Callable[[], bool]:
    return lambda: phase(namespace, name) == "Running"


def sleeper(namespace: Namespace, name: str = "sleeper", **more: Any) -> None:
    namespace.apply(pods.pod(name, namespace.image, "sleep", SLEEP, **more))
    until(runs(namespace, name))


def gpus(cluster: Cluster) -> dict[str, str | None]:
    nodes = cluster.get("nodes")["items"]
    return {node["metadata"]["name"]: node["status"]["allocatable"].get("nvidia.com/gpu") for node in nodes}


@pytest.mark.testbed
def test_it_boots_with_two_nodes_of_eight_gpus(kubernetes_testbed: Testbed) -> None:
    assert kubernetes_testbed.node_states() == {"n1": "True", "n2": "True"}
    until(lambda: gpus(kubernetes_testbed) == {"n1": "8", "n2": "8"})


def test_ranks_on_two_nodes_find_each_other_and_add_up(namespace: Namespace) -> None:
    namespace.apply(*pods.gang("gang", namespace.image, 2, "python", "-c", ALL_REDUCE))
    namespace.kubectl("wait", "--for=condition=complete", "job/gang", "--timeout=120s")
    both = namespace.pods("job-name=gang")
    assert len({pod["spec"]["nodeName"] for pod in both}) == 2
    for one in both:
        assert "3.0 cluster.agent" in namespace.kubectl("logs", one["metadata"]["name"])


@pytest.mark.testbed
def test_pods_share_the_claim_and_its_folder(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    write = "id -u > /runs/$HOSTNAME; ! touch /usr/lib/python 2>/dev/null && ! touch /opt/venv/x 2>/dev/null"
    for number, node in enumerate(kubernetes_testbed.node_names):
        namespace.apply(pods.pod(f"p{number}", namespace.image, "sh", "-c", write, nodeName=node))
    for number, _ in enumerate(kubernetes_testbed.node_names):
        until(lambda name=f"p{number}": phase(namespace, name) == "Succeeded")
    folder = kubernetes_testbed.runs(namespace.name)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"p0": "1000\n", "p1": "1000\n"}


def test_a_pod_as_root_is_refused(namespace: Namespace) -> None:
    as_root = pods.pod("root", namespace.image, "id", securityContext={})
    with pytest.raises(TestbedError, match='violates PodSecurity "restricted'):
        namespace.apply(as_root)


def test_more_gpus_than_a_node_has_are_waited_for(namespace: Namespace) -> None:
    namespace.apply(pods.pod("greedy", namespace.image, "id", gpus=9999))

    def told() -> bool:
        conditions = namespace.get("pod", "greedy")["status"].get("conditions", [])
        return any("Insufficient nvidia.com/gpu" in one.get("message", "") for one in conditions)

    until(told)


@pytest.mark.testbed
def test_a_user_may_do_what_a_role_binding_says(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    as_alice = ("--kubeconfig", kubernetes_testbed.kubeconfig_for("alice"))
    with pytest.raises(TestbedError, match=r"alice.* cannot list"):
        namespace.kubectl(*as_alice, "get", "pods")
    namespace.kubectl("create", "rolebinding", "alice", "--clusterrole=view", "--user=alice")
    until(lambda: namespace.kubectl("auth", "can-i", "list", "pods", "--as=alice") == "yes")
    assert namespace.kubectl(*as_alice, "get", "pods", "--output=name") == ""


def test_a_service_account_has_a_kubeconfig(kubernetes_testbed: Cluster, namespace: Namespace) -> None:
    kubeconfig = kubernetes_testbed.kubeconfig_for(f"{namespace.name}:default")
    who = namespace.kubectl(
        "--kubeconfig", kubeconfig, "auth", "whoami", "--output=jsonpath={.status.userInfo.username}"
    )
    assert who == f"system:serviceaccount:{namespace.name}:default"


@pytest.mark.testbed
def test_a_node_without_power_is_seen_and_comes_back(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    sleeper(namespace, nodeName="n2")
    kubernetes_testbed.kill_node("n2")
    assert not sleeping()
    assert kubernetes_testbed.node_states() == {"n1": "True", "n2": "Unknown"}
    kubernetes_testbed.restart_node("n2")
    until(lambda: gpus(kubernetes_testbed)["n2"] == "8")
    until(lambda: phase(namespace, "sleeper") in ("Failed", "Succeeded"))  # its processes are gone for good
    sleeper(namespace, "next", nodeName="n2")


@pytest.mark.testbed
def test_pods_outlive_the_api_server(kubernetes_testbed: Testbed, namespace: Namespace) -> None:
    sleeper(namespace)
    kubernetes_testbed.stop_api_server()
    with pytest.raises(TestbedError):
        namespace.pods()
    assert sleeping()
    kubernetes_testbed.start_api_server()
    until(lambda: "True" in kubernetes_testbed.node_states().values())
    assert phase(namespace, "sleeper") == "Running"


@pytest.mark.testbed
def test_another_one_may_be_up_and_goes_when_its_command_ends(kubernetes_testbed: Testbed) -> None:
    bed = Path(f"{kubernetes_testbed.directory}-other")
    ask = 'kubectl get nodes --output=name; echo "$KUBECONFIG"; exit 7'
    options = ("--dir", str(bed), "--nodes", "1")
    line = [sys.executable, "-m", "tests.cluster.kubernetes.testbed", "run", *options, "--", "sh", "-c", ask]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (done.returncode, done.stdout.split(), done.stderr)
    assert said == (7, ["node/n1", f"{bed}/users/admin.kubeconfig"], "")
    assert not bed.exists()
    assert kubernetes_testbed.is_up()


@pytest.mark.testbed
def test_when_all_places_are_taken_it_says_by_whom(
    kubernetes_testbed: Testbed, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setattr("tests.cluster.kubernetes.testbed.places.PLACES", [kubernetes_testbed.place])
    with pytest.raises(TestbedError, match=re.escape(str(kubernetes_testbed.place.holder))):
        Testbed(short_path / "bed").up()


@pytest.mark.testbed
def test_a_crashed_one_is_cleared_away_and_down_leaves_nothing(kubernetes_testbed: Testbed) -> None:
    before = changed_on_the_machine()
    lost = Namespace(kubernetes_testbed, "to-be-lost")
    lost.create()
    sleeper(lost)
    assert not kubernetes_testbed.up()
    crash(kubernetes_testbed)
    assert kubernetes_testbed.up()
    assert "to-be-lost" not in kubernetes_testbed.kubectl("get", "namespaces")
    place = kubernetes_testbed.place
    assert kubernetes_testbed.down()
    assert traces(kubernetes_testbed.directory.name, place) == before
    assert not kubernetes_testbed.down()
    kubernetes_testbed.up()  # for the tests after this one


@pytest.mark.testbed
def test_one_that_is_being_ended_is_left_to_its_owner_while_that_lives(
    monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setattr("tests.cluster.kubernetes.testbed.bed.PLACES", [Place(9)])
    monkeypatch.setattr("tests.cluster.kubernetes.testbed.places.PLACES", [])  # nothing is booted here
    theirs = short_path / "theirs"
    theirs.mkdir()
    (theirs / "tuneyard-kubernetes-testbed").write_text("9")
    line = [sys.executable, "-c", OWNER, str(theirs)]
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout and owner.stdout.readline() == b"noted\n"
        with pytest.raises(TestbedError, match="all 0 places"):
            Testbed(short_path / "ours").up()
        assert theirs.exists()
    with pytest.raises(TestbedError, match="all 0 places"):
        Testbed(short_path / "ours").up()
    assert not theirs.exists()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TestbedError, match="needs root"):
        Testbed(tmp_path / "bed").up()


def test_without_the_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("tests.cluster.kubernetes.testbed.host.PATH", str(tmp_path))
    with pytest.raises(TestbedError, match=r"apt-get install .*conntrack containerd .*runc"):
        Testbed(tmp_path / "bed").up()


@pytest.mark.testbed
def test_a_folder_too_deep_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / "bed"
    with pytest.raises(TestbedError, match=r"characters too long: sockets lie below it\nname a shorter folder"):
        Testbed(deep).up()
    assert not deep.parent.exists()


def test_a_folder_that_is_not_a_testbed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TestbedError, match="not a testbed"):
        Testbed(tmp_path).down()
    assert (tmp_path / "thesis.tex").exists()


def sleeping() -> list[int]:
    """Processes of the sleepers, as this machine sees them."""
    return [pid for pid, words in processes() if words == ["sleep", SLEEP]]


def crash(bed: Testbed) -> None:
    """Ends the control plane at once; nodes and their pods stay."""
    first = next(
        pid for pid, words in processes() if words[-1:] == [str(bed.directory / "ctl")] and "pause" in words[0]
    )
    os.kill(first, 9)
    until(lambda: not bed.is_up())
    assert sleeping()


def traces(name: str, place: Place) -> dict[str, list[str]]:
    """What of a testbed is left on this machine, by kind."""
    found = {
        "processes": [" ".join(words) for _, words in processes() if any(name in word for word in words)],
        "pods": [str(pid) for pid in sleeping()],
        "mounts": [line for file in Path("/proc").glob("[0-9]*/mounts") for line in lines(file) if name in line],
        "links": [line for line in run("ip", "-brief", "link").splitlines() if place.cable in line],
        "routes": run("ip", "route", "show", "root", f"{place.network}.0.0/16").splitlines(),
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{place.cgroup}")],
        "folders": [str(path) for path in Path(tempfile.gettempdir()).glob(f"{name}*")],
    }
    return {kind: left for kind, left in found.items() if left} | changed_on_the_machine()


def changed_on_the_machine() -> dict[str, list[str]]:
    """What a node changes on a machine that is a node only."""
    rules = [line for line in run("iptables-save").splitlines() if "KUBE" in line]
    folders = [name for name in ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers") if Path(name).exists()]
    found = {"rules": rules, "networks": run("ip", "netns").splitlines(), "node's folders": folders}
    return {kind: left for kind, left in found.items() if left}


def lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
