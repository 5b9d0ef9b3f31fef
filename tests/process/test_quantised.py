"""QLoRA: bitsandbytes' own numbers, frozen bytes, and the same gradient on every engine and number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.held_out import held_out
from tests.support.ranks import run_on_ranks
from tests.support.steps import Bench, job, prepare_run, prepared_run
from trainer.config import ENGINES

WIDE = {"hidden_size": 64, "intermediate_size": 128}  # blocks of 64 numbers never straddle two rows
KINDS = ("nf4", "int8")


def qlora(kind: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "lora", "r": 4, "quantization": kind, **settings}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared_run(tmp_path_factory.mktemp("quantised"), **WIDE)


@pytest.fixture(scope="module")
def with_biases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared_run(tmp_path_factory.mktemp("biases"), family="qwen2", **WIDE)


def base_bytes(model: Any) -> str:
    """SHA-256 of everything that does not train."""
    import hashlib

    import torch

    from trainer.model.adapters.quantise import quantised_layers

    frozen = [tensor for _, layer in quantised_layers(model) for tensor in stored_tensors(layer)]
    found = hashlib.sha256()
    for tensor in frozen:
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def stored_tensors(layer: Any) -> list[Any]:
    """What a quantised layer keeps in place of its weight."""
    if type(layer).__name__ == "Linear8bitLt":
        return [layer.state.CB, layer.state.SCB]
    state = layer.weight.quant_state
    nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return [layer.weight.data, state.absmax, state.code, *nested]


def facts(made: dict[str, str], method: dict[str, Any]) -> dict[str, Any]:
    import torch

    from trainer.model.adapters.quantise import quantised_layers
    from trainer.model.build import build_model
    from trainer.model.supervised import trainable_parameters

    model = build_model(job(made, "zero0", 1, method=method))
    layers = dict(quantised_layers(model))
    stored = {t.data_ptr(): t.nbytes for layer in layers.values() for t in stored_tensors(layer)}
    numbers = sum(layer.in_features * layer.out_features for layer in layers.values())
    trained = list(trainable_parameters(model))
    return {
        "bits": 8 * sum(stored.values()) / numbers,
        "layers": len(layers),
        "names": [name.split(".")[-1] for name in layers],
        "not_floating": [name for name, p in model.named_parameters() if not p.is_floating_point()],
        "held": [name for name, p in model.named_parameters() if not p.requires_grad],
        "not_float32": [name for name, p in trained if p.dtype != torch.float32],
        "trained": [name for name, _ in trained],
    }


BITS = [("nf4", True, 4 + 0.127), ("nf4", False, 4.5), ("int8", True, 8 + 32 / 512)]


@pytest.mark.parametrize(("kind", "double", "bits"), BITS)
def test_linear_layers_take_the_bits_that_they_should(tmp_path: Path, kind: str, double: bool, bits: float) -> None:
    made = {"model": str(tiny.make_model(tmp_path / "m", hidden_size=512, intermediate_size=1024)), "rows": "-"}
    method = qlora(kind) | ({} if double else {"double_quantization": False})
    (found,) = run_on_ranks(facts, 1, made, method, distributed=False)
    assert found["bits"] == pytest.approx(bits, abs=0.04)
    assert found["layers"] == 14
    assert not found["not_floating"], "engines see packed bytes"
    assert "lm_head" not in found["names"]
    assert {name.split(".")[-2] for name in found["held"]} == {
        "embed_tokens",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
        "lm_head",
    }
    assert not found["not_float32"]
    assert len(found["trained"]) == 2 * 14
    assert all(name.startswith("base_model.model.model.layers.") for name in found["trained"])


def own_forward(made: dict[str, str], kind: str) -> dict[str, float]:
    """Distance between our quantised model's hidden states and those of one that Transformers alone has loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.model.adapters.quantise import loading_options
    from trainer.model.attention.kernels import PackedBatchInfo
    from trainer.model.attention.packed_attention import NAME
    from trainer.model.build import build_model

    config = job(made, "zero0", 1, method=qlora(kind))
    options = loading_options(config.method, "cpu", torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(made["model"], attn_implementation=NAME, **options)
    batch = first_batch(made, config)
    packed = PackedBatchInfo("padded", batch)
    arguments = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    found = {}
    for mode in (True, False):
        ours, theirs = build_model(config).train(mode), plain_kernels(reference).train(mode)
        a = ours.inner.get_decoder()(**arguments, packed=packed).last_hidden_state
        b = theirs.get_decoder()(**arguments, packed=packed).last_hidden_state
        found[str(mode)] = float((a - b).abs().max() / b.abs().max())
    return found


def plain_kernels(model: Any) -> Any:
    """On some CPUs bitsandbytes evaluates in bfloat16, whatever it was told to compute in; this keeps it from that."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def first_batch(made: dict[str, str], config: Any) -> Any:
    from trainer.data.pack.batch import Reduction, collate
    from trainer.data.shards.token_store import TokenStore

    store = TokenStore(Path(made["run"]) / "data" / "train")
    return collate(store, list(range(6)), Reduction(store, config.loss.reduction))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_that_of_bitsandbytes(made: dict[str, str], kind: str) -> None:
    (found,) = run_on_ranks(own_forward, 1, made, kind, distributed=False)
    assert max(found.values()) <= 1e-6, found


def moved_and_evaluated(made: dict[str, str], kind: str) -> dict[str, Any]:
    """Gradients after an evaluation and a move, against those before; whether a move takes everything along."""
    import torch

    from trainer.model.adapters.quantise import quantised_layers
    from trainer.model.build import build_model
    from trainer.model.supervised import trainable_parameters

    config = job(made, "zero0", 1, method=qlora(kind))
    model, batch = build_model(config), first_batch(made, config)

    def gradients() -> list[Any]:
        model.zero_grad()
        model.train()(batch).backward()
        return [p.grad.clone() for _, p in trainable_parameters(model)]

    fresh, base = gradients(), base_bytes(model)
    with torch.no_grad():
        model.eval()(batch)
    evaluated = gradients()
    model.to("cpu")
    moved, after = gradients(), base_bytes(model)
    model.to("meta")
    return {
        "evaluated": all(map(torch.equal, fresh, evaluated)),
        "moved": all(map(torch.equal, fresh, moved)),
        "bytes": base == after,
        "all_moved": all(t.is_meta for _, layer in quantised_layers(model) for t in stored_tensors(layer)),
        "hidden": all(p.is_floating_point() for p in model.parameters()),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_after_an_evaluation_and_after_a_move(made: dict[str, str], kind: str) -> None:
    (found,) = run_on_ranks(moved_and_evaluated, 1, made, kind, distributed=False)
    assert all(found.values()), found


def kept_inputs(made: dict[str, str], kind: str) -> list[bool]:
    """Whether a layer's input outlives the forward pass, when training and when evaluating."""
    import weakref

    import torch

    from trainer.model.adapters.quantise import quantised_layers
    from trainer.model.build import build_model

    model = build_model(job(made, "zero0", 1, method=qlora(kind)))
    _, layer = next(quantised_layers(model))
    kept = []
    for mode in (True, False):
        leaf = torch.randn(1, 5, layer.in_features, requires_grad=True)
        inside = leaf + 1
        out, alive = layer.train(mode)(inside), weakref.ref(inside)
        del inside
        kept.append(alive() is not None)
        out.sum().backward()
        assert leaf.grad is not None
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_layers_keep_no_input_that_checkpointing_could_not_drop(made: dict[str, str], kind: str) -> None:
    assert run_on_ranks(kept_inputs, 1, made, kind, distributed=False) == [[False, False]]


def train_on_all(
    made: dict[str, str], engines: list[str], ranks: int, changes: dict[str, Any], steps: int
) -> dict[str, Any]:
    """Per engine: the gradient of step 0, the losses of some steps on it, and whether the base kept its bytes."""
    import torch

    from trainer.model.supervised import trainable_parameters
    from trainer.runtime.collectives import Ranks

    found = {}
    for engine in engines:
        bench = Bench(made, job(made, engine, ranks, **changes))
        before = base_bytes(bench.engine.model)
        losses = [bench.accumulate(0)]
        parameters = dict(trainable_parameters(bench.engine.model))
        gradients = {n: bench.engine.full_gradient(p).float().flatten().tolist() for n, p in parameters.items()}
        bench.engine.optimizer_step(1e-2)
        losses += [bench.step(0, 1e-2) for _ in range(steps)]
        losses.append(bench.loss(0))
        found[engine] = {
            "gradients": gradients,
            "losses": Ranks().sum(torch.tensor(losses)).tolist(),
            "frozen": before == base_bytes(bench.engine.model),
        }
    return found


def relative(a: list[float], b: list[float]) -> float:
    scale = max(max(map(abs, a)), 1e-12)
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) / scale


def check_engines(made: dict[str, str], ranks: int, tolerance: float, steps: int = 4, **changes: Any) -> None:
    """Every engine on so many ranks, with checkpointing, against one rank of plain data parallelism without."""
    one = run_on_ranks(train_on_all, 1, made, ["zero0"], 1, changes, 0)[0]["zero0"]
    changes["training"] = {"gradient_checkpointing": True}
    for found in run_on_ranks(train_on_all, ranks, made, list(ENGINES), ranks, changes, steps):
        for engine, result in found.items():
            assert result["gradients"].keys() == one["gradients"].keys()
            apart = {n: relative(g, result["gradients"][n]) for n, g in one["gradients"].items()}
            assert max(apart.values()) <= tolerance, (engine, apart)
            assert result["losses"][0] == pytest.approx(one["losses"][0], rel=tolerance)
            assert result["frozen"], engine
            if steps:
                assert result["losses"][-1] < 0.99 * result["losses"][0], (engine, result["losses"])


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_does_not_depend_on_engine_or_ranks(made: dict[str, str], kind: str, ranks: int) -> None:
    check_engines(made, ranks, 1e-5, method=qlora(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_trains_on_every_engine(made: dict[str, str], kind: str) -> None:
    check_engines(made, 2, 0.1, steps=6, method=qlora(kind), model={"dtype": "bfloat16"})


SETTINGS = [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"double_quantization": False}]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: next(iter(s)))
def test_other_settings_of_lora_go_with_it(with_biases: dict[str, str], settings: dict[str, Any]) -> None:
    check_engines(with_biases, 2, 1e-5, steps=0, method=qlora("nf4", **settings))


def refused(made: dict[str, str], method: dict[str, Any]) -> str:
    from trainer.errors import UserError
    from trainer.model.build import build_model

    try:
        build_model(job(made, "zero0", 1, method=method))
    except UserError as error:
        return str(error)
    return ""


def save_quantised(made: dict[str, str], folder: str) -> None:
    from trainer.model.build import load_causal_lm

    load_causal_lm(job(made, "zero0", 1, method=qlora("nf4"))).save_pretrained(folder)


def test_what_cannot_work_is_refused(made: dict[str, str], tmp_path: Path) -> None:
    saved = qlora("nf4", modules_to_save=["q_proj"])
    (message,) = run_on_ranks(refused, 1, made, saved, distributed=False)
    assert "modules_to_save names 'q_proj', whose weights are quantised" in message
    run_on_ranks(save_quantised, 1, made, str(tmp_path / "stored"), distributed=False)
    for method in ({"kind": "lora"}, qlora("nf4")):
        there = made | {"model": str(tmp_path / "stored")}
        (message,) = run_on_ranks(refused, 1, there, method, distributed=False)
        assert "are quantised already (bitsandbytes)" in message
        assert "full precision" in message


def train(run_dir: str) -> str:
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    return TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), 0).train()


def export_and_load(run_dir: str) -> dict[str, float]:
    """Held-out losses of the export, by Transformers and PEFT alone: on quantised and on full weights, and merged."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trainer.checkpoint.export import export
    from trainer.config import read_trainer_config
    from trainer.model.adapters.quantise import loading_options

    run = Path(run_dir)
    config = read_trainer_config(run)
    export(run, config)
    export(run, config, merge=True, output=run / "merged")
    options = loading_options(config.method, "cpu", torch.float32)
    quantised = AutoModelForCausalLM.from_pretrained(config.model.path, **options)
    full = AutoModelForCausalLM.from_pretrained(config.model.path)
    return {
        "quantised": held_out(plain_kernels(PeftModel.from_pretrained(quantised, run / "model")), run, config),
        "full": held_out(PeftModel.from_pretrained(full, run / "model"), run, config),
        "merged": held_out(AutoModelForCausalLM.from_pretrained(run / "merged"), run, config),
        "base": held_out(AutoModelForCausalLM.from_pretrained(config.model.path), run, config),
    }


@pytest.mark.parametrize(("kind", "engine"), [("nf4", "zero3"), ("int8", "fsdp2")])
def test_export_is_what_was_trained(tmp_path: Path, kind: str, engine: str) -> None:
    model = tiny.make_model(tmp_path / "model", **WIDE)
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 120)
    config = tiny.trainer_config(
        model,
        rows,
        method=qlora(kind),
        execution={"engine": engine, "world_size": 2, "accumulation": 2},
        training={"max_steps": 12, "learning_rate": 1e-2},
    )
    config["data"]["eval"] = {"split": 0.2}
    run = tiny.make_run(tmp_path / "run", config)
    run_on_ranks(prepare_run, 1, str(run), distributed=False)
    assert run_on_ranks(train, 2, str(run)) == ["finished"] * 2
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    trained = [line["eval_loss"] for line in lines if "eval_loss" in line][-1]
    (found,) = run_on_ranks(export_and_load, 1, str(run), distributed=False)
    assert found["quantised"] == pytest.approx(trained, abs=1e-4)
    assert found["merged"] == pytest.approx(found["full"], abs=1e-5)
    assert found["full"] == pytest.approx(trained, abs=0.05), "full weights are close to quantised ones"
    assert trained < 0.98 * found["base"]
    assert "quantization_config" not in json.loads((run / "merged" / "config.json").read_text())


def test_a_setting_that_nothing_could_act_on_is_refused() -> None:
    from torch import nn

    from trainer.config import MethodConfig
    from trainer.errors import UserError
    from trainer.model.adapters.quantise import hide_quantised_weights

    with pytest.raises(UserError, match="no linear layers"):
        hide_quantised_weights(nn.Sequential(nn.Embedding(4, 4)), MethodConfig(kind="lora", quantization="nf4"))
