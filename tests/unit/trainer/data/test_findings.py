"""What is said of rows: lost parts, ignored keys, weights, losses by source, copies, damage. With a real tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.pack.holdout import split
from trainer.data.prepare import prepare
from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError

pytestmark = pytest.mark.models

TEXT_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALLS_AS_THEY_ARE = (
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments }}{% endfor %}"
)
CALL = {"name": "wind", "arguments": {"city": "Bern"}}


def ask(text: str = "hi", answer: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer, **more}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    templates = {"chatml": tiny.CHATML, "text only": TEXT_ONLY, "none": None}
    for name, template in templates.items():
        tiny.make_tokenizer(folder / name, template=template)
    return {name: folder / name for name in templates}


class Prepared:
    """The data folder of a run, its report and its conversations."""

    def __init__(self, folder: Path, model: Path, rows: list[Any] | Path, /, **changes: Any) -> None:
        file = rows if isinstance(rows, Path) else folder / "rows.jsonl"
        if isinstance(rows, list):
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        raw = tiny.trainer_config(model, file, **changes)
        self.config, self.model = TrainerConfig.model_validate(raw), model
        self.run = folder / "run"
        self.run = self.run if self.run.exists() else tiny.make_run(self.run, raw)
        self.report = prepare(self.run, self.config, lambda _: None)
        self.found = self.report["train"]
        self.store = TokenStore(self.run / "data" / "train")

    def texts(self, *, supervised: bool = True) -> list[str]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        read = [self.store.conversation(number) for number in range(len(self.store))]
        return [tokenizer.decode(ids[mask > 0] if supervised else ids) for ids, mask in read]


def test_calls_that_the_template_leaves_out_are_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    for name, row in {"new": ask("wind?", "", tool_calls=[CALL]), "old": ask("wind?", "", function_call=CALL)}.items():
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=r"rows.jsonl:1: message 1(.|\n)*does not write the tool calls"):
            Prepared(tmp_path / name, models["text only"], [row])


def test_other_parts_that_the_template_leaves_out_are_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    tools = [{"name": "wind", "description": "how strong it blows", "parameters": {}}]
    rows = [ask(), ask("2+2", "4", reasoning_content="two and two"), {**ask("wind?"), "tools": tools}]
    found = Prepared(tmp_path, models["text only"], rows).found
    assert found["changed"] == {
        "reasoning of assistant not written by the chat template": 1,
        "tools not written by the chat template": 1,
    }
    assert len(found["warnings"]) == 2 and found["examples"]["tools not written by the chat template"][0].endswith(":3")


def test_all_that_a_template_writes_is_seen_to_be_there(tmp_path: Path, models: dict[str, Path]) -> None:
    tools = [{"name": "wind", "description": 'so "strong"\nit blows', "parameters": {}}]
    call = {"name": "wind", "arguments": {"city": 'Zü"rich', "at": [1, 2.5, True, None]}}
    rows = [{**ask("wind?", "", tool_calls=[call]), "tools": tools}, ask(" spaced ", "\nlines\n\tand tabs ")]
    assert Prepared(tmp_path, models["chatml"], rows).found["changed"] == {}


def test_arguments_are_written_as_json_by_templates_that_write_them_as_they_are(tmp_path: Path) -> None:
    tiny.make_tokenizer(tmp_path / "m", template=TEXT_ONLY.replace("{{ m.content }}", CALLS_AS_THEY_ARE))
    for number, arguments in enumerate(({"city": "Bern"}, '{"city": "Bern"}')):
        (tmp_path / str(number)).mkdir()
        call = {"name": "wind", "arguments": arguments}
        (text,) = Prepared(tmp_path / str(number), tmp_path / "m", [ask("?", "", tool_calls=[call])]).texts()
        assert 'wind {"city": "Bern"}' in text


@pytest.mark.parametrize("template", ["chatml", "text only"])
def test_messages_of_weight_zero_are_context_only(tmp_path: Path, models: dict[str, Path], template: str) -> None:
    row = ask("capital?", "LYON", weight=0)["messages"] + ask("sure?", "Paris", weight=1)["messages"]
    prepared = Prepared(tmp_path, models[template], [{"messages": row}])
    (learnt,), (whole,) = prepared.texts(), prepared.texts(supervised=False)
    assert "Paris<|im_end|>" in learnt and "LYON" not in learnt and "LYON<|im_end|>" in whole


def test_context_only_cannot_be_had_where_every_token_is_learnt(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="assistant_only_loss: false learns all"):
        Prepared(tmp_path, models["chatml"], [ask(train=False)], data={"assistant_only_loss": False})


def test_keys_without_effect_are_counted_by_name(tmp_path: Path, models: dict[str, Path]) -> None:
    found = Prepared(tmp_path, models["chatml"], [{**ask(mood="good"), "age": 3}, {**ask(), "age": None}, ask()]).found
    assert found["ignored"] == {"age": 1, "messages: mood": 1}
    assert found["examples"]["age"][0].endswith("rows.jsonl:1")


def test_rows_of_weight_zero_are_left_out_and_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [
        {**ask(answer=str(n)), **({"weight": 0} if n % 3 == 0 else {"weight": 0.5} if n % 3 == 1 else {})}
        for n in range(9)
    ]
    prepared = Prepared(tmp_path, models["chatml"], rows, data={"eval": {"split": 0.2}})
    assert prepared.found["dropped"] == {"weight 0": 3} and prepared.found["kept"] == 6
    assert prepared.store.rows["weight"].min() == 0.5
    assert prepared.found["weighted"] == {"conversations": 3, "least": 0.5, "most": 0.5}


def test_answers_that_are_not_wanted_are_left_out_and_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [{"prompt": "hi", "completion": "good" if good else "bad", "label": good} for good in (True, False)]
    prepared = Prepared(tmp_path, models["chatml"], rows)
    assert prepared.texts() == ["good<|im_end|>"]
    assert prepared.found["dropped"] == {"label false: an answer that is not wanted": 1}


def test_held_out_rows_of_weight_zero_are_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({**ask(), "weight": 0}) + "\n")
    with pytest.raises(UserError, match="all eval rows have weight 0"):
        Prepared(tmp_path, models["chatml"], [ask()], data={"eval": {"path": str(tmp_path / "eval.jsonl")}})


def test_a_weight_of_the_datas_own_is_noticed(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [{"instruction": "diet", "output": o, "weight": w} for o, w in (("less", 92.5), ("more", 50))]
    with pytest.raises(UserError, match=r"goes up to 92.5(.|\n)*columns: \{weight: null\}"):
        Prepared(tmp_path, models["chatml"], rows)
    for name, columns in {"null": {"weight": None}, "meant": {"weight": "weight"}}.items():
        (tmp_path / name).mkdir()
        path = str(tmp_path / "rows.jsonl")
        data = {"train": [{"path": path, "columns": columns}]}
        weights = Prepared(tmp_path / name, models["chatml"], tmp_path / "rows.jsonl", data=data).store.rows["weight"]
        assert weights.tolist() == ([1, 1] if name == "null" else [92.5, 50])


def test_plain_text_needs_no_template_and_is_learnt_whole(tmp_path: Path, models: dict[str, Path]) -> None:
    prepared = Prepared(tmp_path, models["none"], [{"text": "once upon"}, {"text": "a time<|im_end|>"}])
    assert prepared.texts() == ["once upon<|im_end|>", "a time<|im_end|>"]
    assert prepared.found["supervised_tokens"] == prepared.found["tokens"] - 2, "nothing predicts a first token"


def test_developers_are_the_system_where_the_template_does_not_know_them(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    row = {"messages": [{"role": "developer", "content": "short"}, *ask()["messages"]]}
    (text,) = Prepared(tmp_path, models["text only"], [row]).texts(supervised=False)
    assert text.startswith("<|im_start|>system\nshort")


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_a_loss_of_tokens_is_a_warning_of_its_source(tmp_path: Path, models: dict[str, Path], overlong: str) -> None:
    """One row of twenty-one, and most of the tokens."""
    tiny.write_rows(tmp_path / "good.jsonl", 20)
    long = "".join(json.dumps(row) + "\n" for row in [*([ask()] * 20), ask(answer="abcd" * 500)])
    (tmp_path / "long.jsonl").write_text(long)
    sources = [{"path": str(tmp_path / name)} for name in ("good.jsonl", "long.jsonl")]
    found = Prepared(tmp_path, models["chatml"], tmp_path / "x", data={"train": sources, "overlong": overlong}).found
    good, bad = found["sources"]
    assert (good["lost_tokens"], good["lost_share"]) == (0, 0)
    assert bad["lost_share"] > 0.5 and bad["longest"] > 2000
    (said,) = [line for line in found["warnings"] if "lost" in line]
    assert "long.jsonl" in said and f"{bad['lost_share']:.0%}" in said


def test_pieces_and_copies_stay_on_one_side(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [ask(f"question {n % 25}", "ab cd " * 90 + str(n % 25)) for n in range(40)]
    data = {"overlong": "split", "eval": {"split": 0.2}}
    prepared = Prepared(tmp_path, models["chatml"], rows, data=data)
    order = GlobalOrder(prepared.store, prepared.config)
    content = [prepared.store.conversation(n)[0].tobytes() for n in range(len(prepared.store))]
    assert len(order.held_out) and len(order.train)
    assert not {content[n] for n in order.train} & {content[n] for n in order.held_out}
    groups = prepared.store.groups
    assert not set(groups[order.train]) & set(groups[order.held_out])
    assert prepared.found["copies"]["conversations"] >= 15


def test_what_was_prepared_before_keeps_its_split(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [ask(answer=f"answer {n % 7}") for n in range(20)]
    prepared = Prepared(tmp_path, models["chatml"], rows, data={"eval": {"split": 0.2}})
    data = prepared.run / "data"
    old = json.loads((data / "fingerprint.json").read_text())
    (data / "fingerprint.json").write_text(json.dumps({**old, "format": 1}))
    for file in data.glob("train/shard-*/contents.npy"):
        file.unlink()
    before = {file: file.stat().st_mtime_ns for file in data.glob("train/*/*")}
    again = Prepared(tmp_path, models["chatml"], rows, data={"eval": {"split": 0.2}})
    assert {file: file.stat().st_mtime_ns for file in data.glob("train/*/*")} == before, "nothing is made anew"
    order = GlobalOrder(again.store, again.config)
    for new, was in zip((order.train, order.held_out), split(20, 0.2, again.config.training.seed), strict=True):
        assert (new == was).all()


def test_copies_across_sources_and_rows_of_both_sets_are_counted(tmp_path: Path, models: dict[str, Path]) -> None:
    files = {"a": [ask(answer="1"), ask(answer="2")], "b": [ask(answer="2"), ask(answer="3")], "e": [ask(answer="3")]}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "train": [{"path": str(tmp_path / f"{n}.jsonl")} for n in "ab"],
        "eval": {"path": str(tmp_path / "e.jsonl")},
    }
    report = Prepared(tmp_path, models["chatml"], tmp_path / "x", data=data).report
    assert report["train"]["copies"] == {"conversations": 1, "across sources": 1}
    assert report["train"]["examples"]["copies"] == [f"{tmp_path}/b.jsonl:1"]
    assert report["eval"]["also_in_train"] == 1 and report["eval"]["warnings"]
    assert [files for files, _ in report["train"]["files"]] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]


PLANTED = {
    "control token in user text": ask("say <|im_end|>"),
    "control token in assistant text": ask(answer="<|im_start|>"),
    "replacement characters (U+FFFD): bytes were lost before": ask("caf\ufffd"),
    "NUL characters": ask("a\0b"),
    "text that was read in a wrong encoding, such as Ã© for é": ask("cafÃ©"),
    "empty answer": ask(answer=" "),
    "empty user turn": ask(""),
    "starts with an answer": {"messages": ask()["messages"][1:]},
    "ends with a user turn that nobody answers": {"messages": [*ask()["messages"], ask()["messages"][0]]},
    "two user turns in a row": {"messages": [ask("a")["messages"][0], *ask()["messages"]]},
    "two answers in a row": {"messages": [*ask()["messages"], ask()["messages"][1]]},
}


def test_each_suspicion_has_its_count_and_place(tmp_path: Path, models: dict[str, Path]) -> None:
    found = Prepared(tmp_path, models["chatml"], list(PLANTED.values())).found
    assert found["found"] == dict.fromkeys(PLANTED, 1)
    for number, reason in enumerate(PLANTED, 1):
        assert found["examples"][reason] == [f"{tmp_path}/rows.jsonl:{number}"]


def test_clean_rows_raise_no_suspicion(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [
        ask("Où est la gare ? “Là”, 東京 🙂 Ångström Â", "<|nothing|> </s> é"),
        tiny.conversation(random.Random(1), 3),
    ]
    found = Prepared(tmp_path, models["chatml"], rows).found
    assert (found["found"], found["ignored"], found["changed"], found["warnings"]) == ({}, {}, {}, [])


TINY = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def with_config(folder: Path, **config: Any) -> Path:
    tiny.make_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_ids_that_the_model_does_not_embed_are_refused_by_name(tmp_path: Path) -> None:
    model = with_config(tmp_path / "m", model_type="llama", vocab_size=257)
    with pytest.raises(UserError, match=r"<\|im_(start|end)\|>(.|\n)*embeds 257 tokens"):
        Prepared(tmp_path, model, [ask()])


def test_added_tokens_make_the_embedding_larger(tmp_path: Path) -> None:
    model = with_config(tmp_path / "m", model_type="llama", vocab_size=259)
    rows = [{"text": "<|new|>"}]
    changes = {"path": str(model), "attention": "padded", "dtype": "float32", "added_tokens": ["<|new|>"]}
    assert Prepared(tmp_path, model, rows, model=changes).store.conversation(0)[0].max() == 259


def test_conversations_beyond_the_models_positions(tmp_path: Path) -> None:
    """A table of positions has an end; rotary positions have none, but the model was made for so many."""
    rows = [ask(answer="abcd" * 30)]
    with pytest.raises(UserError, match="positions for 64"):
        Prepared(tmp_path, with_config(tmp_path / "gpt2", model_type="gpt2", n_positions=64), rows)
    (tmp_path / "b").mkdir()
    rotary = with_config(tmp_path / "llama", model_type="llama", max_position_embeddings=64)
    assert sum(Prepared(tmp_path / "b", rotary, rows).found["found"].values()) == 1


def test_a_stop_token_that_few_rows_train_is_a_warning(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = [ask(answer="abcd" * 100 + str(n)) for n in range(5)] + [ask()]
    found = Prepared(tmp_path, models["chatml"], rows, data={"overlong": "truncate"}).found
    assert found["stop_trained"] == 1 and any("learn to stop" in line for line in found["warnings"])


def test_a_step_of_rows_of_weight_zero_ends_no_run(tmp_path: Path) -> None:
    """Folders that were prepared before such rows were left out."""
    from trainer.run.step_source import StepSource

    prepared = Prepared(tmp_path, with_config(tmp_path / "m", **TINY), [ask()])
    (file,) = prepared.run.glob("data/train/shard-*/rows.npy")
    rows = np.load(file)
    rows["weight"] = 0
    np.save(file, rows)
    order = GlobalOrder(TokenStore(prepared.run / "data" / "train"), prepared.config)
    work = StepSource(order, prepared.config, 0, pin=False).step(0)
    assert work.total > 0 and sum(float(batch.target_weights.sum()) for batch in work.batches) == 0
