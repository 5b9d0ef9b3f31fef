"""Whatever the amount of data and the number of ranks, a job with all defaults trains: rows x lengths x ranks.

From the decisions of the plan through the trainer's own packing and schedule; nothing is started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from launcher_samples import write_model

from launcher.advice.advise import Situation, settings_of
from launcher.dataset.size import DatasetSize, combined_size, num_packs
from launcher.jobfile import JobFile, load_job
from launcher.planner.plan import Plan, make_plan
from launcher.site.hardware import Machine
from launcher.sizing.shape import ModelShape, shape_of_folder
from trainer.config import TrainingConfig
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.pack.packing import pack
from trainer.run.learning_rate import LearningRate
from trainer.schedule_rules import FEW_STEPS

ROWS = (20, 60, 200, 999, 2000)
RANKS = (1, 3, 8)
MEANS = {"short": 60, "mixed": 400, "long": 1500}
DEFAULTS = (
    "name: defaults\nmodel: {{path: model}}\nmethod: {{kind: {kind}}}\ndata: {{train: [{{path: train.jsonl}}]}}\n"
)


def lengths_of(kind: str, rows: int) -> np.ndarray:
    """Lengths as data has them: skewed, none beyond the default `max_length`."""
    rng = np.random.default_rng(rows)
    return np.clip(rng.lognormal(np.log(MEANS[kind]), 0.5, rows).astype(int), 8, 2048)


def amounts(lengths: np.ndarray) -> DatasetSize:
    return combined_size([(Counter(lengths.tolist()), 1.0)], "counted", is_exact=True)


def gpus(count: int) -> Machine:
    names = ("NVIDIA H100 80GB HBM3",) * count
    return Machine(num_cores=64, memory_bytes=2**40, gpu_names=names, gpu_memory_bytes=81559 * 1024**2)


def order_of(plan: Plan, lengths: np.ndarray) -> GlobalOrder:
    """The trainer's own order over rows of such lengths."""
    rows = np.zeros(len(lengths), [("length", "<i4"), ("source", "<i2")])
    rows["length"] = lengths

    class Store(SimpleNamespace):
        def __len__(self) -> int:
            return len(rows)

    return GlobalOrder(Store(rows=rows), plan.trainer)  # type: ignore[arg-type]


@pytest.fixture
def defaults(write_job: Callable[..., Path]) -> Callable[[str], JobFile]:
    return lambda kind: load_job(write_job(DEFAULTS.format(kind=kind))).job


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("ranks", [0, *RANKS])
def test_no_default_job_ends_with_untouched_weights(defaults, ranks: int, kind: str) -> None:
    job = defaults(kind)
    machine = gpus(ranks) if ranks else Machine(num_cores=2, memory_bytes=2**34)
    for rows in ROWS:
        for spread in MEANS:
            lengths = lengths_of(spread, rows)
            plan = make_plan(job, machine, tokenised=amounts(lengths))
            order = order_of(plan, lengths)
            rate = LearningRate(plan.trainer.training, order.max_steps)
            rates = [rate.at(step) for step in range(order.max_steps)]
            assert rates[0] > 0, "the first step learns"
            assert max(rates) == pytest.approx(float(plan.trainer.training.learning_rate))
            assert plan.steps.number == pytest.approx(order.max_steps, abs=1), "what is promised comes"
            assert order.max_steps >= min(FEW_STEPS, rows), "as many steps as the data allows, up to some 100"
            assert bool(plan.warnings) == (order.max_steps < FEW_STEPS), "few steps are said"


def test_much_data_fills_every_rank(defaults) -> None:
    """Ranks are left out only where data is little; what nobody knows takes the whole machine."""
    job = defaults("lora")
    few = make_plan(job, gpus(8), tokenised=amounts(lengths_of("short", 999)))
    assert (few.trainer.execution.world_size, few.steps.number, few.trainer.data.packing) == (8, 125, False)
    full = make_plan(job, gpus(8), tokenised=amounts(lengths_of("mixed", 20_000)))
    assert full.trainer.data.packing
    assert full.trainer.execution.world_size == 8
    assert 200 <= (full.steps.number or 0) <= 1000
    unknown = make_plan(job, gpus(8))
    assert (unknown.trainer.execution.world_size, unknown.trainer.training.tokens_per_step) == (8, 262_144)
    assert unknown.steps.number is None


def test_a_plan_for_the_cpu_speaks_of_ranks(defaults) -> None:
    lengths = lengths_of("long", 150)
    plan = make_plan(defaults("lora"), Machine(num_cores=2, memory_bytes=2**34), tokenised=amounts(lengths))
    others = [one.reason for one in plan.choice.rejected if one.candidate.step_layout.world_size == 2]
    assert plan.trainer.execution.world_size == 1 and others
    assert all(reason.startswith("fits on 2 ranks in ") and "GPU" not in reason for reason in others)


def test_what_is_asked_for_stays_and_is_warned_of(defaults) -> None:
    job = defaults("lora")
    asked = job.model_copy(update={"resources": job.resources.model_copy(update={"gpus_per_node": 8})})
    plan = make_plan(asked, gpus(8), tokenised=amounts(lengths_of("short", 60)))
    assert (plan.trainer.execution.world_size, plan.steps.number, plan.trainer.data.packing) == (8, 8, False)
    assert any("few" in words for words in plan.warnings)
    large = job.model_copy(update={"training": TrainingConfig(tokens_per_step=65_536)})
    plan = make_plan(large, gpus(8), tokenised=amounts(lengths_of("short", 60)))
    assert plan.steps.number == 1
    assert any("larger than an epoch" in words for words in plan.warnings)
    packed = job.model_copy(update={"data": job.data.model_copy(update={"packing": True})})
    plan = make_plan(packed, gpus(8), tokenised=amounts(lengths_of("short", 60)))
    assert (plan.trainer.execution.world_size, plan.trainer.data.packing) == (1, True)
    steps = TrainingConfig(max_steps=500)
    plan = make_plan(job.model_copy(update={"training": steps}), gpus(8), tokenised=amounts(lengths_of("short", 60)))
    assert plan.trainer.execution.world_size == 1, "seven would have nothing to do in any step"
    assert not plan.warnings


def test_a_large_model_keeps_the_ranks_that_it_needs(tmp_path: Path) -> None:
    config = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    write_model(tmp_path / "model", **config, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False)
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "job.yaml").write_text(DEFAULTS.format(kind="lora"))
    plan = make_plan(load_job(tmp_path / "job.yaml").job, gpus(8), tokenised=amounts(lengths_of("short", 60)))
    ranks = plan.trainer.execution.world_size
    assert 1 < ranks <= 8, "70B in 16 bits does not fit on one"
    assert plan.trainer.execution.packs_per_step == ranks


@pytest.mark.parametrize("spread", list(MEANS))
def test_packs_are_reckoned_as_the_trainer_packs(spread: str) -> None:
    for rows in (1, 20, 999, 20_000):
        lengths = lengths_of(spread, rows)
        assert num_packs(Counter(lengths.tolist()), 2048) == pytest.approx(len(pack(lengths, 2048, 1, 0)), rel=0.002)


@pytest.mark.parametrize("rows", [5_000, 50_000, 2_000_000])
def test_auto_takes_what_is_advised(defaults, rows: int) -> None:
    """One table: learning rate and step of a plan are those of `advise`, for the epochs that it advises."""
    data = combined_size([({400: rows}, 1.0)], "counted", is_exact=True)
    shape = shape_of_folder(Path(defaults("lora").model.path))
    for kind in ("lora", "full"):
        job = defaults(kind)
        values = {item.setting: item.value for item in settings_of(advised_situation(shape, data), kind)}
        epochs = TrainingConfig(num_train_epochs=values["training.num_train_epochs"])
        plan = make_plan(job.model_copy(update={"training": epochs}), gpus(1), tokenised=data)
        assert plan.trainer.training.learning_rate == values["training.learning_rate"]
        assert plan.trainer.training.tokens_per_step == values["training.tokens_per_step"]


def advised_situation(shape: ModelShape, data: DatasetSize) -> Situation:
    """What `advise` knows of that data; 1,500 tokens cover 95 % of it, so it advises the default length."""
    return Situation(shape=shape, task="chat", rows=round(data.rows), tokens=round(data.tokens), lengths=[1500])
