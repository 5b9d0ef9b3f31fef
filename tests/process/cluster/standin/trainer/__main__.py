"""`python -m trainer COMMAND RUN_DIR`. plan.json's `trainer` says how many steps, and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FAR_AWAY_SECONDS = 600


def main() -> int:
    command, run_dir = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((run_dir / "plan.json").read_text())["trainer"]
    if "training" in settings:  # a plan of a real job file
        settings |= {"steps": settings["training"]["max_steps"], "polite": True}
    print(f"{command} speaks", flush=True)
    if command == "train":
        return train(run_dir, settings)
    (run_dir / f"{command}.pid").write_text(str(os.getpid()))
    time.sleep(settings.get(f"{command}_seconds", 0))
    if code := settings.get(f"{command}_exit", 0):
        print(f"{command} went wrong", file=sys.stderr)
        return code
    return 0


def train(run_dir: Path, settings: dict) -> int:
    told: list[int] = []
    for number in (
        signal.SIGTERM,
        *([signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT] if settings.get("polite") else []),
    ):
        signal.signal(number, lambda number, _: told.append(number))
    rank, start = int(os.environ["RANK"]), resume_step(run_dir)
    (run_dir / f"rank{rank}.pid").write_text(str(os.getpid()))
    (run_dir / f"rank{rank}.env").write_text(json.dumps(dict(os.environ)))
    if settings.get("leave_orphan"):
        far = subprocess.Popen(["sleep", str(FAR_AWAY_SECONDS)], start_new_session=True)
        (run_dir / f"orphan{rank}.pid").write_text(str(far.pid))
    if settings.get("mute"):
        time.sleep(FAR_AWAY_SECONDS)
    for step in range(start, settings["steps"] + 1):
        if rank == 0:
            write_progress(run_dir, "training", step, start, saved=saved_step(settings, step, start))
        wish = (run_dir / "stop").exists() and not settings.get("deaf")
        wish = wish or bool(told and settings.get("polite"))  # as the real trainer takes it
        if settings.get("lockstep"):
            wish = agreed(run_dir, rank, step, wish)
        if wish:
            return leave(run_dir, rank, step, start)
        if told and not settings.get("deaf") and not settings.get("polite"):
            return 1  # torchrun ends us since another rank failed
        if step == settings.get("raise_at", {}).get(os.environ["TUNEYARD_ATTEMPT"]) and rank == 0:
            raise OSError(settings.get("says", "lost the thread"))
        if settings.get("fatal_at") == step and rank in settings.get("fatal_ranks", [rank]):
            record_failure(run_dir, {"kind": "fatal", "message": "out of memory", "remedy": "a smaller micro-batch"})
            return 2
        time.sleep(settings.get("step_seconds", 0.02))
    if settings.get("evaluation_exit"):
        if rank == 0:
            write_progress(run_dir, "evaluating", settings["steps"], start, saved=settings["steps"], trained=True)
        time.sleep(0.2)
        return settings["evaluation_exit"]
    if rank == 0:
        write_progress(run_dir, "finished", settings["steps"], start)
        if "training" in settings:
            held_out(run_dir, settings)
    return 0


def held_out(run_dir: Path, settings: dict) -> None:
    """The better, the nearer the learning rate is to 0.02."""
    loss = 1 + abs(settings["training"]["learning_rate"] - 0.02)
    (run_dir / "logs" / "metrics.jsonl").write_text(json.dumps({"step": settings["steps"], "eval_loss": loss}) + "\n")


def agreed(run_dir: Path, rank: int, step: int, wish: bool) -> bool:
    """Whether any rank wanted to leave at this step or before: all give the same answer, if all live."""
    life = os.environ["TUNEYARD_ATTEMPT"]
    if wish:
        (run_dir / f"leaves-{life}-{rank}").write_text(str(step))
    all_reduce(run_dir, rank, step)
    return any(int(path.read_text() or step + 1) <= step for path in run_dir.glob(f"leaves-{life}-*"))


def all_reduce(run_dir: Path, rank: int, step: int) -> None:
    """Waits for the other ranks, as a collective does: whatever signal arrives, for ever."""
    life = os.environ["TUNEYARD_ATTEMPT"]
    (run_dir / f"at-{life}-{rank}").write_text(str(step))
    for other in range(int(os.environ["WORLD_SIZE"])):
        path = run_dir / f"at-{life}-{other}"
        while not (path.exists() and int(path.read_text() or 0) >= step):
            time.sleep(0.005)


def leave(run_dir: Path, rank: int, step: int, start: int) -> int:
    if rank == 0:
        write_progress(run_dir, "stopped", step, start)
    return 75


def saved_step(settings: dict, step: int, start: int) -> int:
    every = settings.get("save_every")
    return max(start, step // every * every) if every else start


def resume_step(run_dir: Path) -> int:
    path = run_dir / "progress.json"
    return json.loads(path.read_text())["last_checkpoint"]["step"] if path.exists() else 0


STARTED = time.time()


def phase_seconds() -> dict[str, float]:
    launched = float(os.environ["TUNEYARD_RANK_STARTED"]) - float(os.environ["TUNEYARD_PHASE_STARTED"])
    return {"launch": launched, "training": time.time() - STARTED}


def record_failure(run_dir: Path, words: dict) -> None:
    attempt = int(os.environ["TUNEYARD_ATTEMPT"])
    write(run_dir / "failure.json", {"attempt": attempt, **words, "time": time.time()})


def write_progress(
    run_dir: Path, state: str, step: int, start: int, saved: int | None = None, trained: bool = False
) -> None:
    if saved is None:
        saved = step if state in ("stopped", "finished") else start
    progress = {
        "state": state,
        "trained": trained,
        "attempt": int(os.environ["TUNEYARD_ATTEMPT"]),
        "step": step,
        "last_checkpoint": {"step": saved, "path": f"checkpoints/step-{saved:08d}"},
        "resumed_from": {"step": start} if start else None,
        "phase_seconds": phase_seconds(),
        "heartbeat": time.time(),
    }
    write(run_dir / "progress.json", progress)


def write(path: Path, facts: dict) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(facts))
    beside.replace(path)


sys.exit(main())
