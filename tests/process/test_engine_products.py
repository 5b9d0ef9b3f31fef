"""Products of settings that were only ever tested apart: engine, type, reduction and weights; and evaluation, save and
stop at one step. One engine per (engine, type) answers for all, against a model that no engine has touched."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.ranks import run_on_ranks
from trainer.config import ENGINES

ANSWER = "red blue on"  # 11 bytes and the end of the turn: 1 / 12 is 0.2 % off in bfloat16
WEIGHTS = (1.0038, 0.5019, 2.0077)  # each rounds down by 0.4 % in bfloat16
CASES = {"token": ("token", False), "sequence": ("sequence", False), "weighted": ("token", True)}
# Relative, of the loss and of the gradient. float32: sums in another order, measured below 1e-7. bfloat16: both sides
# round alike but sum in another order, measured below 4e-7 and 3e-4, and 1.1e-3 for the gradient of adapters, which is
# all of one layer's noise. Weights that are rounded to bfloat16 are 2e-3 (sequence) and 4e-3 (weighted) off.
LOSS = {"float32": 1e-6, "bfloat16": 1e-5}
GRADIENT = {"float32": 1e-6, "bfloat16": 1e-3}
ADAPTERS = 1.6e-3


def rows(file: Path, weighted: bool) -> Path:
    rng = random.Random(3)
    lines = []
    for number in range(24):
        question = " ".join(rng.choices(tiny.WORDS, k=rng.randint(1, 8)))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]
        lines.append({"messages": turns} | ({"weight": WEIGHTS[number % 3]} if weighted else {}))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def prepare_runs(*run_dirs: str) -> None:
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare

    for run_dir in run_dirs:
        prepare(Path(run_dir), read_trainer_config(Path(run_dir)))


def references(stores: dict[str, str], dtype: str, method: dict[str, Any], files: dict[str, str]) -> dict[str, float]:
    """Every case's loss of step 0 from Transformers' own model; its gradients go to the case's file."""
    return {case: reference(stores[case], dtype, CASES[case][0], method, files[case]) for case in CASES}


def reference(run_dir: str, dtype: str, reduction: str, method: dict[str, Any], file: str) -> float:
    """Conversation by conversation, each alone, without padding."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from trainer.config import MethodConfig, read_trainer_config
    from trainer.data.shards.token_store import TokenStore
    from trainer.model.adapters.lora import add_adapters

    store = TokenStore(Path(run_dir) / "data" / "train")
    path = read_trainer_config(Path(run_dir)).model.path
    torch.manual_seed(0)  # adapters are drawn
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    if method["kind"] == "lora":
        model = add_adapters(model, MethodConfig(**method))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in trained.items()}
    loss, denominator = 0.0, 0.0
    for number in range(len(store)):
        ids, mask = store.conversation(number)
        tokens, supervised = torch.tensor(ids.astype("int64"))[None], torch.tensor(mask.astype(bool))[1:]
        assert int(supervised.sum()) == 12
        row = float(store.rows["weight"][number]) / (12 if reduction == "sequence" else 1)
        logits = model(tokens).logits[0, :-1].float()
        picked = torch.nn.functional.cross_entropy(logits[supervised], tokens[0, 1:][supervised], reduction="sum")
        (row * picked).backward()
        loss, denominator = loss + row * picked.item(), denominator + row * 12
        for name, parameter in trained.items():
            sums[name] += parameter.grad.double()
        model.zero_grad()
    save_file({name: gradient / denominator for name, gradient in sums.items()}, file)
    return loss / denominator


def against_reference(raw: dict[str, Any], stores: dict[str, str], references: dict[str, str]) -> dict[str, Any]:
    """Loss of step 0 and how far its gradient leans from the reference's, per case, all on one engine.

    Every case evaluates first, and then reads the state as a save does.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file

    from trainer.config import TrainerConfig
    from trainer.data.pack.batch import Reduction, collate
    from trainer.data.pack.global_order import GlobalOrder, deal
    from trainer.data.shards.token_store import TokenStore
    from trainer.engines import build_engine
    from trainer.model.sharing import build_shared_model
    from trainer.model.supervised import decoder_layers, trainable_parameters
    from trainer.runtime.collectives import Ranks

    config, ranks = TrainerConfig.model_validate(raw), Ranks()
    torch.manual_seed(0)
    engine = build_engine(build_shared_model(config, ranks), config)
    types: set[str] = set()

    def look(_: Any, args: Any) -> None:
        types.update(str(value.dtype) for value in args if torch.is_tensor(value))

    for layer in decoder_layers(engine.model):
        layer.register_forward_pre_hook(look)
    before = [r.view.clone() for r in engine.ranges()]
    found: dict[str, Any] = {}
    for case, (reduction, _) in CASES.items():
        store = TokenStore(Path(stores[case]) / "data" / "train")
        packs = GlobalOrder(store, config).packs_of(0)
        execution = config.execution
        work = np.array([float(len(pack)) for pack in packs])
        dealt = deal(work, execution.world_size, execution.accumulation, execution.micro_batch)[ranks.rank]
        weights = Reduction(store, reduction)
        total = weights.total(np.concatenate(packs))
        batches = [
            collate(store, [int(n) for pack in chosen if pack >= 0 for n in packs[pack]], weights) for chosen in dealt
        ]
        evaluated = sum(float(engine.evaluate(batch)) for batch in batches)
        ranges = engine.ranges()
        loss = sum(float(engine.micro_step(b, 1 / total, b is batches[-1])) for b in batches)
        whole = load_file(references[case])
        along = square = 0.0
        for name, parameter in trainable_parameters(engine.model):
            gradient = engine.full_gradient(parameter).double().flatten()
            along += float(gradient @ whole[name].flatten())
            square += float(whole[name].square().sum())
        sums = ranks.sum(torch.tensor([loss, evaluated])) / total
        found[case] = {"loss": float(sums[0]), "evaluated": float(sums[1]), "slope": along / square}
        engine.optimizer_step(0.0)
        engine.evaluate(batches[0])
        found[case]["kept"] = all(
            torch.equal(a, b.view) for a, b in zip(before, ranges, strict=True) if b.kind == "param"
        )
    return found | {"types": sorted(types)}


def stop_where_all_meet(run_dir: str) -> list[str]:
    """Evaluation, save and stop at step 1; evaluation, save and end at step 2, after a resume."""
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    run, states = Path(run_dir), []
    (run / "stop").touch()
    for attempt in range(2):
        training = TrainingRun(run, read_trainer_config(run), attempt)
        training.ranks.barrier()
        states.append(training.train())
        (run / "stop").unlink(missing_ok=True)
        training.ranks.barrier()
    return states


class Products:
    """The rows, plain and weighted, prepared once; references by type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_model(folder / "model")
        self.stores = {case: str(folder / ("weighted" if own else "plain")) for case, (_, own) in CASES.items()}
        for weighted, name in ((False, "plain"), (True, "weighted")):
            data = rows(folder / f"{name}.jsonl", weighted)
            tiny.make_run(folder / name, tiny.trainer_config(self.model, data, data={"max_length": 512}))
        run_on_ranks(prepare_runs, 1, str(folder / "plain"), str(folder / "weighted"), distributed=False)
        self.references: dict[str, tuple[dict[str, str], dict[str, float]]] = {}

    def reference(self, dtype: str, method: dict[str, Any]) -> tuple[dict[str, str], dict[str, float]]:
        name = f"{dtype}-{method['kind']}"
        if name not in self.references:
            files = {case: str(self.folder / f"{name}-{case}.safetensors") for case in CASES}
            (losses,) = run_on_ranks(references, 1, self.stores, dtype, method, files, distributed=False)
            self.references[name] = files, losses
        return self.references[name]

    def config(self, engine: str, dtype: str, **changes: Any) -> dict[str, Any]:
        sections: dict[str, Any] = {
            "model": {"dtype": dtype},
            "data": {"max_length": 512},
            "execution": {"engine": engine, "world_size": 2, "accumulation": 2},
        }
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        return tiny.trainer_config(self.model, self.folder / "weighted.jsonl", **sections)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Products:
    return Products(tmp_path_factory.mktemp("products"))


FULL, LORA = {"kind": "full"}, {"kind": "lora", "r": 4, "target_modules": "all-linear"}
CHECKPOINTED = {"training": {"gradient_checkpointing": True}}
WHOLE_LAYERS = {"execution": {"reshard_after_forward": False}}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *((engine, "float32", {"method": FULL}) for engine in ENGINES),
    *((engine, "bfloat16", {"method": FULL}) for engine in ENGINES if engine != "zero0"),  # which DeepSpeed lacks
    ("fsdp2", "bfloat16", {"method": FULL, **WHOLE_LAYERS}),
    ("fsdp2", "bfloat16", {"method": FULL, **CHECKPOINTED}),
    ("zero3", "bfloat16", {"method": FULL, **CHECKPOINTED}),
    *((engine, "bfloat16", {"method": LORA}) for engine in ("zero0", "zero3", "fsdp2")),
]


def named(value: Any) -> str | None:
    return "-".join(str(v) for section in value.values() for v in section.values()) if isinstance(value, dict) else None


@pytest.mark.parametrize(("engine", "dtype", "changes"), VARIANTS, ids=named)
def test_every_engine_type_reduction_and_weight(
    products: Products, engine: str, dtype: str, changes: dict[str, Any]
) -> None:
    method = changes["method"]
    files, losses = products.reference(dtype, method)
    config = products.config(engine, dtype, **changes)
    found = run_on_ranks(against_reference, 2, config, products.stores, files)[0]
    assert found.pop("types") == [f"torch.{dtype}"], "layers compute in the type that was asked for"
    tolerance = ADAPTERS if method["kind"] == "lora" else GRADIENT[dtype]
    for case in CASES:
        assert found[case]["loss"] == pytest.approx(losses[case], rel=LOSS[dtype]), case
        assert found[case]["evaluated"] == pytest.approx(losses[case], rel=LOSS[dtype]), case
        assert found[case]["slope"] == pytest.approx(1, abs=tolerance), case
        assert found[case]["kept"], "neither an evaluation nor a step of rate 0 changes the weights"


@pytest.mark.parametrize(
    ("engine", "dtype", "changes"),
    [("fsdp2", "bfloat16", {}), ("zero3", "bfloat16", {}), ("fsdp2", "float32", WHOLE_LAYERS)],
    ids=named,
)
def test_evaluation_save_and_stop_at_one_step(
    products: Products, engine: str, dtype: str, changes: dict[str, Any]
) -> None:
    config = products.config(
        *(engine, dtype),
        **changes,
        data={"max_length": 512, "eval": {"split": 0.2}},
        training={"max_steps": 2},
        evaluation={"every_steps": 1},
        checkpoint={"every_steps": 1},
    )
    run = tiny.make_run(products.folder / f"meet-{engine}-{dtype}", config)
    run_on_ranks(prepare_runs, 1, str(run), distributed=False)
    assert run_on_ranks(stop_where_all_meet, 2, str(run)) == [["stopped", "finished"]] * 2
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [1, 2]
    first, last = (line["eval_loss"] for line in lines if "eval_loss" in line)
    assert last < first
    assert (run / "checkpoints" / "step-00000002" / "manifest.json").exists()
