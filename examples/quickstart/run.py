"""The quickstart: makes its data and model, then takes the path that every job takes, with one interruption.

`make quickstart` runs this. It calls the same commands that you would type, and shows each of them. In the middle of
training it stops the run, as a cluster does when it takes the machines away, and resumes it. To prove that nothing was
lost, a twin starts from an earlier checkpoint and trains through the place of the interruption without a pause: every
loss and gradient norm must be the same, bit for bit.

Ctrl-C ends the run that is just training; nothing of it goes on.

    python examples/quickstart/run.py [--work DIR] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INTERRUPT_AT = 0.4
TWIN_STEPS = 20
STOPPED = 75
INTERRUPTED = 130
INTERRUPT_SECONDS = 5
ANY = tuple(range(256))
TUNEYARD = Path(sys.executable).with_name("tuneyard")
BAR = 0.90
ENVIRONMENT = {"COLUMNS": "110", "DS_ACCELERATOR": "cpu"}


def main() -> int:
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # `kill` and a terminal that closes end it as Ctrl-C does
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        return quickstart(arguments.work, arguments.seed)
    except KeyboardInterrupt:
        try:
            print("\ninterrupted: ending what runs", flush=True)
        except OSError:  # the terminal is gone
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        end_what_runs(arguments.work)
        return INTERRUPTED


def quickstart(work: Path, seed: str) -> int:
    """The whole path. Returns 0 when the model is good and the resume exact."""
    started = time.monotonic()
    command(sys.executable, HERE / "prepare.py", work, "--seed", seed)
    job = write_job(work)
    run = train_with_interruption(job, work)
    stopped_at = read(run / "progress.json")["step"]
    twin = make_twin(run, work / "twin", before=stopped_at)
    tuneyard("resume", run)
    resume = prove_resume(run, twin, stopped_at)
    exact_match = read(run / "evaluation.json")["exact_match"]
    tuneyard("report", run)
    print_curve(run)
    print(f"report: {run / 'report.html'}")
    print(f"all of it took {time.monotonic() - started:.0f} seconds")
    print(f"quickstart: exact_match={exact_match:.3f} train_seconds={train_seconds(run):.0f} resume={resume} run={run}")
    return 0 if exact_match >= BAR and resume == "bit-exact" else 1


def end_what_runs(work: Path) -> None:
    """Cancel every run that is alive; another Ctrl-C does not come between."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for run in [*(work / "runs").glob("*"), work / "twin"]:
        if (run / "plan.json").exists() and asked_state(run) in ("queued", "running"):
            tuneyard("cancel", run, accept=ANY)


def asked_state(run: Path) -> str:
    """What `tuneyard status` calls the state of a run."""
    asked = subprocess.run([TUNEYARD, "status", run, "--json"], capture_output=True, text=True, check=False)
    return str(json.loads(asked.stdout)["state"]) if asked.returncode == 0 else "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where everything is written")
    parser.add_argument("--seed", default="7", help="seed of the rows and of the model")
    return parser.parse_args()


def write_job(work: Path) -> Path:
    """The job file beside its data: the one in this folder, with its paths from there."""
    job = work / "job.yaml"
    job.write_text((HERE / "job.yaml").read_text(encoding="utf-8").replace("work/", "./"), encoding="utf-8")
    return job


def train_with_interruption(job: Path, work: Path) -> Path:
    """Submit, and stop the run in the middle of training. Returns the run directory."""
    runs = work / "runs"
    before = set(runs.glob("*"))
    stopper = threading.Thread(target=stop_in_the_middle, args=(runs, before), daemon=True)
    stopper.start()
    code = tuneyard("submit", job, "--runs", runs, accept=(0, STOPPED))
    if code != STOPPED:
        raise SystemExit("the run ended before it could be interrupted")
    stopper.join()
    (run,) = set(runs.glob("*")) - before
    return run


def stop_in_the_middle(runs: Path, before: set[Path]) -> None:
    """Wait until the new run is far enough, then ask it to stop, as `tuneyard stop` in another terminal would."""
    while True:
        time.sleep(0.2)
        for run in set(runs.glob("*")) - before:
            progress = read(run / "progress.json") or {}
            if progress.get("state") == "training" and progress["step"] >= INTERRUPT_AT * progress["max_steps"]:
                tuneyard("stop", run)
                return


def make_twin(run: Path, twin: Path, before: int) -> Path:
    """A copy of the run as it was at its last checkpoint before step `before`."""
    shutil.rmtree(twin, ignore_errors=True)
    (twin / "checkpoints").mkdir(parents=True)
    for name in ("job.yaml", "plan.json"):
        shutil.copy(run / name, twin / name)
    shutil.copytree(run / "data", twin / "data")
    earlier = [c for c in sorted((run / "checkpoints").glob("step-*")) if int(c.name[5:]) < before]
    shutil.copytree(earlier[-1], twin / "checkpoints" / earlier[-1].name)
    return twin


def prove_resume(run: Path, twin: Path, stopped_at: int) -> str:
    """Let the twin train through the interruption and compare. Returns "bit-exact", or what differs first."""
    print(f"\nproof: a twin trains from an earlier checkpoint through step {stopped_at} without a pause")
    stopper = threading.Thread(target=stop_after, args=(twin, stopped_at + TWIN_STEPS), daemon=True)
    stopper.start()
    tuneyard("resume", twin, accept=(STOPPED,))
    ours, theirs = curve(run), curve(twin)
    common = sorted(ours.keys() & theirs.keys())
    assert common[0] <= stopped_at < common[-1], "the twin must cross the interruption"
    print(f"step   {'interrupted and resumed':>26}   {'never interrupted':>26}")
    for step in range(stopped_at - 2, stopped_at + 3):
        mark = "  <- interrupted after this step" if step == stopped_at else ""
        print(f"{step:5d}  {ours[step][0]!r:>26}   {theirs[step][0]!r:>26}{mark}")
    different = [step for step in common if ours[step] != theirs[step]]
    print(f"{len(common)} steps compared, {len(common) - len(different)} equal in every bit of loss and gradient norm")
    return f"different-from-step-{different[0]}" if different else "bit-exact"


def stop_after(run: Path, step: int) -> None:
    """Ask `run` to stop once it has passed `step`."""
    while (read(run / "progress.json") or {}).get("step", 0) < step:
        time.sleep(0.2)
    tuneyard("stop", run)


def curve(run: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of every step that a run has logged."""
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines if "loss" in line}


def train_seconds(run: Path) -> float:
    """Seconds in training, over all attempts: from starting the ranks to their end."""
    lines = (run / "attempts.jsonl").read_text().splitlines()
    return sum(json.loads(line)["seconds"]["train"] for line in lines)


def print_curve(run: Path, points: int = 10) -> None:
    """A few points of the loss curve."""
    losses = curve(run)
    steps = sorted(losses)
    chosen = [steps[round(n * (len(steps) - 1) / points)] for n in range(points + 1)]
    print("\nloss: " + "  ".join(f"{step}: {losses[step][0]:.3f}" for step in chosen))


def tuneyard(*arguments: Any, accept: tuple[int, ...] = (0,)) -> int:
    """Run one of tuneyard's commands and show it."""
    return command(TUNEYARD, *arguments, shown="tuneyard", accept=accept)


def command(*arguments: Any, shown: str = "python", accept: tuple[int, ...] = (0,)) -> int:
    """Run a program in the foreground; an unexpected exit code ends the quickstart."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join([shown, *words[1:]])}", flush=True)
    code = finished(subprocess.Popen(words, env=os.environ | ENVIRONMENT))
    if code not in accept:
        raise SystemExit(f"that ended with exit code {code}, expected {' or '.join(map(str, accept))}")
    return code


def finished(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. After Ctrl-C it is given the time to put its own things in order."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(INTERRUPT_SECONDS)  # a terminal's Ctrl-C has reached it, too
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
        raise


def read(file: Path) -> Any:
    """The JSON in a file, or None while it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
