"""From files to shards: masks, counts, refusals, resuming a killed preparation. With the real tokenizer library."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.prepare import prepare
from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.make_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


def make(tmp_path: Path, model: Path, rows: Path, **changes: Any) -> tuple[Path, TrainerConfig]:
    raw = tiny.trainer_config(model, rows, **changes)
    run = tmp_path / "run"
    return (run if run.exists() else tiny.make_run(run, raw)), TrainerConfig.model_validate(raw)


def write(tmp_path: Path, *rows: Any) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return file


def supervised(run: Path, model: Path) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    store = TokenStore(run / "data" / "train")
    texts = []
    for number in range(len(store)):
        tokens, mask = store.conversation(number)
        texts.append(tokenizer.decode(tokens[mask > 0]))
    return texts


TALK = {
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi é"},
        {"role": "assistant", "content": "hëllo 🙂"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "ok"},
    ]
}


def prepare_as_process(run: Path) -> str:
    """Four conversations; gives what Python said about imports."""
    command = [sys.executable, "-X", "importtime", "-m", "trainer", "prepare", str(run)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(TokenStore(run / "data" / "train")) == 4, done.stderr[-2000:]
    return done.stderr


def test_prepare_loads_no_torch(tmp_path: Path, model_dir: Path) -> None:
    run, _ = make(tmp_path, model_dir, write(tmp_path, *[TALK] * 4))
    said = prepare_as_process(run)
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "transformers" in imported and "torch" not in imported
    assert "PyTorch" not in said, "nobody is told to install what is there"


def test_prepare_reads_tables_where_nothing_else_has_loaded_torch(tmp_path: Path, model_dir: Path) -> None:
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist([TALK] * 4), tmp_path / "rows.parquet")
    prepare_as_process(make(tmp_path, model_dir, tmp_path / "rows.parquet")[0])


@pytest.mark.parametrize("template", ["marked", "prefix"])
def test_only_the_assistant_is_supervised_end_of_turn_included(tmp_path: Path, template: str) -> None:
    model = tmp_path / "model"
    tiny.make_tokenizer(model, template=tiny.CHATML if template == "marked" else PLAIN)
    run, config = make(tmp_path, model, write(tmp_path, TALK))
    prepare(run, config, lambda _: None)
    after = "" if template == "marked" else "\n"
    assert supervised(run, model) == [f"hëllo 🙂<|im_end|>{after}ok<|im_end|>{after}"]


def test_template_whose_prompt_does_not_lead_to_its_answer_is_refused_with_ways_out_that_work(tmp_path: Path) -> None:
    model = tmp_path / "model"
    rewriting = "{% for m in messages %}{{ m.role if loop.last else '-' }}:{{ m.content }}<|im_end|>{% endfor %}"
    tiny.make_tokenizer(model, template=rewriting)
    run, config = make(tmp_path, model, write(tmp_path, TALK))
    with pytest.raises(UserError, match=r"rows.jsonl:1: .*what the model has to write is unknown") as refusal:
        prepare(run, config, lambda _: None)
    ways_out = str(refusal.value).rpartition("one that takes it: ")[2].split(", ")
    assert "chatml" in ways_out
    for way in ways_out:
        run, config = make(tmp_path, model, write(tmp_path, TALK), data={"chat_template": way})
        assert prepare(run, config, lambda _: None)["train"]["kept"] == 1


def test_untrained_stop_token_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny.make_tokenizer(
        model,
        template="{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}",
    )
    run, config = make(tmp_path, model, write(tmp_path, TALK))
    with pytest.raises(UserError, match="never learn to stop"):
        prepare(run, config, lambda _: None)


def test_missing_template_names_the_known_ones(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny.make_tokenizer(model, template=None)
    run, config = make(tmp_path, model, write(tmp_path, TALK))
    with pytest.raises(UserError, match=r"no chat template(.|\n)*chatml"):
        prepare(run, config, lambda _: None)
    run, config = make(tmp_path, model, write(tmp_path, TALK), data={"chat_template": "chatml"})
    assert prepare(run, config, lambda _: None)["train"]["kept"] == 1


@pytest.mark.parametrize("template", ["chatml", "llama3", "alpaca"])
def test_own_templates_render_tools_and_multiple_turns(tmp_path: Path, tokenizer_dir: Path, template: str) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    messages = [*TALK["messages"][:2], call, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "yes"}]
    row = {"messages": messages, "tools": [{"name": "f", "description": "adds", "parameters": {}}]}
    run, config = make(
        tmp_path, tokenizer_dir, write(tmp_path, row), data={"chat_template": template, "max_length": 999}
    )
    if template == "llama3":  # its control tokens are not in this vocabulary
        with pytest.raises(UserError, match=r"writes <.start_header_id.>(.|\n)*fits this tokenizer: chatml"):
            prepare(run, config, lambda _: None)
        return
    prepare(run, config, lambda _: None)
    (text,) = supervised(run, tokenizer_dir)
    assert '"name": "f"' in text
    assert "yes<|im_end|>" in text
    assert "42" not in text


OVERLONG = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "abcdefgh" * 40}]}


@pytest.mark.parametrize(("choice", "kept", "lost"), [("drop", 1, True), ("truncate", 2, True), ("split", 3, False)])
def test_overlong_rows_are_counted(tmp_path: Path, tokenizer_dir: Path, choice: str, kept: int, lost: bool) -> None:
    run, config = make(tmp_path, tokenizer_dir, write(tmp_path, TALK, OVERLONG), data={"overlong": choice})
    found = prepare(run, config, lambda _: None)["train"]
    assert (found["rows"], found["kept"]) == (2, kept)
    assert (found["lost_tokens"] > 0) is lost
    assert TokenStore(run / "data" / "train").rows["length"].max() <= 256
    (reason,) = found["dropped"] if choice == "drop" else found["changed"]
    assert found["examples"][reason] == [f"{tmp_path}/rows.jsonl:2"]


BAD_DATA: list[tuple[list[Any], str]] = [
    ([TALK, "{broken"], r"rows.jsonl:2: not valid JSON"),
    ([TALK, {"foo": 1}], r"rows.jsonl:2: unknown format"),
    ([TALK, '"text"'], r"rows.jsonl:2: a row must be a JSON object"),
    ([], "nothing to train on"),
    (["", "  "], r"nothing to train on.*2 blank line"),
    ([{"messages": [{"role": "user", "content": "hi"}]}], "nothing to train on.*no supervised tokens"),
    ([b"\xff\xfe".decode("latin-1")], "not valid JSON"),
    ([TALK, "null"], r"rows.jsonl:2: a row must be a JSON object"),
    ([TALK, "[" * 200_000], r"rows.jsonl:2: not valid JSON"),
    ([TALK, {"prompt": "a\ud800", "completion": "b"}], r"rows.jsonl:2: half of a surrogate pair"),
    ([{**TALK, "weight": 0}], "all train rows have weight 0"),
    ([{"prompt": "x" * 999, "completion": "y"}], r"longer than 256 tokens(.|\n)*data.overlong"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_DATA)
def test_bad_data_is_refused_with_its_place(tmp_path: Path, tokenizer_dir: Path, rows: list[Any], message: str) -> None:
    run, config = make(tmp_path, tokenizer_dir, write(tmp_path, *rows))
    with pytest.raises(UserError) as caught:
        prepare(run, config, lambda _: None)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_all_bad_rows_are_named_at_once(tmp_path: Path, tokenizer_dir: Path) -> None:
    run, config = make(tmp_path, tokenizer_dir, write(tmp_path, TALK, {"foo": 1}, TALK, "{broken", *[{"bar": 2}] * 20))
    with pytest.raises(UserError) as caught:
        prepare(run, config, lambda _: None)
    said = str(caught.value)
    assert "22 rows" in said and "rows.jsonl:2" in said and "rows.jsonl:4" in said and "and 12 more" in said


@pytest.mark.parametrize("model", ["without a template", "absent/model"])
def test_what_no_worker_can_do_without_is_refused_once(tmp_path: Path, model: str) -> None:
    """The tokenizer and its template are needed before any process starts: no broken pool, no traceback."""
    folder = tmp_path / model
    if model == "without a template":
        tiny.make_tokenizer(folder, template=None)
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 9000)
    run, _ = make(tmp_path, folder, rows, execution={"num_proc": 2})
    command = [sys.executable, "-m", "trainer", "prepare", str(run)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.json"])
def test_damaged_tables_are_refused_with_their_name(tmp_path: Path, tokenizer_dir: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01 not a table\n\n,,,\n1")
    run, config = make(tmp_path, tokenizer_dir, tmp_path / name)
    with pytest.raises(UserError, match=name):
        prepare(run, config, lambda _: None)


def test_folder_leaves_hidden_files_out(tmp_path: Path, tokenizer_dir: Path) -> None:
    tiny.write_rows(tmp_path / "folder" / "a.jsonl", 5)
    tiny.write_rows(tmp_path / "folder" / ".a.jsonl", 7)
    run, config = make(tmp_path, tokenizer_dir, tmp_path / "folder")
    assert prepare(run, config, lambda _: None)["train"]["rows"] == 5


def test_killed_preparation_goes_on(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 9000)
    run, config = make(tmp_path, tokenizer_dir, rows)
    first = prepare(run, config, lambda _: None)
    before = (run / "data" / "train" / "shard-00001").stat().st_mtime_ns
    content = json.loads((run / "data" / "fingerprint.json").read_text())["content"]
    for name in ("fingerprint.json", "preflight.json", "train/shard-00002/rows.npy"):
        (run / "data" / name).unlink()
    shutil.rmtree(run / "data" / "train" / "shard-00002")
    assert prepare(run, config, lambda _: None) == first
    assert (run / "data" / "train" / "shard-00001").stat().st_mtime_ns == before
    assert json.loads((run / "data" / "fingerprint.json").read_text())["content"] == content


def test_processes_give_the_same_shards(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", 9000)
    contents = []
    for num_proc in (1, 2):
        raw = tiny.trainer_config(tokenizer_dir, rows, execution={"num_proc": num_proc})
        run = tiny.make_run(tmp_path / f"run-{num_proc}", raw)
        prepare(run, TrainerConfig.model_validate(raw), lambda _: None)
        contents.append(json.loads((run / "data" / "fingerprint.json").read_text())["content"])
    assert contents[0] == contents[1]


def test_changed_file_is_tokenised_again_before_training(tmp_path: Path, tokenizer_dir: Path) -> None:
    run, config = make(tmp_path, tokenizer_dir, write(tmp_path, TALK))
    assert prepare(run, config, lambda _: None)["train"]["rows"] == 1
    write(tmp_path, TALK, TALK)
    assert prepare(run, config, lambda _: None)["train"]["rows"] == 2


def test_rows_that_are_gone_do_not_stop_a_prepared_run(tmp_path: Path, tokenizer_dir: Path) -> None:
    run, config = make(tmp_path, tokenizer_dir, write(tmp_path, TALK))
    report = prepare(run, config, lambda _: None)
    (tmp_path / "rows.jsonl").unlink()
    assert prepare(run, config, lambda _: None) == report
    shutil.rmtree(run / "data")
    with pytest.raises(UserError, match=r"no such file: .*rows.jsonl"):
        prepare(run, config, lambda _: None)
