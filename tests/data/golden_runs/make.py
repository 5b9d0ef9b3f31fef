"""Makes the golden runs with the code that `PYTHONPATH` names. README.md beside this file says with which.

PYTHONPATH=CODE python tests/data/golden_runs/make.py WORK_FOLDER
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from cluster.kubernetes.state import Submitted, write_submitted
from cluster.slurm.jobs import Submission, write_submission

from cluster.run.lock import holder
from tests.support import tiny

CODE = Path(sys.modules["tests.support"].__path__[0]).parents[1]
STANDIN = CODE / "tests" / "process" / "cluster" / "standin"
KEPT_SUFFIXES = {".json", ".jsonl", ".yaml", ".log", ".txt", ".sh", ""}
LEFT_OUT = ("data/train", "data/eval", "tensorboard", "model/", "checkpoints", ".pid", ".env", "spoken", ".lock", "at-")
MOST_BYTES = 30_000

JOB = """
name: tiny
model: {path: ./model}
data: {train: [{path: ./rows.jsonl}], eval: {split: 0.1}, max_length: 512}
training: {max_steps: STEPS, learning_rate: 0.01, tokens_per_step: 2048}
evaluation: {every_steps: 20, generate: ./prompts.jsonl}
checkpoint: {every_steps: 10}
logging: {every_seconds: 0}
resources: {gpu: none, cpu_ranks: 2}
"""


def tuneyard(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def progress(run: Path) -> dict:
    try:
        return json.loads((run / "progress.json").read_text())
    except (OSError, ValueError):
        return {}


def submit(job: Path) -> Path:
    before = set(Path("runs").glob("*/plan.json"))
    tuneyard("submit", job, "--detach")
    (plan,) = set(Path("runs").glob("*/plan.json")) - before
    return plan.parent


def real_runs() -> None:
    """With the real trainer: stop, resume over a changed plan, crash, finish; one that is fatal; a sweep."""
    tiny.make_model(Path("model"))
    tiny.write_rows(Path("rows.jsonl"), 300)
    Path("prompts.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "red"}], "answer": "cat", "tag": "one"}\n'
    )
    job = Path("job.yaml")
    job.write_text(JOB.replace("STEPS", "100000"))
    run = submit(job)
    until(lambda: progress(run).get("step", 0) > 12)
    tuneyard("stop", run)
    until(lambda: holder(run) is None)
    shutil.copytree(run, "kept/local_stopped")
    tuneyard("resume", run, "--max-steps", progress(run)["step"] + 400, "--detach")
    until(lambda: progress(run).get("attempt") == 1 and progress(run).get("state") == "training")
    os.kill(int((run / "logs/attempt-001/rank-00001.pid").read_text().split()[0].strip('{",')), signal.SIGKILL)
    until(lambda: holder(run) is None)
    shutil.copytree(run, "kept/local_finished")

    job.write_text(JOB.replace("STEPS", "4").replace("name: tiny", "name: doomed"))
    run = submit(job)
    until(lambda: progress(run).get("state") == "loading" or holder(run) is None)
    job.write_text(JOB.replace("STEPS", "4").replace("learning_rate: 0.01", "learning_rate: 1e38"))
    until(lambda: holder(run) is None)
    shutil.copytree(run, "kept/local_short")
    run = submit(job)
    until(lambda: holder(run) is None)
    shutil.copytree(run, "kept/local_diverged")

    tuneyard("sweep", job, "--set", "training.learning_rate=0.001,0.01", "--json")
    (folder,) = Path("runs").glob("*sweep*")
    shutil.copytree(folder, f"kept/{folder.name}")
    for run in json.loads((folder / "sweep.json").read_text())["runs"]:
        shutil.copytree(run["run"], Path("kept") / Path(run["run"]).name)


def standin_run(name: str, trainer: dict, launch: dict | None = None, ranks: int = 2, phases: object = None) -> Path:
    """A run of real agents, whose trainer is the tests' stand-in. Its plan is cut down to what the agent reads."""
    run = Path("kept") / name
    run.mkdir(parents=True)
    given = {"nodes": 1, "ranks_per_node": ranks, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 10}
    given |= {"phases": phases or ["prepare", "train"], "restart": {"backoff_seconds": 0.1}, **(launch or {})}
    (run / "plan.json").write_text(json.dumps({"launch": given, "trainer": {"save_every": 5, **trainer}}))
    return run


def agent(run: Path, **place: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{STANDIN}{os.pathsep}{CODE}", "PYTHONSAFEPATH": "1", **place}
    with open(run / f"spoken{place.get('TUNEYARD_NODE_RANK', '')}", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.agent", str(run.resolve())], env=environment, stdout=log, stderr=log
        )


def nodes(run: Path, generation: str, port: str = "25111") -> list[subprocess.Popen]:
    place = {"TUNEYARD_NODES": "n1,n2", "TUNEYARD_HEAD": "localhost", "TUNEYARD_PORT": port}
    place |= {"TUNEYARD_GENERATION": generation, "TUNEYARD_SUBMITTED": "1795000000.5", "TUNEYARD_SCHEDULER": "test"}
    return [agent(run, **place, TUNEYARD_NODE_RANK=str(rank)) for rank in (1, 0)]


def standin_runs() -> None:
    run = standin_run("agent_fatal", {"steps": 20, "fatal_at": 7})
    print("fatal", agent(run).wait())
    run = standin_run(
        "agent_gave_up", {"steps": 20, "raise_at": {"0": 7, "1": 7, "2": 7, "3": 7}, "says": "[Errno 28] full"}
    )
    print("gave up", agent(run).wait())
    run = standin_run("agent_hang", {"steps": 10**6, "lockstep": True}, {"hang_seconds": 2, "restart": {"auto": False}})
    one = agent(run)
    until(lambda: progress(run).get("step", 0) > 8)
    os.kill(int((run / "rank1.pid").read_text()), signal.SIGSTOP)
    print("hang", one.wait())
    run = standin_run("agent_killed", {"steps": 10**6})
    one = agent(run)
    until(lambda: progress(run).get("step", 0) > 8)
    one.kill()
    one.wait()
    run = standin_run("agent_walltime", {"steps": 10**6})
    one = agent(run)
    until(lambda: progress(run).get("step", 0) > 8)
    one.send_signal(signal.SIGUSR1)
    print("walltime", one.wait())
    run = standin_run(
        "agent_export_failed", {"steps": 9, "export_exit": 1}, phases=["prepare", "train", "export", "evaluate"]
    )
    print("export", agent(run).wait())
    run = standin_run(
        "nodes_requeued",
        {"steps": 60, "lockstep": True, "step_seconds": 0.1},
        {"nodes": 2, "silence_seconds": 5},
        ranks=1,
    )
    both = nodes(run, "7.0")
    until(lambda: progress(run).get("step", 0) > 12)
    for one in both:
        one.send_signal(signal.SIGTERM)
    print("preempted", [one.wait() for one in both])
    shutil.copytree(run, "kept/nodes_preempted")
    print("requeued", [one.wait() for one in nodes(run, "7.1", "25311")])
    run = standin_run(
        "nodes_health",
        {"steps": 5},
        {"nodes": 2, "health": {"checks": [["false"]]}, "restart": {"auto": False}},
        ranks=1,
    )
    print("health", [one.wait() for one in nodes(run, "8.0", "25411")])


def keep(runs: Path, work: Path) -> None:
    """The small text files of every run, with this machine's names taken out."""
    for path in sorted(Path("kept").rglob("*")):
        name = path.relative_to("kept").as_posix()
        in_run = name.partition("/")[2]
        is_left_out = any(part in in_run for part in LEFT_OUT) or path.suffix not in KEPT_SUFFIXES
        is_left_out |= in_run.startswith("logs/attempt-") and path.name != "agent.log"
        if not path.is_file() or is_left_out:
            continue
        text = path.read_text(errors="replace")
        if path.name == "metrics.jsonl":  # every twentieth step will do
            lines = text.splitlines(keepends=True)
            text = "".join(line for number, line in enumerate(lines) if "eval_loss" in line or number % 20 == 0)
        if len(text) > MOST_BYTES:
            continue
        text = text.replace(str(work), "/golden").replace(str(CODE), "/code")
        text = text.replace(sys.prefix, "/venv").replace(socket.gethostname(), "host")
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text(text)


def changed(path: Path, change: Callable[[dict], dict]) -> None:
    """Changes a JSON file, as its writer would have written it."""
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=1) + "\n")


def derived_runs(runs: Path) -> None:
    """Documents of schedulers around runs of agents, and damage that readers have to live with."""
    for name, source in (("slurm_requeued", "nodes_requeued"), ("slurm_preempted", "nodes_preempted")):
        run = shutil.copytree(runs / source, runs / name)
        changed(run / "plan.json", lambda plan: plan | {"launch": plan["launch"] | {"backend": "slurm", "slurm": {}}})
        write_submission(run, Submission("7", 1795000000.5))
        (run / "logs/slurm-jobs").write_text("7 0 1795000001\n7 1 1795000100\n")
        (run / "logs/down-nodes").write_text("n2 down*\n")
    stop = '{"reason": "preempted", "by": "warned by SLURM", "time": 1795000050.123, "urgent": true}\n'
    (runs / "slurm_preempted/stop").write_text(stop)

    run = shutil.copytree(runs / "nodes_requeued", runs / "kubernetes_finished")
    changed(
        run / "plan.json",
        lambda plan: plan | {"launch": plan["launch"] | {"backend": "kubernetes", "kubernetes": {"image": "tuneyard"}}},
    )
    given = {"release": "r", "namespace": "n", "context": "c", "workload": "job", "submitted": 1795000000}
    write_submitted(run, Submitted(**given, path="/runs/r", mirrored=True, is_over=True))
    lines = (run / "attempts.jsonl").read_text().replace("1795000000.5", "1795000000")
    (run / "attempts.jsonl").write_text(lines)

    run = shutil.copytree(runs / "local_stopped", runs / "damaged")
    torn = '{"attempt": 1, "outco'
    odd = {"attempt": 2, "outcome": "hang", "started": 1796061300.0, "nodes": None, "evidence": None, "seconds": None}
    odd["new"] = {"key": [1]}
    bare = {"attempt": 3, "outcome": None, "started": 1796061300.0}
    more = "".join(f"{line}\n" for line in (torn, "[]", json.dumps(odd), json.dumps(bare)))
    (run / "attempts.jsonl").write_text((run / "attempts.jsonl").read_text() + more)
    odd = {"last_checkpoint": "none", "phase_seconds": None, "longest_seconds": [], "save_problem": 1, "loss": None}
    changed(run / "progress.json", lambda progress: progress | odd | {"attempt": 3, "state": "dreaming", "new": 1})
    (run / "finishing.json").write_text("[]")
    (run / "failure.json").write_text("")
    (run / "stop").write_text("")

    run = shutil.copytree(runs / "local_finished", runs / "after_training_failed")
    entry = {"ok": False, "message": "[Errno 28] No space left on device", "remedy": "free space there", "time": 1.0}
    changed(run / "finishing.json", lambda parts: parts | {"export": entry, "from_a_newer_version": {"ok": True}})


def expected(here: Path) -> None:
    """What the command line says about the runs, a copy of which lies where no other run does."""
    shutil.copytree(here / "runs", "runs-read")
    for path in Path("runs-read").rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace("/golden/runs", str(Path("runs-read").resolve())))
            os.utime(path, (1.5e9, 1.5e9))
    (here / "expected").mkdir(exist_ok=True)
    os.environ["PATH"] = "/nowhere"  # no scheduler answers

    def note(name: str, text: str) -> None:
        text = re.sub(r"heard .* ago", "heard some time ago", text)
        (here / "expected" / name).write_text(text.replace(str(Path("runs-read").resolve()), "/golden/runs"))

    note("list.json", tuneyard("list", "--runs", Path("runs-read").resolve(), "--json"))
    note("list.txt", tuneyard("list", "--runs", Path("runs-read").resolve()))
    for run in sorted(Path("runs-read").glob("*/plan.json")):
        note(f"{run.parent.name}.status.json", tuneyard("status", run.parent, "--json"))
        note(f"{run.parent.name}.status.txt", tuneyard("status", run.parent))
        try:
            tuneyard("report", run.parent)
        except AssertionError as error:
            note(f"{run.parent.name}.report.txt", f"{error.args[0][3].splitlines()[-1]}\n")
            continue
        note(f"{run.parent.name}.report.txt", visible_text((run.parent / "report.html").read_text()))


class _Text(HTMLParser):
    """Collects what a reader of an HTML file sees, one line for each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip() and not data.strip().startswith("Written "):
            self.lines += [line.strip() for line in data.splitlines() if line.strip()]


def visible_text(html: str) -> str:
    """The words of a report."""
    parser = _Text()
    parser.feed(html)
    return "\n".join(parser.lines) + "\n"


def main() -> None:
    here, work = Path(__file__).resolve().parent, Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    os.environ["TUNEYARD_MEASURED"] = str(work / "measured.jsonl")
    os.environ["TUNEYARD_COUNTED"] = str(work / "counted")
    os.environ["XDG_STATE_HOME"] = str(work / "state")
    os.environ["DS_ACCELERATOR"] = "cpu"
    if not Path("kept").exists():
        standin_runs()
        real_runs()
    shutil.rmtree(here / "runs", ignore_errors=True)
    shutil.rmtree("runs-read", ignore_errors=True)
    keep(here / "runs", work)
    derived_runs(here / "runs")
    expected(here)


if __name__ == "__main__":
    main()
