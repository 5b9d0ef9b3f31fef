"""The memory controller's files, as the kernel writes them in version 1 and 2."""

from pathlib import Path

import pytest

from cluster.agent.process.cgroup import memory_left, oom_kills

V1 = "4:memory:/slurm/uid_1000/job_7\n1:cpu,cpuacct:/\n0::/\n"
V2 = "0::/kubepods/pod7/c1\n"
EVENTS = "low 0\nhigh 12\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"


@pytest.fixture
def cgroup(tmp_path: Path):
    """Lays out a membership and files, and gives the arguments for the functions under test."""

    def lay_out(membership: str, **files: str) -> tuple[Path, Path]:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "membership", tmp_path

    return lay_out


@pytest.mark.parametrize(
    ("membership", "file", "text", "kills"),
    [
        (V1, "memory/slurm/uid_1000/job_7/memory.oom_control", CONTROL, 3),
        (V1, "memory/memory.oom_control", CONTROL, 3),  # seen from inside a container
        (V1, "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", None),  # before Linux 4.13
        (V2, "kubepods/pod7/c1/memory.events", EVENTS, 2),
        (V2, "memory.events", EVENTS, 2),
        (V2, "something.else", "", None),
        ("", "memory.events", EVENTS, None),
    ],
)
def test_the_kernels_kills_are_counted(cgroup, membership: str, file: str, text: str, kills: int | None) -> None:
    assert oom_kills(*cgroup(membership, **{file: text})) == kills


def test_memory_left_does_not_count_the_page_cache(cgroup) -> None:
    files = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 100\ninactive_file 700\n"}
    assert memory_left(*cgroup(V2, **files)) == 800
    assert memory_left(*cgroup(V2, **{**files, "memory.max": "max\n"})) is None


def test_memory_left_in_version_1(cgroup) -> None:
    folder = "memory/slurm/uid_1000/job_7/"
    files = {"limit_in_bytes": "1000\n", "usage_in_bytes": "900\n", "stat": "total_inactive_file 50\n"}
    named = {f"{folder}memory.{name}": text for name, text in files.items()}
    assert memory_left(*cgroup(V1, **named)) == 150
    unlimited = {**named, f"{folder}memory.limit_in_bytes": "9223372036854771712\n"}
    assert memory_left(*cgroup(V1, **unlimited)) is None


def test_this_machine_answers_without_an_error() -> None:
    assert (oom_kills() or 0) >= 0
    assert (memory_left() or 1) > 0
