"""Every fault of the matrix, on real ranks: what is injected, and what must hold. docs/reliability.md lists them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.campaign import Campaign, FaultyRun, Script, Tally
from benchmarks.chaos.faults import AT_REST, DAMAGE, OF_EVERY_RANK, REFUSALS, Fault
from benchmarks.chaos.job import Layout, RunFactory
from tests.support.ranks import run_on_ranks
from trainer.checkpoint.fault_points import POINTS
from trainer.config import TrainerConfig

WRITES = ("reserve", "file half", "file synced", "manifest open", "staging synced", "prune")


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> RunFactory:
    return RunFactory(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def references(factory: RunFactory) -> Campaign:
    """Knows how undisturbed runs end, once for all tests."""
    return Campaign(factory, ["fsdp2"], 0, 0, print)


@pytest.fixture
def campaign(references: Campaign) -> Campaign:
    references.tally = Tally()
    return references


def inject(campaign: Campaign, engine: str, script: list[Script]) -> FaultyRun:
    """One run under a script; nothing may be lost, nothing may hang, and it ends where it would have ended."""
    faulty = campaign.inject(Layout(engine, 2, "full"), iter(script))
    assert campaign.tally.problems == []
    assert campaign.tally.clean
    return faulty


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_at_every_point_of_a_save_loses_no_checkpoint(campaign: Campaign, rank: int) -> None:
    points = OF_EVERY_RANK if rank else POINTS
    inject(campaign, "fsdp2", [([Fault("kill at point", point=point, rank=rank)], None) for point in points])
    injected = {name.removeprefix("kill at point: ") for name in campaign.tally.points}
    assert injected == set(points), "every point was reached, and had its fault"


@pytest.mark.parametrize("kind", ["kill one", "kill all", "freeze one", "terminate one", "stop file"])
def test_ends_at_any_moment(campaign: Campaign, kind: str) -> None:
    moments = [0.0, 0.004, 0.008, 0.02]
    inject(campaign, "zero1", [([Fault(kind, 2, moment, rank=i)], None) for i, moment in enumerate(moments)])
    assert campaign.tally.faults[kind] == len(moments)
    assert campaign.tally.detected_hangs == (len(moments) if kind == "freeze one" else 0)


@pytest.mark.parametrize("point", ["file half", "manifest written", "renamed", "trashed"])
def test_sigterm_within_a_save_saves_once_more_and_leaves(campaign: Campaign, point: str) -> None:
    inject(campaign, "zero2", [([Fault("terminate at point", point=point)], None)])
    assert campaign.tally.faults["terminate at point"] == 1
    assert campaign.tally.steps_lost == [0], "the state at the signal was saved"


@pytest.mark.parametrize(("refusal", "point"), zip(itertools.cycle(REFUSALS), WRITES))
def test_refused_writes_fail_the_save_and_training_goes_on(campaign: Campaign, point: str, refusal: str) -> None:
    fault = Fault("refuse at point", point=point, detail=refusal, rank=1)
    inject(campaign, "fsdp2", [([fault], None)])
    assert campaign.tally.faults["refuse at point"] == 1
    assert campaign.tally.attempts == 1, "the attempt that was refused storage finished the run"


@pytest.mark.parametrize("left", [0.0, 0.4, 0.9])
def test_a_full_disk_costs_saves_and_nothing_else(campaign: Campaign, left: float) -> None:
    script: list[Script] = [([Fault("disk full", 4, place=left), Fault("kill all", 7)], None)]
    inject(campaign, "zero3", [*script, ([Fault("disk full", 2, place=left)], None)])
    assert campaign.tally.faults["disk full"] == 2


@pytest.mark.parametrize("kind", AT_REST)
def test_damage_at_rest_is_seen_and_stepped_over(campaign: Campaign, kind: str) -> None:
    places = [0.05, 0.5, 0.93]
    script: list[Script] = [([Fault("kill all", 9)], Fault(kind, place=place)) for place in places]
    faulty = inject(campaign, "fsdp2", script)
    assert campaign.tally.faults[kind] == len(places)
    if kind in DAMAGE:
        assert campaign.tally.steps_lost_to_damage == [3] * len(places), "one checkpoint was given up each time"
    assert faulty.resumed_from[-1] > 0


def test_a_step_saved_twice_never_mixes_two_attempts(campaign: Campaign) -> None:
    """The newest is damaged, so its step is trained and saved again, and killed while that is published."""
    again = [([Fault("kill at point", point=point)], None) for point in ("file half", "manifest written", "renamed")]
    script: list[Script] = [([Fault("kill all", 9)], Fault("bit flip"))]
    faulty = inject(campaign, "zero1", [*script, *again])
    assert faulty.resumed_from[1] in (3, 6), "step 6 or 9 was given up, and is saved again"


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (1, 4)])
def test_other_numbers_of_ranks_keep_the_order(campaign: Campaign, before: int, after: int) -> None:
    faulty_run = campaign.factory.run("moved", Layout("fsdp2", before, "full"))
    with faulty_run as run_dir:
        faulty = FaultyRun(campaign, run_dir, Layout("fsdp2", before, "full"), moves=False)
        faulty._attempt([Fault("kill all", 7)], None)
        faulty.layout, faulty.moved = faulty.layout.moved("zero3", after), True
        campaign.factory.write_plan(run_dir, faulty.layout)
        faulty.run(iter([]))
        campaign._compare(faulty, campaign._reference(Layout("fsdp2", 2, "full")))
    assert campaign.tally.problems == []
    assert campaign.tally.order_exact_runs == 1


def test_ranks_that_do_not_divide_the_step_are_refused(factory: RunFactory) -> None:
    config = factory.config(Layout("fsdp2", 2, "full"))
    config["execution"] |= {"world_size": 3, "accumulation": 1}
    with pytest.raises(ValueError, match="must equal packs_per_step exactly"):
        TrainerConfig.model_validate(config)


def coordinator_fails(kind: str) -> str:
    from trainer.runtime.collectives import Ranks

    ranks = Ranks()

    def action() -> None:
        if ranks.is_first:
            raise {"bug": ZeroDivisionError("no"), "storage": OSError(5, "Input/output error")}[kind]

    started = time.monotonic()
    try:
        _, problems = ranks.agree("publish", action)
        told = problems[0]
    except Exception as error:
        told = repr(error)
    assert time.monotonic() - started < 30
    return told


def test_a_failure_of_the_first_rank_alone_reaches_every_rank() -> None:
    assert run_on_ranks(coordinator_fails, 2, "storage") == ["rank 0: publish: [Errno 5] Input/output error"] * 2
    first, second = run_on_ranks(coordinator_fails, 2, "bug")
    assert first == "ZeroDivisionError('no')"
    assert "PeerError" in second
    assert "rank 0: publish: ZeroDivisionError" in second


def signalled_attempt(run_dir: str, when: str) -> str:
    """One attempt; the last rank gets SIGTERM while it loads, or while it evaluates."""
    import trainer.run.loop
    from trainer.config import read_trainer_config

    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1

    def then_signal(function: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if last:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        return wrapped

    name = {"loading": "build_shared_model", "evaluating": "held_out_loss"}[when]
    setattr(trainer.run.loop, name, then_signal(getattr(trainer.run.loop, name)))
    return trainer.run.loop.TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), 0).train()


@pytest.mark.parametrize("when", ["loading", "evaluating"])
def test_sigterm_to_one_rank_outside_of_steps_stops_all_of_them(factory: RunFactory, when: str) -> None:
    with factory.run(f"signal-{when}", Layout("fsdp2", 2, "full")) as run_dir:
        plan = json.loads((run_dir / "plan.json").read_text())
        plan["trainer"]["evaluation"] = {"every_steps": 4}
        (run_dir / "plan.json").write_text(json.dumps(plan))
        assert run_on_ranks(signalled_attempt, 2, str(run_dir), when) == ["stopped"] * 2
        progress = json.loads((run_dir / "progress.json").read_text())
        assert progress["last_checkpoint"]["step"] == progress["step"] <= 5


def reads_refused(run_dir: str) -> str:
    """One attempt on storage that does not give back what it holds."""
    from trainer.checkpoint.format import manifest
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    def refused(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    manifest.hashlib.file_digest = refused  # type: ignore[assignment]
    try:
        TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), 1)
    except manifest.UnreadableStorageError as error:
        return str(error)
    return "went on"


def test_storage_that_refuses_to_read_costs_no_checkpoint(campaign: Campaign) -> None:
    layout = Layout("fsdp2", 2, "full")
    with campaign.factory.run("unreadable", layout) as run_dir:
        faulty = FaultyRun(campaign, run_dir, layout, moves=False)
        faulty._attempt([Fault("kill all", 9)], None)
        saved = faulty._resumable()
        for told in run_on_ranks(reads_refused, 2, str(run_dir)):
            assert "Input/output error" in told
            assert "stays where it is" in told
        assert faulty._resumable() == saved >= 6, "nothing was set aside"
